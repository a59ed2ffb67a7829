"""What the tests of folds share: models of the zoo as modules in float64, and the comparison before and after."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence

import torch
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from qcc.frontend.export import import_program
from qcc.interpreter import Interpreter
from qcc.ir.context import QccContext
from qcc.ir.nn import ConvOp, LinearOp
from qcc.ir.program import WeightOp
from qcc.ir.store import WeightStore
from qcc.ir.transformer import NormOp
from qcc.passes.pipeline import raising, run_passes
from tests import zoo


@functools.cache
def _imported(name: str) -> tuple[ModuleOp, WeightStore, dict[str, torch.Tensor]]:
    model, args, kwargs, shapes = getattr(zoo, name)()
    with torch.no_grad():
        program = torch.export.export(model, args, kwargs, dynamic_shapes=shapes)
    imported = import_program(program)
    run_passes(raising(), QccContext(imported.store), imported.module)
    inputs = {one.name: value for one, value in zip(imported.inputs, [*args, *kwargs.values()], strict=True)}
    return imported.module, imported.store, inputs


def raised(name: str) -> tuple[ModuleOp, WeightStore, dict[str, torch.Tensor]]:
    """Return a model of the zoo after raising, its weights in float64, and inputs.

    Norm weights are moved away from 1 and biases away from 0, so that a fold that forgets them shows.
    """
    module, store, inputs = _imported(name)
    module = module.clone()
    weights = {key: store.tensor(key) for key in store}
    wide = {key: one.double() if one.is_floating_point() else one for key, one in weights.items()}
    generator = torch.Generator().manual_seed(7)
    for key in sorted({key for op in module.walk() for key in _perturbed(op)}):
        noise = torch.randn(wide[key].shape, generator=generator, dtype=torch.float64)
        wide[key] = wide[key] * (1 + 0.2 * noise) + 0.1 * noise
    return module, WeightStore(wide), copy.copy(inputs)


def _perturbed(op: object) -> list[str]:
    match op:
        case NormOp():
            vectors = [op.weight, op.bias]
        case LinearOp() | ConvOp():
            vectors = [op.bias]
        case _:
            vectors = []
    return [one.owner.key.data for one in vectors if one is not None and isinstance(one.owner, WeightOp)]


def outputs(module: ModuleOp, store: WeightStore, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Interpret a module in float64; state begins anew, and its last values are outputs too."""
    interpreter = Interpreter(module, store, "f64")
    found = interpreter.run(inputs)
    return {name: value for name, value in found.items() if value.is_floating_point()}


def relative(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """Return the largest difference of two sets of outputs, relative to the largest value."""
    assert found.keys() == wanted.keys()
    return max(float((found[k] - wanted[k]).abs().max() / wanted[k].abs().max().clamp_min(1e-300)) for k in wanted)


def error_of(name: str, passes: Sequence[ModulePass]) -> tuple[float, ModuleOp, WeightStore]:
    """Apply passes to a model and return the error they bring in float64, the module and its store."""
    module, store, inputs = raised(name)
    before = outputs(module, store, inputs)
    run_passes(passes, QccContext(store), module)
    return relative(outputs(module, store, inputs), before), module, store


def single(store: WeightStore) -> WeightStore:
    """Return a store with its floats in float32, as programs declare them."""
    tensors = {key: store.tensor(key) for key in store}
    return WeightStore({key: one.float() if one.is_floating_point() else one for key, one in tensors.items()})

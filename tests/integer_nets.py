"""Quantize the values of a model, give them scales from samples, and lower it to integers, for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import BlockArgument, Operation, SSAValue

from qcc.frontend.export import import_program
from qcc.interpreter import Interpreter
from qcc.ir.context import QccContext
from qcc.ir.program import WeightOp, program_of
from qcc.ir.quant import QuantizeOp
from qcc.ir.store import WeightStore
from qcc.ir.types import tensor, type_of
from qcc.numerics.levels import chain_product
from qcc.numerics.quantize import compute_qparams
from qcc.numerics.tensor import QuantizedTensor
from qcc.passes.canonicalize import Canonicalize
from qcc.passes.fold_constants import FoldConstants
from qcc.passes.lower_integer import LowerInteger
from qcc.passes.pipeline import planning, run_passes, solving
from qcc.passes.quantize_values import QuantizeValues
from qcc.recipes.load import RecipeSource, load_recipe

Value = torch.Tensor | QuantizedTensor


@dataclass(frozen=True)
class Nets:
    """A model three times: in floats, with quantized values, and in integers."""

    float_module: ModuleOp
    float_store: WeightStore
    module: ModuleOp
    store: WeightStore
    integer_module: ModuleOp
    integer_store: WeightStore

    def run(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the first output of the three."""
        pairs = (
            (self.float_module, self.float_store),
            (self.module, self.store),
            (self.integer_module, self.integer_store),
        )
        found: list[torch.Tensor] = []
        for module, store in pairs:
            names = program_of(module).input_names
            found.append(next(iter(Interpreter(module, store).run(dict(zip(names, inputs, strict=True))).values())))
        return found[0], found[1], found[2]

    @property
    def step(self) -> float:
        """The scale of the first output."""
        op = program_of(self.module).terminator.values[0].owner
        while not isinstance(op, QuantizeOp):
            assert isinstance(op, Operation)
            op = op.operands[0].owner
        weight = op.parameters[0].owner
        assert isinstance(weight, WeightOp)
        return float(self.store.tensor(weight.key.data))


def nets(model: torch.nn.Module, samples: Sequence[tuple[Any, ...]], recipe: RecipeSource, shapes: Any = None) -> Nets:
    """Lower a model; scales hold the largest magnitudes of the samples, of which the first is the example."""
    with torch.no_grad():
        imported = import_program(torch.export.export(model.eval(), samples[0], dynamic_shapes=shapes))
    module, store = imported.module, imported.store
    float_module, float_store = module.clone(), WeightStore({key: store[key] for key in store})
    quantize_values(module, store, recipe)
    names = program_of(module).input_names
    calibrate(module, store, [dict(zip(names, sample, strict=True)) for sample in samples])
    run_passes(solving(), QccContext(store), module)
    return lowered(float_module, float_store, module, store)


def lowered(float_module: ModuleOp, float_store: WeightStore, module: ModuleOp, store: WeightStore) -> Nets:
    """Lower a module of quantized values that has its scales and codes."""
    integer_module, integer_store = module.clone(), WeightStore({key: store[key] for key in store})
    run_passes([LowerInteger()], QccContext(integer_store), integer_module)
    return Nets(float_module, float_store, module, store, integer_module, integer_store)


def quantize_values(module: ModuleOp, store: WeightStore, recipe: RecipeSource) -> None:
    """Give weights the formats of a recipe, and every value between operations a quantizer."""
    given = load_recipe(recipe)
    weights = json.loads(given.model_dump_json())
    weights["activations"] = {}
    for override in weights["overrides"]:
        override["activations"] = None
    passes = [*planning(load_recipe(weights)), QuantizeValues(given.model_dump_json()), Canonicalize(), FoldConstants()]
    run_passes(passes, QccContext(store), module)


def calibrate(module: ModuleOp, store: WeightStore, samples: Sequence[dict[str, torch.Tensor]]) -> None:
    """Give static quantizers scales that hold the largest magnitude they meet in the samples."""
    program = program_of(module)
    waiting = [
        op for op in program.body.walk() if isinstance(op, QuantizeOp) and not isinstance(op.input.owner, WeightOp)
    ]
    peaks: dict[SSAValue, float] = {op.input: 0.0 for op in waiting}
    arguments = dict(zip(program.body.block.args, program.input_names, strict=True))
    for sample in samples:

        def see(op: Operation, results: tuple[Value, ...]) -> None:
            for result, value in zip(op.results, results, strict=True):
                if result in peaks and isinstance(value, torch.Tensor) and value.numel():
                    peaks[result] = max(peaks[result], float(value.abs().max()))

        Interpreter(module, store).run_with(sample, see)
        for argument in [one for one in peaks if isinstance(one, BlockArgument)]:
            peaks[argument] = max(peaks[argument], float(sample[arguments[argument]].abs().max()))
    for index, op in enumerate(waiting):
        give_scale(module, store, op, torch.tensor([[peaks[op.input]]]), f"scale{index}")


def give_scale(module: ModuleOp, store: WeightStore, op: QuantizeOp, values: torch.Tensor, key: str) -> None:
    """Give a quantizer the scale that its format has for some values."""
    kind = type_of(op.result)
    assert kind.qtype is not None
    parameters = compute_qparams(values, kind.qtype)
    scale = chain_product(parameters.scales, kind.qtype.levels, (1, 1), torch.float32)
    store[key] = scale.reshape((1,) * kind.rank)
    weight = WeightOp(key, tensor((1,) * kind.rank, "f32"))
    program_of(module).body.block.insert_op_before(weight, op)
    qtype, location = kind.qtype, dict(op.attributes)
    made = QuantizeOp(op.input, qtype, [weight])
    made.attributes.update(location)
    program_of(module).body.block.insert_op_before(made, op)
    op.result.replace_all_uses_with(made.result)
    op.detach()
    op.erase()

"""Quantize the values of a model, give them scales from samples, and lower it to integers, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from qcc.calibrate.run import SampleRun
from qcc.frontend.export import import_program
from qcc.interpreter import Interpreter
from qcc.ir.context import QccContext
from qcc.ir.program import WeightOp, program_of
from qcc.ir.quant import QuantizeOp
from qcc.ir.store import WeightStore
from qcc.passes.pipeline import lowering, planning, run_passes, solving
from qcc.recipes.load import RecipeSource, load_recipe


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
    run_passes(planning(load_recipe(recipe), integer_only=True), QccContext(store), module)
    names = program_of(module).input_names
    run = SampleRun([dict(zip(names, sample, strict=True)) for sample in samples])
    run_passes(solving(), QccContext(store, run), module)
    return lowered(float_module, float_store, module, store)


def lowered(float_module: ModuleOp, float_store: WeightStore, module: ModuleOp, store: WeightStore) -> Nets:
    """Lower a module of quantized values that has its scales and codes."""
    integer_module, integer_store = module.clone(), WeightStore({key: store[key] for key in store})
    run_passes(lowering(integer_only=True), QccContext(integer_store), integer_module)
    return Nets(float_module, float_store, module, store, integer_module, integer_store)

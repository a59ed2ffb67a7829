"""Quantize a program by a recipe and interpret what is left: every format, no target, nothing to build."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from xdsl.dialects.builtin import ModuleOp

from qcc.artifact import Coverage
from qcc.calibrate.run import Sample, SampleRun
from qcc.coverage import coverage_of, store_bytes
from qcc.frontend.export import import_program
from qcc.interpreter import Interpreter
from qcc.ir.context import QccContext
from qcc.passes.pipeline import planning, run_passes, solving
from qcc.recipes.load import RecipeSource, load_recipe


@dataclass(frozen=True, eq=False)
class Quantized:
    """A quantized program: what was done to its layers, and `run`, which reads named inputs from its first state."""

    coverage: Coverage
    module: ModuleOp
    run: Callable[[dict[str, torch.Tensor]], torch.Tensor]


def quantize(program: torch.export.ExportedProgram, recipe: RecipeSource, samples: Sequence[Sample] = ()) -> Quantized:
    """Run the passes of a recipe that know no target; `run` gives the first output."""
    imported, chosen = import_program(program), load_recipe(recipe)
    module, store, before = imported.module, imported.store, store_bytes(imported.store)
    context = QccContext(store, SampleRun(samples)) if samples else QccContext(store)
    run_passes(planning(chosen), context, module)
    unsolved = {key: store.tensor(key) for key in store}
    run_passes(solving(), context, module)
    interpreter = Interpreter(module, store)

    def run(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        interpreter.reset()
        return next(iter(interpreter.run(inputs).values()))

    return Quantized(coverage_of(module, store, unsolved, before), module, run)

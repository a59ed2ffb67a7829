"""Quantized models beside their float ones, without building anything."""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram

from qcc.artifact import Coverage
from qcc.backends.targets import backend_of
from qcc.coverage import coverage_of, store_bytes
from qcc.frontend.export import import_program
from qcc.ir.context import QccContext
from qcc.ir.store import WeightStore
from qcc.passes.pipeline import planning, run_passes, solving, targeting
from qcc.recipes.load import load_recipe
from qcc.report.measure import Models


def models_for(program: ExportedProgram, recipe: Any) -> tuple[Models, Coverage]:
    """Plan, solve and shape a program for the CPU; returns both models and what became of the layers."""
    imported, loaded = import_program(program), load_recipe(recipe)
    module, store = imported.module, imported.store
    before = store_bytes(store)
    float_module, float_store = module.clone(), WeightStore({key: store[key] for key in store})
    run_passes(planning(loaded), QccContext(store), module)
    floats = {key: store.tensor(key) for key in store}
    target = backend_of("cpu").capabilities
    run_passes(solving(), QccContext(store), module)
    costs = tuple(map(str, target.costs))
    run_passes(targeting(target.epilogues, target.prologues, 32, costs), QccContext(store), module)
    coverage = coverage_of(module, store, floats, before)
    return Models(module, store, floats, float_module, float_store), coverage


def export(module: torch.nn.Module, *args: torch.Tensor, **kwargs: Any) -> ExportedProgram:
    """Export with the sizes of the arguments."""
    with torch.no_grad():
        return torch.export.export(module.eval(), args, kwargs or None)

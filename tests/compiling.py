"""Compile the models of the tests to C and hold them to the interpreter."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.export import ExportedProgram

import qcc
from qcc.errors import RecipeError
from qcc.interpreter import Interpreter
from qcc.ir.store import WeightStore
from qcc.recipes.load import load_recipe
from tests import zoo

FLOAT_BOUND = 2e-5
"""Relative to the peak: what reordered float32 sums may differ by."""

WEIGHT_ONLY_BOUND = 1e-4
"""The same where weights are codes and activations float32."""


@functools.cache
def exported(name: str) -> ExportedProgram:
    """Export a model of the zoo once, with its dynamic sizes."""
    module, args, kwargs, shapes = {**zoo.MODELS, **zoo.NARROW}[name]()
    with torch.no_grad():
        return torch.export.export(module, args, kwargs, dynamic_shapes=shapes)


def compile_fitting(program: ExportedProgram, recipe: str, **more: Any) -> qcc.Compiled:
    """Compile; where groups do not divide the columns, paste into the recipe what the refusal says to paste."""
    try:
        return qcc.compile(program, recipe=recipe, threads=2, **more)
    except RecipeError as error:
        pasted = yaml.safe_load(error.fix.partition("\n")[2])
        return qcc.compile(program, recipe={**load_recipe(recipe).model_dump(mode="json"), **pasted}, threads=2, **more)


def interpreter(compiled: qcc.Compiled, dtype: str | None = None) -> Interpreter:
    """Interpret the program and the weights that an artifact carries."""
    return Interpreter(compiled.module, WeightStore.load(compiled.folder / "weights.safetensors"), dtype)


def golden_tolerance(compiled: qcc.Compiled) -> float:
    """Return the tolerance that the artifact's golden vectors declare, relative to the peak."""
    for line in (Path(compiled.folder) / "c" / "golden" / "golden.txt").read_text("utf-8").splitlines():
        if line.startswith("tolerance "):
            return float(line.split()[1])
    raise AssertionError("golden.txt declares no tolerance")


def apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Return the largest difference relative to the peak; shapes and dtypes must be the same."""
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    found, wanted = found.double(), wanted.double()
    assert torch.equal(found.isnan(), wanted.isnan())
    return float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30)) if wanted.numel() else 0.0

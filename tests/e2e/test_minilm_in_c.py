"""The pretrained encoder in C beside the interpreter, at sizes other than the exported one."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from torch.export import ExportedProgram
from xdsl.dialects.builtin import ModuleOp

from qcc.frontend.export import import_program
from qcc.interpreter import Interpreter
from qcc.ir.context import QccContext
from qcc.ir.store import WeightStore
from qcc.passes.pipeline import pipeline, run_passes
from qcc.recipes.load import load_recipe
from tests import zoo
from tests.cpu_programs import close, load

TOKEN_SIZES = [(2, 9), (1, 1), (3, 2), (1, 31)]
# A difference in the last bit of a float moves some code over a rounding boundary, and its layer's outputs by a step of
# the quantizer: single calls are held to be exact where no code moved, and close to quantization noise elsewhere.
NOISE = 0.2


@functools.cache
def exported() -> ExportedProgram:
    module, args, kwargs, shapes = zoo.minilm()
    with torch.no_grad():
        return torch.export.export(module, args, kwargs, dynamic_shapes=shapes)


def compiled(recipe: str) -> tuple[ModuleOp, WeightStore]:
    imported = import_program(exported())
    run_passes(pipeline(load_recipe(recipe)), QccContext(imported.store), imported.module)
    return imported.module, imported.store


def calls() -> list[dict[str, torch.Tensor]]:
    return [{"input_ids": zoo.tokens(*sizes), "attention_mask": zoo.padding(*sizes)} for sizes in TOKEN_SIZES]


@pytest.mark.parametrize("recipe", ["float", "w8"])
def test_float_activations_agree_to_rounding(recipe: str, tmp_path: Path) -> None:
    module, store = compiled(recipe)
    program, oracle = load(module, store, tmp_path), Interpreter(module, store)
    for inputs in calls():
        found, wanted = program.run(inputs), oracle.run(inputs)
        for key, value in wanted.items():
            close(found[key], value, 1e-5, f"{key} {list(value.shape)}")


def test_integer_activations_agree_where_no_code_moved(tmp_path: Path) -> None:
    module, store = compiled("w8a8")
    program, oracle = load(module, store, tmp_path), Interpreter(module, store)
    errors: list[float] = []
    for inputs in calls():
        found, wanted = program.run(inputs), oracle.run(inputs)
        for key, value in wanted.items():
            errors.append(float((found[key] - value).abs().max() / value.abs().max()))
    assert max(errors) <= NOISE, errors
    assert min(errors) <= 2e-6, errors

"""Whole models through passes, emitted C and ctypes, beside the interpreter, at sizes other than the exported one."""

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
IMAGE_SIZES = {
    "vit": [(2, 24, 24), (1, 24, 24)],
    "mobilenet": [(1, 30, 30), (3, 30, 30)],
    "resnet": [(2, 32, 32), (1, 33, 47), (3, 17, 50)],
}
ENCODERS = ("minilm", "bert")
# A difference in the last bit of a float moves some code over a rounding boundary, and its layer's outputs by a step of
# the quantizer: single calls are held to be exact where no code moved, and close to quantization noise elsewhere.
NOISE = 0.2


@functools.cache
def exported(name: str) -> ExportedProgram:
    module, args, kwargs, shapes = {**zoo.MODELS, **zoo.NARROW, "cached_llama": lambda: zoo.cached_llama(40)}[name]()
    with torch.no_grad():
        return torch.export.export(module, args, kwargs, dynamic_shapes=shapes)


def compiled(name: str, recipe: str) -> tuple[ModuleOp, WeightStore]:
    imported = import_program(exported(name))
    run_passes(pipeline(load_recipe(recipe)), QccContext(imported.store), imported.module)
    return imported.module, imported.store


def calls_of(name: str) -> list[dict[str, torch.Tensor]]:
    if name in IMAGE_SIZES:
        key = "pixel_values" if name == "vit" else "input"
        return [{key: zoo.images(*sizes)} for sizes in IMAGE_SIZES[name]]
    calls = []
    for sizes in TOKEN_SIZES:
        ids = {"input_ids": zoo.tokens(*sizes)}
        calls.append({**ids, "attention_mask": zoo.padding(*sizes)} if name in ENCODERS else ids)
    return calls


@pytest.mark.parametrize("name", zoo.MODELS)
@pytest.mark.parametrize("recipe", ["float", "w8"])
def test_float_activations_agree_to_rounding(name: str, recipe: str, tmp_path: Path) -> None:
    module, store = compiled(name, recipe)
    program, oracle = load(module, store, tmp_path), Interpreter(module, store)
    for inputs in calls_of(name):
        found, wanted = program.run(inputs), oracle.run(inputs)
        for key, value in wanted.items():
            close(found[key], value, 1e-5, f"{key} {list(value.shape)}")


@pytest.mark.parametrize("name", zoo.MODELS)
def test_integer_activations_agree_where_no_code_moved(name: str, tmp_path: Path) -> None:
    module, store = compiled(name, "w8a8")
    program, oracle = load(module, store, tmp_path), Interpreter(module, store)
    errors: list[float] = []
    for inputs in calls_of(name):
        found, wanted = program.run(inputs), oracle.run(inputs)
        for key, value in wanted.items():
            errors.append(float((found[key] - value).abs().max() / value.abs().max()))
    assert max(errors) <= NOISE, errors
    assert min(errors) <= 2e-6, errors


@pytest.mark.parametrize("name", zoo.NARROW)
def test_half_precision_is_computed_in_float32(name: str, tmp_path: Path) -> None:
    module, store = compiled(name, "float")
    program, oracle = load(module, store, tmp_path), Interpreter(module, store, dtype="f64")
    half = torch.float16 if name.endswith("f16") and not name.endswith("bf16") else torch.bfloat16
    for example in calls_of(name.split("_")[0]):
        inputs = {key: value.to(half) if value.is_floating_point() else value for key, value in example.items()}
        for key, value in program.run(inputs).items():
            wanted = oracle.run(inputs)[key]
            assert value.dtype == half
            error = float((value.double() - wanted.double()).abs().max() / wanted.abs().max())
            assert error <= 4 * torch.finfo(half).eps, f"{key}: {error}"


@pytest.mark.parametrize("recipe", ["float", "w8a8"])
def test_a_cached_llama_decodes_the_interpreters_tokens(recipe: str, tmp_path: Path) -> None:
    """Prefill, then 32 single tokens, each the most likely after the ones before."""
    module, store = compiled("cached_llama", recipe)
    program, oracle = load(module, store, tmp_path), Interpreter(module, store)
    texts: list[list[int]] = []
    for runner in (program, oracle):
        ids, place, text = zoo.tokens(1, 5), torch.arange(5), list[int]()
        while len(text) < 33:
            (logits,) = runner.run({"input_ids": ids, "cache_position": place}).values()
            text.append(int(logits[0, -1].argmax()))
            ids, place = torch.tensor([text[-1:]]), place[-1:] + 1
        texts.append(text)
    assert texts[0] == texts[1]

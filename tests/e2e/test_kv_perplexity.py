"""What quantized keys and values cost a trained Llama: perplexity of held-out text, by C where it takes the weights."""

from __future__ import annotations

import functools
import importlib.util
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.export import Dim, ExportedProgram

import qcc
from qcc.calibrate.run import SampleRun
from qcc.frontend.export import import_program
from qcc.interpreter import Interpreter
from qcc.ir.context import QccContext
from qcc.passes.pipeline import pipeline, run_passes
from qcc.recipes.load import load_recipe
from tests import zoo

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "data" / "tiny_llama"
LENGTH, WINDOWS = 256, 6

HALF_GROUPS = "uint4 | (1,64) i8, row f16 protect(119) | scaled i8"
"""The weights of `qoq-g128` in groups that divide the 704 columns behind the activation."""


@functools.cache
def texts() -> tuple[torch.Tensor, torch.Tensor]:
    """The held-out text and the training text, as tokens."""
    spec = importlib.util.spec_from_file_location("train_tiny_llama", ROOT / "examples" / "train_tiny_llama.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    sys.modules["train_tiny_llama"] = script
    spec.loader.exec_module(script)
    return script.held_out(), script.training_text()


@functools.cache
def program() -> ExportedProgram:
    model = transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()
    module, kwargs = zoo.Logits(model), {"input_ids": zoo.tokens(1, 9)}
    with torch.no_grad():
        return torch.export.export(module, (), kwargs, dynamic_shapes={"input_ids": {0: None, 1: Dim.DYNAMIC}})


def samples() -> list[dict[str, torch.Tensor]]:
    return [{"input_ids": texts()[1][at : at + LENGTH].reshape(1, -1)} for at in range(0, 20000, 5000)]


def perplexity(**recipe: Any) -> float:
    return perplexity_of(qcc.compile(program(), recipe=recipe, calibration=samples(), threads=2).run)


def perplexity_of(call: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> float:
    total = 0.0
    for window in texts()[0][: LENGTH * WINDOWS].reshape(WINDOWS, 1, LENGTH):
        logits = call({"input_ids": window})["output"][0, :-1]
        total += float(torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum"))
    return math.exp(total / (WINDOWS * (LENGTH - 1)))


@functools.cache
def in_float() -> float:
    return perplexity()


def test_qoq_is_within_two_percent() -> None:
    recipe = load_recipe("qoq-w4a8kv4").model_dump(mode="json", exclude_defaults=True)
    narrow = {"match": "*.down_proj", "weights": {"format": HALF_GROUPS}}
    imported = import_program(program())
    context = QccContext(imported.store, SampleRun(samples()))
    run_passes(pipeline(load_recipe({**recipe, "overrides": [narrow]})), context, imported.module)
    # the C kernels refuse weights whose zero points are under the scales
    found = perplexity_of(Interpreter(imported.module, imported.store).run)
    print(f"float {in_float():.4f}, qoq {found:.4f}")
    assert found < 1.02 * in_float()


KIVI = {"keys": {"format": "uint2", "axis": "channel", "group": 32}, "values": {"format": "uint2"}}


@pytest.mark.parametrize(
    ("scheme", "bound"), [({"format": "int8"}, 1.002), ({"format": "uint4"}, 1.02)], ids=["int8", "uint4"]
)
def test_wide_caches_cost_little(scheme: dict[str, Any], bound: float) -> None:
    assert perplexity(kv_cache=scheme) < bound * in_float()


def test_two_bits_lose_less_by_channel() -> None:
    by_token, by_channel = perplexity(kv_cache={"format": "uint2"}), perplexity(kv_cache=KIVI)
    print(f"float {in_float():.4f}, uint2 by token {by_token:.4f}, keys by channel {by_channel:.4f}")
    assert in_float() < by_channel < by_token

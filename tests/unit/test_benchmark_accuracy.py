"""The accuracy benchmark's arithmetic, and the file that keeps its rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr

pytest.importorskip("transformers")

from qcc.numerics.qtype_bits import bits_per_weight
from qcc.recipes.load import load_recipe
from tests.benchmarks import accuracy
from tests.benchmarks.accuracy_models import Encoder, similarities, spearman
from tests.benchmarks.accuracy_peers import ALIKE, BY_GPTQ
from tests.benchmarks.accuracy_rows import PERPLEXITY, Row, keep, kept_rows

ROW = Row("a model", "w4", 4.625, PERPLEXITY, 2.5, 2.6)


def test_rank_correlation_is_that_of_scipy() -> None:
    chance = torch.Generator().manual_seed(0)
    left = torch.randn(200, generator=chance).double()
    right = left + torch.randn(200, generator=chance).double()
    expected: Any = spearmanr(left.numpy(), right.numpy())
    assert spearman(left, right) == pytest.approx(float(expected.statistic), abs=1e-12)
    assert spearman(left, -left) == pytest.approx(-1)


def test_every_pair_is_compared_once() -> None:
    rows = torch.eye(3)
    rows[2] = torch.tensor([0.6, 0.8, 0.0])
    assert similarities(rows).tolist() == pytest.approx([0.0, 0.6, 0.8])


def test_a_figure_measured_again_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    beside = replace(ROW, peer="other, 5 bits", peer_value=2.7)
    keep(path, [ROW, beside])
    keep(path, [replace(ROW, value=2.55)])
    assert kept_rows(path) == [replace(ROW, value=2.55), beside]
    assert set(json.loads(path.read_text("utf-8"))[0]) == {
        "model", "recipe", "bits_per_weight", "metric", "float", "value", "peer", "peer_value",
    }  # fmt: skip


def test_recipes_of_its_own_say_what_they_are() -> None:
    made = {name: load_recipe(recipe) for name, recipe in accuracy.OF_THEIR_OWN.items()}
    grouped = [made[f"{name}, groups of 64"].weights.qtype() for name in accuracy.WIDE_GROUPS]
    assert all(one.levels[0].block == (1, 64) for one in grouped)
    assert all(made[name].embeddings.is_float for name in made if name.endswith("embeddings in float"))
    assert not made["quarot-w4a4, head in float"].weights.is_float
    solved = made["gptq-w4, groups of 32, embeddings in float"].weights
    assert (solved.group, solved.solver, solved.clip) == (32, "gptq", "mse")


@pytest.mark.parametrize("name", ["w8", "w8a8"])
def test_what_gptq_solves_of_8_bits_takes_no_more_bits(name: str) -> None:
    plain, solved = (load_recipe(accuracy.OF_THEIR_OWN[f"{one}, {ALIKE}"]) for one in (name, f"{name}{BY_GPTQ}"))
    assert (solved.weights.solver, solved.weights.clip) == ("gptq", "mse")
    assert bits_per_weight(solved.weights.qtype(), (64, 64)) == bits_per_weight(plain.weights.qtype(), (64, 64))
    assert solved.activations == plain.activations
    grouped, plain = (load_recipe(accuracy.OF_THEIR_OWN[one]) for one in (accuracy.GROUPED_SOLVED, accuracy.GROUPED))
    assert grouped.activations == plain.activations
    assert grouped.weights.solver == "gptq"


@pytest.mark.parametrize("count", [40, 300])
def test_as_many_texts_as_are_asked_for_none_of_them_a_sample(count: int) -> None:
    samples, judged = Encoder(count).split()
    assert (len(samples), len(judged), len({*samples, *judged})) == (32, count, 32 + count)

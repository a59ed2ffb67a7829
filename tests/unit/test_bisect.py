"""A planted error is found: the layer, its facts, and a way out that works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.nn import functional as F

from qcc.report.bisect import EXACT_DB, Finding, bisect
from qcc.report.build import Subject, make_report
from qcc.report.measure import measure
from qcc.report.terminal import finding_lines
from tests.report_models import export, models_for

DEPTH = 8
W8A8 = {"weights": {"format": "int8", "group": 16}, "activations": {"format": "int8", "group": 16}}


class Deep(torch.nn.Module):
    """Eight residual layers in a row."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(32, 32) for _ in range(DEPTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + F.gelu(layer(x))
        return x


def found_in(recipe: Any, module: torch.nn.Module | None = None, x: torch.Tensor | None = None) -> Finding:
    x = torch.randn(6, 32, generator=torch.Generator().manual_seed(1)) if x is None else x
    models, coverage = models_for(export(module or Deep(), x), recipe)
    sample = {"x": x}
    report = make_report(Subject("cpu", "", coverage, Path("/no")), models.module, measure(models, [sample]), "x")
    return bisect(models, report, [sample], lambda text: None)


@pytest.mark.parametrize("place", [0, 3, 7])
def test_a_layer_of_two_bits_among_eight_is_found(place: int) -> None:
    planted = {"match": f"layers.{place}", "weights": {"format": "int2"}}
    found = found_in({**W8A8, "overrides": [planted]})
    assert found.culprit is not None
    assert found.culprit.layer.name == f"layers.{place}"
    assert found.culprit.gain_db > 10
    assert found.enters is not None
    assert found.enters.name == f"layers.{place}"
    assert len(found.prefixes) <= 6
    overrides = yaml.safe_load(found.snippet)["overrides"]
    assert [one["match"] for one in overrides] == [f"layers.{place}"]
    mended = found_in({**W8A8, "overrides": [planted, *overrides]})
    assert mended.output_db > found.output_db + 10
    text = "\n".join(finding_lines(found))
    for part in (f"enters at layers.{place}", "test_bisect.py:", "int2", "times the rms", overrides[0]["match"]):
        assert part in text


def test_an_error_in_the_activations_is_found_with_its_outliers() -> None:
    module = Deep()
    with torch.no_grad():
        layer = module.layers[DEPTH - 2]
        assert isinstance(layer, torch.nn.Linear)
        layer.bias[5] = 500.0
    recipe = {"weights": {"format": "int8"}, "activations": {"format": "int8", "granularity": "token"}}
    found = found_in(recipe, module)
    # the outlier that this layer adds meets the coarse scale of the next one's input
    assert found.culprit is not None
    assert found.culprit.layer.name == f"layers.{DEPTH - 1}"
    assert found.culprit.layer.input is not None
    assert found.culprit.layer.input.channel_outliers > 100


def test_no_layer_is_blamed_where_all_lose_alike() -> None:
    found = found_in({**W8A8, "weights": {"format": "int4", "group": 16}})
    assert found.culprit is None or found.culprit.gain_db < 5
    assert found.prefixes[-1] == (DEPTH, found.output_db)
    assert found.json_object()["prefixes"][-1]["layers"] == DEPTH


def test_a_float_model_has_nothing_to_find() -> None:
    found = found_in("float")
    assert (found.output_db, found.culprit, found.enters, found.snippet) == (EXACT_DB, None, None, "")
    assert "no error to find" in finding_lines(found)[0]


def test_an_error_in_a_table_enters_before_any_layer() -> None:
    class Words(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.table = torch.nn.Embedding(50, 32)
            self.head = torch.nn.Linear(32, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.table(x))

    found = found_in({**W8A8, "embeddings": {"format": "int2"}}, Words(), torch.arange(12).reshape(2, 6))
    assert found.culprit is None
    assert found.enters is None
    assert "embedding tables" in "\n".join(finding_lines(found))

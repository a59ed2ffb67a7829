"""`--strict` names every fallback at once, before anything is written, and takes what falls back nowhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from typer.testing import CliRunner

import qcc
from qcc.backends import targets
from qcc.backends.base import Capabilities
from qcc.backends.cpu import build
from qcc.backends.cpu.backend import CpuBackend
from qcc.cli import app
from qcc.driver import Options, plan_source
from qcc.errors import QccError

Source = tuple[nn.Module, tuple[torch.Tensor, ...], dict[str, object], None]


class Depthwise(nn.Module):
    """Two layers that no recipe can quantize, and two that it can."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 8, 3)
        self.spread = nn.Conv2d(8, 8, 3, groups=8)
        self.mixed = nn.Conv2d(8, 8, 1, groups=4)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.mixed(self.spread(self.first(x)).relu()).mean((2, 3)))


class Attention(nn.Module):
    """One head with a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(64)
        self.qkv, self.out = nn.Linear(64, 192), nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        return x + self.out(nn.functional.scaled_dot_product_attention(q, k, v))


def convolutions() -> Source:
    torch.manual_seed(0)
    return Depthwise().eval(), (torch.randn(2, 4, 9, 9),), {}, None


def attention() -> Source:
    torch.manual_seed(0)
    return Attention().eval(), (torch.randn(2, 6, 64),), {}, None


def mlp() -> Source:
    torch.manual_seed(0)
    layers = nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 32)
    return nn.Sequential(*layers).eval(), (torch.randn(3, 64),), {}, None


HERE = "tests.unit.test_strictness"


@pytest.mark.parametrize("target", ["cpu", "triton"])
def test_layers_left_in_float_are_named_together_and_nothing_is_written(target: str, tmp_path: Path) -> None:
    model, args, _, _ = convolutions()
    recipe = {"weights": {"format": "int8", "group": "row"}, "activations": {"format": "int8", "granularity": "token"}}
    with pytest.raises(QccError) as caught:
        qcc.compile(model, args, recipe=recipe, target=target, output=tmp_path / "out", strict=True)
    said = {one.where: one.what for one in caught.value.problems}
    assert {"spread", "mixed"} <= set(said)
    assert "first" not in said
    assert "head" not in said
    assert "grouped convolution: its 8 groups" in said["spread"]
    assert list(tmp_path.iterdir()) == []


def test_the_overrides_of_the_message_make_it_the_recipes_own_wish(tmp_path: Path) -> None:
    rows = {"weights": {"format": "int8", "group": "row"}, "activations": {"format": "int8", "granularity": "token"}}
    with pytest.raises(QccError) as caught:
        plan_source(f"{HERE}:convolutions", Options(recipe=rows, strict=True))
    pasted = yaml.safe_load(caught.value.fix.partition("\n")[2])
    coverage = plan_source(f"{HERE}:convolutions", Options(recipe={**rows, **pasted}, strict=True)).coverage
    assert (coverage.quantized, coverage.total) == (2, 4)


def test_what_torch_would_compute_is_named_for_triton_and_taken_by_the_cpu() -> None:
    with pytest.raises(QccError) as caught:
        plan_source(f"{HERE}:attention", Options(recipe="w8a8", target="triton", strict=True))
    left = " ".join(one.what for one in caught.value.problems)
    assert "qcc.attention is left to torch" in left
    # another view of a value is no computation, and what has a kernel is not left to anyone
    assert not any(name in left for name in ("qcc.reshape", "qcc.slice", "qcc.weight", "qcc.contract", "qcc.norm"))
    assert plan_source(f"{HERE}:attention", Options(recipe="w8a8", strict=True)).coverage.quantized == 2
    assert plan_source(f"{HERE}:attention", Options(recipe="w8a8", target="triton")).coverage.quantized == 2


@pytest.mark.parametrize("target", ["cpu", "triton"])
def test_what_falls_back_nowhere_is_taken(target: str) -> None:
    coverage = plan_source(f"{HERE}:mlp", Options(recipe="w4a8", target=target, strict=True)).coverage
    assert (coverage.quantized, coverage.total) == (2, 2)


@pytest.mark.parametrize("strict", [False, True])
def test_a_plan_that_cannot_be_is_refused_in_any_case(strict: bool) -> None:
    options = Options(recipe="w8a8", settings={"plan": "dequant_first"}, strict=strict)
    with pytest.raises(QccError, match="2 plans cannot be taken"):
        plan_source(f"{HERE}:mlp", options)


def test_a_plan_is_refused_where_the_target_has_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnePlan(CpuBackend):
        @property
        def capabilities(self) -> Capabilities:
            return replace(super().capabilities, name="one", costs=())

    monkeypatch.setitem(targets.TARGETS, "one", OnePlan)
    with pytest.raises(QccError, match="target one has one plan"):
        plan_source(f"{HERE}:mlp", Options(target="one", settings={"plan": "group_after"}))
    assert plan_source(f"{HERE}:mlp", Options(target="one")).coverage.quantized == 2


def test_a_compiler_without_openmp_is_a_fallback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "has_openmp", lambda compiler, folder: False)
    model, args, _, _ = mlp()
    with pytest.raises(QccError, match="has no OpenMP: the program runs on one thread"):
        qcc.compile(model, args, output=tmp_path / "out", strict=True)
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_ends_with_two_and_says_how_to_go_on(tmp_path: Path) -> None:
    words = ["compile", f"{HERE}:attention", "--recipe", "w8a8", "--target", "triton", "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*words, "--strict"])
    assert done.exit_code == 2
    assert "is left to torch" in done.output
    assert "without --strict" in done.output
    assert list(tmp_path.iterdir()) == []
    assert CliRunner().invoke(app, [*words, "--strict", "--dry-run"]).exit_code == 2

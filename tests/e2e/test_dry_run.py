"""A dry run refuses what a compilation refuses, in the same words, and neither leaves anything behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from qcc.cli import app
from qcc.driver import Options, compile_source, plan_source
from qcc.errors import QccError
from tests.e2e import tiny

HERE = "tests.e2e.test_dry_run"
Source = tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any], Any]


class ManyAxes(torch.nn.Module):
    """A quantized layer whose results are put in an order of more axes than the C kernels go through."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).reshape([2] * 7).permute(6, 5, 4, 3, 2, 1, 0).reshape(4, 32)


def many_axes() -> Source:
    torch.manual_seed(0)
    return ManyAxes().eval(), (torch.randn(4, 64),), {}, None


def mlp() -> Source:
    return tiny.mlp()


def nan_weights() -> Source:
    return tiny.nan_weights()


def wide() -> Source:
    torch.manual_seed(0)
    return torch.nn.Linear(2048, 2048).eval(), (torch.randn(1, 2048),), {}, None


CASES: dict[str, tuple[str, Options, str]] = {
    "an operation without a kernel": ("many_axes", Options(recipe="w8a8"), "axes; the kernels take 6"),
    "static scales without samples": ("mlp", Options(recipe="w8a8-static"), "needs calibration"),
    "a solver without samples": ("mlp", Options(recipe="gptq-w4a8"), "solver that reads samples needs calibration"),
    "weights that are no numbers": ("nan_weights", Options(recipe="w8a8"), "holds NaN"),
    "no such compiler": ("mlp", Options(recipe="w8a8", cc="no-such-compiler"), "no-such-compiler"),
    "little memory": ("wide", Options(recipe="w8a8", memory_limit=1 << 20), "the memory limit is"),
    "floats for a target of integers": ("mlp", Options(recipe="w8a8", target="hls"), "an integer-only target"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_compilation_refuses_a_dry_run_refuses(name: str, tmp_path: Path) -> None:
    source, options, said = CASES[name]
    refusals: list[QccError] = []
    with pytest.raises(QccError, match=said) as planned:
        plan_source(f"{HERE}:{source}", options)
    refusals.append(planned.value)
    with pytest.raises(QccError, match=said) as compiled:
        compile_source(f"{HERE}:{source}", options, tmp_path / "no.qcc")
    refusals.append(compiled.value)
    assert type(refusals[0]) is type(refusals[1])
    if "memory" not in name:  # what a process holds already is another number each time
        assert str(refusals[0]) == str(refusals[1])
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_for_an_fpga_sizes_the_design(tmp_path: Path) -> None:
    """Weights and static scales must be there for that: they are rounded and calibrated."""
    import numpy

    numpy.savez(tmp_path / "x.npz", input=torch.randn(3, 2, 64).numpy())
    options = Options(recipe="fixed8", target="hls", calib=tmp_path / "x.npz")
    assert plan_source(f"{HERE}:alike", options).coverage.quantized == 5
    quick = replace(options, settings={"target_fps": "1000000000"})
    with pytest.raises(QccError) as planned:
        plan_source(f"{HERE}:alike", quick)
    with pytest.raises(QccError) as compiled:
        compile_source(f"{HERE}:alike", quick, tmp_path / "no.qcc")
    assert str(planned.value) == str(compiled.value)


def test_the_memory_is_told_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["compile", f"{HERE}:mlp", "--recipe", "w4a8", "--dry-run"]
    plain = CliRunner().invoke(app, words)
    assert plain.exit_code == 0
    line = plain.stdout.splitlines()[-1]
    assert line.startswith("memory: about ")
    assert "at the peak" in line
    found = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert 10**7 < found["peak_bytes"] < 10**10
    assert list(tmp_path.iterdir()) == []
    refused = CliRunner().invoke(app, [*words, "--memory-limit", "1MB"])
    assert refused.exit_code == 2
    assert "this compilation would take about" in " ".join(refused.output.split())


def test_an_output_that_is_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("words")
    words = ["compile", f"{HERE}:mlp", "-o", str(tmp_path / "thesis")]
    for more in ([], ["--dry-run"]):
        refused = CliRunner().invoke(app, [*words, *more])
        assert refused.exit_code == 2
        assert "is no qcc artifact" in " ".join(refused.output.split())
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "words"


def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unexpected(*_: object) -> object:
        raise AssertionError("the model was read")

    monkeypatch.setattr("qcc.building.work_of", unexpected)
    (tmp_path / "file").write_text("no folder")
    below = tmp_path / "file" / "below" / "m.qcc"
    with pytest.raises(QccError, match="is no folder that you may write to"):
        compile_source(f"{HERE}:mlp", Options(), below)
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(QccError, match="is no folder that you may write to"):
        compile_source(f"{HERE}:mlp", Options(), tmp_path / "m.qcc")


def test_large_layers_of_one_kind_share_a_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the plan of a large model takes seconds; small ones are rounded each for itself."""
    from qcc.passes.solvers import rounding

    monkeypatch.setattr("qcc.passes.solve_weights.SHARED", 64 * 64)
    rounded: list[tuple[int, ...]] = []
    nearest = rounding.rtn

    def counted(weight: torch.Tensor, *rest: Any) -> Any:
        rounded.append(tuple(weight.shape))
        return nearest(weight, *rest)

    monkeypatch.setattr(rounding, "rtn", counted)
    plan = plan_source(f"{HERE}:alike", Options(recipe="w4a8"))
    assert plan.coverage.quantized == 5
    assert rounded == [(64, 64), (32, 64), (32, 32)]


def alike() -> Source:
    torch.manual_seed(0)
    large, small = [torch.nn.Linear(64, 64) for _ in range(3)], [torch.nn.Linear(64, 32), torch.nn.Linear(32, 32)]
    layers = [*large, *small]
    return torch.nn.Sequential(*layers).eval(), (torch.randn(2, 64),), {}, None

"""What `qcc compile --target hls` refuses: every offender named at once, a way out for each, and nothing written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qcc.cli import app

HERE = Path(__file__)
Source = tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any], Any]


class Totals(torch.nn.Module):
    """Counts added up, as a model's statistics beside its scores."""

    def forward(self, counts: torch.Tensor) -> torch.Tensor:
        return counts.sum(1)


class Energy(torch.nn.Module):
    def forward(self, counts: torch.Tensor) -> torch.Tensor:
        return counts * counts


class Counting(torch.nn.Module):
    """Scores of features in float, and sums of counts given as integers."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = torch.nn.Linear(8, 4)
        self.totals, self.energy = Totals(), Energy()

    def forward(self, x: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.scores(x), self.totals(counts), self.energy(counts)


class Totalled(Counting):
    """The same without squares, so that counts of 32 bits are few enough."""

    def forward(self, x: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.scores(x), self.totals(counts)


class Running(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cumsum(torch.tanh(x), 1)


class Growing(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cumsum(x * x, 1)


class Branches(torch.nn.Module):
    """Two branches that have no form in integers."""

    def __init__(self) -> None:
        super().__init__()
        self.running, self.growing, self.last = Running(), Growing(), torch.nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.last(self.running(x)), self.growing(x)


class Pair(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(10, 64), torch.nn.Linear(10, 64)
        self.last = torch.nn.Linear(64, 64)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.last(torch.relu(self.first(x))), self.second(y)


def _source(module: type[torch.nn.Module], inputs: tuple[torch.Tensor, ...], shapes: Any = None) -> Source:
    torch.manual_seed(0)
    return module().eval(), inputs, {}, shapes


def counting() -> Source:
    return _source(Counting, (torch.ones(1, 8), torch.ones(1, 8, dtype=torch.int64)))


def totalled() -> Source:
    return _source(Totalled, (torch.ones(1, 8), torch.ones(1, 8, dtype=torch.int32)))


def branches() -> Source:
    return _source(Branches, (torch.ones(1, 10),))


def pair() -> Source:
    return _source(Pair, (torch.ones(1, 10), torch.ones(1, 10)))


def dynamic() -> Source:
    rows, columns = torch.export.Dim("rows", min=1, max=64), torch.export.Dim("columns", min=1, max=64)
    return _source(Pair, (torch.ones(3, 10), torch.ones(5, 10)), ({0: rows}, {0: columns}))


def samples(source: Source, path: Path) -> Path:
    """Write random samples of a model's inputs."""
    random = np.random.default_rng(0)
    names = torch.export.export(source[0], source[1]).graph_signature.user_inputs
    drawn: dict[str, np.ndarray] = {}
    for name, example in zip(names, source[1], strict=True):
        values = random.standard_normal((6, *example.shape)) * 3
        drawn[str(name)] = values.astype(str(example.dtype).removeprefix("torch."))
    np.savez(path, **drawn)  # pyright: ignore[reportArgumentType]
    return path


CASES: dict[str, tuple[str, list[str], list[str]]] = {
    "sums over 64 bits": (
        "counting",
        [],
        ["totals", "accumulator of 67 bits", "energy", "accumulator of 128 bits", "64 is the limit", "fewer bits"],
    ),
    "operations without a form in integers": (
        "branches",
        [],
        ["running", "growing", "cumulative_sum has no integer form", "fix:"],
    ),
    "dynamic shapes": ("dynamic", [], ["input 'x'", "input 'y'", "dynamic shape", "fix:"]),
    "a part that is too small": (
        "pair",
        ["part=xc7z020", "target_fps=2e7"],
        ["cannot hold", "last", "first", "second", "use part"],
    ),
    "foldings that do not divide": (
        "pair",
        ["folding=last=5x3,first=7x2"],
        ["last", "5x3", "first", "7x2", "does not divide", "PE of 1, 2, 4"],
    ),
    "an unknown part, and what else is wrong with the settings": (
        "pair",
        ["part=xc9", "clock_ns=0", "interface=pcie"],
        ["xc9", "xck26", "clock_ns", "interface=stream"],
    ),
}


def compile_line(name: str, calibration: Path, out: Path, chosen: list[str]) -> list[str]:
    line = ["compile", f"{HERE.stem}:{name}", "--recipe", "fixed8", "--target", "hls"]
    line += ["--calib", str(calibration), "-o", str(out)]
    return [*line, *(part for one in chosen for part in ("--set", one))]


def qcc(line: list[str]) -> int:
    """Run the command line in this process; returns its exit status."""
    try:
        app(line, prog_name="qcc")
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.mark.parametrize("case", CASES)
def test_a_refusal_names_all_offenders_and_leaves_nothing_behind(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, chosen, wanted = CASES[case]
    monkeypatch.syspath_prepend(str(HERE.parent))
    calibration, out = samples(globals()[name](), tmp_path / "samples.npz"), tmp_path / "out"
    out.mkdir()
    status = qcc(compile_line(name, calibration, out / "net", chosen))
    said = " ".join(capsys.readouterr().err.split())
    assert status == 2, said
    assert "Traceback" not in said
    for part in wanted:
        assert part in said
    assert list(out.iterdir()) == []


def test_the_way_out_of_sums_over_64_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE.parent))
    calibration = samples(totalled(), tmp_path / "samples.npz")
    assert qcc(compile_line("totalled", calibration, tmp_path / "net", [])) == 0
    assert (tmp_path / "net" / "hls" / "report.json").is_file()

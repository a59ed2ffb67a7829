"""Clocks around the calls of an emitted program: which layers they are, what is summed, and that they are off else."""

from __future__ import annotations

import ctypes
import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import qcc
from qcc.backends.base import CallTime
from qcc.cli import app
from qcc.errors import QccError
from qcc.report.model import LayerReport
from qcc.report.times import REST, time_section


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wide, self.narrow, self.norm = nn.Linear(64, 512), nn.Linear(512, 32), nn.LayerNorm(32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.narrow(torch.relu(self.wide(x)))).softmax(-1)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> qcc.Compiled:
    folder = tmp_path_factory.mktemp("times") / "net.qcc"
    return qcc.compile(Net().eval(), (torch.randn(16, 64),), recipe="w4a8", output=folder, threads=1)


def test_every_layer_is_timed_and_the_program_has_no_clock(compiled: qcc.Compiled) -> None:
    before = {path: path.read_bytes() for path in compiled.folder.rglob("*") if path.is_file()}
    calls = compiled.time_calls(compiled.example(), 5, 1)
    assert {path: path.read_bytes() for path in compiled.folder.rglob("*") if path.is_file()} == before
    layers = {one.layer for one in calls}
    assert layers == {"wide", "narrow", ""}
    assert {one.kernel for one in calls if one.layer == "wide"} >= {"qlinear"}
    assert {one.kernel for one in calls if not one.layer} >= {"norm", "softmax"}
    assert all(0 <= one.ms < 1e3 for one in calls)
    assert sum(one.ms for one in calls if one.layer == "wide") > 0
    library = ctypes.CDLL(str(compiled.folder / "c" / "libmodel.so"))
    assert not hasattr(library, "model_profile")
    assert b"clock_gettime" not in (compiled.folder / "c" / "libmodel.so").read_bytes()


def test_inputs_that_do_not_fit_are_refused(compiled: qcc.Compiled) -> None:
    with pytest.raises(QccError, match="do not fit"):
        compiled.time_calls({"x": torch.zeros(2, 3, 4)}, 1, 1)


def test_the_table_is_sorted_and_its_shares_are_of_one_whole() -> None:
    def layer(name: str, shape: tuple[int, int], predicted: str) -> LayerReport:
        return LayerReport(
            name=name, shape=shape, scheme="s", weights_format="int4", activations_format="int8", bits_per_weight=4.0,
            bytes=1, plan="group_after", predicted=predicted,
        )  # fmt: skip

    layers = [
        layer("a", (10, 10), "0.5 instr/weight, 1 kB"),
        layer("b", (30, 10), "0.5 instr/weight"),
        layer("c", (1, 1), ""),
    ]
    calls = [
        CallTime("quantize", "a", 1.0), CallTime("qlinear", "a", 2.0), CallTime("softmax", "", 0.5),
        CallTime("qlinear", "b", 5.0), CallTime("linear", "c", 1.0), CallTime("softmax", "", 0.5),
    ]  # fmt: skip
    section = time_section(calls, layers, 2)
    assert [row[:4] for row in section.rows] == [
        ("b", "qlinear", 5.0, "50.0%"),
        ("a", "quantize, qlinear", 3.0, "30.0%"),
        (REST, "softmax", 1.0, "10.0%"),
        ("c", "linear", 1.0, "10.0%"),
    ]
    assert [row[4:6] for row in section.rows] == [("62.5%", "75.0%"), ("37.5%", "25.0%"), (None, None), (None, None)]
    assert "10 ms in 6 calls on 2 threads" in section.note


def test_the_command_shows_times_and_other_targets_say_no(
    compiled: qcc.Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qcc.report.command.SECONDS", 0.01)
    done = CliRunner().invoke(app, ["report", str(compiled.folder), "--times", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout[done.stdout.index("{") :])
    (section,) = [one for one in found["sections"] if one["title"] == "Time by layer"]
    assert {row[0] for row in section["rows"]} == {"wide", "narrow", REST}
    plain = CliRunner().invoke(app, ["report", str(compiled.folder), "--json"])
    assert "Time by layer" not in plain.output
    monkeypatch.setattr("qcc.compiled.backend_of", lambda name: object())
    with pytest.raises(QccError, match="cannot time single layers"):
        compiled.time_calls(compiled.example(), 1, 1)

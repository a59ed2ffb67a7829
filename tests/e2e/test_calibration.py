"""Static activations from the samples to C: by the Python API and by the command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import qcc
from qcc.errors import QccError, ShapeError

STATIC = {
    "weights": {"format": "int8"},
    "activations": {"format": "int8", "when": "static", "granularity": "tensor"},
}


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = torch.nn.Linear(64, 96), torch.nn.Linear(96, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.relu(self.up(x)))


def data(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, 64, generator=torch.Generator().manual_seed(seed))


def compiled(recipe: dict[str, Any], calibration: Any, **options: Any) -> qcc.Compiled:
    shapes = {"x": {0: torch.export.Dim("batch")}}
    return qcc.compile(
        Net(), (torch.zeros(2, 64),), dynamic_shapes=shapes, recipe=recipe, calibration=calibration, **options
    )


@pytest.mark.parametrize("clip", ["amax", "mse", 99.9])
def test_static_scales_reach_the_compiled_program(clip: object, tmp_path: Path) -> None:
    recipe = {**STATIC, "activations": {**STATIC["activations"], "clip": clip}}
    calls = [(row,) for row in data(20)]
    found = compiled(recipe, calls, output=tmp_path / "out.qcc")
    x = data(1, 5)[0]
    exact = Net().eval()(x).detach()
    error = float((found(x) - exact).norm() / exact.norm())
    assert error < 0.03
    text = (tmp_path / "out.qcc" / "program.mlir").read_text()
    assert text.count("qcc.quantize") == 2
    assert text.count("qcc.qtype") == text.count("dynamic") == 0
    assert "up.input.scale0" in text
    # a value beyond the range that was seen saturates; with scales made at run time it would not
    huge = found(x * 1000) / 1000
    assert float((huge - exact).norm() / exact.norm()) > 0.5


def test_the_c_project_holds_its_golden_vectors(tmp_path: Path) -> None:
    compiled(STATIC, [(row,) for row in data(4)], output=tmp_path / "out.qcc")
    done = subprocess.run(["make", "test"], cwd=tmp_path / "out.qcc" / "c", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_inputs_never_above_zero_do_not_divide_by_zero(tmp_path: Path) -> None:
    found = compiled(STATIC, [(torch.zeros(2, 64),)], output=tmp_path / "out.qcc")
    x = torch.zeros(2, 64)
    assert bool(torch.isfinite(found(x)).all())


def test_samples_that_are_called_otherwise_are_refused() -> None:
    with pytest.raises(ShapeError, match="sample 1"):
        compiled(STATIC, [{"y": data(1, 7)[0]}])


def test_static_recipes_without_samples_are_refused() -> None:
    with pytest.raises(QccError, match=re.escape("give samples (calibration=... in Python, --calib FILE")):
        compiled(STATIC, None)


def test_scales_by_channel_are_refused_by_the_target_with_the_way_out() -> None:
    recipe = {**STATIC, "activations": {**STATIC["activations"], "granularity": "channel"}}
    with pytest.raises(QccError, match="granularity: tensor"):
        compiled(recipe, [(row,) for row in data(3)])


def test_solvers_read_samples_and_leave_nothing_beside_the_artifact(tmp_path: Path) -> None:
    mixing = torch.randn(64, 64, generator=torch.Generator().manual_seed(3)) ** 3
    calls, x = [(row @ mixing,) for row in data(30)], data(1, 9)[0] @ mixing
    exact = Net().eval()(x).detach()
    errors = []
    for solver in ("rtn", "gptq"):
        recipe = {"weights": {"format": "uint3", "group": 32, "solver": solver}}
        found = compiled(recipe, calls, output=tmp_path / f"{solver}.qcc")
        errors.append(float((found(x) - exact).norm()))
    assert errors[1] < 0.8 * errors[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gptq.qcc", "rtn.qcc"]


def test_recipes_that_read_no_samples_take_them() -> None:
    assert compiled({"weights": {"format": "int8"}}, [(row,) for row in data(1)]).coverage.quantized == 2


def test_the_command_line_reads_a_file(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(Net().eval(), (torch.zeros(3, 64),)), tmp_path / "net.pt2")
    (tmp_path / "static.yaml").write_text(json.dumps(STATIC))
    np.savez(tmp_path / "calib.npz", x=data(6).numpy())
    command = [
        sys.executable,
        "-m",
        "qcc.cli",
        "compile",
        "net.pt2",
        "--recipe",
        "./static.yaml",
        "-o",
        "out.qcc",
        "--json",
    ]
    root = str(Path(__file__).parents[2])
    run = {"cwd": tmp_path, "capture_output": True, "text": True, "check": False, "env": _environment(root)}
    refused = subprocess.run(command, **run)
    assert refused.returncode == 2
    assert "--calib FILE" in refused.stderr
    done = subprocess.run([*command, "--calib", "calib.npz"], **run)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["quantized"] == 2
    np.savez(tmp_path / "calib.npz", y=data(6).numpy())
    wrong = subprocess.run([*command, "--calib", "calib.npz"], **run)
    assert wrong.returncode == 2
    assert "input 'x': is missing" in wrong.stderr
    assert "input 'y': is unknown" in wrong.stderr


def _environment(root: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": root}

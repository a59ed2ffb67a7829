"""`qcc compile --target triton` for three architectures without a GPU: no spills, and the same bytes each time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qcc.driver import Options, compile_source, plan_source
from qcc.errors import UnsupportedOp

pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]
SOURCE = """
import torch

def mlp():
    torch.manual_seed(0)
    layers = torch.nn.Linear(256, 512), torch.nn.GELU(), torch.nn.Linear(512, 128)
    return torch.nn.Sequential(*layers).eval(), (torch.randn(4, 256),), {}, None
"""
HIDE = """
import importlib.util as util
find = util.find_spec
util.find_spec = lambda name, *more: None if name == "triton" else find(name, *more)
"""


def compile_to(folder: Path, output: str, archs: str) -> subprocess.CompletedProcess[str]:
    words = ["net:mlp", "--recipe", "w4a8", "--target", "triton", "--arch", archs, "-o", output, "--json"]
    command = [sys.executable, "-m", "qcc.cli", "compile", *words]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_compiling_twice_gives_the_same_bytes_for_three_architectures(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(SOURCE)
    archs = "sm_80,sm_90,sm_100"
    for name in ("first", "second"):
        done = compile_to(tmp_path, name, archs)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["quantized"] == 2
    first, second = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "first", tmp_path / "second")
    )
    assert first.keys() == second.keys()
    assert [str(name) for name in first if first[name] != second[name]] == []
    plan = json.loads((tmp_path / "first" / "triton" / "launch.json").read_text())
    variants = [variant for kernel in plan["kernels"].values() for variant in kernel["variants"].values()]
    assert {arch for one in variants for arch in one["cubins"]} == set(archs.split(","))
    assert {cubin["spills"] for one in variants for cubin in one["cubins"].values()} == {0}


def test_a_missing_triton_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(SOURCE)
    (tmp_path / "sitecustomize.py").write_text(HIDE)
    done = compile_to(tmp_path, "out", "sm_90")
    assert done.returncode == 2
    assert "pip install" in done.stderr
    assert not [path.name for path in tmp_path.iterdir() if "out" in path.name]


def test_a_dry_run_refuses_what_compiling_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dry_net.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    weights_only = Options(recipe="w4", target="triton")
    with pytest.raises(UnsupportedOp) as planned:
        plan_source("dry_net:mlp", weights_only)
    with pytest.raises(UnsupportedOp) as compiled:
        compile_source("dry_net:mlp", weights_only, tmp_path / "no.qcc")
    assert len(planned.value.problems) == 2
    assert planned.value.problems == compiled.value.problems
    assert "a float input of f32" in str(planned.value)
    assert not (tmp_path / "no.qcc").exists()
    assert plan_source("dry_net:mlp", Options(recipe="w4a8", target="triton")).coverage.quantized == 2

"""From a torch module to a simulated project through the driver, with every recipe for targets without floats."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import qcc
from qcc.backends.hls.runtime import HlsProgram
from tests.compiling import interpreter

ROOT = Path(__file__).parents[2]


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(10, 12), torch.nn.ReLU(), torch.nn.Linear(12, 3)).eval()


def samples(count: int) -> list[tuple[torch.Tensor]]:
    random = torch.Generator().manual_seed(1)
    return [(torch.randn(1, 10, generator=random),) for _ in range(count)]


@pytest.mark.parametrize("recipe", ["fixed8", "fixed6", "w4a8-fixed", "ternary-fixed", "pow2-w4a8"])
def test_every_recipe_of_integers_is_simulated_exactly(recipe: str, tmp_path: Path) -> None:
    calls = samples(16)
    compiled = qcc.compile(
        model(), calls[0], recipe=recipe, target="hls", calibration=calls, output=tmp_path / "net",
        settings={"part": "xck26", "target_fps": "1e6"},
    )  # fmt: skip
    program = HlsProgram(compiled.folder / "hls")
    oracle = interpreter(compiled)
    frames = [{compiled.input_names[0]: 10 ** (index % 3) * one[0]} for index, one in enumerate(samples(40))]
    for frame, found in zip(frames, program.run_frames(frames), strict=True):
        for name, wanted in oracle.run(frame).items():
            assert torch.equal(found[name].view(torch.int32), wanted.view(torch.int32))


@pytest.mark.slow
def test_digits_from_training_to_make_csim(tmp_path: Path) -> None:
    line = [sys.executable, str(ROOT / "examples" / "digits_hls.py"), "--output", str(tmp_path / "digits")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stderr
    found = re.search(r"float ([\d.]+)%, fixed8 ([\d.]+)%", done.stdout)
    assert found is not None
    in_float, fixed = map(float, found.groups())
    assert in_float >= 97
    assert fixed >= in_float - 0.5
    assert "mismatches 0" in done.stdout

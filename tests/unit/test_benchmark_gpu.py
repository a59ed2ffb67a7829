"""The benchmark of kernels for GPUs where there is none: it counts, in the time that is promised."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from qcc.backends.triton.gates import INSTRUCTIONS, SPENT_MORE

ROOT = Path(__file__).parents[2]
KEYS = {
    "plan",
    "arch",
    "m",
    "n",
    "k",
    "registers",
    "spills",
    "instructions_per_weight",
    "mma",
    "us",
    "ratio_bf16",
    "peers",
}


@pytest.mark.slow
def test_the_quick_run_counts_instructions_without_a_gpu(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    command = [sys.executable, "tests/benchmarks/gpu.py", "--quick", "--json", str(out)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text("utf-8"))
    assert {row["plan"] for row in rows} == set(INSTRUCTIONS)
    for row in rows:
        assert set(row) >= KEYS
        assert (row["arch"], row["m"], row["spills"]) == ("sm_90", 16, 0)
        assert 0.3 < row["instructions_per_weight"] <= INSTRUCTIONS[row["plan"]] * max(SPENT_MORE.values())
        assert (row["us"], row["ratio_bf16"], row["peers"]) == (None, None, {})
        assert f"{row['instructions_per_weight']:.2f}" in done.stdout
        assert row["kernel"] in done.stdout

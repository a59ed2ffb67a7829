"""qcc as a user has it: installed, found by its entry points, not imported by the user's code."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def install(folder: Path) -> dict[str, str]:
    """Put the package and its declared entry points on the path of a process; returns that process's environment."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    groups = {"console_scripts": project["scripts"], **project["entry-points"]}
    metadata = folder / "qcc-0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: qcc\nVersion: 0\n", "utf-8")
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in one.items()) for group, one in groups.items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines), "utf-8")
    (folder / "qcc").symlink_to(ROOT / "qcc")
    return {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}


def run_script(script: str, env: dict[str, str], cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, and show its errors if it fails."""
    path = cwd / "script.py"
    path.write_text(script, "utf-8")
    command = [sys.executable, str(path), *arguments]
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done

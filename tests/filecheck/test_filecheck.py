"""Run the `// RUN:` lines of every .mlir file with the interpreter that runs the tests."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
FILES = sorted(FOLDER.rglob("*.mlir"))
PROGRAMS = {"qcc-opt": [sys.executable, "-m", "qcc.opt"], "filecheck": [sys.executable, "-m", "filecheck"]}


def run_lines(path: Path) -> list[str]:
    lines = [line.partition("RUN:")[2].strip() for line in path.read_text().splitlines() if line.startswith("// RUN:")]
    return [line.replace("%s", shlex.quote(str(path))) for line in lines]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_filecheck(path: Path, tmp_path: Path) -> None:
    lines = run_lines(path)
    assert lines, f"{path} has no RUN line"
    for line in lines:
        text = b""
        for command in line.replace("%t", str(tmp_path)).split(" | "):
            program, *arguments = shlex.split(command)
            done = subprocess.run(
                [*PROGRAMS[program], *arguments],
                input=text,
                capture_output=True,
                check=False,
                cwd=FOLDER.parents[1],
            )
            assert done.returncode == 0, f"{command}\n{done.stdout.decode()}\n{done.stderr.decode()}"
            text = done.stdout


def test_every_pass_has_a_file() -> None:
    from qcc.passes.table import PASSES

    named = {path.stem.replace("_", "-") for path in FOLDER.joinpath("passes").glob("*.mlir")}
    raised = {name for name in PASSES if name.startswith(("raise-", "fuse-"))} | {"canonicalize", "annotate-groups"}
    assert raised <= named


def test_every_operation_makes_the_round_trip() -> None:
    from qcc.ir.dialect import OPERATIONS

    text = "".join(path.read_text() for path in FOLDER.joinpath("ir").glob("*.mlir"))
    names = [op.name for op in OPERATIONS]
    assert [name for name in names if f"// CHECK: {name} " not in text and f"= {name} " not in text] == []

"""Run the `// RUN:` lines of every .mlir file with the interpreter that runs the tests.

In a line, `%s` is the file, `%t` an empty folder, `%weights` a store of random weights for all that the file declares,
and `not` before a program says that it must fail.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from xdsl.parser import Parser

from qcc.ir.context import QccContext
from qcc.ir.program import StateOp, WeightOp
from qcc.ir.store import WeightStore
from qcc.ir.types import type_of

FOLDER = Path(__file__).parent
FILES = sorted(FOLDER.rglob("*.mlir"))
PROGRAMS = {"qcc-opt": [sys.executable, "-m", "qcc.opt"], "filecheck": [sys.executable, "-m", "filecheck"]}


def run_lines(path: Path) -> list[str]:
    lines = [line.partition("RUN:")[2].strip() for line in path.read_text().splitlines() if line.startswith("// RUN:")]
    return [line.replace("%s", shlex.quote(str(path))) for line in lines]


def write_weights(path: Path, target: Path) -> None:
    """Write random weights for every float weight and state of a file."""
    import torch

    generator = torch.Generator().manual_seed(0)
    module = Parser(QccContext(), path.read_text()).parse_module()
    store = WeightStore()
    for op in module.walk():
        if isinstance(op, WeightOp | StateOp):
            shape = type_of(op.results[0]).static_shape
            assert shape is not None
            store[op.key.data] = torch.rand(shape, generator=generator) + 0.5
    store.save(target)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_filecheck(path: Path, tmp_path: Path) -> None:
    lines = run_lines(path)
    assert lines, f"{path} has no RUN line"
    if any("%weights" in line for line in lines):
        write_weights(path, tmp_path / "weights.safetensors")
        lines = [line.replace("%weights", str(tmp_path / "weights.safetensors")) for line in lines]
    for line in lines:
        text = b""
        for command in line.replace("%t", str(tmp_path)).split(" | "):
            program, *arguments = shlex.split(command)
            fails = program == "not"
            if fails:
                program, *arguments = arguments
            done = subprocess.run(
                [*PROGRAMS[program], *arguments],
                input=text,
                capture_output=True,
                check=False,
                cwd=FOLDER.parents[1],
            )
            assert (done.returncode != 0) == fails, f"{command}\n{done.stdout.decode()}\n{done.stderr.decode()}"
            text = done.stderr if fails else done.stdout


def test_every_pass_has_a_file() -> None:
    from qcc.passes.table import PASSES

    named = {path.stem.replace("_", "-") for path in FOLDER.joinpath("passes").glob("*.mlir")}
    families = ("raise-", "fuse-", "rotate-", "fold-", "smooth-", "centre-")
    rewriting = {name for name in PASSES if name.startswith(families) and name != "fold-constants"}
    assert rewriting | {"canonicalize", "annotate-groups", "round-folds"} <= named


def test_every_operation_makes_the_round_trip() -> None:
    from qcc.ir.dialect import OPERATIONS

    text = "".join(path.read_text() for path in FOLDER.joinpath("ir").glob("*.mlir"))
    names = [op.name for op in OPERATIONS]
    assert [name for name in names if f"// CHECK: {name} " not in text and f"= {name} " not in text] == []

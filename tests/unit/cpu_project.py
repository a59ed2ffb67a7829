"""Build the emitted project's own programs for tests, with the sanitizers where asked."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from qcc.backends.cpu.build import find_compiler
from qcc.backends.cpu.emitter import template_folder

WARNINGS = ["-std=c11", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"]


@cache
def kernels_object(flags: tuple[str, ...]) -> Path:
    """Compile the kernels once for all projects of a test run."""
    out = Path(tempfile.mkdtemp(prefix="qcc-tests-")) / "kernels.o"
    atexit.register(shutil.rmtree, out.parent, ignore_errors=True)
    run = subprocess.run(
        [*find_compiler(), *flags, "-c", str(template_folder() / "qcc_kernels.c"), "-o", str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return out


def build_main(
    folder: Path, kernels: Path, flags: tuple[str, ...], main: str = "main.c", name: str = "model_main"
) -> Path:
    """Build a program of an emitted folder."""
    out = folder / name
    sources = [str(folder / main), str(folder / "model.c"), str(kernels)]
    run = subprocess.run(
        [*find_compiler(), *flags, "-I", str(folder), *sources, "-o", str(out), "-lm"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return out


def run_golden(folder: Path) -> subprocess.CompletedProcess[str]:
    """Build an emitted folder's `main.c` and run its golden vectors."""
    flags = (*WARNINGS, "-O2")
    program = build_main(folder, kernels_object(flags), flags)
    return run_main(program, "--weights", str(folder / "weights.bin"), "--golden", str(folder / "golden"))


def run_main(program: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program of an emitted folder."""
    return subprocess.run([str(program), *words], capture_output=True, text=True, check=False, timeout=120)

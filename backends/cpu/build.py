"""Build the emitted project with the system's C compiler."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from qcc.errors import BuildError, Problem

CANDIDATES = ("cc", "gcc", "clang")
FLAGS = ("-std=c11", "-O3", "-ffp-contract=off", "-fPIC", "-fvisibility=hidden")
OPENMP = "-fopenmp"
TIMEOUT = 600.0
"""Seconds that one compiler run may take."""
_SHOWN = 12


@dataclass(frozen=True)
class Built:
    """What a build made: the library, what it had to do without, and the commands that were run."""

    library: Path
    fallbacks: tuple[Problem, ...]
    commands: tuple[str, ...]


def find_compiler(wish: str | None = None) -> list[str]:
    """Return the command of the compiler: the one asked for, $CC, then cc, gcc, clang.

    Raises:
        BuildError: if there is none, naming the package to install.
    """
    asked = wish or os.environ.get("CC")
    if asked:
        words = shlex.split(asked)
        if not words or shutil.which(words[0]) is None:
            raise BuildError(
                f"the C compiler '{asked}' is not on the path",
                fix="name an installed one with --cc or $CC, or install one: apt install gcc",
            )
        return words
    for name in CANDIDATES:
        if shutil.which(name):
            return [name]
    raise BuildError(
        f"no C compiler found (looked for {', '.join(CANDIDATES)})", fix="install one: apt install gcc libc6-dev"
    )


def has_openmp(compiler: list[str], folder: Path) -> bool:
    """Try whether the compiler builds and links a program with OpenMP."""
    source, program = folder / "openmp_probe.c", folder / "openmp_probe"
    source.write_text("#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n", "utf-8")
    try:
        return _run([*compiler, OPENMP, str(source), "-o", str(program)]).returncode == 0
    finally:
        for path in (source, program):
            path.unlink(missing_ok=True)


def build_library(folder: Path, name: str, *, cc: str | None = None, extra: tuple[str, ...] = ()) -> Built:
    """Compile `lib<name>.so` in an emitted folder.

    Raises:
        BuildError: if there is no compiler, or it refuses the code: with its first errors and the command.
    """
    compiler = find_compiler(cc)
    openmp = [OPENMP] if has_openmp(compiler, folder) else []
    without = Problem(compiler[0], "has no OpenMP: the program runs on one thread", "apt install libomp-dev")
    fallbacks = () if openmp else (without,)
    library = folder / f"lib{name}.so"
    flags = [*FLAGS, *openmp, *extra]
    with tempfile.TemporaryDirectory() as scratch:
        kernels, program = Path(scratch) / "qcc_kernels.o", Path(scratch) / "program.o"
        commands = [
            _compile_kernels(compiler, flags, folder, kernels),
            _checked([*compiler, *flags, "-c", str(folder / f"{name}.c"), "-o", str(program)]),
            _checked([*compiler, *openmp, *extra, "-shared", str(program), str(kernels), "-o", str(library), "-lm"]),
        ]
    return Built(library, fallbacks, tuple(commands))


def _checked(command: list[str]) -> str:
    result = _run(command)
    if result.returncode != 0:
        raise compile_error(command, result.stderr)
    return shlex.join(command)


def cache_folder() -> Path:
    """Return the folder where compiled kernels are kept: $XDG_CACHE_HOME/qcc, else ~/.cache/qcc."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "qcc"


def _compile_kernels(compiler: list[str], flags: list[str], folder: Path, out: Path) -> str:
    """Compile the kernels, or take the object of the same sources, compiler and flags from the cache."""
    command = [*compiler, *flags, "-c", str(folder / "qcc_kernels.c"), "-o", str(out)]
    digest = hashlib.sha256("\0".join([*compiler, *flags, _run([*compiler, "--version"]).stdout]).encode())
    for source in sorted(folder.glob("qcc_k*.[ch]")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    cached = cache_folder() / f"kernels-{digest.hexdigest()[:32]}.o"
    if cached.is_file():
        shutil.copyfile(cached, out)
        return shlex.join(command)
    _checked(command)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cached.parent, delete=False) as aside:
            aside.write(out.read_bytes())
        os.replace(aside.name, cached)
    except OSError:
        # A read-only home costs the next build some seconds, nothing else.
        pass
    return shlex.join(command)


def compile_error(command: list[str], output: str) -> BuildError:
    """Make the error of a failed compiler run: its first errors and the command that gave them."""
    lines = [line for line in output.splitlines() if "error" in line.lower()] or output.splitlines()
    problems = [Problem("", line.strip()) for line in lines[:_SHOWN]]
    return BuildError("the C compiler refused the generated code", problems, fix=f"run it again: {shlex.join(command)}")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"the C compiler took longer than {TIMEOUT:.0f} s: {shlex.join(command)}") from error
    except OSError as error:
        raise BuildError(f"the C compiler cannot be started: {error}") from error

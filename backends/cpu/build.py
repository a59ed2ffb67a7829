"""Build the emitted project with the system's C compiler."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from qcc.cache import Cache, digest_of
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


def build_library(
    folder: Path,
    name: str,
    *,
    cc: str | None = None,
    extra: tuple[str, ...] = (),
    defines: tuple[str, ...] = (),
    out: Path | None = None,
) -> Built:
    """Compile `lib<name>.so` of an emitted folder, there or in `out`; `defines` are for the program alone.

    Raises:
        BuildError: if there is no compiler, or it refuses the code: with its first errors and the command.
    """
    compiler = find_compiler(cc)
    openmp = [OPENMP] if has_openmp(compiler, out or folder) else []
    without = Problem(compiler[0], "has no OpenMP: the program runs on one thread", "apt install libomp-dev")
    fallbacks = () if openmp else (without,)
    library = (out or folder) / f"lib{name}.so"
    flags = [*FLAGS, *openmp, *extra]
    with tempfile.TemporaryDirectory() as scratch:
        kernels, program = Path(scratch) / "qcc_kernels.o", Path(scratch) / "program.o"
        commands = [
            _compile_kernels(compiler, flags, folder, kernels),
            _checked([*compiler, *flags, *defines, "-c", str(folder / f"{name}.c"), "-o", str(program)]),
            _checked([*compiler, *openmp, *extra, "-shared", str(program), str(kernels), "-o", str(library), "-lm"]),
        ]
    return Built(library, fallbacks, tuple(commands))


def _checked(command: list[str]) -> str:
    result = _run(command)
    if result.returncode != 0:
        raise compile_error(command, result.stderr)
    return shlex.join(command)


def toolchain_text(wish: str | None) -> str:
    """Say what the built library depends on beside its sources: the compiler, its version, and the flags.

    Raises:
        BuildError: if there is no compiler.
    """
    compiler = find_compiler(wish)
    return "\0".join([*compiler, _run([*compiler, "--version"]).stdout, *FLAGS])


def cpu_features() -> str:
    """Return the architecture and, where the system says them, the instruction sets of this CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    flags = next((line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()} {flags.strip()}"


def _compile_kernels(compiler: list[str], flags: list[str], folder: Path, out: Path) -> str:
    """Compile the kernels, or take the object of the same sources, compiler and flags from the cache."""
    command = [*compiler, *flags, "-c", str(folder / "qcc_kernels.c"), "-o", str(out)]
    parts: list[str | bytes] = [*compiler, *flags, _run([*compiler, "--version"]).stdout]
    for source in sorted(folder.glob("qcc_k*.[ch]")):
        parts += [source.name, source.read_bytes()]

    def make(entry: Path) -> None:
        _checked([*command[:-1], str(entry / out.name)])

    shutil.copyfile(Cache().get("kernels", digest_of(parts), make) / out.name, out)
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

"""Compile kernels to cubins on a machine without a GPU: in several processes, and always to the same bytes."""

from __future__ import annotations

import base64
import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcc.backends.triton.architectures import Architecture
from qcc.backends.triton.signature import Argument
from qcc.backends.triton.toolchain import Toolchain, build_environment, find_toolchain
from qcc.errors import BuildError, Problem

TIMEOUT = 300.0
"""Seconds that one kernel may take for one architecture."""
WORKER = Path(__file__).with_name("compile_worker.py")
SCRATCH = 2
"""Parameters that Triton adds after those of the source: pointers to scratch memory, null where none is asked for."""
TENSOR_COLUMNS = 512
"""Columns of tensor memory of a multiprocessor (PTX ISA, tcgen05)."""
_WIDTHS = {"i32": ("u32", "s32", "b32"), "i64": ("u64", "s64", "b64"), "fp32": ("f32",)}
_POINTER = ("u64", "b64")


@dataclass(frozen=True)
class CompileJob:
    """A kernel to compile: module text, function, arguments and constants, for one architecture.

    `name` tells it from other kernels of the same architecture. `modules` are the texts of modules it imports.
    """

    name: str
    function: str
    source: str
    modules: Mapping[str, str]
    arguments: tuple[Argument, ...]
    constants: Mapping[str, int]
    warps: int
    stages: int
    arch: Architecture

    @property
    def where(self) -> str:
        """Name the job in a message."""
        return f"{self.name} for {self.arch.name}"


@dataclass(frozen=True)
class Cubin:
    """Machine code of one kernel and what a launch must know.

    `target` is the PTX target (`sm_90a`), `shared` bytes of shared memory of a block, which has `warps * 32` threads.
    """

    name: str
    symbol: str
    arch: Architecture
    target: str
    code: bytes
    shared: int
    warps: int
    ptx_version: str
    triton: str


def compile_kernels(jobs: Sequence[CompileJob], *, workers: int = 2) -> tuple[Cubin, ...]:
    """Compile kernels, `workers` of them at a time; the order of the results is that of the jobs.

    Raises:
        BuildError: if Triton is not installed, or listing every kernel that it does not compile, or whose result no
            launch of ours can serve.
    """
    found = try_kernels(jobs, workers=workers)
    if problems := [one for one in found if isinstance(one, Problem)]:
        raise BuildError(f"Triton cannot compile {len(problems)} of {len(jobs)} kernels", problems)
    return tuple(one for one in found if isinstance(one, Cubin))


def try_kernels(jobs: Sequence[CompileJob], *, workers: int = 2) -> list[Cubin | Problem]:
    """Compile kernels as `compile_kernels` does; what cannot be compiled is a problem in the place of its job.

    Raises:
        BuildError: if Triton is not installed, or two jobs of one architecture have one name.
    """
    twice = [where for where, count in Counter(job.where for job in jobs).items() if count > 1]
    if twice:
        raise BuildError("kernels of one name", [Problem(where, "is asked for more than once") for where in twice])
    toolchain = find_toolchain()
    workers = max(1, min(workers, len(jobs)))
    with tempfile.TemporaryDirectory(prefix="qcc-triton-") as scratch, _pool(toolchain, Path(scratch), workers) as ask:
        with ThreadPoolExecutor(workers) as threads:
            answers = list(threads.map(ask, range(len(jobs)), jobs))
    return [_result(job, answer, toolchain) for job, answer in zip(jobs, answers, strict=True)]


def _result(job: CompileJob, answer: Mapping[str, Any], toolchain: Toolchain) -> Cubin | Problem:
    wrong = [str(answer["error"])] if "error" in answer else unfit(job, answer)
    return Problem(job.where, "; ".join(wrong)) if wrong else _cubin(job, answer, toolchain)


def unfit(job: CompileJob, answer: Mapping[str, Any]) -> list[str]:
    """List what keeps a compiled kernel from being launched by us."""
    metadata, found = answer["metadata"], list(answer["parameters"])
    wrong: list[str] = []
    if metadata["global_scratch_size"] or metadata["profile_scratch_size"]:
        wrong.append("needs scratch memory in every launch, which the loader does not give")
    if metadata["num_ctas"] > 1:
        wrong.append(f"needs clusters of {metadata['num_ctas']} blocks, which the loader does not launch")
    if metadata["shared"] > job.arch.shared:
        wrong.append(f"needs {metadata['shared']} bytes of shared memory, {job.arch.name} has {job.arch.shared}")
    if metadata["tmem_size"] > TENSOR_COLUMNS:
        # Triton compiles such a kernel to a trap, and says nothing
        wrong.append(f"needs {metadata['tmem_size']} columns of tensor memory, there are {TENSOR_COLUMNS}")
    expected = [_POINTER if one.is_pointer else _WIDTHS[one.dtype] for one in job.arguments] + [_POINTER] * SCRATCH
    if len(found) != len(expected) or any(a not in b for a, b in zip(found, expected, strict=True)):
        wrong.append(f"takes the parameters {', '.join(found)}, not those of its source")
    return wrong


def _cubin(job: CompileJob, answer: Mapping[str, Any], toolchain: Toolchain) -> Cubin:
    metadata = answer["metadata"]
    return Cubin(
        name=job.name,
        symbol=metadata["name"],
        arch=job.arch,
        target=answer["target"],
        code=base64.b64decode(answer["cubin"]),
        shared=metadata["shared"],
        warps=metadata["num_warps"],
        ptx_version=answer["ptx_version"],
        triton=toolchain.version,
    )


def _request(job: CompileJob, folder: Path) -> str:
    """Write the sources of a job to a folder of its own and return the line that asks for it."""
    folder.mkdir()
    for name, text in {**job.modules, job.function: job.source}.items():
        (folder / f"{name}.py").write_text(text, "utf-8")
    return json.dumps(
        {
            "folder": str(folder),
            "module": job.function,
            "function": job.function,
            "types": {one.name: one.dtype for one in job.arguments},
            "divisible": [one.name for one in job.arguments if one.divisible],
            "constants": dict(job.constants),
            "capability": job.arch.capability,
            "options": {"num_warps": job.warps, "num_stages": job.stages, "enable_fp_fusion": True},
        }
    )


class _Worker:
    """A process that compiles. It is started again after it died, which costs the job at hand and no other."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self.process: subprocess.Popen[str] | None = None

    def ask(self, line: str) -> dict[str, Any]:
        """Send a request and return the answer, or what became of the process."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()
        timer = threading.Timer(TIMEOUT, lambda: (late.set(), process.kill()))
        timer.start()
        try:
            process.stdin.write(line + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except OSError:
            answer = ""
        finally:
            timer.cancel()
        if answer:
            return json.loads(answer)
        self.close()
        return {"error": f"takes longer than {TIMEOUT:.0f} s" if late.is_set() else "ends the compiler process"}

    def _running(self) -> subprocess.Popen[str]:
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=self.environment,
            )
        return self.process

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


@contextmanager
def _pool(toolchain: Toolchain, scratch: Path, workers: int) -> Generator[Callable[[int, CompileJob], dict[str, Any]]]:
    """Give a function (number, job) -> answer that waits for a free worker."""
    cache = scratch / "cache"
    every = [_Worker(build_environment(toolchain, cache)) for _ in range(workers)]
    free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    for one in every:
        free.put(one)

    def ask(number: int, job: CompileJob) -> dict[str, Any]:
        worker = free.get()
        try:
            return worker.ask(_request(job, scratch / f"job{number}"))
        finally:
            free.put(worker)

    try:
        yield ask
    finally:
        for one in every:
            one.close()

"""Run kernels on a CPU in a process of their own, where Triton interprets instead of compiling.

Triton decides at its import whether it interprets, so the process that compiles and the one that interprets are two.
This is for tests and for looking at kernels without a GPU: it is many thousand times slower than a GPU.
"""

from __future__ import annotations

import importlib.util
import io
import os
import struct
import subprocess
import sys
import tempfile
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import torch
from torch import Tensor

from qcc.backends.triton.launch import Launch, Value
from qcc.backends.triton.render import PTX_MODULE, kernel_name, kernel_source, ptx_source
from qcc.errors import BuildError


@dataclass(frozen=True)
class _Request:
    """A launch as text and numbers; tensors are sent beside it."""

    name: str
    source: str
    ptx: str
    arguments: list[Value]
    constants: dict[str, int]
    grid: tuple[int, int, int]


class EmulatedDevice:
    """A process that runs launches one after another; use it as a context manager, or call `close`.

    Raises:
        BuildError: if Triton is not installed.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("triton") is None:
            raise BuildError("kernels cannot be interpreted: triton is not installed", fix="pip install 'qcc[triton]'")
        # The package may be found through any path of this process, which is not the child's.
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "qcc.backends.triton.emulate"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": paths},
        )

    def run(self, launch: Launch) -> None:
        """Run a launch: the tensors among its arguments are written in place, as a GPU would.

        Raises:
            BuildError: if the kernel fails.
        """
        spec, arguments = launch.spec, list(launch.arguments.values())
        request = _Request(
            kernel_name(spec), kernel_source(spec), ptx_source(), arguments, dict(launch.constants), launch.grid
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        _send(self._process.stdin, request)
        answer = _receive(self._process.stdout)
        if not isinstance(answer, list):
            raise BuildError(f"the kernel {request.name} fails in Triton's interpreter:\n{answer}")
        tensors = [one for one in arguments if isinstance(one, Tensor)]
        for tensor, result in zip(tensors, answer, strict=True):
            tensor.copy_(result)

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        self._process.wait()

    def __enter__(self) -> EmulatedDevice:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _send(stream: IO[bytes], message: object) -> None:
    data = io.BytesIO()
    torch.save(message, data)
    stream.write(struct.pack("<q", data.getbuffer().nbytes))
    stream.write(data.getbuffer())
    stream.flush()


def _receive(stream: IO[bytes]) -> Any:
    head = stream.read(8)
    if len(head) < 8:
        raise BuildError("the process that interprets kernels ended early", fix="look at its messages above")
    # Both ends are this module: nothing foreign is unpickled.
    return torch.load(io.BytesIO(stream.read(*struct.unpack("<q", head))), weights_only=False)


def write_kernel(folder: Path, name: str, source: str, ptx: str) -> None:
    """Write a kernel's module and `qcc_ptx` into a folder."""
    (folder / f"{PTX_MODULE}.py").write_text(ptx, "utf-8")
    (folder / f"{name}.py").write_text(source, "utf-8")


def load_kernel(folder: Path, name: str) -> Any:
    """Return the kernel that `write_kernel` wrote, as Triton wraps it."""
    path = folder / f"{name}.py"
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.path.insert(0, str(folder))
    try:
        found.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
        # Another folder's module of the same name is another one.
        sys.modules.pop(PTX_MODULE, None)
    return getattr(module, name)


def _serve() -> None:
    """Answer requests of the parent until it closes the pipe."""
    from qcc.backends.triton.interpreting import extend_interpreter

    answers, requests = sys.stdout.buffer, sys.stdin.buffer
    # What a kernel prints must not get between the answers.
    sys.stdout = sys.stderr
    extend_interpreter()
    kernels: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        while True:
            try:
                request: _Request = _receive(requests)
            except BuildError:
                return
            try:
                if request.source not in kernels:
                    write_kernel(Path(folder), request.name, request.source, request.ptx)
                    kernels[request.source] = load_kernel(Path(folder), request.name)
                kernels[request.source][request.grid](*request.arguments, **request.constants)
                answer: object = [one for one in request.arguments if isinstance(one, Tensor)]
            except Exception:
                answer = traceback.format_exc()
            _send(answers, answer)


if __name__ == "__main__":
    _serve()

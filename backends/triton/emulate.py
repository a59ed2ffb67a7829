"""Run kernels on a CPU in a process of their own, where Triton interprets instead of compiling.

Triton decides at its import whether it interprets, so the process that compiles and the one that interprets are two.
This is for tests and for looking at kernels without a GPU: it is many thousand times slower than a GPU.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from qcc.backends.triton.launch import Launch, Value
from qcc.backends.triton.messages import receive, send
from qcc.backends.triton.render import PTX_MODULE, kernel_name, kernel_source, ptx_source
from qcc.errors import BuildError


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
        name = kernel_name(spec)
        texts = {"name": name, "source": kernel_source(spec), "ptx": ptx_source()}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        send(self._process.stdin, {**texts, "constants": dict(launch.constants), "grid": launch.grid}, arguments)
        try:
            fields, results = receive(self._process.stdout)
        except EOFError as error:
            fix = "look at its messages above"
            raise BuildError("the process that interprets kernels ended early", fix=fix) from error
        if fields:
            raise BuildError(f"the kernel {name} fails in Triton's interpreter:\n{fields['error']}")
        for tensor, result in zip(_tensors(arguments), _tensors(results), strict=True):
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


def _tensors(values: Sequence[Value]) -> list[Tensor]:
    return [one for one in values if isinstance(one, Tensor)]


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
                fields, arguments = receive(requests)
            except EOFError:
                return
            try:
                source = fields["source"]
                if source not in kernels:
                    write_kernel(Path(folder), fields["name"], source, fields["ptx"])
                    kernels[source] = load_kernel(Path(folder), fields["name"])
                kernels[source][tuple(fields["grid"])](*arguments, **fields["constants"])
            except Exception:  # whatever a kernel does wrong, the one who sent it must hear of it
                send(answers, {"error": traceback.format_exc()})
            else:
                send(answers, {}, _tensors(arguments))


if __name__ == "__main__":
    _serve()

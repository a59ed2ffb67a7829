"""Load an emitted program with ctypes and run it on torch tensors, without copying them.

ctypes releases the interpreter's lock during a call, and every thread has its own session, so threads run side by
side. A program with state keeps one session for all threads, and calls take turns.
"""

from __future__ import annotations

import ctypes
import json
import os
import tempfile
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from qcc.errors import CheckpointError, Problem, QccError, ShapeError
from qcc.numerics.torch_dtypes import TORCH_DTYPES

INTERFACE = "interface.json"
DTYPES = ("f32", "f16", "bf16", "i64", "i32", "i8", "u8", "i1", "f64")
"""Element types in the order of the C enumeration."""


@dataclass(frozen=True)
class Port:
    """An input or output: its name, element type and shape as text."""

    name: str
    scalar: str
    shape: tuple[str, ...]


@dataclass(frozen=True)
class Interface:
    """What Python needs to know about an emitted program."""

    name: str
    prefix: str
    rank: int
    stateful: bool
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def save(self, folder: Path) -> None:
        """Write the interface beside the program."""
        data = {
            "name": self.name,
            "prefix": self.prefix,
            "rank": self.rank,
            "stateful": self.stateful,
            "inputs": [[one.name, one.scalar, list(one.shape)] for one in self.inputs],
            "outputs": [[one.name, one.scalar, list(one.shape)] for one in self.outputs],
        }
        (folder / INTERFACE).write_text(json.dumps(data, indent=1) + "\n", "utf-8")

    @staticmethod
    def load(folder: Path) -> Interface:
        """Read the interface.

        Raises:
            CheckpointError: if the folder is no emitted program.
        """
        path = folder / INTERFACE
        try:
            data = json.loads(path.read_text("utf-8"))
            ports = {
                role: tuple(Port(name, scalar, tuple(shape)) for name, scalar, shape in data[role])
                for role in ("inputs", "outputs")
            }
            return Interface(
                data["name"], data["prefix"], data["rank"], data["stateful"], ports["inputs"], ports["outputs"]
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{folder}: not a compiled CPU program ({error})") from error


def _open_library(path: Path) -> ctypes.CDLL:
    """Load a library under a name of its own: the loader would take an older file of the same name for this one."""
    with tempfile.TemporaryDirectory(prefix="qcc-load-") as scratch:
        link = Path(scratch) / path.name
        try:
            link.symlink_to(path.resolve(strict=True))
            with _short_spins():
                return ctypes.CDLL(str(link), mode=os.RTLD_LOCAL)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be loaded ({error})", fix="compile the model again") from error


SPINS = "4000"
"""Turns that a thread of ours waits awake at a barrier, some ten microseconds, before it sleeps."""


@contextmanager
def _short_spins() -> Generator[None]:
    """Let the OpenMP runtime, which reads its settings when it is first loaded, spin for a short time only.

    torch brings an OpenMP runtime of its own. Where the threads of both meet on one core, each barrier of ours would
    burn a whole time slice: hundreds of milliseconds a call. Settings that the user has made are left alone.
    """
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    if any(name in os.environ for name in names):
        yield
        return
    os.environ[names[0]] = SPINS
    try:
        yield
    finally:
        del os.environ[names[0]]


class _Library:
    """The functions of an emitted library."""

    def __init__(self, path: Path, interface: Interface) -> None:
        self.handle = _open_library(path)

        class Tensor(ctypes.Structure):
            _fields_ = (
                ("data", ctypes.c_void_p),
                ("bytes", ctypes.c_uint64),
                ("dtype", ctypes.c_int32),
                ("rank", ctypes.c_int32),
                ("shape", ctypes.c_int64 * interface.rank),
            )

        self.tensor: Any = Tensor
        pointer, integer, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
        prefix = interface.prefix
        self.open = self._function(f"{prefix}_open", [text, pointer, text, ctypes.c_size_t], integer)
        self.close = self._function(f"{prefix}_close", [pointer], None)
        self.create = self._function(f"{prefix}_session_create", [pointer, integer, pointer], integer)
        self.destroy = self._function(f"{prefix}_session_destroy", [pointer], None)
        self.reset = self._function(f"{prefix}_session_reset", [pointer], integer)
        self.error = self._function(f"{prefix}_error", [pointer], text)
        ports = [pointer, pointer, integer, pointer, integer]
        self.output_shapes = self._function(f"{prefix}_output_shapes", ports, integer)
        self.run = self._function(f"{prefix}_run", ports, integer)

    def _function(self, name: str, arguments: list[Any], result: Any) -> Any:
        try:
            function = getattr(self.handle, name)
        except AttributeError as error:
            raise CheckpointError(f"the library has no function '{name}'", fix="compile the model again") from error
        function.argtypes, function.restype = arguments, result
        return function


_ARGUMENT, _SHAPE, _INDEX = 1, 2, 3
_FILE = 4


class CpuProgram:
    """An emitted program in this process; see `qcc.backends.base.LoadedProgram`."""

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        """Map the weights and load the library of an emitted folder.

        Raises:
            CheckpointError: if the folder is no emitted program, or its weights are damaged.
        """
        self.interface = Interface.load(folder)
        self.threads = threads or len(os.sched_getaffinity(0))
        self._library = _Library(folder / f"lib{self.interface.prefix}.so", self.interface)
        self._model = ctypes.c_void_p()
        self._sessions: dict[int, ctypes.c_void_p] = {}
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        message = ctypes.create_string_buffer(1024)
        path = os.fsencode(folder / "weights.bin")
        if self._library.open(path, ctypes.byref(self._model), message, len(message)):
            raise CheckpointError(message.value.decode(errors="replace"), fix="compile the model again")

    def _session(self) -> ctypes.c_void_p:
        owner = 0 if self.interface.stateful else threading.get_ident()
        with self._lock:
            if not self._model:
                raise QccError("the program is closed")
            if owner not in self._sessions:
                session = ctypes.c_void_p()
                if self._library.create(self._model, self.threads, ctypes.byref(session)):
                    raise QccError(f"cannot make a session of {self.threads} threads", fix="use 1 to 1024 threads")
                self._sessions[owner] = session
            return self._sessions[owner]

    def run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Run on inputs by name; outputs are new tensors.

        Raises:
            ShapeError: listing every input that is missing or does not fit.
        """
        tensors = self._checked(inputs)
        if self.interface.stateful:
            with self._turn:
                return self._call(tensors)
        return self._call(tensors)

    def _call(self, tensors: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        library, session = self._library, self._session()
        given = (library.tensor * max(len(tensors), 1))()
        for slot, tensor in zip(given, tensors, strict=False):
            _describe(slot, tensor)
        ports = self.interface.outputs
        made = (library.tensor * max(len(ports), 1))()
        count = len(tensors)
        self._check(session, library.output_shapes(session, given, count, made, len(ports)))
        outputs: dict[str, torch.Tensor] = {}
        for slot, port in zip(made, ports, strict=False):
            output = torch.empty(list(slot.shape[: slot.rank]), dtype=TORCH_DTYPES[port.scalar])
            slot.data = output.data_ptr()
            outputs[port.name] = output
        self._check(session, library.run(session, given, count, made, len(ports)))
        return outputs

    def _checked(self, inputs: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        problems: list[Problem] = []
        tensors: list[torch.Tensor] = []
        for port in self.interface.inputs:
            tensor = inputs.get(port.name)
            where, shape = f"input '{port.name}'", f"[{', '.join(port.shape)}]"
            if tensor is None:
                problems.append(Problem(where, "is missing", f"pass a tensor of shape {shape}"))
            elif tensor.dtype != TORCH_DTYPES[port.scalar]:
                wanted = TORCH_DTYPES[port.scalar]
                problems.append(Problem(where, f"has dtype {tensor.dtype}, expected {wanted}", f"use .to({wanted})"))
            elif tensor.ndim != len(port.shape):
                problems.append(Problem(where, f"has shape {list(tensor.shape)}, the program takes {shape}"))
            elif tensor.device.type != "cpu":
                problems.append(Problem(where, f"is on {tensor.device}", "move it to the CPU"))
            else:
                tensors.append(tensor.detach().contiguous())
        names = {port.name for port in self.interface.inputs}
        problems += [
            Problem(f"input '{name}'", "is not an input of the program") for name in inputs if name not in names
        ]
        if problems:
            raise ShapeError("the inputs do not fit the compiled program", problems)
        return tensors

    def _check(self, session: ctypes.c_void_p, status: int) -> None:
        if status:
            message = self._library.error(session).decode(errors="replace")
            kind = ShapeError if status in (_ARGUMENT, _SHAPE, _INDEX) else QccError
            raise kind(message or f"the program failed with status {status}")

    def reset(self) -> None:
        """Give all state its first value again."""
        session = self._session()
        with self._turn:
            self._check(session, self._library.reset(session))

    def close(self) -> None:
        """Destroy all sessions and unmap the weights."""
        with self._lock:
            for session in self._sessions.values():
                self._library.destroy(session)
            self._sessions.clear()
            if self._model:
                self._library.close(self._model)
                self._model.value = None  # when Python shuts down, the names of other modules are gone

    def __del__(self) -> None:
        if hasattr(self, "_lock"):
            self.close()


def _describe(slot: Any, tensor: torch.Tensor) -> None:
    slot.data = tensor.data_ptr() if tensor.numel() else None
    slot.bytes = tensor.numel() * tensor.element_size()
    slot.dtype = DTYPES.index(_SCALARS[tensor.dtype])
    slot.rank = tensor.ndim
    for axis, size in enumerate(tensor.shape):
        slot.shape[axis] = size


_SCALARS = {dtype: scalar for scalar, dtype in TORCH_DTYPES.items()}

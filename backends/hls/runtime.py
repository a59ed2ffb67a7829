"""Run an emitted project in this process: its testbench, built with an ordinary compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
import torch

from qcc.backends.base import Tensors
from qcc.backends.hls.design import Port
from qcc.backends.hls.project import port_bytes
from qcc.backends.hls.report import read_report
from qcc.backends.hls.units_port import NUMPY
from qcc.errors import BuildError, CheckpointError, Problem, ShapeError

TORCH = {
    "f32": torch.float32, "i32": torch.int32, "i64": torch.int64, "i8": torch.int8, "u8": torch.uint8, "i1": torch.bool,
}  # fmt: skip


def build_simulation(folder: Path, *, bounded: bool = False, cxx: str | None = None) -> Path:
    """Build the simulation of a project by its Makefile, and return the program.

    Raises:
        BuildError: if make or the compiler is missing, or the compiler refuses the code.
    """
    name = "build/bounded" if bounded else "build/csim"
    make = shutil.which("make")
    if make is None:
        raise BuildError("simulating an HLS project needs make, which is not installed", fix="install make and g++")
    line = [make, "-C", str(folder), name, *([f"CXX={cxx}"] if cxx else [])]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        text = "\n".join((done.stderr or done.stdout).splitlines()[-20:])
        raise BuildError(f"the simulation of {folder} does not build:\n{text}", fix="use g++ 9 or newer, or --cc")
    return folder / name


class HlsProgram:
    """The simulation of a project; see `qcc.backends.base.LoadedProgram`. It is built when it first runs."""

    def __init__(self, folder: Path) -> None:
        report = read_report(folder)
        if not (folder / "Makefile").is_file():
            raise CheckpointError(f"{folder}: holds no HLS project", fix="compile with --target hls")
        self.folder = folder
        self.inputs = [_port(one) for one in report["inputs"]]
        self.outputs = [_port(one) for one in report["outputs"]]
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._program: Path | None = None

    def run(self, inputs: Tensors) -> dict[str, torch.Tensor]:
        """Compute one frame, bit for bit what the design computes.

        Raises:
            ShapeError: listing every input that is missing, or whose dtype or shape does not fit.
            BuildError: if the simulation does not build.
        """
        return self.run_frames([inputs])[0]

    def run_frames(self, frames: Sequence[Tensors]) -> list[dict[str, torch.Tensor]]:
        """Compute frames one after another in one run of the simulation."""
        for frame in frames:
            self._check(frame)
        program = self._built()
        with tempfile.TemporaryDirectory(prefix="qcc-hls-") as scratch:
            source, target = Path(scratch) / "in.dat", Path(scratch) / "out.dat"
            source.write_bytes(b"".join(port_bytes(port, frame[port.name]) for frame in frames for port in self.inputs))
            line = [str(program), "--run", str(source), str(target)]
            done = subprocess.run(line, cwd=self.folder, capture_output=True, text=True, check=False)
            if done.returncode:
                raise BuildError(f"the simulation of {self.folder} failed:\n{done.stderr.strip()}")
            data = target.read_bytes()
        return _read_frames(data, self.outputs, len(frames))

    def _check(self, inputs: Tensors) -> None:
        problems: list[Problem] = []
        for port in self.inputs:
            found = inputs.get(port.name)
            if found is None:
                problems.append(Problem(f"input '{port.name}'", "is missing"))
            elif tuple(found.shape) != port.shape or found.dtype != TORCH[port.scalar]:
                what = f"is {found.dtype} {tuple(found.shape)}, not {TORCH[port.scalar]} {port.shape}"
                problems.append(Problem(f"input '{port.name}'", what))
            elif port.below and found.numel() and not 0 <= int(found.min()) <= int(found.max()) < port.below:
                what = f"picks rows {int(found.min())}..{int(found.max())} of a table of {port.below}"
                problems.append(Problem(f"input '{port.name}'", what))
        if problems:
            raise ShapeError("the inputs do not fit the design", problems)

    def _built(self) -> Path:
        if self._program is None:
            folder = self.folder
            if not os.access(folder, os.W_OK):
                # an artifact that cannot be written to is built beside itself
                self._scratch = tempfile.TemporaryDirectory(prefix="qcc-hls-")
                folder = Path(self._scratch.name) / "hls"
                shutil.copytree(self.folder, folder)
            self._program = build_simulation(folder).resolve()
        return self._program

    def reset(self) -> None:
        """Do nothing: a design keeps nothing between frames."""

    def close(self) -> None:
        """Remove what was built aside."""
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None
        self._program = None


def _port(data: dict[str, object]) -> Port:
    shape = data["shape"]
    assert isinstance(shape, list)
    sizes = tuple(int(str(one)) for one in shape)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return Port(str(data["name"]), str(data["scalar"]), sizes, str(data["edge"]), int(str(data["below"])))


def _read_frames(data: bytes, ports: list[Port], count: int) -> list[dict[str, torch.Tensor]]:
    frames: list[dict[str, torch.Tensor]] = []
    at = 0
    for _ in range(count):
        frame: dict[str, torch.Tensor] = {}
        for port in ports:
            kind = np.dtype(NUMPY[port.scalar])
            size = prod(port.shape)
            array = np.frombuffer(data, kind, size, at).astype(kind.newbyteorder("=")).reshape(port.shape)
            frame[port.name] = torch.from_numpy(array).to(TORCH[port.scalar])
            at += size * kind.itemsize
        frames.append(frame)
    return frames

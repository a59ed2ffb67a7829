"""Integer programs built by hand, and their projects beside the interpreter."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue

from qcc.backends.base import Golden, ModelCall, ModelCase, Tolerance
from qcc.backends.hls.project import Project, plan_project, write_project
from qcc.backends.hls.runtime import HlsProgram, build_simulation
from qcc.backends.hls.settings import HlsSettings, read_hls_settings
from qcc.interpreter import Interpreter
from qcc.ir.integer import CodesOp, IntegerContractOp, OfCodesOp
from qcc.ir.program import WeightOp, program_of
from qcc.ir.quant import DequantizeOp, QuantizeOp, RequantOp
from qcc.ir.store import WeightStore
from qcc.ir.types import type_of
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import quantize
from tests.modules import kind_of

STATIC = "int8 | tensor f32 | static"
SPECIAL = [0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1e-40, -1e-45, 3e38, 0.5, -0.5]


class Net:
    """Builds integer programs; weights get names as they come."""

    def __init__(self, seed: int = 0) -> None:
        self.store = WeightStore()
        self.random = torch.Generator().manual_seed(seed)

    def weight(self, value: torch.Tensor) -> WeightOp:
        """Put a plain tensor into the store."""
        key = self.store.fresh_key("w")
        self.store[key] = value
        return WeightOp(key, kind_of(value))

    def draw(self, low: int, high: int, *shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
        """Draw integers from `low` to `high`."""
        return torch.randint(low, high + 1, shape, generator=self.random).to(dtype)

    def codes(self, value: SSAValue, scale: float = 0.05, bits: int = 8) -> CodesOp:
        """Quantize a float input to plain integers."""
        qtype = parse_qtype(f"int{bits} | tensor f32 | static")
        grid = self.weight(torch.full((1,) * type_of(value).rank, scale))
        return CodesOp(QuantizeOp(value, qtype, [grid]))

    def floats(self, value: SSAValue | Operation, scale: float = 0.1, bits: int = 8) -> DequantizeOp:
        """Give out plain integers as floats."""
        qtype = parse_qtype(f"int{bits} | tensor f32 | static")
        grid = self.weight(torch.full((1,) * type_of(SSAValue.get(value)).rank, scale))
        return DequantizeOp(OfCodesOp(value, qtype, [grid]))

    def contract(
        self,
        value: SSAValue | Operation,
        n: int,
        text: str = "int8 | row f32",
        *,
        groups: int = 1,
        bias: bool = True,
    ) -> IntegerContractOp:
        """Multiply with random weights of a format."""
        columns = type_of(SSAValue.get(value)).shape[-1].constant
        assert columns is not None
        k = columns // groups
        weights = torch.randn(n, k, generator=self.random)
        key = self.store.fresh_key("q")
        self.store[key] = quantize(weights, parse_qtype(text))
        added = self.weight(self.draw(-500, 500, n)) if bias else None
        return IntegerContractOp(value, WeightOp(key, kind_of(self.store[key])), added, groups=groups)

    def requant(
        self, value: SSAValue | Operation, *, channels: int = 1, shift: int = 12, low: int | None = None
    ) -> RequantOp:
        """Requantize to 8 bits with multipliers drawn by channel."""
        multiplier = self.weight(self.draw(10, 60, channels))
        return RequantOp(value, multiplier, self.weight(torch.tensor([shift], dtype=torch.int32)), low=low)

    def wide(self, value: SSAValue | Operation, shift: int = 4) -> RequantOp:
        """Requantize to 16 bits in 32, so that sums have headroom."""
        multiplier, by = self.weight(self.draw(10, 60, 1)), self.weight(torch.tensor([shift], dtype=torch.int32))
        return RequantOp(value, multiplier, by, "i32", low=-(2**15), high=2**15 - 1)


def random_frames(module: ModuleOp, count: int, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Draw frames of raw inputs: floats far and near, ties, and what is no number in the first one."""
    program, random = program_of(module), torch.Generator().manual_seed(seed)
    frames: list[dict[str, torch.Tensor]] = []
    for index in range(count):
        frame: dict[str, torch.Tensor] = {}
        for name, value in zip(program.input_names, program.body.block.args, strict=True):
            kind = type_of(value)
            shape = kind.static_shape
            assert shape is not None
            if kind.is_float:
                drawn = torch.randn(shape, generator=random) * 10 ** float(torch.randn(1, generator=random))
                if index == 0 and drawn.numel():
                    flat = drawn.view(-1)
                    special = torch.tensor(SPECIAL[: flat.numel()])
                    flat[: len(special)] = special
                elif index == 1:
                    drawn = (drawn * 20).round() * 0.025  # many ties
                frame[name] = drawn
            elif kind.scalar == "i1":
                frame[name] = torch.rand(shape, generator=random) > 0.4
            else:
                frame[name] = torch.randint(-100, 100, shape, generator=random).to(torch.int8)
        frames.append(frame)
    return frames


def expected(module: ModuleOp, store: WeightStore, frames: Sequence[Mapping[str, torch.Tensor]]) -> Golden:
    """Run the interpreter on frames."""
    interpreter = Interpreter(module, store)
    calls = [ModelCall(frame, interpreter.run(frame)) for frame in frames]
    return Golden((ModelCase("frames", tuple(calls), Tolerance(0.0)),))


def emit(
    module: ModuleOp, store: WeightStore, folder: Path, frames: int = 4, settings: Mapping[str, str] | None = None
) -> tuple[Project, Path]:
    """Write the project of a module with golden frames from the interpreter."""
    chosen: HlsSettings = read_hls_settings(settings or {})
    project = plan_project(module, store, chosen)
    golden = expected(module, store, random_frames(module, frames))
    write_project(project, golden, "net", folder / "hls")
    return project, folder / "hls"


def simulate(folder: Path, *, bounded: bool = False, depths: Mapping[str, int] | None = None) -> tuple[int, str]:
    """Build and run the testbench; returns exit status and what it said."""
    program = build_simulation(folder, bounded=bounded)
    env = {**os.environ, "QCC_DEPTHS": ",".join(f"{name}={depth}" for name, depth in (depths or {}).items())}
    done = subprocess.run([program], cwd=folder, capture_output=True, text=True, env=env, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


def check(module: ModuleOp, store: WeightStore, folder: Path, settings: Mapping[str, str] | None = None) -> Project:
    """Emit a module and hold its simulation to the interpreter, bit for bit."""
    project, written = emit(module, store, folder, settings=settings)
    status, said = simulate(written)
    assert status == 0, said
    assert "mismatches 0" in said
    return project


__all__ = ["STATIC", "HlsProgram", "Net", "check", "emit", "expected", "random_frames", "simulate"]

"""Emit, build and run programs built by hand, beside the interpreter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from xdsl.dialects.builtin import ModuleOp

from qcc.backends.base import BackendOptions, Emitted, Golden
from qcc.backends.cpu.backend import CpuBackend
from qcc.backends.cpu.runtime import CpuProgram
from qcc.interpreter import Interpreter
from qcc.ir.context import QccContext
from qcc.ir.store import WeightStore
from qcc.passes.pipeline import fusing, run_passes

Tensors = Mapping[str, torch.Tensor]
BACKEND = CpuBackend()


def emit(
    module: ModuleOp, store: WeightStore, out: Path, golden: Golden | None = None, *, build: bool = True
) -> Emitted:
    """Gather the kernels of a module as a compilation does, legalize and emit it."""
    module = module.clone()
    run_passes(fusing(BACKEND.capabilities.epilogues, BACKEND.capabilities.prologues), QccContext(store), module)
    return BACKEND.emit(BACKEND.legalize(module, store), store, golden, BackendOptions(build=build), out)


def load(module: ModuleOp, store: WeightStore, out: Path, threads: int = 2) -> CpuProgram:
    """Emit, build and load a module."""
    emit(module, store, out)
    return BACKEND.load(out, threads=threads)


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float, where: str = "") -> None:
    """Hold floats to `tolerance * max(1, max|wanted|)`, everything else to equality; NaN equals NaN."""
    assert found.shape == wanted.shape, where
    assert found.dtype == wanted.dtype, where
    if not wanted.is_floating_point():
        assert torch.equal(found, wanted), where
        return
    same = (found == wanted) | (found.isnan() & wanted.isnan())
    error = torch.where(same, 0.0, (found.double() - wanted.double()).abs())
    finite = wanted.double()[wanted.isfinite()].abs()
    largest = max(1.0, float(finite.max())) if finite.numel() else 1.0
    assert not error.isnan().any(), f"{where}: NaN in other places"
    assert not error.numel() or float(error.max()) <= tolerance * largest, f"{where}: {float(error.max())} of {largest}"


def compare(
    program: CpuProgram, module: ModuleOp, store: WeightStore, calls: Sequence[Tensors], tolerance: float = 1e-5
) -> None:
    """Hold calls one after another to the interpreter's."""
    oracle = Interpreter(module, store)
    for number, inputs in enumerate(calls):
        found, wanted = program.run(inputs), oracle.run(inputs)
        assert list(found) == list(wanted)
        for name, value in wanted.items():
            close(found[name], value, tolerance, f"call {number}, {name} {list(value.shape)}")

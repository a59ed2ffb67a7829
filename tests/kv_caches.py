"""Programs that keep rows in a quantized cache, for tests."""

from __future__ import annotations

import torch
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

from qcc.interpreter import Interpreter
from qcc.ir.cache import CacheAppendOp, CacheReadOp, CacheRoundOp, cache_parts
from qcc.ir.dims import Dim
from qcc.ir.program import StateOp, UpdateStateOp
from qcc.ir.store import WeightStore
from qcc.ir.types import SymbolAttr, tensor
from qcc.numerics.qtype import QType
from qcc.numerics.torch_dtypes import TORCH_DTYPES
from tests.modules import Made, kind_of, make


def empty_parts(shape: tuple[int, int, int, int], qtype: QType, window: int) -> dict[str, torch.Tensor]:
    """The parts of an empty cache of float32 rows."""
    parts = cache_parts(tuple(map(Dim.of, shape)), qtype, window, "f32")
    return {
        name: torch.zeros([int(dim.constant or 0) for dim in kind.shape], dtype=TORCH_DTYPES[kind.scalar])
        for name, kind in parts.items()
    }


def keeper(shape: tuple[int, int, int, int], qtype: QType, window: int) -> tuple[ModuleOp, WeightStore]:
    """A program that writes rows at positions; `y` is what the cache reads, `y1` and so on are its parts."""
    kinds = cache_parts(tuple(map(Dim.of, shape)), qtype, window, "f32")

    def build(rows: SSAValue, positions: SSAValue) -> list[Made]:
        states = [StateOp(name, kind) for name, kind in kinds.items()]
        append = CacheAppendOp(rows, positions, states, qtype, window=window)
        for name, value in zip(kinds, append.outputs, strict=True):
            UpdateStateOp(name, value)
        read = CacheReadOp(positions, append.outputs, tensor(shape, "f32"), qtype, window=window)
        return [read, *append.outputs]

    inputs = {"rows": tensor((*shape[:2], "n", shape[3]), "f32"), "positions": tensor(("n",), "i64")}
    return make(inputs, build, [SymbolAttr.make("n", 1)]), WeightStore(empty_parts(shape, qtype, window))


def rounded(rows: torch.Tensor, qtype: QType, window: int) -> torch.Tensor:
    """What the interpreter says a cache reads of rows that are all that it holds."""

    def build(value: SSAValue) -> Made:
        return CacheRoundOp(value, qtype, window=window)

    return Interpreter(make({"x": kind_of(rows)}, build), WeightStore()).run({"x": rows})["y"]

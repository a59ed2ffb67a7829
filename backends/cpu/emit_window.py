"""Lower windows and rows of integers: padded once, then seen through strides."""

from __future__ import annotations

from collections.abc import Sequence

from qcc.backends.cpu.emit_gather import reduce_views
from qcc.backends.cpu.emit_program import filled
from qcc.backends.cpu.fields import read, write
from qcc.backends.cpu.lowering import Lowering
from qcc.backends.cpu.views import ONE, View
from qcc.ir.dims import Dim
from qcc.ir.nn import EmbeddingOp, PoolKind, PoolOp, UnfoldOp
from qcc.ir.program import int_array
from qcc.ir.types import INTEGER_RANGES, type_of

ID_STATUS = "a token id is outside the table"


def unfold_integers(low: Lowering, op: UnfoldOp) -> None:
    """Lower `qcc.unfold` of integers: every window is a view of the padded input, and is copied to its row."""
    source = _padded(low, low.view(op.input), int_array(op.padding), 0)
    target = low.result(op.result)
    axes = range(2, source.rank)
    positions = target.shape[1:-1]
    for position in positions:
        low.require(position - 1, f"{op.where}: the window is wider than the padded input")
    steps = [source.strides[axis] * step for axis, step in zip(axes, int_array(op.stride), strict=True)]
    taps = [source.strides[axis] * step for axis, step in zip(axes, int_array(op.dilation), strict=True)]
    shape = (source.shape[0], *positions, source.shape[1], *map(Dim.of, int_array(op.window)))
    strides = (source.strides[0], *steps, source.strides[1], *taps)
    windows = View(source.buffer, source.scalar, shape, strides, source.offset)
    rows = target.reshape(shape)
    assert rows is not None, "a row-major result reshapes"
    low.copy(windows, rows)


def pool_integers(low: Lowering, op: PoolOp) -> None:
    """Lower `qcc.pool` of integers, a maximum or a sum: one axis after another, each window as a strided axis."""
    largest = op.kind.data is PoolKind.MAX
    source, kind = low.view(op.input), type_of(op.result)
    pooled = _padded(low, source, int_array(op.padding), INTEGER_RANGES[source.scalar][0] if largest else 0)
    for axis, (size, step) in enumerate(zip(int_array(op.window), int_array(op.stride), strict=True), start=2):
        out = kind.shape[axis]
        low.require(out - 1, f"{op.where}: the window is wider than the padded input")
        shape, strides = list(pooled.shape), list(pooled.strides)
        shape[axis], strides[axis] = out, pooled.strides[axis] * step
        windows = View(
            pooled.buffer,
            pooled.scalar,
            (*shape, Dim.of(size)),
            (*strides, pooled.strides[axis]),
            pooled.offset,
        )
        pooled = low.temp(pooled.scalar if largest else "i64", tuple(shape))
        reduce_views(low, "QCC_RMAX" if largest else "QCC_SUM", windows, pooled)
    low.views[op.result] = low.cast(pooled, kind.scalar)


def _padded(low: Lowering, source: View, padding: Sequence[int], value: int) -> View:
    """Return [B, C, *S] with `value` around its last axes; without padding the view itself."""
    if not any(padding):
        return source
    shape = (*source.shape[:2], *(size + 2 * by for size, by in zip(source.shape[2:], padding, strict=True)))
    target = low.temp(source.scalar, shape)
    low.copy(filled(value, source.scalar, shape), target)
    middle = target
    for axis, by in enumerate(padding, start=2):
        middle = middle.slice(axis, ONE * by, source.shape[axis])
    low.copy(source, middle)
    return target


def take_integers(low: Lowering, op: EmbeddingOp, ids: View) -> None:
    """Lower `qcc.embedding` of a table of integers."""
    table = low.contiguous(low.view(op.table))
    rows, columns = table.shape
    target = low.result(op.result)
    low.call(
        "take_rows",
        {
            "ids": read(ids),
            "table": read(table),
            "y": write(target),
            "count": ids.elements,
            "rows": rows,
            "k": columns,
            "element_size": table.element_bytes,
        },
        target.elements,
        status=ID_STATUS,
    )

"""Lower the reshape family: views where strides can say it, else strided copies into place."""

from __future__ import annotations

from collections.abc import Callable

from xdsl.ir import Operation

from qcc.backends.cpu.emit_program import filled
from qcc.backends.cpu.lowering import Lowering
from qcc.backends.cpu.views import ONE, ZERO
from qcc.ir.dims import Dim
from qcc.ir.gather import SliceUpdateOp
from qcc.ir.program import int_array
from qcc.ir.shape import ConcatOp, ExpandOp, PadOp, ReshapeOp, SliceOp, TransposeOp
from qcc.ir.types import type_of


def emit_reshape(low: Lowering, op: ReshapeOp) -> None:
    """Lower `qcc.reshape`."""
    low.views[op.result] = low.reshaped(low.view(op.input), type_of(op.result).shape)


def emit_transpose(low: Lowering, op: TransposeOp) -> None:
    """Lower `qcc.transpose`."""
    low.views[op.result] = low.view(op.input).permute(op.axes)


def emit_expand(low: Lowering, op: ExpandOp) -> None:
    """Lower `qcc.expand`."""
    low.views[op.result] = low.view(op.input).expand(type_of(op.result).shape)


def emit_slice(low: Lowering, op: SliceOp) -> None:
    """Lower `qcc.slice`."""
    source, axis, step = low.view(op.input), op.axis.value.data, op.step.value.data
    size = type_of(op.result).shape[axis]
    check_range(low, op.start.data, size, step, source.shape[axis])
    low.views[op.result] = source.slice(axis, op.start.data, size, step)


def check_range(low: Lowering, start: Dim, size: Dim, step: int, length: Dim) -> None:
    """Check at run time that elements `start + step * i`, i < size, lie on an axis of `length`."""
    if size == ZERO:
        return
    low.require(start, f"a slice starts at {start}")
    low.require(size, f"a slice has {size} elements")
    last = start + (size - 1) * step
    low.require(length - 1 - last, f"a slice reads element {last} of an axis of {length}")


def emit_concat(low: Lowering, op: ConcatOp) -> None:
    """Lower `qcc.concat`: each part is copied to its place."""
    target, axis, start = low.result(op.result), op.axis.value.data, ZERO
    for value in op.inputs:
        part = low.view(value)
        low.copy(part, target.slice(axis, start, part.shape[axis]))
        start = start + part.shape[axis]


def emit_pad(low: Lowering, op: PadOp) -> None:
    """Lower `qcc.pad`: fill, then copy the middle."""
    source, target = low.view(op.input), low.result(op.result)
    low.copy(filled(op.value.value.data, target.scalar, target.shape), target)
    middle = target
    for axis, before in enumerate(int_array(op.low)):
        middle = middle.slice(axis, ONE * before, source.shape[axis])
    low.copy(source, middle)


def emit_slice_update(low: Lowering, op: SliceUpdateOp) -> None:
    """Lower `qcc.slice_update`, in place where the old value is dead."""
    source, axis, step = low.view(op.source), op.axis.value.data, op.step.value.data
    target = low.updatable(op, op.input, op.result)
    check_range(low, op.start.data, source.shape[axis], step, target.shape[axis])
    low.copy(source, target.slice(axis, op.start.data, source.shape[axis], step))


LOWERINGS: dict[type[Operation], Callable[..., None]] = {
    ReshapeOp: emit_reshape,
    TransposeOp: emit_transpose,
    ExpandOp: emit_expand,
    SliceOp: emit_slice,
    ConcatOp: emit_concat,
    PadOp: emit_pad,
    SliceUpdateOp: emit_slice_update,
}

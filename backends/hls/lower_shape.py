"""The reshape family, windows, pooling and reductions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from xdsl.ir import Operation

from qcc.backends.hls.elements import Element
from qcc.backends.hls.lowering import (
    Flow,
    Known,
    Lowering,
    Refusal,
    Table,
    channels_last_of,
    check_accumulator,
    static_shape,
    walk_of,
)
from qcc.backends.hls.order import Loop, Order, axes_order, row_major, row_major_strides
from qcc.backends.hls.steps import Steps
from qcc.backends.hls.units_flow import ConcatUnit, ReorderUnit, Walk
from qcc.backends.hls.units_window import Axis, ReduceUnit, WindowUnit
from qcc.ir.gather import ReduceOp
from qcc.ir.nn import PoolKind, PoolOp, UnfoldOp
from qcc.ir.program import int_array
from qcc.ir.shape import ConcatOp, ExpandOp, PadOp, ReshapeOp, SliceOp, TransposeOp
from qcc.numerics.tensor import QuantizedTensor


def _reshape(low: Lowering, op: Operation) -> None:
    assert isinstance(op, ReshapeOp)
    shape, found = static_shape(op.result), low.value(op.input)
    if isinstance(found, Known):
        low.values[op.result] = Known(_plain(found).reshape(shape))
        return
    low.set(op, Flow(found.edge, shape, found.order, found.element, op, found.qtype, found.scale))


def _transpose(low: Lowering, op: Operation) -> None:
    """Describe the order anew; only a stream whose loops cross its axes goes through a buffer."""
    assert isinstance(op, TransposeOp)
    shape, found = static_shape(op.result), low.value(op.input)
    if isinstance(found, Known):
        low.values[op.result] = Known(_plain(found).transpose(op.axes))
        return
    order = found.order.transposed(found.shape, op.axes)
    if order is None:
        found = low.plain(found)
        order = found.order.transposed(found.shape, op.axes)
        assert order is not None, "row-major order can be cut at every axis"
    low.set(op, Flow(found.edge, shape, order, found.element, op, found.qtype, found.scale))


def _plain(known: Known) -> np.ndarray:
    if isinstance(known.values, QuantizedTensor):
        raise Refusal("moves the elements of a quantized constant", "fold constants first")
    return known.values


def _buffered(low: Lowering, op: Operation, flow: Flow, read: Walk, shape: tuple[int, ...], fill: int = 0) -> None:
    """Send a stream through a buffer that is read by a walk over the row-major tensor."""
    unit = ReorderUnit(1, flow.count, walk_of(flow.order), read, flow.element, fill)
    element = flow.element if any(one != (0, e) for one, e in _kept(read)) is False else _with(flow.element, fill)
    count = int(np.prod(shape, dtype=np.int64))
    edge = low.emit("moved", op, unit, (flow.edge,), element, count)
    low.set(op, Flow(edge, shape, row_major(count), element, op, flow.qtype, flow.scale))


def _kept(read: Walk) -> list[tuple[tuple[int, int], int]]:
    return [((first, last), extent) for first, last, extent in zip(read.first, read.last, read.extent, strict=True)]


def _with(element: Element, number: int) -> Element:
    return element.join(Element(number, number)) if not element.raw else element


def _slice(low: Lowering, op: Operation) -> None:
    assert isinstance(op, SliceOp)
    found, shape = low.value(op.input), static_shape(op.result)
    axis, step, start = op.axis.value.data, op.step.value.data, op.start.data.constant
    if start is None:
        raise Refusal("slices from a place that is known at run time only", "export the model with fixed sizes")
    if isinstance(found, Known):
        index = [slice(None)] * len(shape)
        index[axis] = slice(start, start + step * (shape[axis] - 1) + 1, step)
        low.values[op.result] = Known(_plain(found)[tuple(index)])
        return
    strides = row_major_strides(found.shape)
    strides[axis], begin = strides[axis] * step, start * strides[axis]
    read = Walk(shape, tuple(strides), (0,) * len(shape), shape, begin)
    _buffered(low, op, found, read, shape)


def _expand(low: Lowering, op: Operation) -> None:
    assert isinstance(op, ExpandOp)
    found, shape = low.value(op.input), static_shape(op.result)
    if isinstance(found, Known):
        low.values[op.result] = Known(np.broadcast_to(_plain(found), shape))
        return
    low.set(op, broadcast_to(low, op, found, shape))


def broadcast_to(low: Lowering, op: Operation, flow: Flow, shape: tuple[int, ...]) -> Flow:
    """Repeat a stream to a shape that it broadcasts to, through a buffer if anything is repeated."""
    aligned = (1,) * (len(shape) - len(flow.shape)) + flow.shape
    if int(np.prod(shape, dtype=np.int64)) == flow.count:
        return Flow(flow.edge, shape, flow.order, flow.element, flow.op, flow.qtype, flow.scale)
    strides = [stride if size > 1 else 0 for size, stride in zip(aligned, row_major_strides(aligned), strict=True)]
    unit = ReorderUnit(
        1, flow.count, walk_of(flow.order), Walk(shape, tuple(strides), (0,) * len(shape), shape), flow.element
    )
    count = int(np.prod(shape, dtype=np.int64))
    edge = low.emit("repeated", op, unit, (flow.edge,), flow.element, count)
    return Flow(edge, shape, row_major(count), flow.element, op, flow.qtype, flow.scale)


def _pad(low: Lowering, op: Operation) -> None:
    assert isinstance(op, PadOp)
    flow, shape = low.flow(op.input, op), static_shape(op.result)
    before, after, fill = int_array(op.low), int_array(op.high), op.value.value.data
    if fill != int(fill):
        raise Refusal(f"pads integers with {fill}", "pad with a whole number")
    strides = row_major_strides(flow.shape)
    start = -sum(low_ * stride for low_, stride in zip(before, strides, strict=True))
    last = tuple(size - high for size, high in zip(shape, after, strict=True))
    _buffered(low, op, flow, Walk(shape, tuple(strides), before, last, start), shape, int(fill))


def _concat(low: Lowering, op: Operation) -> None:
    """Join streams two at a time; they travel in row-major order, or with the axis outermost."""
    assert isinstance(op, ConcatOp)
    axis = op.axis.value.data
    flows = [low.plain(low.flow(one, op)) for one in op.inputs]
    joined = flows[0]
    for flow in flows[1:]:
        outer = int(np.prod(joined.shape[:axis], dtype=np.int64))
        shape = (*joined.shape[:axis], joined.shape[axis] + flow.shape[axis], *joined.shape[axis + 1 :])
        element = joined.element.join(flow.element)
        if joined.element != flow.element:
            joined, flow = (widened(low, op, one, element) for one in (joined, flow))
        unit = ConcatUnit(outer, joined.count // outer, flow.count // outer, element)
        edge = low.emit("joined", op, unit, (joined.edge, flow.edge), element, joined.count + flow.count)
        joined = Flow(edge, shape, row_major(joined.count + flow.count), element, op)
    low.set(op, joined)


def widened(low: Lowering, op: Operation, flow: Flow, element: Element) -> Flow:
    """Give the elements of a stream a wider type."""
    from qcc.backends.hls.units_rows import MapUnit

    if flow.element == element:
        return flow
    unit = MapUnit(1, flow.count, flow.element, steps=Steps(element))
    edge = low.emit("wide", op, unit, (flow.edge,), element, flow.count)
    return Flow(edge, flow.shape, flow.order, element, op)


def _unfold(low: Lowering, op: Operation) -> None:
    assert isinstance(op, UnfoldOp)
    window, stride, padding, dilation = (int_array(one) for one in (op.window, op.stride, op.padding, op.dilation))
    flow, order = _windows(low, op, low.flow(op.input, op), (window, stride, padding, dilation), 0)
    low.set(op, Flow(flow.edge, static_shape(op.result), order, flow.element, op))


Windows = tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int]]


def _windows(low: Lowering, op: Operation, flow: Flow, windows: Windows, pad: int) -> tuple[Flow, Order]:
    """Send an image through line buffers; returns the windows and their order within rows (channel, *window)."""
    if len(flow.shape) not in (3, 4):
        raise Refusal(f"slides over {len(flow.shape) - 2} axes", "FPGAs have units for one and two")
    flow = low.ordered(flow, channels_last_of(flow))
    sizes = flow.shape[2:]
    axes = [Axis(*one) for one in zip(sizes, *windows, strict=True)]
    tall, wide = axes if len(axes) == 2 else (Axis(1, 1, 1, 0, 1), axes[0])
    element = _with(flow.element, pad) if any(windows[2]) else flow.element
    if element != flow.element:
        flow = widened(low, op, flow, element)
    unit = WindowUnit(flow.shape[0], tall, wide, flow.shape[1], element, pad)
    inside, channels = tall.window * wide.window, flow.shape[1]
    rows = flow.shape[0] * tall.result * wide.result
    edge = low.emit("windows", op, unit, (flow.edge,), element, rows * inside * channels)
    row = Order.of([Loop(inside, 1), Loop(channels, inside)])
    shape = (flow.shape[0], *(one.result for one in axes), channels * inside)
    order = row_major(rows).spread(row, channels * inside)
    return Flow(edge, shape, order, element, op), order


def _pool(low: Lowering, op: Operation) -> None:
    assert isinstance(op, PoolOp)
    kind, shape = op.kind.data, static_shape(op.result)
    if kind not in (PoolKind.MAX, PoolKind.SUM):
        raise Refusal(f"pools integers by {kind.value}", "use the recipe's integer lowering, which sums and rescales")
    flow = low.flow(op.input, op)
    window, stride, padding = (int_array(one) for one in (op.window, op.stride, op.padding))
    largest = kind is PoolKind.MAX
    rows, _ = _windows(low, op, flow, (window, stride, padding, [1] * len(window)), flow.element.low if largest else 0)
    inside, channels = int(np.prod(window)), flow.shape[1]
    count = rows.count // (inside * channels)
    order = axes_order(shape, (0, *range(2, len(shape)), 1))
    low.set(op, _reduced(low, op, rows, (count, inside, channels), "max" if largest else "add", shape, order))


def _reduced(
    low: Lowering, op: Operation, flow: Flow, sizes: tuple[int, int, int], function: str, shape: tuple[int, ...],
    order: Order,
) -> Flow:  # fmt: skip
    """Reduce a stream that travels as [rows, count, channels] over its middle."""
    rows, count, channels = sizes
    sums = flow.element
    if function == "add":
        sums = Element(min(0, flow.element.low) * count, max(0, flow.element.high) * count)
    check_accumulator(sums)
    unit = ReduceUnit(rows, count, channels, function, flow.element, steps=Steps(sums))
    edge = low.emit(function, op, unit, (flow.edge,), sums, rows * channels)
    return Flow(edge, shape, order, sums, op)


FUNCTIONS = {"sum": "add", "max": "max", "amax": "max"}
"""Reductions that have a unit."""


def _reduce(low: Lowering, op: Operation) -> None:
    """Sum or maximum over axes; the axes travel one after the other, between what is kept outside and inside."""
    assert isinstance(op, ReduceOp)
    axes, flow = int_array(op.axes), low.flow(op.input, op)
    function = FUNCTIONS.get(op.reduction.data.value)
    if function is None:
        raise Refusal(f"reduces integers by {op.reduction.data.value}", "units sum and take the maximum")
    kept = [axis for axis in range(len(flow.shape)) if axis not in axes]
    sizes = [flow.shape[axis] for axis in kept]
    count = int(np.prod([flow.shape[axis] for axis in axes], dtype=np.int64))
    found = _middle(flow, axes, kept)
    if found is None:
        flow = low.ordered(flow, axes_order(flow.shape, (*kept, *axes)))
        found = (int(np.prod(sizes, dtype=np.int64)), 1, row_major(int(np.prod(sizes, dtype=np.int64))))
    rows, channels, order = found
    low.set(op, _reduced(low, op, flow, (rows, count, channels), function, static_shape(op.result), order))


def _middle(flow: Flow, axes: Sequence[int], kept: Sequence[int]) -> tuple[int, int, Order] | None:
    """Return rows, channels and the order of the result, if the reduced axes travel in one piece."""
    cut = flow.order.by_axes(flow.shape)
    if cut is None:
        return None
    inside = [index for index, (axis, _) in enumerate(cut) if axis in axes]
    if not inside or inside != list(range(inside[0], inside[-1] + 1)):
        return None
    before, after = cut[: inside[0]], cut[inside[-1] + 1 :]
    strides, small = row_major_strides(flow.shape), row_major_strides([flow.shape[axis] for axis in kept])
    place = dict(zip(kept, small, strict=True))
    loops = [Loop(one.extent, one.stride // strides[axis] * place[axis]) for axis, one in (*before, *after)]
    rows = int(np.prod([one.extent for _, one in before], dtype=np.int64))
    return rows, int(np.prod([one.extent for _, one in after], dtype=np.int64)), Order.of(loops)


LOWERINGS: Table = {
    ReshapeOp: _reshape,
    TransposeOp: _transpose,
    SliceOp: _slice,
    ExpandOp: _expand,
    PadOp: _pad,
    ConcatOp: _concat,
    UnfoldOp: _unfold,
    PoolOp: _pool,
    ReduceOp: _reduce,
}

"""Lower indexing, gathering and reductions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from xdsl.ir import Operation, SSAValue

from qcc.backends.cpu.emit_elementwise import KERNEL_SCALARS
from qcc.backends.cpu.fields import dtype, nd_fields, read, shape_struct, write
from qcc.backends.cpu.lowering import Lowering
from qcc.backends.cpu.refusal import Refusal
from qcc.backends.cpu.statements import Array, Raw
from qcc.backends.cpu.views import ZERO, View
from qcc.ir.dims import Shape, broadcast, product
from qcc.ir.gather import CumulativeSumOp, GatherOp, IndexOp, IndexUpdateOp, ReduceOp, Reduction
from qcc.ir.program import int_array
from qcc.ir.types import type_of

REDUCTIONS: dict[Reduction, str] = {
    Reduction.SUM: "QCC_SUM",
    Reduction.MEAN: "QCC_MEAN",
    Reduction.MAX: "QCC_RMAX",
    Reduction.MIN: "QCC_RMIN",
    Reduction.ANY: "QCC_ANY",
    Reduction.ALL: "QCC_ALL",
    Reduction.ARGMAX: "QCC_ARGMAX",
}
"""Reductions by the kernels' names."""

STATUS = "an index is outside its axis"


def emit_index(low: Lowering, op: IndexOp) -> None:
    """Lower `qcc.index`."""
    source, axis = low.view(op.input), op.axis.value.data
    target = low.result(op.result)
    _index(low, source, axis, list(op.indices), target, writes=False)


def emit_index_update(low: Lowering, op: IndexUpdateOp) -> None:
    """Lower `qcc.index_update`, in place where the old value is dead."""
    axis, indices = op.axis.value.data, list(op.indices)
    target = low.updatable(op, op.input, op.result)
    common = broadcast([type_of(one).shape for one in indices]) or ()
    place = (*target.shape[:axis], *common, *target.shape[axis + len(indices) :])
    _index(low, target, axis, indices, low.view(op.source).expand(place), writes=True)


def _index(low: Lowering, x: View, axis: int, indices: list[SSAValue], y: View, *, writes: bool) -> None:
    if len(indices) > 4:
        raise Refusal(f"indexes {len(indices)} axes at once; the kernels take 4")
    common = broadcast([type_of(one).shape for one in indices]) or ()
    after = axis + len(indices)
    positions = [low.cast(low.view(one), "i64").expand(common) for one in indices]
    spread = [_spread(one, axis, y.shape) for one in positions]
    strides = (*x.strides[:axis], *(ZERO for _ in common), *x.strides[after:])
    walked = replace(x, shape=y.shape, strides=strides)
    walked, moved, *places = low.collapsed([walked, y, *spread])
    fields = {
        "x": write(walked, "void"),  # the kernel's members serve reading and writing, so neither is const
        "y": write(moved, "void"),
        **nd_fields({"x_stride": walked, "y_stride": moved}),
        "indices": len(indices),
        "index": Array([read(one) for one in places]),
        "axis_size": Array(x.shape[axis:after]),
        "axis_stride": Array(x.strides[axis:after]),
        "element_size": x.element_bytes,
        "write": int(writes),
    }
    if moved.rank:
        fields["index_stride"] = Array([Array(one.strides) for one in places])
    low.call("index", fields, y.elements, status=STATUS, serial=writes)


def _spread(index: View, axis: int, shape: Shape) -> View:
    """See an index tensor over the iterated shape: it varies along the axes it stands for only."""
    after = len(shape) - axis - index.rank
    return replace(index, shape=shape, strides=(*[ZERO] * axis, *index.strides, *[ZERO] * after))


def emit_gather(low: Lowering, op: GatherOp) -> None:
    """Lower `qcc.gather`."""
    source, axis = low.view(op.input), op.axis.value.data
    index = low.contiguous(low.cast(low.view(op.index), "i64"))
    target = low.result(op.result)
    if index.rank > 6:
        raise Refusal(f"gathers over {index.rank} axes; the kernels take 6")
    for i, (have, want) in enumerate(zip(source.shape, index.shape, strict=True)):
        if i != axis:
            low.require(have - want, f"gathers {want} of {have} elements on axis {i}")
    low.call(
        "gather",
        {
            "x": read(source),
            "index": read(index),
            "y": write(target),
            "shape": shape_struct(index.shape),
            "x_stride": Array(source.strides),
            "index_stride": Array(index.strides),
            "y_stride": Array(target.strides),
            "axis": axis,
            "element_size": source.element_bytes,
            "axis_size": source.shape[axis],
        },
        target.elements,
        status=STATUS,
    )


def emit_reduce(low: Lowering, op: ReduceOp) -> None:
    """Lower `qcc.reduce`: the reduced axes become one strided axis, after a copy if they do not merge."""
    source, axes = low.view(op.input), sorted(set(int_array(op.axes)))
    kind = type_of(op.result)
    if not axes and op.reduction.data is not Reduction.ARGMAX:
        low.copy(source, low.result(op.result))
        return
    kept = [axis for axis in range(source.rank) if axis not in axes]
    moved = source.permute([*kept, *axes])
    split = len(kept)
    if len(axes) > 1 or not axes:
        moved = low.reshaped(moved, (*moved.shape[:split], product(moved.shape[split:])))
    function = REDUCTIONS[op.reduction.data]
    counts = function == "QCC_SUM" and source.scalar in ("i32", "i8", "u8", "i1")
    target = low.temp("i64" if counts else kind.scalar, moved.shape[:split])
    reduce_views(low, function, moved, target)
    target = low.cast(target, kind.scalar)
    low.views[op.result] = low.reshaped(target, kind.shape)


def reduce_views(low: Lowering, function: str, source: View, target: View) -> None:
    """Reduce the last axis of a view."""
    if source.scalar not in (*KERNEL_SCALARS, "i1") or (function == "QCC_MEAN" and source.scalar != "f32"):
        raise Refusal(f"{function} has no kernel for {source.scalar}", "cast to f32 before it")
    length, stride = source.shape[-1], source.strides[-1]
    x, y = low.collapsed([source.drop(source.rank - 1), target])
    low.call(
        "reduce",
        {
            "x": read(x),
            "y": write(y),
            **nd_fields({"x_stride": x, "y_stride": y}),
            "length": length,
            "axis_stride": stride,
            "op": Raw(function),
            "dtype": dtype(source),
        },
        source.elements,
    )


def emit_cumulative_sum(low: Lowering, op: CumulativeSumOp) -> None:
    """Lower `qcc.cumulative_sum`."""
    source, axis = low.view(op.input), op.axis.value.data
    scalar = "f32" if source.scalar == "f32" else "i64"
    if source.scalar not in ("f32", "i64", "i32", "i1"):
        raise Refusal(f"has no kernel for {source.scalar}", "cast to f32 before it")
    target = low.temp(scalar, source.shape)
    x, y = low.collapsed([source.drop(axis), target.drop(axis)])
    low.call(
        "cumsum",
        {
            "x": read(x),
            "y": write(y),
            **nd_fields({"x_stride": x, "y_stride": y}),
            "length": source.shape[axis],
            "x_axis_stride": source.strides[axis],
            "y_axis_stride": target.strides[axis],
            "dtype": dtype(source),
        },
        source.elements,
    )
    low.views[op.result] = low.cast(target, type_of(op.result).scalar)


LOWERINGS: dict[type[Operation], Callable[..., None]] = {
    IndexOp: emit_index,
    IndexUpdateOp: emit_index_update,
    GatherOp: emit_gather,
    ReduceOp: emit_reduce,
    CumulativeSumOp: emit_cumulative_sum,
}

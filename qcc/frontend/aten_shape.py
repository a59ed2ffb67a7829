"""ATen's operators that move, join and repeat elements."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from xdsl.ir import SSAValue

from qcc.frontend.builder import Builder, inverse, swap
from qcc.frontend.call import Call, Handler, Values
from qcc.frontend.refusal import Refusal
from qcc.ir.dims import Dim
from qcc.ir.gather import IndexOp, SliceUpdateOp
from qcc.ir.program import IotaOp
from qcc.ir.shape import ConcatOp, PadOp
from qcc.ir.types import tensor, type_of

aten = torch.ops.aten


def same(b: Builder, call: Call) -> Values:
    """Copy, view or make contiguous: the elements stay."""
    return call.value("self")


def convert(b: Builder, call: Call) -> Values:
    """Change the element type to the result's."""
    return b.cast(call.value("self"), call.result.scalar)


def reshape(b: Builder, call: Call) -> Values:
    """Every operator that keeps the row-major order of the elements."""
    return b.reshape(call.value("self"), call.result.shape)


def expand(b: Builder, call: Call) -> Values:
    """Broadcast to the result's shape."""
    return b.expand(call.value("self"), call.result.shape)


def copy(b: Builder, call: Call) -> Values:
    """`src` in the shape and element type of `self`."""
    kind = call.result
    return b.expand(b.cast(call.value("src"), kind.scalar), kind.shape)


def transposition(call: Call) -> list[int]:
    """Return the permutation of `transpose`, `permute`, `t` and their relatives."""
    rank = type_of(call.value("self")).rank
    if "dims" in call.arguments:
        return call.axes("dims", rank)
    for first, second in (("dim0", "dim1"), ("axis0", "axis1")):
        if first in call.arguments:
            return swap(rank, call.integer(first), call.integer(second))
    if call.node.target is aten.numpy_T.default:
        return list(range(rank))[::-1]
    return swap(rank, rank - 2, rank - 1) if rank > 1 else list(range(rank))


def transpose(b: Builder, call: Call) -> Values:
    """Reorder the axes."""
    value = call.value("self")
    return b.transpose(value, transposition(call)) if type_of(value).rank else value


def movedim(b: Builder, call: Call) -> Values:
    """Move axes to other places."""
    value = call.value("self")
    source, target = call.axes("source", value), call.axes("destination", value)
    rest = [axis for axis in range(type_of(value).rank) if axis not in source]
    order = [-1] * type_of(value).rank
    for start, end in zip(source, target, strict=True):
        order[end] = start
    return b.transpose(value, [axis if axis >= 0 else rest.pop(0) for axis in order])


def slice_start(b: Builder, call: Call) -> Dim:
    """Return where a slice begins: torch counts negative positions from the end and clamps them."""
    size = type_of(call.value("self")).shape[call.axis("dim", call.value("self"))]
    start = call.dim("start") if call.given("start") else Dim.of(0)
    if start.constant is None:
        return start
    if start.constant >= 0:
        return start if size.constant is None else Dim.of(min(start.constant, size.constant))
    start = size + start
    return start if b.symbols.never_negative(start) else start.maximum(0)


def slice_(b: Builder, call: Call) -> Values:
    """Take a range along one axis."""
    value = call.value("self")
    axis, step = call.axis("dim", value), call.integer("step")
    start, size = slice_start(b, call), call.result.shape[axis]
    b.symbols.require(type_of(value).shape[axis] - start - (size - 1) * step - 1)
    return b.slice(value, axis, start, size, step)


def narrow(b: Builder, call: Call) -> Values:
    """Take `length` elements from `start` on."""
    value = call.value("self")
    axis = call.axis("dim", value)
    return b.slice(value, axis, _position(call, "start", axis), call.result.shape[axis])


def _position(call: Call, name: str, axis: int) -> Dim:
    position = call.dim(name)
    negative = position.constant is not None and position.constant < 0
    return type_of(call.value("self")).shape[axis] + position if negative else position


def select(b: Builder, call: Call) -> Values:
    """Take one element along an axis, which disappears."""
    value = call.value("self")
    axis = call.axis("dim", value)
    return b.reshape(b.slice(value, axis, _position(call, "index", axis), 1), call.result.shape)


def pieces(call: Call) -> tuple[int, list[Dim]]:
    """Return the axis and the sizes of the pieces of `split`, `chunk` and `unbind`."""
    axis = call.axis("dim", call.value("self"))
    if call.node.target is aten.unbind.int:
        return axis, [Dim.of(1)] * len(call.results)
    kinds = [kind for kind in call.results if kind is not None]
    return axis, [kind.shape[axis] for kind in kinds]


def split(b: Builder, call: Call) -> Values:
    """Cut a tensor along one axis."""
    value, start, parts = call.value("self"), Dim.of(0), list[SSAValue]()
    axis, sizes = pieces(call)
    for size, kind in zip(sizes, call.results, strict=True):
        part = b.slice(value, axis, start, size)
        parts.append(part if kind is None else b.reshape(part, kind.shape))
        start = start + size
    return tuple(parts)


def concat(b: Builder, call: Call) -> Values:
    """Join tensors; torch passes over empty ones of rank 1."""
    kind, values = call.result, call.values("tensors")
    values = [one for one in values if type_of(one).rank == kind.rank]
    return join(b, [b.cast(one, kind.scalar) for one in values], call.axis("dim", kind.rank))


def join(b: Builder, values: Sequence[SSAValue], axis: int) -> SSAValue:
    """Join tensors along an axis."""
    return values[0] if len(values) == 1 else b.add(ConcatOp(values, axis))


def stack(b: Builder, call: Call) -> Values:
    """Join tensors along a new axis."""
    kind = call.result
    axis = call.axis("dim", kind.rank)
    shape = (*kind.shape[:axis], Dim.of(1), *kind.shape[axis + 1 :])
    return join(b, [b.reshape(b.cast(one, kind.scalar), shape) for one in call.values("tensors")], axis)


def repeat(b: Builder, call: Call) -> Values:
    """Lay copies of the whole tensor side by side."""
    value = call.value("self")
    counts = call.dims("repeats" if "repeats" in call.arguments else "dims")
    rank = max(len(counts), type_of(value).rank)
    counts = [Dim.of(1)] * (rank - len(counts)) + counts
    sizes = [Dim.of(1)] * (rank - type_of(value).rank) + list(type_of(value).shape)
    pairs = list(zip(counts, sizes, strict=True))
    apart = b.reshape(value, [one for _, size in pairs for one in (Dim.of(1), size)])
    wide = b.expand(apart, [one for pair in pairs for one in pair])
    return b.reshape(wide, [count * size for count, size in pairs])


def repeat_interleave(b: Builder, call: Call) -> Values:
    """Repeat every element `repeats` times along an axis."""
    value = call.value("self")
    if not call.given("dim"):
        raise Refusal("repeat_interleave without an axis", "name the axis")
    axis, count, shape = call.axis("dim", value), call.dim("repeats"), type_of(value).shape
    apart = b.reshape(value, [*shape[: axis + 1], Dim.of(1), *shape[axis + 1 :]])
    wide = b.expand(apart, [*shape[: axis + 1], count, *shape[axis + 1 :]])
    return b.reshape(wide, [*shape[:axis], shape[axis] * count, *shape[axis + 1 :]])


def roll(b: Builder, call: Call) -> Values:
    """Rotate the elements along axes."""
    value = call.value("self")
    if not call.integers("dims"):
        raise Refusal("roll of the flattened tensor", "name the axes")
    for axis, shift in zip(call.axes("dims", value), call.dims("shifts"), strict=True):
        size = type_of(value).shape[axis]
        cut = (shift * -1) % size
        value = join(b, [b.slice(value, axis, cut, size - cut), b.slice(value, axis, 0, cut)], axis)
    return value


def flip(b: Builder, call: Call) -> Values:
    """Reverse the order along axes."""
    value = call.value("self")
    for axis in call.axes("dims", value):
        size = type_of(value).shape[axis]
        value = b.add(IndexOp(value, [b.add(IotaOp(size - 1, -1, tensor([size], "i64")))], axis))
    return value


def pad(b: Builder, call: Call) -> Values:
    """Pad with one number; negative widths cut."""
    if call.arguments.get("mode", "constant") != "constant":
        raise Refusal(f"padding of mode '{call.text('mode')}'", "pad with a constant")
    fill = call.real("value") if call.given("value") else 0.0
    return pad_pairs(b, call.value("self"), call.integers("pad"), fill)


def pad_pairs(b: Builder, value: SSAValue, widths: Sequence[int], fill: float = 0.0) -> SSAValue:
    """Pad by widths in torch's order: (before, after) of the last axis, then of the one before it, ..."""
    rank = type_of(value).rank
    low, high = [0] * rank, [0] * rank
    for position in range(len(widths) // 2):
        axis, (before, after) = rank - 1 - position, widths[2 * position : 2 * position + 2]
        size = type_of(value).shape[axis]
        if min(before, after) < 0:
            value = b.slice(value, axis, max(-before, 0), size + min(before, 0) + min(after, 0))
        low[axis], high[axis] = max(before, 0), max(after, 0)
    return b.add(PadOp(value, low, high, fill)) if any(low + high) else value


def diff(b: Builder, call: Call) -> Values:
    """`x[i + 1] - x[i]`, n times, after joining `prepend` and `append`."""
    value = call.value("self")
    axis = call.axis("dim", value)
    joined = [call.optional("prepend"), value, call.optional("append")]
    value = join(b, [one for one in joined if one is not None], axis)
    for _ in range(call.integer("n")):
        size = type_of(value).shape[axis] - 1
        later, earlier = b.slice(value, axis, 1, size), b.slice(value, axis, 0, size)
        value = b.binary("xor" if type_of(value).scalar == "i1" else "sub", later, earlier)
    return value


def pixel_shuffle(b: Builder, call: Call) -> Values:
    """[..., C*r*r, H, W] -> [..., C, H*r, W*r]."""
    value, factor = call.value("self"), call.integer("upscale_factor")
    *lead, _, height, width = type_of(value).shape
    lead.append(call.result.shape[-3])
    apart = b.reshape(value, [*lead, factor, factor, height, width])
    n = len(lead)
    return b.reshape(b.transpose(apart, [*range(n), n + 2, n, n + 3, n + 1]), call.result.shape)


def slice_scatter(b: Builder, call: Call) -> Values:
    """`self` with a slice replaced by `src`."""
    base = call.value("self")
    axis, step, start = call.axis("dim", base), call.integer("step"), slice_start(b, call)
    source = b.cast(call.value("src"), type_of(base).scalar)
    return b.add(SliceUpdateOp(base, source, axis, start, step))


def select_scatter(b: Builder, call: Call) -> Values:
    """`self` with one element along an axis replaced by `src`."""
    base = call.value("self")
    axis, shape = call.axis("dim", base), type_of(base).shape
    source = b.cast(call.value("src"), type_of(base).scalar)
    row = b.reshape(source, (*shape[:axis], Dim.of(1), *shape[axis + 1 :]))
    return b.add(SliceUpdateOp(base, row, axis, _position(call, "index", axis)))


def scatter_slice(b: Builder, call: Call, new: SSAValue) -> SSAValue:
    """Put `new` where `slice` read."""
    base = call.value("self")
    return b.add(SliceUpdateOp(base, new, call.axis("dim", base), slice_start(b, call), call.integer("step")))


def scatter_narrow(b: Builder, call: Call, new: SSAValue) -> SSAValue:
    """Put `new` where `narrow` read."""
    axis = call.axis("dim", call.value("self"))
    return b.add(SliceUpdateOp(call.value("self"), new, axis, _position(call, "start", axis)))


def scatter_select(b: Builder, call: Call, new: SSAValue) -> SSAValue:
    """Put `new` where `select` read."""
    base = call.value("self")
    axis, shape = call.axis("dim", base), type_of(base).shape
    row = b.reshape(new, (*shape[:axis], Dim.of(1), *shape[axis + 1 :]))
    return b.add(SliceUpdateOp(base, row, axis, _position(call, "index", axis)))


def scatter_reshape(b: Builder, call: Call, new: SSAValue) -> SSAValue:
    """Put `new` where a reshape read."""
    return b.reshape(new, type_of(call.value("self")).shape)


def scatter_transpose(b: Builder, call: Call, new: SSAValue) -> SSAValue:
    """Put `new` where a transposition read."""
    return b.transpose(new, inverse(transposition(call)))


def scatter_same(b: Builder, call: Call, new: SSAValue) -> SSAValue:
    """Put `new` where an operator read that gives its operand itself."""
    return new


_SAME = (
    aten.alias.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.detach_.default,
    aten.lift_fresh.default,
    aten.lift_fresh_copy.default,
)
_CONVERT = (
    aten.to.dtype,
    aten.to.device,
    aten.to.dtype_layout,
    aten.to.other,
    aten._to_copy.default,
    aten.type_as.default,
)
_RESHAPE = (
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.reshape_as.default,
    aten.view_as.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
)
_EXPAND = (aten.expand.default, aten.expand_as.default, aten.broadcast_to.default)
_TRANSPOSE = (
    aten.transpose.int,
    aten.permute.default,
    aten.t.default,
    aten.numpy_T.default,
    aten.mT.default,
    aten.swapaxes.default,
    aten.swapdims.default,
)

TABLE: dict[object, Handler] = {
    **dict.fromkeys(_SAME, same),
    **dict.fromkeys(_CONVERT, convert),
    **dict.fromkeys(_RESHAPE, reshape),
    **dict.fromkeys(_EXPAND, expand),
    **dict.fromkeys(_TRANSPOSE, transpose),
    aten.copy.default: copy,
    aten.movedim.int: movedim,
    aten.movedim.intlist: movedim,
    aten.slice.Tensor: slice_,
    aten.narrow.default: narrow,
    aten.select.int: select,
    aten.split.Tensor: split,
    aten.split.sizes: split,
    aten.split_with_sizes.default: split,
    aten.chunk.default: split,
    aten.unbind.int: split,
    aten.cat.default: concat,
    aten.concat.default: concat,
    aten.stack.default: stack,
    aten.repeat.default: repeat,
    aten.tile.default: repeat,
    aten.repeat_interleave.self_int: repeat_interleave,
    aten.roll.default: roll,
    aten.flip.default: flip,
    aten.pad.default: pad,
    aten.constant_pad_nd.default: pad,
    aten.diff.default: diff,
    aten.pixel_shuffle.default: pixel_shuffle,
    aten.slice_scatter.default: slice_scatter,
    aten.select_scatter.default: select_scatter,
}

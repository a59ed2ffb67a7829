"""Meaning of the reshape family, of gathers, scatters and reductions."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from qcc.interpreter.values import Evaluate, Frame, fail, wide
from qcc.ir import gather, shape
from qcc.ir.base import QccOperation
from qcc.ir.dims import Dim
from qcc.ir.gather import Reduction
from qcc.ir.program import int_array
from qcc.ir.types import type_of


def _reshape(op: shape.ReshapeOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    sizes = frame.sizes(type_of(op.result))
    if math.prod(sizes) != args[0].numel():
        raise fail(op, f"{list(args[0].shape)} does not reshape to {list(sizes)}")
    return args[0].reshape(sizes)


def _transpose(op: shape.TransposeOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    return args[0].permute(op.axes)


def _expand(op: shape.ExpandOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    return args[0].expand(frame.sizes(type_of(op.result)))


def _window(op: QccOperation, start: Dim, step: int, count: int, size: int, frame: Frame) -> slice:
    first = frame.size(start)
    if count and not 0 <= first <= first + (count - 1) * step < size:
        raise fail(op, f"elements {first}..{first + (count - 1) * step} are outside an axis of {size}")
    return slice(first, first + (count - 1) * step + 1, step) if count else slice(0, 0)


def _slice(op: shape.SliceOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    axis = op.axis.value.data
    count = frame.size(type_of(op.result).shape[axis])
    window = _window(op, op.start.data, op.step.value.data, count, args[0].shape[axis], frame)
    return args[0][(slice(None),) * axis + (window,)]


def _concat(op: shape.ConcatOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    return torch.cat(args, op.axis.value.data)


def _pad(op: shape.PadOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    low, high = int_array(op.low), int_array(op.high)
    widths = [width for pair in zip(reversed(low), reversed(high), strict=True) for width in pair]
    return torch.nn.functional.pad(args[0], widths, value=op.value.value.data)


def _normalise(op: QccOperation, indices: list[torch.Tensor], sizes: torch.Size) -> list[torch.Tensor]:
    """Broadcast index tensors and count negative ones from the end, refusing what is outside."""
    common = list(torch.broadcast_tensors(*indices))
    for axis, (index, size) in enumerate(zip(common, sizes, strict=True)):
        if index.numel() and not (-size <= int(index.min()) and int(index.max()) < size):
            raise fail(op, f"indices {int(index.min())}..{int(index.max())} are outside {size} elements")
        common[axis] = torch.where(index < 0, index + size, index).long()
    return common


def _index(op: gather.IndexOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    value, *indices = args
    axis = op.axis.value.data
    places = _normalise(op, indices, value.shape[axis : axis + len(indices)])
    return value[(slice(None),) * axis + tuple(places)]


def _gather(op: gather.GatherOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    value, index = args
    axis = op.axis.value.data
    (places,) = _normalise(op, [index], value.shape[axis : axis + 1])
    return torch.gather(value, axis, places)


def _index_update(op: gather.IndexUpdateOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    value, source, *indices = args
    axis, count = op.axis.value.data, len(args) - 2
    picked = value.shape[axis : axis + count]
    places = _normalise(op, indices, picked)
    lead, tail = value.shape[:axis], value.shape[axis + count :]
    linear = torch.zeros_like(places[0])
    for place, size in zip(places, picked, strict=True):
        linear = linear * size + place
    # torch leaves the winner among duplicates open; the last one is the meaning here
    last = torch.full((math.prod(picked),), -1, dtype=torch.int64)
    last = last.scatter_reduce(0, linear.flatten(), torch.arange(linear.numel()), "amax")
    written = last >= 0
    rows = source.expand(*lead, *places[0].shape, *tail).reshape(math.prod(lead), linear.numel(), math.prod(tail))
    result = value.reshape(math.prod(lead), math.prod(picked), math.prod(tail)).clone()
    result[:, written] = rows[:, last[written]]
    return result.reshape(value.shape)


def _slice_update(op: gather.SliceUpdateOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    value, source = args
    axis = op.axis.value.data
    window = _window(op, op.start.data, op.step.value.data, source.shape[axis], value.shape[axis], frame)
    result = value.clone(memory_format=torch.contiguous_format)
    result[(slice(None),) * axis + (window,)] = source
    return result


def _argmax(value: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    kept = [axis for axis in range(value.dim()) if axis not in axes]
    moved = value.permute(*kept, *sorted(axes)).flatten(len(kept))
    found = torch.argmax(moved, -1)
    return found.reshape([1 if axis in axes else size for axis, size in enumerate(value.shape)]) if keep else found


def _reduce(op: gather.ReduceOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    value, axes, keep = wide(args[0]), int_array(op.axes), bool(op.keep)
    reduction = op.reduction.data
    if not axes:
        return args[0]  # torch would take no axes for all axes
    if reduction in (Reduction.MAX, Reduction.MIN, Reduction.ARGMAX) and 0 in [value.shape[axis] for axis in axes]:
        raise fail(op, f"{reduction} over no elements of {list(value.shape)}")
    return REDUCE[reduction](value, axes, keep).to(frame.torch_dtype(type_of(op.result)))


REDUCE: dict[Reduction, Callable[[torch.Tensor, tuple[int, ...], bool], torch.Tensor]] = {
    Reduction.SUM: torch.sum,
    Reduction.MEAN: torch.mean,
    Reduction.MAX: torch.amax,
    Reduction.MIN: torch.amin,
    Reduction.ANY: torch.any,
    Reduction.ALL: torch.all,
    Reduction.ARGMAX: _argmax,
}


def _cumulative_sum(op: gather.CumulativeSumOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    return wide(args[0]).cumsum(op.axis.value.data).to(frame.torch_dtype(type_of(op.result)))


TABLE: dict[type, Evaluate] = {
    shape.ReshapeOp: _reshape,
    shape.TransposeOp: _transpose,
    shape.ExpandOp: _expand,
    shape.SliceOp: _slice,
    shape.ConcatOp: _concat,
    shape.PadOp: _pad,
    gather.IndexOp: _index,
    gather.GatherOp: _gather,
    gather.IndexUpdateOp: _index_update,
    gather.SliceUpdateOp: _slice_update,
    gather.ReduceOp: _reduce,
    gather.CumulativeSumOp: _cumulative_sum,
}

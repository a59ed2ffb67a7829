"""Meaning of rotations, permutations, expansions, side tensors and caches."""

from __future__ import annotations

import math

import torch

from qcc.errors import UnsupportedOp
from qcc.interpreter.values import Evaluate, Frame, fail, wide
from qcc.ir import transform as ir
from qcc.ir.base import location_of
from qcc.ir.storage import CacheOp, CachePolicy
from qcc.ir.transform import ExpansionMode
from qcc.numerics.blocks import block_extents
from qcc.numerics.hadamard import hadamard
from qcc.numerics.quantize import fake_quantize, quantize
from qcc.numerics.tensor import Parameters, QuantizedTensor


def _rotate(op: ir.RotateOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    axis = op.axis.value.data
    value = wide(args[0]).movedim(axis, -1)
    if op.block is None:
        matrix = wide(args[1]).to(value.dtype)
    else:
        size = op.block.value.data
        matrix = hadamard(size, value.dtype) / math.sqrt(size)
    blocks = value.unflatten(-1, (value.shape[-1] // matrix.shape[0], matrix.shape[0]))
    turned = blocks @ (matrix.T if bool(op.inverse) else matrix)
    return turned.flatten(-2).movedim(-1, axis).to(args[0].dtype)


def _permute(op: ir.PermuteOp, args: list[torch.Tensor | QuantizedTensor], frame: Frame) -> object:
    value, order = args
    axis = op.axis.value.data
    assert isinstance(order, torch.Tensor)
    if not torch.equal(order.sort().values, torch.arange(order.numel())):
        raise fail(op, f"order is no permutation of {order.numel()} channels")
    if isinstance(value, torch.Tensor):
        return value.index_select(axis, order)

    def reordered(grid: torch.Tensor) -> torch.Tensor:
        return grid.index_select(axis, order) if grid.shape[axis] > 1 else grid

    extents = {block_extents(level.block, value.shape)[axis] for level in value.qtype.levels}
    if not extents <= {1, value.shape[axis]}:
        raise fail(op, f"a permutation of axis {axis} tears the blocks of '{value.qtype}' apart")
    scales = tuple(reordered(scale) for scale in value.scales)
    zero = None if value.zero is None else reordered(value.zero)
    return QuantizedTensor(value.qtype, value.shape, reordered(value.codes), Parameters.of(scales, zero))


def _scale_axis(op: ir.ScaleAxisOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    value, factors = map(wide, args)
    shape = [1] * value.dim()
    shape[op.axis.value.data] = -1
    return (value * factors.reshape(shape)).to(args[0].dtype)


def _expand_k(op: ir.ExpandKOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    value, source = wide(args[0]), args[1]
    if op.format is not None:
        residual = value - fake_quantize(value, op.format.data)
        result = torch.cat((value, residual[..., source]), -1)
    else:
        result = value[..., source]
        if op.mode.data is ExpansionMode.SPLIT:
            counts = torch.bincount(source, minlength=value.shape[-1])
            result = result / counts[source].to(value.dtype)
    return result.to(args[0].dtype)


def _add_lowrank(op: ir.AddLowrankOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    base, value, down, up = map(wide, args)
    return (base + (value @ down.T) @ up.T).to(args[0].dtype)


def _add_sparse(op: ir.AddSparseOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    base, value, values = wide(args[0]), wide(args[1]), wide(args[2])
    columns, offsets = args[3].long(), args[4].long()
    counts = offsets.diff()
    if bool((counts < 0).any()) or int(offsets[0]) != 0 or int(offsets[-1]) != columns.numel():
        raise fail(op, "offsets do not rise from 0 to the number of values")
    if columns.numel() and not 0 <= int(columns.min()) <= int(columns.max()) < value.shape[-1]:
        raise fail(op, f"columns {int(columns.min())}..{int(columns.max())} are outside {value.shape[-1]}")
    rows = torch.arange(base.shape[-1]).repeat_interleave(counts)
    return base.index_add(-1, rows, (value[..., columns] * values).to(base.dtype)).to(args[0].dtype)


def _cache(op: CacheOp, args: list[torch.Tensor | QuantizedTensor], frame: Frame) -> object:
    cache, rows, positions = args
    assert isinstance(rows, torch.Tensor)
    assert isinstance(positions, torch.Tensor)
    if positions.numel() and not 0 <= int(positions.min()) <= int(positions.max()) < cache.shape[2]:
        raise fail(op, f"positions {positions.tolist()} are outside a cache of {cache.shape[2]} rows")
    if isinstance(cache, torch.Tensor):
        return cache.index_copy(2, positions, rows.to(cache.dtype))
    extents = {block_extents(level.block, cache.shape)[2] for level in cache.qtype.levels}
    if op.policy.data is CachePolicy.WINDOW or (op.policy.data is CachePolicy.TOKEN and extents != {1}):
        what = f"a cache of '{cache.qtype}' cannot keep its rows by {op.policy.data}"
        raise UnsupportedOp(f"{op.name} at {location_of(op)}: {what}", fix="use a format with blocks of one token")
    if op.policy.data is CachePolicy.TOKEN:
        coded = quantize(rows, cache.qtype, where=location_of(op))
        scales = tuple(
            whole.index_copy(2, positions, part) for whole, part in zip(cache.scales, coded.scales, strict=True)
        )
        zero = None
        if cache.zero is not None and coded.zero is not None:
            zero = cache.zero.index_copy(2, positions, coded.zero)
    else:
        coded = quantize(rows, cache.qtype, cache.parameters, where=location_of(op))
        scales, zero = cache.scales, cache.zero
    codes = cache.codes.index_copy(2, positions, coded.codes)
    return QuantizedTensor(cache.qtype, tuple(cache.shape), codes, Parameters.of(scales, zero))


TABLE: dict[type, Evaluate] = {
    ir.RotateOp: _rotate,
    ir.PermuteOp: _permute,
    ir.ScaleAxisOp: _scale_axis,
    ir.ExpandKOp: _expand_k,
    ir.AddLowrankOp: _add_lowrank,
    ir.AddSparseOp: _add_sparse,
    CacheOp: _cache,
}

"""Meaning of rotations, permutations, expansions, side tensors and caches."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from qcc.errors import UnsupportedOp
from qcc.interpreter.parameters import quantize_given
from qcc.interpreter.values import Evaluate, Frame, fail, wide
from qcc.ir import transform as ir
from qcc.ir.base import location_of
from qcc.ir.storage import CacheOp, CachePolicy
from qcc.ir.transform import ExpansionMode
from qcc.numerics.blocks import block_extents
from qcc.numerics.hadamard import hadamard
from qcc.numerics.named_tensors import named_parameters, parameters_from
from qcc.numerics.quantize import compute_qparams, dequantize, quantize
from qcc.numerics.stored_parts import parameter_parts, root_parts, side_parts
from qcc.numerics.tensor import QuantizedTensor


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

    return _permuted(op, value, axis, order)


def _permuted(op: ir.PermuteOp, value: QuantizedTensor, axis: int, order: torch.Tensor) -> QuantizedTensor:
    """Reorder codes and whatever has an entry a channel; channels that share an entry must all do so."""
    qtype, size = value.qtype, value.shape[axis]
    parts = parameter_parts(qtype)
    torn = [part.name for part in parts if block_extents(part.block, value.shape)[axis] not in (1, size)]
    if qtype.layout == "ovp" and axis == len(value.shape) - 1:
        torn.append("outlier-victim pairs")
    torn += map(str, side_parts(qtype))
    if torn:
        what = f"a permutation of axis {axis} tears the blocks of '{qtype}' apart ({', '.join(torn)})"
        raise fail(op, what, "permute before quantizing")
    reordered = {
        name: tensor.index_select(axis, order) if tensor.shape[axis] > 1 else tensor
        for name, tensor in named_parameters(qtype, value.parameters).items()
    }
    codes = value.codes.index_select(axis, order)
    return replace(value, codes=codes, parameters=parameters_from(qtype, reordered))


def _scale_axis(op: ir.ScaleAxisOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    value, factors = map(wide, args)
    shape = [1] * value.dim()
    shape[op.axis.value.data] = -1
    return (value * factors.reshape(shape)).to(args[0].dtype)


def _expand_k(op: ir.ExpandKOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    value, source = wide(args[0]), args[1]
    if op.format is not None:
        coded = quantize_given(op, value, op.format.data, args[2:])
        residual = value - dequantize(coded, value.dtype)
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
    return _cache_rows(op, cache, rows, positions)


def _cache_rows(op: CacheOp, cache: QuantizedTensor, rows: torch.Tensor, positions: torch.Tensor) -> QuantizedTensor:
    qtype = cache.qtype
    fixed = _fixed_parts(op, cache)
    held = named_parameters(qtype, cache.parameters)
    where = location_of(op) or op.name
    if len(fixed) == len(held):
        coded = quantize(rows, qtype, cache.parameters, where=where)
    else:
        roots = tuple(held[part.name] for part in root_parts(qtype) if qtype.when == "dynamic_local")
        coded = quantize(rows, qtype, compute_qparams(rows, qtype, where, roots=roots), where=where)
    fresh = named_parameters(qtype, coded.parameters)
    merged = {
        name: tensor if name in fixed else _with_rows(tensor, positions, fresh[name]) for name, tensor in held.items()
    }
    codes = cache.codes.index_copy(2, positions, coded.codes)
    return replace(cache, codes=codes, parameters=parameters_from(qtype, merged))


def _fixed_parts(op: CacheOp, cache: QuantizedTensor) -> frozenset[str]:
    """Return the parameters that writing rows does not change; refuse a format whose others are not one a token."""
    qtype, policy = cache.qtype, op.policy.data
    parts = parameter_parts(qtype)
    extents = {part.name: block_extents(part.block, cache.shape)[2] for part in parts}
    if policy is CachePolicy.CHANNEL:
        fixed = frozenset(extents)
        misfits = [name for name, extent in extents.items() if extent != cache.shape[2]]
        fix = "use a format whose blocks span all tokens, such as (-1,1)"
    else:
        local = qtype.when == "dynamic_local"
        constant = {part.name for part in parts if part.level is not None and part.level.statistic == "constant"}
        fixed = frozenset(constant | ({part.name for part in root_parts(qtype)} if local else set[str]()))
        misfits = [name for name, extent in extents.items() if extent != (cache.shape[2] if name in fixed else 1)]
        fix = "use a format with blocks of one token"
    misfits += map(str, side_parts(qtype))
    if policy is CachePolicy.WINDOW or misfits:
        why = f" (because of {', '.join(misfits)})" if misfits else ""
        what = f"a cache of '{qtype}' cannot keep its rows by {policy}{why}"
        raise UnsupportedOp(f"{op.name} at {location_of(op)}: {what}", fix=fix)
    return fixed


def _with_rows(whole: torch.Tensor, positions: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Write rows of a parameter; by their bits, as 8-bit floats are not copied otherwise."""
    if whole.element_size() > 1:
        return whole.index_copy(2, positions, rows)
    return whole.view(torch.uint8).index_copy(2, positions, rows.view(torch.uint8)).view(whole.dtype)


TABLE: dict[type, Evaluate] = {
    ir.RotateOp: _rotate,
    ir.PermuteOp: _permute,
    ir.ScaleAxisOp: _scale_axis,
    ir.ExpandKOp: _expand_k,
    ir.AddLowrankOp: _add_lowrank,
    ir.AddSparseOp: _add_sparse,
    CacheOp: _cache,
}

"""Meaning of quantized KV caches."""

from __future__ import annotations

import torch

from qcc.interpreter.values import Evaluate, Frame, fail, wide
from qcc.ir.base import location_of
from qcc.ir.cache import RECENT, CacheAppendOp, CacheReadOp, CacheRoundOp
from qcc.ir.types import type_of
from qcc.numerics.kv_cache import settled, tokens_a_group
from qcc.numerics.levels import stored_dtype
from qcc.numerics.named_tensors import named_parameters, pack_codes, parameters_from, unpack_codes
from qcc.numerics.quantize import dequantize, quantize
from qcc.numerics.stored_parts import parameter_parts
from qcc.numerics.tensor import QuantizedTensor

_Cache = CacheAppendOp | CacheReadOp
_Parts = dict[str, torch.Tensor]


def _parts(op: _Cache, values: list[torch.Tensor]) -> _Parts:
    return dict(zip(op.part_names, values, strict=True))


def _span(op: _Cache, positions: torch.Tensor, tokens: int) -> tuple[int, int]:
    """Return the first position and the one behind the last."""
    at = [int(one) for one in positions]
    if not at or at != list(range(at[0], at[0] + len(at))):
        raise fail(op, f"positions {at} are not consecutive", "write a sequence in order, without gaps")
    if at[0] < 0 or at[-1] >= tokens:
        raise fail(op, f"positions {at[0]} to {at[-1]} are outside a cache of {tokens} tokens")
    return at[0], at[-1] + 1


def _recent(parts: _Parts, first: int, last: int) -> torch.Tensor:
    """Return tokens [first, last) of those that are kept as they are."""
    ring = parts[RECENT]
    return ring.index_select(2, torch.arange(first, last) % ring.shape[2])


def _append(op: CacheAppendOp, args: list[torch.Tensor], frame: Frame) -> tuple[torch.Tensor, ...]:
    rows, positions, *values = args
    parts, qtype, window = _parts(op, values), op.format.data, op.window.value.data
    first, length = _span(op, positions, parts["codes"].shape[2])
    low, high = settled(first, qtype, window), settled(length, qtype, window)
    written = rows if low == first else torch.cat((_recent(parts, low, first), rows), 2)
    new = dict(parts)
    if high > low:
        coded = quantize(wide(written[:, :, : high - low]), qtype, where=location_of(op) or op.name)
        new["codes"] = _over(parts["codes"], low, pack_codes(coded.codes, qtype.decode))
        named = named_parameters(qtype, coded.parameters)
        for part in parameter_parts(qtype):
            new[part.role] = _over(parts[part.role], low // tokens_a_group(qtype), named[part.name])
    if RECENT in parts:
        size = parts[RECENT].shape[2]
        kept = torch.arange(max(first, length - size), length)
        new[RECENT] = parts[RECENT].index_copy(2, kept % size, rows.index_select(2, kept - first))
    return tuple(new.values())


def _over(whole: torch.Tensor, start: int, rows: torch.Tensor) -> torch.Tensor:
    """Write rows from `start` on along axis 2."""
    changed = whole.clone()
    changed[:, :, start : start + rows.shape[2]] = rows.to(whole.dtype)
    return changed


def _read(op: CacheReadOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    positions, *values = args
    parts, qtype, window = _parts(op, values), op.format.data, op.window.value.data
    kind = type_of(op.result)
    shape = frame.sizes(kind)
    result = torch.zeros(shape, dtype=frame.torch_dtype(kind))
    length = _span(op, positions, shape[2])[1]
    done = settled(length, qtype, window)
    if done:
        codes = unpack_codes(parts["codes"][:, :, :done], qtype.decode, shape[3])
        groups = done // tokens_a_group(qtype)
        stored = {
            part.name: parts[part.role][:, :, :groups].to(stored_dtype(part.dtype)) for part in parameter_parts(qtype)
        }
        coded = QuantizedTensor(qtype, tuple(codes.shape), codes, parameters_from(qtype, stored))
        result[:, :, :done] = dequantize(coded, result.dtype)
    if length > done:
        result[:, :, done:length] = _recent(parts, done, length)
    return result


def _round(op: CacheRoundOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    (value,) = args
    qtype = op.format.data
    done = settled(value.shape[2], qtype, op.window.value.data)
    if not done:
        return value
    coded = quantize(wide(value[:, :, :done]), qtype, where=location_of(op) or op.name)
    return torch.cat((dequantize(coded, value.dtype), value[:, :, done:]), 2)


TABLE: dict[type, Evaluate] = {CacheAppendOp: _append, CacheReadOp: _read, CacheRoundOp: _round}

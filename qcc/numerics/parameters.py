"""Compute scales and zero points from the statistics of a tensor.

Everything is IEEE float32 arithmetic, one rounding an operation (float64 for float64 input, as an oracle),
so that a compiled kernel can reproduce it bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from qcc.numerics.blocks import spread_blocks
from qcc.numerics.codebook import codebook_of
from qcc.numerics.levels import Chain, build_chain, chain_product, divide, round_level
from qcc.numerics.parts import Index, Parts, part_of_grid
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import (
    IntDecode,
    Level,
    PlainDecode,
    SelectDecode,
    TableDecode,
    block_grid,
    is_integer_dtype,
)
from qcc.numerics.statistics import magnitude, peak, value_range
from qcc.numerics.tensor import Parameters, stored_dtype, zero_levels

# Zero points outside this range are clamped anyway; rounding first keeps them exact integers.
_ZERO_LIMIT = 2**15


@dataclass(frozen=True, eq=False)
class Statistics:
    """The magnitude of every leaf block, or its range where the type has a zero point; and the roots if given."""

    magnitude: Tensor | None
    low: Tensor | None = None
    high: Tensor | None = None
    roots: tuple[Tensor, ...] = ()

    def shrunk(self, factor: Tensor | float | None) -> Statistics:
        """Give the statistics with all ranges multiplied by a factor, one for all or one a leaf block, if any."""
        if factor is None:
            return self
        return Statistics(
            None if self.magnitude is None else self.magnitude * factor,
            None if self.low is None else self.low * factor,
            None if self.high is None else self.high * factor,
            self.roots,
        )


@dataclass(frozen=True, eq=False)
class Reach:
    """What codes can express: the value a block's largest magnitude falls on, the least and the largest value.

    Each is one for all blocks, or one for each leaf block where blocks choose their decode.
    """

    magnitude: Tensor | float
    low: Tensor | float
    high: Tensor | float


def statistics_of(parts: Parts, qtype: QType, roots: tuple[Tensor, ...] = ()) -> Statistics:
    """Reduce a tensor to what its parameters are computed from.

    Under a protective range the root is computed here, and the rest from the integers it leaves.
    """
    if not qtype.levels:
        return Statistics(None)
    leaf = qtype.levels[0]
    if qtype.levels[-1].protective is not None:
        roots = roots or (_protective_root(parts, qtype.levels[-1]),)
        parts = _protected_parts(parts, roots[-1], qtype.levels[-1])
    if qtype.zero is None:
        return Statistics(magnitude(parts, leaf), roots=roots)
    return Statistics(None, *value_range(parts, leaf, through_zero=qtype.zero.kind != "post"), roots=roots)


def part_of_statistics(statistics: Statistics, qtype: QType, shape: tuple[int, ...], index: Index) -> Statistics:
    """Give the statistics of a part of a tensor of `shape`."""

    def part(grid: Tensor | None) -> Tensor | None:
        return None if grid is None else part_of_grid(grid, qtype.levels[0].block, shape, index)

    above = qtype.levels[len(qtype.levels) - len(statistics.roots) :]
    roots = (part_of_grid(root, level.block, shape, index) for root, level in zip(statistics.roots, above, strict=True))
    return Statistics(part(statistics.magnitude), part(statistics.low), part(statistics.high), tuple(roots))


def parameters_of(
    statistics: Statistics, qtype: QType, shape: tuple[int, ...], reach: Reach | None = None
) -> Parameters:
    """Compute the stored parameters of a tensor of `shape` from its statistics; `reach` is the type's own if None."""
    if not qtype.levels:
        return Parameters(Chain((), ()))
    if qtype.levels[-1].protective is not None:
        return _protected(statistics, qtype)
    reach = reach_of(qtype) if reach is None else reach
    if qtype.zero is None:
        assert statistics.magnitude is not None
        return Parameters(build_chain(statistics.magnitude, reach.magnitude, qtype.levels, shape, statistics.roots))
    assert statistics.low is not None
    assert statistics.high is not None
    span = statistics.high - statistics.low
    scales = build_chain(span, reach.high - reach.low, qtype.levels, shape, statistics.roots)
    scale = chain_product(scales, qtype.levels, shape, span.dtype)
    return Parameters(scales, _zero(statistics.low, scale, qtype, shape, reach))


@lru_cache(maxsize=256)
def reach_of(qtype: QType) -> Reach:
    """Give what the codes of a type can express, all blocks alike."""
    decode = plain_decode(qtype)
    if isinstance(decode, IntDecode):
        magnitude = decode.maximum + (0.5 if qtype.grid == "mid_rise" else 0.0)
        if qtype.levels and qtype.levels[0].statistic == "signed_amax":
            magnitude = float(-decode.minimum)
        return Reach(magnitude, float(decode.minimum), float(decode.maximum))
    if isinstance(decode, TableDecode) and len(decode.tables) > 1:
        tables = decode.tables[:1] if qtype.layout == "ovp" else decode.tables
        largest = max(abs(value) for table in tables for value in table)
        return Reach(largest, -largest, largest)
    book = codebook_of(decode, qtype.grid)
    return Reach(book.largest, book.values[0], book.values[-1])


def plain_decode(qtype: QType) -> PlainDecode:
    """Give the decode of a type that does not choose among several."""
    assert not isinstance(qtype.decode, SelectDecode)
    return qtype.decode


@lru_cache(maxsize=256)
def member_types(qtype: QType) -> tuple[QType, ...]:
    """Give the types among which a selector chooses: one for each decode, or for each table."""
    decode = qtype.decode
    if isinstance(decode, SelectDecode):
        # what is static beside the leaf is the choice itself, which a member has not
        when = "dynamic" if qtype.when == "dynamic_local" else qtype.when
        return tuple(replace(qtype, decode=option, when=when) for option in decode.options)
    assert isinstance(decode, TableDecode)
    return tuple(replace(qtype, decode=TableDecode((table,), decode.name)) for table in decode.tables)


def protected_integers(x: Tensor, root: Tensor, level: Level) -> Tensor:
    """Give clamp(rne(x / root), -p, p): the integers that a protective root leaves to the leaf."""
    bound = level.protective or 127
    spread = spread_blocks(root.to(x.dtype), level.block, tuple(x.shape))
    return _integers(divide(x, spread), -bound, bound)


def _protective_root(parts: Parts, level: Level) -> Tensor:
    largest = peak(parts, level.block)
    return round_level(largest / float(level.protective or 127), level, largest, 1.0)


def _protected_parts(parts: Parts, root: Tensor, level: Level) -> Parts:
    def read(part: Tensor, index: Index) -> Tensor:
        return protected_integers(parts.read(part, index), part_of_grid(root, level.block, parts.shape, index), level)

    return replace(parts, read=read)


def _protected(statistics: Statistics, qtype: QType) -> Parameters:
    decode, leaf, root = plain_decode(qtype), qtype.levels[0], statistics.roots[-1]
    assert isinstance(decode, IntDecode)
    offsets = (None, None)
    if qtype.zero is None:
        assert statistics.magnitude is not None
        scale = round_level(statistics.magnitude / decode.maximum, leaf, statistics.magnitude, decode.maximum)
        return Parameters(Chain((scale, root), offsets))
    assert statistics.low is not None
    assert statistics.high is not None
    span, states = statistics.high - statistics.low, decode.maximum - decode.minimum
    leaf_scale = round_level(span / states, leaf, span, states)
    steps = leaf_scale.to(span.dtype)
    zero = _integers(divide(-statistics.low, steps), 0, states) + decode.minimum
    if qtype.zero.kind == "scaled":
        # Ranges beyond the protective one of QoQ have multiples of the scale that leave int8.
        zero = -steps * torch.minimum(zero, (128 / steps.clamp(min=1)).floor())
    stored = zero.to(stored_dtype(qtype.zero.dtype))
    return Parameters(Chain((leaf_scale, root), offsets), Chain((stored,), (None,)))


def _zero(low: Tensor, scale: Tensor, qtype: QType, shape: tuple[int, ...], reach: Reach) -> Chain:
    assert qtype.zero is not None
    levels = zero_levels(qtype)
    if qtype.zero.kind == "min":
        return build_chain(-low, 1.0, levels, shape, may_vanish=True)
    if qtype.zero.kind == "post":
        return _real_zero(low - scale * reach.low, levels, qtype, shape)
    steps = divide(-low, scale)
    if not qtype.zero.levels and is_integer_dtype(qtype.zero.dtype):
        zero = _integers(steps, -_ZERO_LIMIT, _ZERO_LIMIT) + reach.low
        zero = torch.minimum(torch.maximum(zero, _like(reach.low, zero)), _like(reach.high, zero))
        return Chain((torch.where(scale == 0, 0.0, zero).to(stored_dtype(qtype.zero.dtype)),), (None,))
    return _real_zero(torch.nan_to_num(steps, nan=0.0) + reach.low, levels, qtype, shape)


def _real_zero(zero: Tensor, levels: tuple[Level, ...], qtype: QType, shape: tuple[int, ...]) -> Chain:
    assert qtype.zero is not None
    if qtype.zero.levels:
        return build_chain(zero, 1.0, levels, shape, may_vanish=True)
    return Chain((zero.to(stored_dtype(qtype.zero.dtype)),), (None,))


def _like(limit: Tensor | float, values: Tensor) -> Tensor:
    return torch.as_tensor(limit, dtype=values.dtype, device=values.device)


def _integers(values: Tensor, low: int, high: int) -> Tensor:
    """Round half to even and clamp; NaN becomes 0."""
    return torch.nan_to_num(values, nan=0.0).round().clamp(low, high)


def leaf_grid(qtype: QType, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Count the leaf blocks along every axis."""
    return block_grid(qtype.levels[0].block, shape)

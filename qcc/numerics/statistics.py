"""Compute the statistics that scales come from: magnitudes and ranges of blocks.

Tensors are read part by part. Means are summed in float64, so that they depend neither on how a tensor was cut nor on
how large or small its squares are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qcc.numerics.blocks import amax, amin, block_sizes, reduce_blocks, spread_blocks, total
from qcc.numerics.parts import Index, Parts, part_of_grid, working_dtype
from qcc.numerics.qtype_parts import Block, Level

_LIMITS = {torch.int32: (-(2**31), 2**31 - 1), torch.int64: (-(2**63), 2**63 - 1)}


def magnitude(parts: Parts, level: Level) -> Tensor:
    """Give for every block the magnitude that the largest code stands for.

    `signed_amax` gives the value farthest from zero with its sign reversed, so that it falls on the most
    negative code; `mse` starts its search at the largest magnitude.
    """
    factor = 1.0 if level.constant is None else level.constant
    match level.statistic:
        case "rms":
            return _mean(parts, level.block, squared=True) * factor
        case "mean_abs":
            return _mean(parts, level.block, squared=False) * factor
        case "percentile":
            return percentile(parts, level.block, factor, of_magnitudes=True)
        case "signed_amax":
            low, high = _extremes(parts, level.block)
            return torch.where(high >= -low, -high, -low)
        case _:
            return peak(parts, level.block)


def value_range(parts: Parts, level: Level, *, through_zero: bool) -> tuple[Tensor, Tensor]:
    """Give the smallest and largest value of every block (of `percentile` p: those p percent apart from it)."""
    if level.statistic == "percentile":
        high = percentile(parts, level.block, level.constant or 100.0)
        low = -percentile(parts, level.block, level.constant or 100.0, negated=True)
    else:
        low, high = _extremes(parts, level.block)
    return (low.clamp(max=0), high.clamp(min=0)) if through_zero else (low, high)


def statistic_of_scales(scales: Tensor, level: Level, block: Block) -> Tensor:
    """Reduce the scales below a level to the one value it should be able to express."""
    if level.statistic in ("rms", "mean_abs", "percentile"):
        return magnitude(Parts.whole(scales), Level(block, level.dtype, level.statistic, level.constant))
    return reduce_blocks(scales.abs(), block, amax)


def peak(parts: Parts, block: Block) -> Tensor:
    """Give the largest magnitude of every block; NaN wins."""
    return parts.reduce(block, lambda part, _: reduce_blocks(part.abs(), block, amax), torch.maximum)


def percentile(
    parts: Parts, block: Block, percent: float, *, of_magnitudes: bool = False, negated: bool = False
) -> Tensor:
    """Give for every block the smallest of its values that `percent` per cent of them do not exceed.

    The values may be taken as magnitudes or negated. Found bit by bit, by counting; NaN where a block holds NaN or
    infinity.
    """
    sizes = block_sizes(block, parts.shape, parts.x.device)
    wanted = (sizes.double() * (percent / 100)).ceil().clamp(min=1)

    def ordered(part: Tensor) -> Tensor:
        return _order(part.abs() if of_magnitudes else -part if negated else part)

    dtype = working_dtype(parts.x)
    bits = torch.int64 if dtype == torch.float64 else torch.int32
    low, high = (torch.full(sizes.shape, end, dtype=bits, device=sizes.device) for end in _LIMITS[bits])
    for _ in range(bits.itemsize * 8):
        middle = (low >> 1) + (high >> 1) + (low & high & 1)

        def count(part: Tensor, index: Index, middle: Tensor = middle) -> Tensor:
            limit = spread_blocks(part_of_grid(middle, block, parts.shape, index), block, tuple(part.shape))
            return reduce_blocks((ordered(part) <= limit).double(), block, total)

        enough = parts.reduce(block, count, torch.add) >= wanted
        low, high = torch.where(enough, low, middle + 1), torch.where(enough, middle, high)
    found = _reversed_if_negative(high).view(dtype)
    return torch.where(torch.isfinite(peak(parts, block)), found, math.nan)


def _mean(parts: Parts, block: Block, *, squared: bool) -> Tensor:
    """Give the mean magnitude of every block, or the root of the mean square, in the dtype of the arithmetic."""

    def measure(part: Tensor, _: Index) -> Tensor:
        values = part.double().square() if squared else part.abs().double()
        return reduce_blocks(values, block, total)

    mean = parts.reduce(block, measure, torch.add) / block_sizes(block, parts.shape, parts.x.device)
    return (mean.sqrt() if squared else mean).to(working_dtype(parts.x))


def _extremes(parts: Parts, block: Block) -> tuple[Tensor, Tensor]:
    low = parts.reduce(block, lambda part, _: reduce_blocks(part, block, amin, math.inf), torch.minimum)
    high = parts.reduce(block, lambda part, _: reduce_blocks(part, block, amax, -math.inf), torch.maximum)
    return low, high


def _order(values: Tensor) -> Tensor:
    """Give integers in the order of floats."""
    return _reversed_if_negative(
        values.contiguous().view(torch.int64 if values.dtype == torch.float64 else torch.int32)
    )


def _reversed_if_negative(bits: Tensor) -> Tensor:
    """Flip all bits but the sign of negative numbers, whose magnitudes are in reverse order; its own inverse."""
    return bits ^ ((bits >> (bits.dtype.itemsize * 8 - 1)) & _LIMITS[bits.dtype][1])

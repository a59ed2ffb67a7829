"""Compute the statistics that scales come from: magnitudes and ranges of blocks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qcc.numerics.blocks import amax, amin, block_grid_rows, reduce_blocks, total
from qcc.numerics.qtype_parts import Block, Level


def magnitude(x: Tensor, level: Level) -> Tensor:
    """Give for every block the magnitude that the largest code stands for.

    `signed_amax` gives the value farthest from zero with its sign reversed, so that it falls on the most
    negative code; `mse` starts its search at the largest magnitude.
    """
    factor = 1.0 if level.constant is None else level.constant
    match level.statistic:
        case "rms":
            return (_mean(x.square(), level.block)).sqrt() * factor
        case "mean_abs":
            return _mean(x.abs(), level.block) * factor
        case "percentile":
            return percentile(x.abs(), level.block, factor)
        case "signed_amax":
            high = reduce_blocks(x, level.block, amax, -math.inf)
            low = reduce_blocks(x, level.block, amin, math.inf)
            return torch.where(high >= -low, -high, -low)
        case _:
            return reduce_blocks(x.abs(), level.block, amax)


def value_range(x: Tensor, level: Level, *, through_zero: bool) -> tuple[Tensor, Tensor]:
    """Give the smallest and largest value of every block (of `percentile` p: those p percent apart from it)."""
    if level.statistic == "percentile":
        high = percentile(x, level.block, level.constant or 100.0)
        low = -percentile(-x, level.block, level.constant or 100.0)
        return (low.clamp(max=0), high.clamp(min=0)) if through_zero else (low, high)
    low = reduce_blocks(x, level.block, amin, math.inf)
    high = reduce_blocks(x, level.block, amax, -math.inf)
    return (low.clamp(max=0), high.clamp(min=0)) if through_zero else (low, high)


def statistic_of_scales(scales: Tensor, level: Level, block: Block) -> Tensor:
    """Reduce the scales below a level to the one value it should be able to express."""
    if level.statistic in ("rms", "mean_abs", "percentile"):
        return magnitude(scales, Level(block, level.dtype, level.statistic, level.constant))
    return reduce_blocks(scales.abs(), block, amax)


def percentile(values: Tensor, block: Block, percent: float) -> Tensor:
    """Give for every block the smallest of its values that `percent` per cent of them do not exceed."""
    rows, valid, grid = block_grid_rows(values, block, fill=math.inf)
    counts = valid.sum(1) if valid is not None else torch.full((rows.shape[0],), rows.shape[1], device=rows.device)
    ranks = (counts.double() * (percent / 100)).ceil().long().clamp(min=1) - 1
    ordered = rows.sort(dim=1).values
    return ordered.gather(1, ranks[:, None]).reshape(grid)


def _mean(values: Tensor, block: Block) -> Tensor:
    return reduce_blocks(values, block, total) / reduce_blocks(torch.ones_like(values), block, total)

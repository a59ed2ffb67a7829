"""Compute the parameters of a static format from what its values were over samples.

A static scale knows no token: its blocks span every axis but the last. Where a level's statistic is `mse`, the range
of each of its blocks is shrunk to the least squared error over a histogram of the values.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from qcc.calibrate.histogram import Histogram
from qcc.calibrate.statistics import ChannelStatistics
from qcc.numerics.blocks import reduce_blocks, spread_blocks, total
from qcc.numerics.coding import decode, encode
from qcc.numerics.named_tensors import named_parameters
from qcc.numerics.parameters import Statistics, parameters_of
from qcc.numerics.parts import Parts
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import (
    Block,
    FuseGroup,
    Level,
    PlanesDecode,
    Rotate,
    SelectDecode,
    TableDecode,
    expand_block,
)
from qcc.numerics.search import EXPONENT_FACTORS, FACTORS, chosen_by_shares
from qcc.numerics.stored_parts import SELECTOR, StoredPart, parameter_parts, static_parts
from qcc.numerics.tensor import Parameters


def static_problem(qtype: QType, rank: int) -> str:
    """Say why a format cannot have static parameters for values of `rank` axes; empty where it can."""
    decode_ = qtype.decode
    if isinstance(decode_, SelectDecode) and [part.role for part in _given(qtype)] == ["selector"]:
        return "" if decode_.fractions else "has no shares, which say how many blocks take each decode"
    if isinstance(decode_, SelectDecode) or (isinstance(decode_, TableDecode) and decode_.selector is not None):
        return "chooses a decode for every block, which no calibration can know"
    if isinstance(decode_, PlanesDecode) and decode_.coefficients == "free":
        return "fits its coefficients to every block of the values themselves"
    if any(not isinstance(side, FuseGroup | Rotate) for side in qtype.sides):
        return "has side tensors, which belong to the values themselves"
    if any(level.protective is not None for level in qtype.levels) or not qtype.levels:
        return "has no scale that could be calibrated" if not qtype.levels else "has a protective range"
    blocks = [part.block for part in _given(qtype)]
    if any(expand_block(block, rank)[:-1] != (-1,) * (rank - 1) for block in blocks):
        return "has a scale for every token, and tokens are known at run time only"
    return ""


def _given(qtype: QType) -> tuple[StoredPart, ...]:
    """Return the parts that are static: all, or what a `dynamic_local` format leaves to calibration."""
    return static_parts(qtype) if qtype.when == "dynamic_local" else parameter_parts(qtype)


class StaticRange:
    """What must be known of a value `[..., K]` to give a static format its parameters.

    Memory is a few numbers a channel, and a histogram a leaf block where the format asks for a percentile or the
    least squared error.
    """

    def __init__(self, qtype: QType, channels: int, rank: int) -> None:
        self.qtype, self.rank = qtype, rank
        leaf = qtype.levels[0]
        extent = expand_block(leaf.block, rank)[-1]
        self._extent = channels if extent == -1 else min(extent, channels)
        self.channels = ChannelStatistics(channels)
        searched = any(level.statistic == "mse" for level in qtype.levels)
        self._histogram = None
        if qtype.when == "static" and (searched or leaf.statistic == "percentile"):
            # codes may reach further on one side of zero: the error of a range depends on the sign
            self._histogram = Histogram(channels, self._extent, signed=searched or qtype.zero is not None)

    def add(self, value: Tensor) -> None:
        """Add one value `[..., K]`."""
        self.channels.add(value)
        if self._histogram is not None:
            self._histogram.add(value)

    def parameters(self) -> dict[str, Tensor]:
        """Return the parameters by the names of their parts, on grids of `rank` axes, in their stored dtypes.

        For a `dynamic_local` format these are the scales above the leaf, or the selector, which gives the wider decodes
        to the blocks of channels whose largest magnitude is the largest.
        """
        if isinstance(kind := self.qtype.decode, SelectDecode):
            chosen = chosen_by_shares(Parts.whole(self.channels.amax[None]), kind)
            return {SELECTOR: chosen.reshape(*(1,) * (self.rank - 1), -1).to(torch.uint8)}
        unit = self._unit_type()
        statistics = self._statistics(unit)
        factors = self._searched(unit, statistics)
        named = named_parameters(unit, parameters_of(statistics.shrunk(factors), unit, self._shape))
        lead = (1,) * (self.rank - 1)
        return {part.name: named[part.name].reshape(*lead, -1) for part in _given(self.qtype)}

    @property
    def _shape(self) -> tuple[int, int]:
        return (1, -(-self.channels.channels // self._extent))

    def _unit_type(self) -> QType:
        """Return the format with blocks counted in leaf blocks: the tensor has one row, an element a leaf block."""
        levels = tuple(self._unit_level(level) for level in self.qtype.levels)
        zero = self.qtype.zero
        if zero is not None and zero.levels:
            zero = replace(zero, levels=tuple(self._unit_level(level) for level in zero.levels))
        return replace(self.qtype, levels=levels, zero=zero, when="static", sides=())

    def _unit_level(self, level: Level) -> Level:
        extent = expand_block(level.block, self.rank)[-1]
        block: Block = (-1, -1) if extent == -1 else (-1, max(1, extent // self._extent))
        return replace(level, block=block)

    def _statistics(self, unit: QType) -> Statistics:
        leaf, channels = unit.levels[0], self.channels
        low, high = self._grid(channels.low, "amin"), self._grid(channels.high, "amax")
        if unit.zero is not None:
            if leaf.statistic == "percentile" and self._histogram is not None:
                percent = leaf.constant or 100.0
                high = torch.minimum(self._histogram.percentile(percent)[None], high)
                low = torch.maximum(-self._histogram.percentile(percent, negated=True)[None], low)
            through = unit.zero.kind != "post"
            return Statistics(None, low.clamp(max=0) if through else low, high.clamp(min=0) if through else high)
        return Statistics(self._magnitude(leaf, low, high))

    def _magnitude(self, leaf: Level, low: Tensor, high: Tensor) -> Tensor:
        factor = 1.0 if leaf.constant is None else leaf.constant
        absolute, squares = self.channels.sums
        count = self.channels.count * self._grid(torch.ones_like(absolute), "sum")
        match leaf.statistic:
            case "rms":
                return (self._grid(squares, "sum") / count).sqrt().to(low.dtype) * factor
            case "mean_abs":
                return (self._grid(absolute, "sum") / count).to(low.dtype) * factor
            case "percentile" if self._histogram is not None:
                return torch.minimum(self._histogram.percentile(factor)[None], torch.maximum(high, -low))
            case "signed_amax":
                return torch.where(high >= -low, -high, -low)
            case _:
                return torch.maximum(high, -low)

    def _grid(self, values: Tensor, reduce: str) -> Tensor:
        """Reduce one number a channel to one a leaf block, `[1, blocks]`."""
        blocks = self._shape[1]
        index = torch.arange(len(values)) // self._extent
        start = values.new_zeros(blocks)
        return start.scatter_reduce(0, index, values, reduce, include_self=False)[None]

    def _searched(self, unit: QType, statistics: Statistics) -> Tensor | None:
        """Return by how much to shrink the range of every leaf block; of equal errors the wider range has it."""
        level = next((one for one in unit.levels if one.statistic == "mse"), None)
        if level is None or self._histogram is None:
            return None
        values, counts = (one.T.contiguous() for one in self._histogram.values())
        used = counts.sum(1) > 0
        values, weights = values[used], counts[used].double()
        least = best = None
        for factor in EXPONENT_FACTORS if level.dtype in ("e8m0", "pow2") else FACTORS:
            parameters = parameters_of(statistics.shrunk(factor), unit, self._shape)
            error = _error(values, weights, unit, parameters, level.block)
            if least is None or best is None:
                least, best = error, torch.full_like(error, factor)
            better = (error < least) | ((error == least) & (best < factor))
            least, best = torch.where(better, error, least), torch.where(better, factor, best)
        assert best is not None
        return spread_blocks(best.to(torch.float32), level.block, self._shape).expand(self._shape)


def _error(values: Tensor, weights: Tensor, unit: QType, parameters: Parameters, block: Block) -> Tensor:
    codes = encode(values, unit, parameters)
    lost = (values - decode(codes, unit, parameters, torch.float32)).double().square() * weights
    return reduce_blocks(lost, block, total)

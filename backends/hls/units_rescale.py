"""Bias and requantization by channel with tables that stay in memory, so that text does not grow with the layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from qcc.backends.hls.cost_parts import dsp_of_product, memory_blocks
from qcc.backends.hls.elements import Element
from qcc.backends.hls.steps import Array, Requant, Step, Steps
from qcc.backends.hls.units import Action, Context, Cost, Fold, action, divisors

MOST_LANES = 4
"""Channels at once: a word of memory has two lanes of 64 bits for each."""


@dataclass(frozen=True, eq=False)
class RescaleUnit:
    """`steps(clamp(((x + bias) * multiplier + half) >> shift))`: bias int64 [channels], the rest as in `requant`."""

    template: ClassVar[str] = "rescale"

    rows: int
    bias: Array
    x: Element
    requant: Requant | None = None
    after: tuple[Step, ...] = ()

    @property
    def channels(self) -> int:
        """Channels of a row."""
        return len(self.bias)

    @property
    def biased(self) -> Element:
        """The range behind the bias."""
        return Element(self.x.low + int(self.bias.min()), self.x.high + int(self.bias.max()))

    @property
    def steps(self) -> Steps:
        """What follows the requantization."""
        first = self.biased if self.requant is None else self.requant.reach(self.biased)
        return Steps(first, self.after)

    @property
    def result(self) -> Element:
        """The range of the outputs."""
        return self.steps.result

    @property
    def out_channels(self) -> int:
        """Channels that the requantization may tell apart; steps behind it are alike for all."""
        return self.channels if self.requant is None and not self.after else 1

    def with_step(self, step: Step) -> RescaleUnit:
        """Return the unit with one more step; the first requantization goes into the tables."""
        if isinstance(step, Requant) and self.requant is None and not self.after:
            return replace(self, requant=step)
        return replace(self, after=(*self.after, step))

    def folds(self) -> list[Fold]:
        """Return the widths that divide the channels."""
        return [Fold(p, p) for p in divisors(self.channels, MOST_LANES)]

    def cycles(self, fold: Fold) -> int:
        """Return one cycle a token."""
        return self.rows * (self.channels // fold.pe)

    def widths(self, fold: Fold) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the width of the tensor, one word of tables, and the width of the result."""
        return (fold.pe, 1), (fold.pe,)

    def trace(self, fold: Fold) -> Iterator[Action]:
        """Iterate over read, write; words of tables are there when they are needed."""
        for _ in range(self.cycles(fold)):
            yield action(1, 0, False)
            yield action(0, 2, True)

    def cost(self, fold: Fold) -> Cost:
        """Estimate a multiplier and a shifter a lane, and the tables that are kept."""
        lut, blocks = memory_blocks(self.channels // fold.pe, fold.pe * 104 if self.rows > 1 else 1)
        wide, one = self._wide, self.steps.cost()
        lane = Cost(lut=3.5 * wide, ff=wide, dsp=dsp_of_product(self.biased.bits, 32)) + one
        return Cost(60 + lut, 60, 0, blocks) + lane * fold.pe

    @property
    def _wide(self) -> int:
        return max(self.biased.bits + 2 if self.requant is None else self.requant.wide(self.biased), 33)

    def word_lanes(self, fold: Fold) -> int:
        """Return the lanes of a word of tables."""
        return 2 * fold.pe

    def depth(self, fold: Fold) -> int:
        """Return the words that hold the tables."""
        return self.channels // fold.pe

    @property
    def readings(self) -> int:
        """How often a frame reads the tables."""
        return 1

    def words(self, fold: Fold) -> Array:
        """Return the tables as words, uint64 [channels / P, 2 P]."""
        multiplier = np.broadcast_to(1 if self.requant is None else self.requant.multiplier, self.channels)
        shift = np.broadcast_to(0 if self.requant is None else self.requant.shift, self.channels)
        second = (multiplier.astype(np.int64) & 0xFFFFFFFF) | (shift.astype(np.int64) << 32)
        return np.stack([self.bias.astype(np.int64), second], 1).view(np.uint64).reshape(-1, 2 * fold.pe)

    def context(self, fold: Fold) -> Context:
        """Return sizes, widths and the text of the steps."""
        first = self.steps.first
        low, high = (first.low, first.high) if self.requant is None else (self.requant.low, self.requant.high)
        return {
            "rows": self.rows, "channels": self.channels, "p": fold.pe, "biased": self.biased.ctype, "wide": self._wide,
            "low": low, "high": high, "sum": first.ctype, "y": self.result.ctype, "steps": self.steps.lines(),
        }  # fmt: skip

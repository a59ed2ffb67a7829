"""Sliding windows, reductions and convolutions of single channels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from qcc.backends.hls.codes import Codes, choose_codes
from qcc.backends.hls.cost_parts import dsp_of_product, lut_of_product, memory_blocks
from qcc.backends.hls.elements import Element
from qcc.backends.hls.steps import Array
from qcc.backends.hls.unit_kinds import EvenUnit, Stepped
from qcc.backends.hls.units import Action, Context, Cost, Fold, action, divisors


@dataclass(frozen=True)
class Axis:
    """One axis of a window: sizes of image, window and result, and how the window moves."""

    size: int
    window: int
    stride: int
    padding: int
    dilation: int

    @property
    def span(self) -> int:
        """Elements from the first to the last that a window touches."""
        return (self.window - 1) * self.dilation + 1

    @property
    def result(self) -> int:
        """Positions of the window."""
        return (self.size + 2 * self.padding - self.span) // self.stride + 1


@dataclass(frozen=True)
class WindowUnit(EvenUnit):
    """All windows of `frames` images [H, W, C] in the order (row, column, channel); `pad` fills what lies outside."""

    template: ClassVar[str] = "window"

    frames: int
    height: Axis
    width: Axis
    channels: int
    x: Element
    pad: int = 0

    def folds(self) -> list[Fold]:
        """Return the widths that divide the channels."""
        return [Fold(p, p) for p in divisors(self.channels)]

    def cycles(self, fold: Fold) -> int:
        """Return the cycles of reading the images and giving out the windows, one after the other."""
        read = self.height.size * self.width.size
        written = self.height.result * self.width.result * self.height.window * self.width.window
        return self.frames * (read + written) * (self.channels // fold.pe)

    def trace(self, fold: Fold) -> Iterator[Action]:
        """Iterate as the loops of `window`: lines that the next row of windows needs, then these windows."""
        part, tall, wide = self.channels // fold.pe, self.height, self.width
        line, row = wide.size * part, wide.result * tall.window * wide.window * part
        for _ in range(self.frames):
            have = 0
            for y in range(tall.result):
                bottom = y * tall.stride - tall.padding + tall.span
                needed = tall.size if y == tall.result - 1 else min(bottom, tall.size)
                for _ in range(max(needed - have, 0) * line):
                    yield action(1, 0, False)
                have = max(have, needed)
                for _ in range(row):
                    yield action(1, 1, True)

    def cost(self, fold: Fold) -> Cost:
        """Estimate the line buffers and counters."""
        depth = self.height.span * self.width.size * self.channels // fold.pe
        lut, blocks = memory_blocks(depth, fold.pe * self.x.bits)
        return Cost(150 + lut, 120 + fold.pe * self.x.bits, 0, blocks)

    def context(self, fold: Fold) -> Context:
        """Return sizes."""
        return {"u": self, "p": fold.pe, "x": self.x.ctype}


@dataclass(frozen=True, eq=False)
class ReduceUnit(EvenUnit, Stepped):
    """Sum or maximum over `count` rows of `channels` elements, `rows` times, then steps."""

    template: ClassVar[str] = "reduce"

    rows: int
    count: int
    channels: int
    function: str
    x: Element

    @property
    def out_channels(self) -> int:
        """Channels that its steps tell apart."""
        return self.channels

    def folds(self) -> list[Fold]:
        """Return the widths that divide the channels."""
        return [Fold(p, p) for p in divisors(self.channels)]

    def cycles(self, fold: Fold) -> int:
        """Return one cycle a token of input."""
        return self.rows * self.count * (self.channels // fold.pe)

    def trace(self, fold: Fold) -> Iterator[Action]:
        """Iterate as the loops of `reduce`."""
        return reducing(self.rows, self.count, self.channels // fold.pe)

    def cost(self, fold: Fold) -> Cost:
        """Estimate adders or comparators, and the memory of running results."""
        bits = self.steps.first.bits
        lut, blocks = memory_blocks(self.channels // fold.pe, fold.pe * bits)
        steps = self.steps.cost()
        body = Cost(60 + fold.pe * bits + lut, fold.pe * bits, 0, blocks)
        return body + steps * fold.pe

    def context(self, fold: Fold) -> Context:
        """Return sizes and the text of the steps."""
        return {
            "u": self, "p": fold.pe, "x": self.x.ctype, **self.step_texts(),
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class DepthwiseUnit(Stepped):
    """A convolution of each channel by itself: weights int64 [window, channels, multiple], bias [outputs]."""

    template: ClassVar[str] = "depthwise"

    rows: int
    weights: Array
    bias: Array
    x: Element

    @property
    def channels(self) -> int:
        """Channels of the image."""
        return self.weights.shape[1]

    @property
    def multiple(self) -> int:
        """Results of a channel."""
        return self.weights.shape[2]

    @cached_property
    def codes(self) -> Codes:
        """The code of the weights."""
        return choose_codes(self.weights)

    @property
    def out_channels(self) -> int:
        """Channels that its steps tell apart."""
        return self.channels * self.multiple

    def folds(self) -> list[Fold]:
        """Return the widths that divide the channels."""
        return [Fold(p, p) for p in divisors(self.channels)]

    def cycles(self, fold: Fold) -> int:
        """Return one cycle a token of input."""
        return self.rows * self.weights.shape[0] * (self.channels // fold.pe)

    def widths(self, fold: Fold) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the width of the input, and `multiple` times that."""
        return (fold.pe,), (fold.pe * self.multiple,)

    def trace(self, fold: Fold) -> Iterator[Action]:
        """Iterate as the loops of `depthwise`."""
        return reducing(self.rows, self.weights.shape[0], self.channels // fold.pe)

    def cost(self, fold: Fold) -> Cost:
        """Estimate products, accumulators and the ROM."""
        lanes, a, w = fold.pe * self.multiple, self.x.bits, self.codes.bits
        cheap = self.codes.lut_per_product(a)
        dsp = lanes * dsp_of_product(a, w) if cheap is None and w > 4 else 0
        product = lanes * (cheap if cheap is not None else (lut_of_product(a, w) if w <= 4 else 0.0))
        rom = memory_blocks(self.weights.shape[0] * self.channels // fold.pe, lanes * w)
        sums = memory_blocks(self.channels // fold.pe, lanes * self.steps.first.bits)
        steps = self.steps.cost()
        body = Cost(200 + 1.1 * product + rom[0] + sums[0], 2.0 * lanes * self.steps.first.bits, dsp, rom[1] + sums[1])
        return body + steps * lanes

    def context(self, fold: Fold) -> Context:
        """Return sizes, words and the text of the steps."""
        lanes = fold.pe * self.multiple
        return {
            "u": self, "p": fold.pe, "lanes": self.codes.lanes(lanes), "codes": self.codes.ctype, "bias": self.bias,
            "words": self.codes.pack(self.weights.reshape(-1, lanes)).tolist(), "window": self.weights.shape[0],
            "x": self.x.ctype, **self.step_texts(),
        }  # fmt: skip


def reducing(rows: int, count: int, tokens: int) -> Iterator[Action]:
    """Iterate over a reduction of `count` rows of tokens: each is read, the last ones give a result."""
    for _ in range(rows):
        for index in range(count):
            for _ in range(tokens):
                yield action(1, 0, False)
                if index == count - 1:
                    yield action(0, 1, True)

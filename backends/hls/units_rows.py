"""Elementwise units, softmax and normalisation of rows, and the boundaries between floats and integers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from qcc.backends.hls.cost_parts import dsp_of_product, memory_blocks
from qcc.backends.hls.elements import RAW, Element
from qcc.backends.hls.steps import Array, formula
from qcc.backends.hls.unit_kinds import EvenUnit, Stepped, StreamingUnit
from qcc.backends.hls.units import Action, Context, Cost, Fold, action, divisors

LANES = 16
"""Elements that rows with divisions or many multiplications are at most worked on at once."""

FLOATS = 16
"""Raw floats that are read or written at once at most: 512 bits."""


@dataclass(frozen=True, eq=False)
class MapUnit(StreamingUnit, Stepped):
    """Steps on every element; `channels` elements make a row."""

    template: ClassVar[str] = "map"

    rows: int
    channels: int
    x: Element

    @property
    def elements(self) -> int:
        """Elements of a frame."""
        return self.rows * self.channels

    @property
    def row(self) -> int:
        """Elements that a width must divide."""
        return self.channels

    @property
    def out_channels(self) -> int:
        """Channels that its steps tell apart."""
        return self.channels

    def cost(self, fold: Fold) -> Cost:
        """Estimate the steps of every lane."""
        one = self.steps.cost()
        return Cost(30, 30) + one * fold.pe

    def context(self, fold: Fold) -> Context:
        """Return sizes and the text of the steps."""
        sizes = {"rows": self.rows, "channels": self.channels, "p": fold.pe, "x": self.x.ctype}
        return {**sizes, **self.step_texts()}


@dataclass(frozen=True, eq=False)
class JoinUnit(StreamingUnit, Stepped):
    """A function of two tensors of `count` elements, element by element, then steps."""

    template: ClassVar[str] = "join"

    count: int
    function: str
    left: Element
    right: Element

    @property
    def sides(self) -> tuple[int, int]:
        """Inputs and outputs."""
        return 2, 1

    @property
    def elements(self) -> int:
        """Elements of a frame."""
        return self.count

    @property
    def out_channels(self) -> int:
        """All elements are alike to its steps."""
        return 1

    def cost(self, fold: Fold) -> Cost:
        """Estimate an adder or multiplier and the steps of every lane."""
        bits, one = self.steps.first.bits, self.steps.cost()
        dsp = dsp_of_product(self.left.bits, self.right.bits) if self.function == "mul" else 0
        lane = Cost(lut=0 if dsp else bits, ff=bits, dsp=dsp) + one
        return Cost(40, 40) + lane * fold.pe

    def context(self, fold: Fold) -> Context:
        """Return sizes and the text of function and steps."""
        return {
            "count": self.count, "p": fold.pe, "left": self.left.ctype, "right": self.right.ctype,
            "formula": formula(self.function, "a", "b", self.steps.first), **self.step_texts(),
        }  # fmt: skip


class RowsUnit(EvenUnit):
    """A unit that goes over every row three times: it reads it whole, works on it, and writes it."""

    rows: int
    channels: int

    def folds(self) -> list[Fold]:
        """Return the widths that divide a row."""
        return [Fold(p, p) for p in divisors(self.channels, LANES)]

    def cycles(self, fold: Fold) -> int:
        """Return the cycles of three passes over every row."""
        return self.rows * 3 * (self.channels // fold.pe)

    def trace(self, fold: Fold) -> Iterator[Action]:
        """Iterate over reading a row, a pass without tokens, and writing it."""
        inputs, tokens = self.sides[0], self.channels // fold.pe
        for _ in range(self.rows):
            for _ in range(tokens):
                for port in range(inputs):
                    yield action(0 if port else 1, port, False)
            for index in range(tokens):
                yield action(tokens + 1 if index == 0 else 1, inputs, True)


@dataclass(frozen=True, eq=False)
class SoftmaxUnit(RowsUnit):
    """Integer softmax of rows; `table` int64 holds the exponential, `unit` is the code of 1."""

    template: ClassVar[str] = "softmax"

    rows: int
    channels: int
    table: Array
    unit: int
    x: Element
    masked: bool

    @property
    def sides(self) -> tuple[int, int]:
        """Inputs and outputs."""
        return (2 if self.masked else 1), 1

    @property
    def result(self) -> Element:
        """The range of the outputs."""
        return Element(0, self.unit)

    def cost(self, fold: Fold) -> Cost:
        """Estimate tables, rows and a divider of 64 bits a lane."""
        lut, blocks = memory_blocks(self.channels // fold.pe, fold.pe * (self.x.bits + 33))
        return Cost(200 + lut + fold.pe * (64 * 48 + len(self.table) / 2), fold.pe * 64 * 48, 0, blocks)

    def context(self, fold: Fold) -> Context:
        """Return sizes and the table."""
        return {"u": self, "p": fold.pe, "x": self.x.ctype, "y": self.result.ctype}


@dataclass(frozen=True, eq=False)
class NormUnit(RowsUnit):
    """Integer normalisation of rows, then steps on numbers with 24 fraction bits."""

    template: ClassVar[str] = "norm"

    rows: int
    channels: int
    centred: bool
    eps: int
    x: Element
    multiplier: Array
    bias: Array
    shift: int
    low: int
    high: int

    @property
    def result(self) -> Element:
        """The range of the outputs."""
        return Element(self.low, self.high)

    def cost(self, fold: Fold) -> Cost:
        """Estimate squares, products of 64 bits, one root and one division."""
        lut, blocks = memory_blocks(self.channels // fold.pe, fold.pe * self.x.bits)
        return Cost(4000 + lut + fold.pe * 400, 5000 + fold.pe * 400, fold.pe * 16, blocks)

    def context(self, fold: Fold) -> Context:
        """Return sizes and tables."""
        return {"u": self, "p": fold.pe, "x": self.x.ctype, "y": self.result.ctype}


@dataclass(frozen=True, eq=False)
class QuantizeUnit(StreamingUnit):
    """Codes of raw float32, by the least float32 of every code; `keys` are those in the order of `qcc::quantize`."""

    template: ClassVar[str] = "quantize"

    count: int
    keys: Array
    low: int
    nan_code: int
    result: Element
    widest: ClassVar[int] = FLOATS

    @property
    def elements(self) -> int:
        """Elements of a frame."""
        return self.count

    def cost(self, fold: Fold) -> Cost:
        """Estimate a comparator and a share of the thresholds for every bit of a code."""
        steps = len(self.keys).bit_length()
        return Cost(30 + fold.pe * (steps * 24 + len(self.keys) / 2), fold.pe * steps * 40)

    def context(self, fold: Fold) -> Context:
        """Return the thresholds."""
        steps = len(self.keys).bit_length()
        return {"u": self, "p": fold.pe, "tokens": self.count // fold.pe, "steps": steps, "y": self.result.ctype}


@dataclass(frozen=True, eq=False)
class DequantizeUnit(StreamingUnit):
    """The float32 that codes stand for, as bits from a table."""

    template: ClassVar[str] = "dequantize"

    count: int
    x: Element
    low: int
    table: Array
    widest: ClassVar[int] = FLOATS

    @property
    def elements(self) -> int:
        """Elements of a frame."""
        return self.count

    def cost(self, fold: Fold) -> Cost:
        """Estimate a ROM."""
        lut, blocks = memory_blocks(len(self.table), RAW.bits)
        return Cost(30 + fold.pe * lut, 40, 0, fold.pe * blocks)

    def context(self, fold: Fold) -> Context:
        """Return the table."""
        return {"u": self, "p": fold.pe, "tokens": self.count // fold.pe, "x": self.x.ctype}

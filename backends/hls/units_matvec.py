"""Matrix-vector units, what loads their weights, and products of two computed matrices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from qcc.backends.hls.codes import Codes, fold_words
from qcc.backends.hls.cost_parts import dsp_of_product, lut_of_product, memory_blocks
from qcc.backends.hls.elements import Element
from qcc.backends.hls.steps import Array
from qcc.backends.hls.unit_kinds import Stepped
from qcc.backends.hls.units import Action, Context, Cost, Fold, Unit, action, divisors

WIDEST_WORD = 1024
"""Products a cycle at most: what is unrolled stays within what compilers take."""

WIDEST_LOAD = 8
"""Lanes of 64 bits that one word of memory has at most."""

TILE_BITS = 1 << 20
"""Memory that the rows of a tile may take."""


def sum_range(weights: Array, bias: Array, x: Element) -> Element:
    """Return the range that every partial sum of `weights @ x + bias` stays in, [N, K] and [N]."""
    above, below = np.maximum(weights, 0).sum(1), np.minimum(weights, 0).sum(1)
    least, most = min(x.low, 0), max(x.high, 0)
    low = bias + above * least + below * most
    high = bias + above * most + below * least
    return Element(int(min(low.min(), 0)), int(max(high.max(), 0)))


@dataclass(frozen=True, eq=False)
class MatvecUnit(Stepped):
    """`steps(weights @ row + bias)` for every row. Weights int64 [N, K], columns in the order of travel; bias [N].

    With `streamed`, the words of weights arrive on a second input, each for `tile` rows.
    """

    template: ClassVar[str] = "matvec"

    rows: int
    weights: Array
    bias: Array
    x: Element
    codes: Codes
    streamed: bool = False

    @property
    def n(self) -> int:
        """Outputs of a row."""
        return self.weights.shape[0]

    @property
    def k(self) -> int:
        """Inputs of a row."""
        return self.weights.shape[1]

    @property
    def out_channels(self) -> int:
        """Channels that its steps tell apart."""
        return self.n

    @property
    def tile(self) -> int:
        """Rows that share one reading of the weights, as many as fit `TILE_BITS`."""
        row_bits = self.k * self.x.bits + self.n * (self.result.bits + self.steps.first.bits)
        return max(one for one in divisors(self.rows, self.rows) if one == 1 or one * row_bits <= TILE_BITS)

    def folds(self) -> list[Fold]:
        """Return all foldings up to `WIDEST_WORD` products a cycle; streamed ones up to a word of memory."""
        return [
            Fold(pe, simd)
            for pe in divisors(self.n)
            for simd in divisors(self.k)
            if pe * simd <= WIDEST_WORD and (not self.streamed or self.codes.lanes(pe * simd) <= WIDEST_LOAD)
        ]

    def cycles(self, fold: Fold) -> int:
        """Return the cycles of all rows."""
        compute = self.rows * (self.n // fold.pe) * (self.k // fold.simd)
        return compute + self.rows * (self.k // fold.simd + self.n // fold.pe) if self.streamed else compute

    def widths(self, fold: Fold) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return SIMD, for streamed weights one word, and PE."""
        return ((fold.simd, 1) if self.streamed else (fold.simd,)), (fold.pe,)

    def trace(self, fold: Fold) -> Iterator[Action]:
        """Iterate as the loops of `matvec` and `matvec_streamed`; words of weights are there when they are needed."""
        return self._streamed_trace(fold) if self.streamed else self._trace(fold)

    def _trace(self, fold: Fold) -> Iterator[Action]:
        sf, nf = self.k // fold.simd, self.n // fold.pe
        for _ in range(self.rows):
            for _ in range(sf):
                yield action(1, 0, False)
            yield action(0, 1, True)
            for _ in range(nf - 1):
                yield action(sf, 1, True)

    def _streamed_trace(self, fold: Fold) -> Iterator[Action]:
        sf, nf, tile = self.k // fold.simd, self.n // fold.pe, self.tile
        for _ in range(self.rows // tile):
            for _ in range(tile * sf):
                yield action(1, 0, False)
            for index in range(tile * nf):
                yield action(nf * sf * tile + 1 if index == 0 else 1, 2, True)

    def cost(self, fold: Fold) -> Cost:
        """Estimate products, adder trees, accumulators, steps, and the memory of weights and inputs."""
        lanes, a, w = fold.pe * fold.simd, self.x.bits, self.codes.bits
        total = self.steps.first.bits
        cheap = self.codes.lut_per_product(a)
        product = lanes * cheap if cheap is not None else 0.0
        dsp = 0 if cheap is not None else lanes * dsp_of_product(a, w)
        if cheap is None and w <= 4:
            product, dsp = lanes * lut_of_product(a, w), 0
        # an adder for each product; for each sum its register, the bias it begins with, and the way out
        tree = fold.pe * (fold.simd - 1) * (a + w + 2) + 2.5 * fold.pe * total
        depth = self.depth(fold)
        rom = (0.0, 0.0) if self.streamed else memory_blocks(depth, lanes * w)
        rows = memory_blocks((self.tile if self.streamed else 1) * self.k // fold.simd, fold.simd * a)
        body = Cost(40 + product + tree + rom[0] + rows[0], 20 + 2.0 * fold.pe * total, dsp, rom[1] + rows[1])
        steps = self.steps.cost()
        return body + steps * fold.pe

    def depth(self, fold: Fold) -> int:
        """Return the number of words that hold the weights."""
        return (self.n // fold.pe) * (self.k // fold.simd)

    def word_lanes(self, fold: Fold) -> int:
        """Return the lanes of a word of weights."""
        return self.codes.lanes(fold.pe * fold.simd)

    @property
    def readings(self) -> int:
        """How often a frame reads the weights: once a tile."""
        return self.rows // self.tile

    def words(self, fold: Fold) -> Array:
        """Return the packed words of the weights, uint64 [N/PE * K/SIMD, lanes]."""
        return self.codes.pack(fold_words(self.weights, fold.pe, fold.simd))

    def context(self, fold: Fold) -> Context:
        """Return sizes, codes, and the text of the steps."""
        return {
            "rows": self.rows, "k": self.k, "n": self.n, "pe": fold.pe, "simd": fold.simd, "tile": self.tile,
            "lanes": self.codes.lanes(fold.pe * fold.simd), "codes": self.codes.ctype, "streamed": self.streamed,
            "words": None if self.streamed else self.words(fold).tolist(), "bias": self.bias,
            "x": self.x.ctype, **self.step_texts(),
        }  # fmt: skip


class Stored(Unit, Protocol):
    """A unit that reads words from memory."""

    @property
    def readings(self) -> int:
        """How often a frame reads them all."""
        ...

    def word_lanes(self, fold: Fold) -> int:
        """Return the lanes of 64 bits in a word."""
        ...

    def depth(self, fold: Fold) -> int:
        """Return the number of words."""
        ...

    def words(self, fold: Fold) -> Array:
        """Return the words, uint64 [depth, lanes]."""
        ...


@dataclass(frozen=True, eq=False)
class LoadUnit:
    """Reads the words of a unit's weights or tables from memory, as often as the unit needs them."""

    template: ClassVar[str] = "load"

    reader: Stored

    def folds(self) -> list[Fold]:
        """Return the foldings of the unit that reads the weights."""
        return self.reader.folds()

    def cycles(self, fold: Fold) -> int:
        """Return one cycle a word and reading."""
        return self.reader.readings * self.reader.depth(fold)

    def widths(self, fold: Fold) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return one output of one word."""
        return (), (1,)

    def trace(self, fold: Fold) -> Iterator[Action]:
        """Iterate over nothing: words have one reader, which waits for them alone, so they block nobody else."""
        return iter(())

    def cost(self, fold: Fold) -> Cost:
        """Estimate a burst engine as wide as a word."""
        bits = 64 * self.reader.word_lanes(fold)
        return Cost(600 + bits, 900 + 2 * bits, 0, 2 * bits / 36)

    def context(self, fold: Fold) -> Context:
        """Return the words of memory and how often they are read."""
        unit = self.reader
        return {
            "lanes": unit.word_lanes(fold),
            "words": unit.depth(fold),
            "tiles": unit.readings,
        }


@dataclass(frozen=True, eq=False)
class MatmulUnit(Stepped):
    """`batch` products [M, K] x [K, N] of two computed matrices; the right one is kept."""

    template: ClassVar[str] = "matmul"

    batch: int
    m: int
    k: int
    n: int
    left: Element
    right: Element

    @property
    def out_channels(self) -> int:
        """Channels that its steps tell apart."""
        return self.n

    def folds(self) -> list[Fold]:
        """Return foldings of the columns."""
        return [Fold(pe, 1) for pe in divisors(self.n)]

    def cycles(self, fold: Fold) -> int:
        """Return the cycles of keeping and multiplying."""
        return self.batch * (self.k + self.m * self.k) * (self.n // fold.pe)

    def widths(self, fold: Fold) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return one element of the left, PE of the right and of the result."""
        return (1, fold.pe), (fold.pe,)

    def trace(self, fold: Fold) -> Iterator[Action]:
        """Iterate as the loops of `matmul`."""
        nf = self.n // fold.pe
        for _ in range(self.batch):
            for _ in range(self.k * nf):
                yield action(1, 1, False)
            for _ in range(self.m):
                for index in range(self.k):
                    yield action(1 if index == 0 else nf, 0, False)
                yield action(0, 2, True)
                for _ in range(nf - 1):
                    yield action(1, 2, True)

    def cost(self, fold: Fold) -> Cost:
        """Estimate products, accumulators and the memory of the right matrix."""
        dsp = fold.pe * dsp_of_product(self.left.bits, self.right.bits)
        kept = memory_blocks(self.k * self.n // fold.pe, fold.pe * self.right.bits)
        sums = memory_blocks(self.n // fold.pe, fold.pe * self.steps.first.bits)
        steps = self.steps.cost()
        body = Cost(200 + kept[0] + sums[0], 2.0 * fold.pe * self.steps.first.bits, dsp, kept[1] + sums[1])
        return body + steps * fold.pe

    def context(self, fold: Fold) -> Context:
        """Return sizes and the text of the steps."""
        return {
            "batch": self.batch, "m": self.m, "k": self.k, "n": self.n, "pe": fold.pe,
            "left": self.left.ctype, "right": self.right.ctype, **self.step_texts(),
        }  # fmt: skip


def product_range(left: Element, right: Element, count: int) -> Element:
    """Return the range of every partial sum of `count` products."""
    corners = [a * b for a in (left.low, left.high) for b in (right.low, right.high)]
    return Element(min(0, min(corners) * count), max(0, max(corners) * count))

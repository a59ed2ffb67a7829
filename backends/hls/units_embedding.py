"""Rows of a table, picked by computed or given numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from qcc.backends.hls.codes import Codes
from qcc.backends.hls.cost_parts import memory_blocks
from qcc.backends.hls.elements import Element, width_of
from qcc.backends.hls.steps import Array
from qcc.backends.hls.units import Action, Context, Cost, Fold, action, divisors

WIDEST_WORD = 16
"""Elements that a word of the table has at most: 512 bits of 32-bit elements."""


@dataclass(frozen=True, eq=False)
class EmbeddingUnit:
    """Row `id` of an int64 table [rows, columns], for `count` ids; ids beyond the table give its first or last row.

    With `in_memory` the words of the table are read over a memory port, else they are a ROM.
    """

    template: ClassVar[str] = "embedding"

    count: int
    table: Array
    ids: Element
    in_memory: bool

    @property
    def columns(self) -> int:
        """Elements of a row."""
        return self.table.shape[1]

    @cached_property
    def codes(self) -> Codes:
        """The code of the elements."""
        return Codes("qcc::integer_codes", width_of(min(int(self.table.min()), -1), int(self.table.max())))

    @property
    def result(self) -> Element:
        """The range of the outputs."""
        return Element(int(self.table.min()), int(self.table.max()))

    def folds(self) -> list[Fold]:
        """Return the widths that divide a row."""
        return [Fold(p, p) for p in divisors(self.columns, WIDEST_WORD)]

    def cycles(self, fold: Fold) -> int:
        """Return one cycle a word."""
        return self.count * (self.columns // fold.pe)

    def widths(self, fold: Fold) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return one id, and the elements of a word."""
        return (1,), (fold.pe,)

    def trace(self, fold: Fold) -> Iterator[Action]:
        """Iterate over an id and the words of its row."""
        for _ in range(self.count):
            yield action(1, 0, False)
            for index in range(self.columns // fold.pe):
                yield action(1 if index else 0, 1, True)

    def cost(self, fold: Fold) -> Cost:
        """Estimate the ROM or a burst engine, and an address."""
        if self.in_memory:
            bits = 64 * self.word_lanes(fold)
            return Cost(700 + bits, 900 + 2 * bits, 1, 2 * bits / 36)
        lut, blocks = memory_blocks(self.depth(fold), fold.pe * self.codes.bits)
        return Cost(100 + lut, 100, 1, blocks)

    @property
    def readings(self) -> int:
        """How often the whole table is read: never, only rows are."""
        return 0

    def word_lanes(self, fold: Fold) -> int:
        """Return the lanes of a word."""
        return self.codes.lanes(fold.pe)

    def depth(self, fold: Fold) -> int:
        """Return the words of the table."""
        return self.table.size // fold.pe

    def words(self, fold: Fold) -> Array:
        """Return the packed words, uint64 [rows * columns / PE, lanes]."""
        return self.codes.pack(self.table.reshape(-1, fold.pe))

    def context(self, fold: Fold) -> Context:
        """Return sizes, the code, and the words of a ROM."""
        return {
            "u": self, "lanes": self.word_lanes(fold), "codes": self.codes.ctype, "p": fold.pe,
            "words": None if self.in_memory else self.words(fold).tolist(),
        }  # fmt: skip

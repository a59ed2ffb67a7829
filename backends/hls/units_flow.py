"""Units that move tokens: copies, width changes, buffers that change the order, constants, joined tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd
from typing import ClassVar

from qcc.backends.hls.cost_parts import memory_blocks
from qcc.backends.hls.elements import Element
from qcc.backends.hls.steps import Array
from qcc.backends.hls.unit_kinds import EvenUnit, StreamingUnit
from qcc.backends.hls.units import Action, Context, Cost, Fold, action, divisors


@dataclass(frozen=True)
class DuplicateUnit(StreamingUnit):
    """Two copies of a stream."""

    template: ClassVar[str] = "duplicate"

    count: int
    x: Element

    @property
    def sides(self) -> tuple[int, int]:
        """Inputs and outputs."""
        return 1, 2

    @property
    def elements(self) -> int:
        """Elements of a frame."""
        return self.count

    def cost(self, fold: Fold) -> Cost:
        """Estimate handshakes."""
        return Cost(20, 20)

    def context(self, fold: Fold) -> Context:
        """Return the tokens."""
        return {"tokens": self.count // fold.pe}


@dataclass(frozen=True)
class GearboxUnit:
    """Tokens of `wide` elements cut into `narrow` ones, or the other way round; the one divides the other."""

    template: ClassVar[str] = "gearbox"

    count: int
    x: Element
    before: int
    after: int

    def folds(self) -> list[Fold]:
        """Return the one folding there is."""
        return [Fold(self.after, self.before)]

    def cycles(self, fold: Fold) -> int:
        """Return one cycle a narrow token."""
        return self.count // min(self.before, self.after)

    def widths(self, fold: Fold) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return both widths."""
        return (self.before,), (self.after,)

    def trace(self, fold: Fold) -> Iterator[Action]:
        """Iterate as `narrow` and `widen` do."""
        wide, ratio = max(self.before, self.after), max(self.before, self.after) // min(self.before, self.after)
        for _ in range(self.count // wide):
            if self.before > self.after:
                yield action(1, 0, False)
                for part in range(ratio):
                    yield action(1 if part else 0, 1, True)
            else:
                for _ in range(ratio):
                    yield action(1, 0, False)
                yield action(0, 1, True)

    def cost(self, fold: Fold) -> Cost:
        """Estimate a register as wide as the wide token."""
        bits = max(self.before, self.after) * self.x.bits
        return Cost(20 + bits / 2, bits)

    def context(self, fold: Fold) -> Context:
        """Return the kind and the wide tokens."""
        kind = "narrow" if self.before > self.after else "widen"
        return {"kind": kind, "tokens": self.count // max(self.before, self.after)}


@dataclass(frozen=True)
class Walk:
    """Nested loops over a buffer, outermost first; outside `first`..`last` of a loop there is padding."""

    extent: tuple[int, ...]
    stride: tuple[int, ...]
    first: tuple[int, ...]
    last: tuple[int, ...]
    start: int = 0

    @property
    def count(self) -> int:
        """Steps of the walk."""
        total = 1
        for extent in self.extent:
            total *= extent
        return total

    def grain(self) -> int:
        """Return the most elements that always travel side by side."""
        if not self.extent or self.stride[-1] != 1:
            return 1
        edges = (self.extent[-1], self.first[-1], self.last[-1], abs(self.start), *map(abs, self.stride[:-1]))
        return gcd(*edges)

    def in_tokens(self, p: int) -> Walk:
        """Return the walk over tokens of `p` elements; `p` divides `grain`."""
        if p == 1:
            return self

        def cut(values: tuple[int, ...], last: int) -> tuple[int, ...]:
            return (*values[:-1], last)

        strides = (*(one // p for one in self.stride[:-1]), 1)
        return Walk(
            cut(self.extent, self.extent[-1] // p),
            strides,
            cut(self.first, self.first[-1] // p),
            cut(self.last, self.last[-1] // p),
            self.start // p,
        )


@dataclass(frozen=True)
class ReorderUnit(EvenUnit):
    """A buffer of `size` elements that is filled by one walk and emptied by another, `frames` times."""

    template: ClassVar[str] = "reorder"

    frames: int
    size: int
    write: Walk
    read: Walk
    x: Element
    fill: int = 0

    def folds(self) -> list[Fold]:
        """Return the widths at which neighbours stay together on both sides."""
        return [Fold(p, p) for p in divisors(gcd(self.write.grain(), self.read.grain(), self.size))]

    def cycles(self, fold: Fold) -> int:
        """Return the cycles of filling and emptying, one after the other."""
        return self.frames * (self.write.count + self.read.count) // fold.pe

    def trace(self, fold: Fold) -> Iterator[Action]:
        """Iterate over all reads of a frame, then all writes."""
        for _ in range(self.frames):
            for _ in range(self.write.count // fold.pe):
                yield action(1, 0, False)
            for _ in range(self.read.count // fold.pe):
                yield action(1, 1, True)

    def cost(self, fold: Fold) -> Cost:
        """Estimate the buffer and its counters."""
        lut, blocks = memory_blocks(self.size // fold.pe, fold.pe * self.x.bits)
        return Cost(80 + 30 * len(self.read.extent) + lut, 100, 0, blocks)

    def context(self, fold: Fold) -> Context:
        """Return both walks in tokens."""
        return {
            "frames": self.frames, "size": self.size // fold.pe, "fill": self.fill, "p": fold.pe, "x": self.x.ctype,
            "write": self.write.in_tokens(fold.pe), "read": self.read.in_tokens(fold.pe),
        }  # fmt: skip


@dataclass(frozen=True)
class ConcatUnit(EvenUnit):
    """`a` elements of one tensor, then `b` of another, `outer` times."""

    template: ClassVar[str] = "concat"

    outer: int
    a: int
    b: int
    x: Element

    @property
    def sides(self) -> tuple[int, int]:
        """Inputs and outputs."""
        return 2, 1

    def folds(self) -> list[Fold]:
        """Return the widths that divide both parts."""
        return [Fold(p, p) for p in divisors(gcd(self.a, self.b))]

    def cycles(self, fold: Fold) -> int:
        """Return one cycle a token."""
        return self.outer * (self.a + self.b) // fold.pe

    def trace(self, fold: Fold) -> Iterator[Action]:
        """Iterate as `concat` does."""
        for _ in range(self.outer):
            for index in range((self.a + self.b) // fold.pe):
                yield action(1, 0 if index < self.a // fold.pe else 1, False)
                yield action(0, 2, True)

    def cost(self, fold: Fold) -> Cost:
        """Estimate a multiplexer."""
        return Cost(40 + fold.pe * self.x.bits, 40)

    def context(self, fold: Fold) -> Context:
        """Return the parts in tokens."""
        return {"outer": self.outer, "a": self.a // fold.pe, "b": self.b // fold.pe}


@dataclass(frozen=True, eq=False)
class ConstantUnit(StreamingUnit):
    """A tensor known beforehand: int64 values in the order of travel, given out again for every frame."""

    template: ClassVar[str] = "constant"

    values: Array
    x: Element

    @property
    def sides(self) -> tuple[int, int]:
        """Inputs and outputs."""
        return 0, 1

    @property
    def elements(self) -> int:
        """Elements of a frame."""
        return len(self.values)

    def cost(self, fold: Fold) -> Cost:
        """Estimate a ROM."""
        lut, blocks = memory_blocks(len(self.values) // fold.pe, fold.pe * self.x.bits)
        return Cost(20 + lut, 20, 0, blocks)

    def context(self, fold: Fold) -> Context:
        """Return the values."""
        return {"values": self.values, "p": fold.pe, "x": self.x.ctype}

"""What every hardware unit of a design says of itself: foldings, cycles, order of reads and writes, cost, text.

A unit is one process of the dataflow region. Folding widens it: `pe` elements of output and `simd` of input a cycle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain, repeat
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from qcc.backends.hls.elements import Element

Context = Mapping[str, object]
"""What a template is filled in with."""

WIDEST = 64
"""Elements that a stream carries at once at most."""


@dataclass(frozen=True)
class Fold:
    """How wide a unit is built."""

    pe: int = 1
    simd: int = 1

    def __str__(self) -> str:
        return f"{self.pe}x{self.simd}"


class Action(NamedTuple):
    """One read or write of a token: cycles after the action before it, number of the port, whether it writes."""

    delay: int
    port: int
    writes: bool


action = cache(Action)
"""The same actions come again and again: each is made once."""


@dataclass(frozen=True)
class Cost:
    """Resources: look-up tables, flip-flops, DSP blocks, 18-kbit memory blocks. Estimates."""

    lut: float = 0.0
    ff: float = 0.0
    dsp: float = 0.0
    bram18: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.lut + other.lut, self.ff + other.ff, self.dsp + other.dsp, self.bram18 + other.bram18)

    def __mul__(self, count: float) -> Cost:
        return Cost(self.lut * count, self.ff * count, self.dsp * count, self.bram18 * count)


class Unit(Protocol):
    """One process. Ports are numbered inputs first, then outputs."""

    template: ClassVar[str]
    """Name of the template of its text."""

    def folds(self) -> list[Fold]:
        """Return every folding that divides the unit, narrow ones first."""
        ...

    def cycles(self, fold: Fold) -> int:
        """Return the cycles that a frame keeps the unit busy, at one step a cycle."""
        ...

    def widths(self, fold: Fold) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the elements of a token of every input and of every output."""
        ...

    def trace(self, fold: Fold) -> Iterator[Action]:
        """Iterate over the reads and writes of one frame in the order of the template's text."""
        ...

    def cost(self, fold: Fold) -> Cost:
        """Estimate its resources."""
        ...

    def context(self, fold: Fold) -> Context:
        """Return what its template needs."""
        ...


@runtime_checkable
class SteppedUnit(Unit, Protocol):
    """A unit whose results go through elementwise steps before they leave."""

    @property
    def result(self) -> Element:
        """The range of what it gives out."""
        ...

    @property
    def out_channels(self) -> int:
        """Channels that its steps tell apart."""
        ...

    def with_step(self, step: Any) -> SteppedUnit:
        """Return the unit with one more step (`qcc.backends.hls.steps.Step`) behind it."""
        ...


def divisors(number: int, most: int = WIDEST) -> list[int]:
    """Return the divisors of a number up to `most`, rising."""
    return [one for one in range(1, min(number, most) + 1) if number % one == 0]


def streaming(count: int, inputs: int, outputs: int) -> Iterator[Action]:
    """Iterate over the actions of a unit that reads every input and writes every output once a cycle."""
    cycle = [Action(1 if port == 0 else 0, port, port >= inputs) for port in range(inputs + outputs)]
    return chain.from_iterable(repeat(cycle, count))

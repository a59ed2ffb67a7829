"""What units have in common: sides of one width, one token of every side a cycle, steps behind the results."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from qcc.backends.hls.elements import Element
from qcc.backends.hls.steps import Step, Steps
from qcc.backends.hls.units import WIDEST, Action, Fold, divisors, streaming


class EvenUnit:
    """A unit whose inputs and outputs are all `pe` elements wide."""

    @property
    def sides(self) -> tuple[int, int]:
        """Inputs and outputs."""
        return 1, 1

    def widths(self, fold: Fold) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return one width for all sides."""
        inputs, outputs = self.sides
        return (fold.pe,) * inputs, (fold.pe,) * outputs


class StreamingUnit(EvenUnit, ABC):
    """An even unit that reads a token of every input and writes one to every output in each cycle."""

    widest: ClassVar[int] = WIDEST
    """Elements of a token at most."""

    @property
    @abstractmethod
    def elements(self) -> int:
        """Elements of a frame at every side."""

    @property
    def row(self) -> int:
        """Elements that a width must divide."""
        return self.elements

    def folds(self) -> list[Fold]:
        """Return the widths that divide a row."""
        return [Fold(p, p) for p in divisors(self.row, self.widest)]

    def cycles(self, fold: Fold) -> int:
        """Return one cycle a token."""
        return self.elements // fold.pe

    def trace(self, fold: Fold) -> Iterator[Action]:
        """Iterate over all reads, then all writes, of every token."""
        return streaming(self.cycles(fold), *self.sides)


@dataclass(frozen=True, eq=False, kw_only=True)
class Stepped:
    """A unit whose results go through elementwise steps before they leave."""

    steps: Steps

    @property
    def result(self) -> Element:
        """The range of the outputs."""
        return self.steps.result

    def with_step(self, step: Step) -> Self:
        """Return the unit with one more step behind it."""
        return replace(self, steps=self.steps.then(step))

    def step_texts(self) -> dict[str, object]:
        """Return the types before and behind the steps, and their C++."""
        return {"sum": self.steps.first.ctype, "y": self.result.ctype, "steps": self.steps.lines()}

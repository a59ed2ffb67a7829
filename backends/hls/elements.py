"""Ranges of integers and the C++ types that hold them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Element:
    """Every integer that a stream can carry lies in `low`..`high`; `bits` counts a sign where one is needed.

    `raw` is a pattern of 32 bits that means a float32.
    """

    low: int
    high: int
    raw: bool = False

    @property
    def bits(self) -> int:
        """Width in bits."""
        return 32 if self.raw else width_of(self.low, self.high)

    @property
    def ctype(self) -> str:
        """The C++ type."""
        if self.raw or (self.low, self.high) == (0, 1):
            return f"ap_uint<{self.bits}>"
        return f"ap_int<{self.bits}>"

    def join(self, other: Element) -> Element:
        """Return the range that holds both."""
        return Element(min(self.low, other.low), max(self.high, other.high))


RAW = Element(0, 2**32 - 1, raw=True)
"""A float32 as its bits."""

TRUTH = Element(0, 1)
"""A truth value."""


def width_of(low: int, high: int) -> int:
    """Return the bits of a two's complement number that holds `low`..`high`; a truth value takes one."""
    if (low, high) == (0, 1):
        return 1
    return max((-low - 1).bit_length() if low < 0 else 0, high.bit_length() if high > 0 else 0) + 1

"""Elementwise steps that units apply to their results, and their C++."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from qcc.backends.hls.cost_parts import dsp_of_product
from qcc.backends.hls.elements import Element, width_of
from qcc.backends.hls.units import Cost
from qcc.errors import Problem, UnsupportedOp

Array = np.ndarray


class Step(Protocol):
    """One elementwise step; tables by channel are in the order of travel."""

    def reach(self, element: Element) -> Element:
        """Return the range of results."""
        ...

    def lines(self, x: str, y: str, element: Element) -> list[str]:
        """Return C++ that declares `y` as the result for `x`, a number in the range `element`, at channel `n`."""
        ...

    def cost(self, element: Element) -> Cost:
        """Estimate the resources of one lane."""
        ...

    @property
    def channels(self) -> int:
        """Channels it distinguishes; 1 if all are alike."""
        ...


@dataclass(frozen=True, eq=False)
class Requant:
    """`clamp((x * multiplier + half) >> shift)`; multiplier and shift are int64 [1] or [channels]."""

    multiplier: Array
    shift: Array
    low: int
    high: int
    where: str = ""

    def reach(self, element: Element) -> Element:
        """Return the clamp's range, narrowed by what the products reach."""
        ends = [_rounded(end, self.multiplier, self.shift) for end in (element.low, element.high)]
        low, high = min(int(one.min()) for one in ends), max(int(one.max()) for one in ends)
        return Element(min(max(low, self.low), self.high), max(min(high, self.high), self.low))

    def wide(self, element: Element) -> int:
        """Return the bits that product and half need.

        Raises:
            UnsupportedOp: if they are more than 64.
        """
        reach = max(abs(element.low), abs(element.high)) * int(np.abs(self.multiplier).max())
        reach += (1 << int(self.shift.max())) >> 1
        bits = max(width_of(-reach - 1, reach), width_of(self.low, self.high))
        if bits > 64:
            what = f"multiplies sums of {element.bits} bits to {bits} bits, and 64 is the limit"
            problem = Problem(self.where or "requant", what, "use fewer bits")
            raise UnsupportedOp("an accumulator over 64 bits", [problem])
        return bits

    def lines(self, x: str, y: str, element: Element) -> list[str]:
        """Return the C++; a power of two needs no multiplier."""
        wide, result = self.wide(element), self.reach(element)
        tables = [*table_lines("multiplier", y, self.multiplier), *table_lines("shift", y, self.shift)]
        scaled = f"qcc::scale<{wide}>({x}, {at('multiplier', y, self.multiplier)}, {at('shift', y, self.shift)})"
        kind = f"ap_int<{wide}>"
        return [
            *tables,
            f"{result.ctype} {y} = {result.ctype}(qcc::clamp<{kind}>({scaled}, {self.low}, {self.high}));",
        ]

    def cost(self, element: Element) -> Cost:
        """Estimate a multiplier, a shifter where shifts differ, and a clamp."""
        wide = self.wide(element)
        factor = width_of(0, int(np.abs(self.multiplier).max()))
        powers = bool((self.multiplier == 1).all())
        product = Cost() if powers else Cost(dsp=dsp_of_product(element.bits, factor))
        # one shift is wires; the bits it leaves are clamped. Shifts by channel are chosen from, and so is what is added
        left = wide - int(self.shift.min())
        lut = float(left) if len(self.shift) == 1 else 2.5 * left + 1.5 * wide
        return product + Cost(lut=lut, ff=wide)

    @property
    def channels(self) -> int:
        """Channels that multipliers or shifts differ by."""
        return max(len(self.multiplier), len(self.shift))


@dataclass(frozen=True, eq=False)
class Lookup:
    """`table[x - low]`."""

    table: Array
    low: int

    def reach(self, element: Element) -> Element:
        """Return the range of the entries that can be read."""
        part = self.table[max(element.low - self.low, 0) : element.high - self.low + 1]
        part = part if len(part) else self.table
        return Element(int(part.min()), int(part.max()))

    def lines(self, x: str, y: str, element: Element) -> list[str]:
        """Return the C++."""
        result = self.reach(element)
        return [
            *table_lines("table", y, self.table, force=True),
            f"{result.ctype} {y} = {result.ctype}(table_{y}[int({x}) - ({self.low})]);",
        ]

    def cost(self, element: Element) -> Cost:
        """Estimate a ROM in look-up tables: 64 bits each."""
        return Cost(lut=len(self.table) * self.reach(element).bits / 64)

    @property
    def channels(self) -> int:
        """All channels read one table."""
        return 1


@dataclass(frozen=True, eq=False)
class WithNumber:
    """`x op number`, op being add, sub, mul, max or min; numbers are int64 [1] or [channels]."""

    function: str
    numbers: Array
    turned: bool = False

    def reach(self, element: Element) -> Element:
        """Return the range of results."""
        ends = [combine(self.function, end, self.numbers, self.turned) for end in (element.low, element.high)]
        return Element(min(int(one.min()) for one in ends), max(int(one.max()) for one in ends))

    def lines(self, x: str, y: str, element: Element) -> list[str]:
        """Return the C++."""
        result = self.reach(element)
        number = at("number", y, self.numbers)
        operands = (f"{result.ctype}({number})", x) if self.turned else (x, f"{result.ctype}({number})")
        return [
            *table_lines("number", y, self.numbers),
            f"{result.ctype} {y} = {result.ctype}({formula(self.function, *operands, result)});",
        ]

    def cost(self, element: Element) -> Cost:
        """Estimate an adder or a multiplier."""
        bits = self.reach(element).bits
        if self.function == "mul":
            return Cost(dsp=dsp_of_product(element.bits, bits))
        return Cost(lut=bits, ff=bits)

    @property
    def channels(self) -> int:
        """Channels that numbers differ by."""
        return len(self.numbers)


def _rounded(value: int, multiplier: Array, shift: Array) -> Array:
    products = [int(value) * int(m) for m in multiplier.tolist()]
    shifts = [int(s) for s in shift.tolist()]
    count = max(len(products), len(shifts))
    pairs = zip(products * (count // len(products)), shifts * (count // len(shifts)), strict=True)
    return np.array([(p + ((1 << s) >> 1)) >> s for p, s in pairs], dtype=object)


def combine(function: str, x: int, numbers: Array, turned: bool) -> Array:
    """Apply a function of two integers to one and many."""
    values = numbers.astype(object)
    match function:
        case "add":
            return x + values
        case "sub":
            return values - x if turned else x - values
        case "mul":
            return x * values
        case "max":
            return np.maximum(x, values)
        case _:
            return np.minimum(x, values)


FORMULAS = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "max": "({0} > {1} ? {2}({0}) : {2}({1}))",
    "min": "({0} < {1} ? {2}({0}) : {2}({1}))",
}
"""C++ of every function of two integers that units compute."""


def formula(function: str, left: str, right: str, result: Element) -> str:
    """Write a function of two integers."""
    return FORMULAS[function].format(left, right, result.ctype)


def element_type(values: Array) -> str:
    """Return the narrowest plain C++ type of a table."""
    low, high = int(values.min()), int(values.max())
    for name, least, most in (
        ("signed char", -(2**7), 2**7 - 1),
        ("unsigned char", 0, 2**8 - 1),
        ("short", -(2**15), 2**15 - 1),
        ("int", -(2**31), 2**31 - 1),
        ("unsigned", 0, 2**32 - 1),
    ):
        if least <= low and high <= most:
            return name
    return "long long"


def numbers_text(values: Array) -> str:
    """Write numbers as C++ initialisers; the least 64-bit number has no literal."""
    suffix = "ll" if element_type(values) == "long long" else ("u" if element_type(values) == "unsigned" else "")
    return ", ".join(f"{int(one)}{suffix}" for one in values.tolist())


def table_lines(role: str, y: str, values: Array, *, force: bool = False) -> list[str]:
    """Declare a table; nothing where all its entries are one number that is written in place."""
    if len(values) == 1 and not force:
        return []
    return [f"static const {element_type(values)} {role}_{y}[{len(values)}] = {{{numbers_text(values)}}};"]


def at(role: str, y: str, values: Array) -> str:
    """Write the entry of channel `n` of a table, or the one number of it."""
    return f"{role}_{y}[n]" if len(values) > 1 else numbers_text(values)


@dataclass(frozen=True, eq=False)
class Steps:
    """A chain of steps behind numbers in the range `first`."""

    first: Element
    chain: tuple[Step, ...] = ()

    @property
    def result(self) -> Element:
        """The range behind the last step."""
        element = self.first
        for step in self.chain:
            element = step.reach(element)
        return element

    def then(self, step: Step) -> Steps:
        """Return the chain with one more step."""
        return Steps(self.first, (*self.chain, step))

    def lines(self) -> list[str]:
        """Return C++ that turns `v0` at channel `n` into the result and returns it."""
        lines, element, name = [], self.first, "v0"
        for index, step in enumerate(self.chain):
            after = f"v{index + 1}"
            lines += step.lines(name, after, element)
            element, name = step.reach(element), after
        return [*lines, f"return {name};"]

    def cost(self) -> Cost:
        """Estimate the resources of one lane."""
        total, element = Cost(), self.first
        for step in self.chain:
            total, element = total + step.cost(element), step.reach(element)
        return total

    @property
    def channels(self) -> int:
        """Channels that any step distinguishes."""
        return max([step.channels for step in self.chain], default=1)


def check_channels(steps: Sequence[Step], channels: int) -> bool:
    """Say whether every step speaks of one channel or of all of them."""
    return all(step.channels in (1, channels) for step in steps)

"""Hold the values that the codes of a decode stand for, and find the nearest.

Every decode but planes with free coefficients is a list of at most 256 values. Encoding is a search among the
decision boundaries between neighbours, exact for every rounding rule: a boundary is the smallest number of the
working dtype that belongs to the upper neighbour.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from qcc.numerics.buckets import bucket_table
from qcc.numerics.minifloat import float_values
from qcc.numerics.qtype_parts import (
    DIGIT_STATES,
    FloatDecode,
    Grid,
    IntDecode,
    PlainDecode,
    PlanesDecode,
    Rounding,
    TableDecode,
)

_DIGITS = {"01": (0, 1), "pm1": (-1, 1), "-101": (-1, 0, 1)}


@dataclass(frozen=True)
class Codebook:
    """Values in ascending order, each with its code; values that are no number are left out.

    Where several codes have one value the first is used, so a negative zero is never written.
    """

    values: tuple[float, ...]
    codes: tuple[int, ...]

    @property
    def largest(self) -> float:
        """Give the largest magnitude."""
        return max(-self.values[0], self.values[-1])

    @cached_property
    def spacing(self) -> float | None:
        """Give the distance between neighbours if it is the same everywhere."""
        gaps = {high - low for low, high in itertools.pairwise(self.values)}
        return gaps.pop() if len(gaps) == 1 else None

    def boundaries(self, rounding: Rounding, dtype: torch.dtype) -> Tensor:
        """Give for every value but the first the smallest number of `dtype` that is rounded to it or above."""
        return torch.tensor(_boundaries(self, rounding, dtype), dtype=dtype, device="cpu")

    def nearest(self, values: Tensor, rounding: Rounding) -> Tensor:
        """Give the position in `values` of the value each number is rounded to, int32; NaN goes to zero."""
        edges = _boundaries(self, rounding, values.dtype)
        if values.dtype == torch.float32:
            table = bucket_table(edges, self.position_of_zero, values.device)
            if table is not None:
                return table.positions(values)
        ordered = look_up_table(edges, values.dtype, values.device)
        found = torch.bucketize(values.contiguous(), ordered, right=True, out_int32=True)
        return torch.where(torch.isnan(values), self.position_of_zero, found)

    def nearest_values(self, values: Tensor, rounding: Rounding) -> Tensor:
        """Give the value each number is rounded to, in its dtype; NaN goes to zero."""
        return look_up(self.values, self.nearest(values, rounding), values.dtype)

    def near_values(self, values: Tensor) -> Tensor:
        """Give a value nearest to each number, in its dtype: of two as near, either. NaN may stay NaN."""
        if self.spacing is None:
            return self.nearest_values(values, "rne")
        places = (values - self.values[0]).div_(self.spacing).round_().clamp_(0, len(self.values) - 1)
        return places.mul_(self.spacing).add_(self.values[0])

    @cached_property
    def position_of_zero(self) -> int:
        """Give the position of the value nearest to zero."""
        return min(range(len(self.values)), key=lambda index: abs(self.values[index]))


@lru_cache(maxsize=256)
def look_up_table(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Give values as a tensor, which is kept: never write to it."""
    return torch.tensor(values, dtype=dtype, device=device)


def look_up(values: tuple[float, ...], index: Tensor, dtype: torch.dtype) -> Tensor:
    """Give the value at every index (an integer tensor), in `dtype`."""
    table = look_up_table(values, dtype, index.device)
    return table.index_select(0, index.to(torch.int32).flatten()).reshape(index.shape)


@lru_cache(maxsize=256)
def code_values(decode: PlainDecode, grid: Grid = "mid_tread") -> tuple[float, ...]:
    """Give the value of every unsigned code, NaN for codes without one.

    Codes of a signed integer are its two's complement bits. On a mid_rise grid integers stand for themselves
    plus one half.

    Raises:
        ValueError: planes with free coefficients, whose values differ by block.
    """
    match decode:
        case IntDecode(bits):
            offset = 0.5 if grid == "mid_rise" else 0.0
            wrapped = [code - 2**bits if decode.signed and code >= 2 ** (bits - 1) else code for code in range(2**bits)]
            return tuple(code + offset if decode.minimum <= code <= decode.maximum else math.nan for code in wrapped)
        case FloatDecode():
            return float_values(decode)
        case TableDecode(tables):
            return tables[0]
        case PlanesDecode():
            return _plane_values(decode, grid)


def codebook(values: tuple[float, ...]) -> Codebook:
    """Sort the finite values of codes; of equal ones the first code stays."""
    first: dict[float, int] = {}
    for code, value in enumerate(values):
        if math.isfinite(value):
            first.setdefault(value + 0.0, code)
    ordered = sorted(first)
    return Codebook(tuple(ordered), tuple(first[value] for value in ordered))


@lru_cache(maxsize=256)
def codebook_of(decode: PlainDecode, grid: Grid = "mid_tread") -> Codebook:
    """Give the codebook of a decode (of a table with several alternatives: the first)."""
    return codebook(code_values(decode, grid))


def _plane_values(decode: PlanesDecode, grid: Grid) -> tuple[float, ...]:
    if decode.coefficients == "free":
        raise ValueError("the values of planes with free coefficients differ by block")
    digits = _DIGITS[decode.digits]
    width = 1 if DIGIT_STATES[decode.digits] == 2 else 2
    weights = [2.0**plane for plane in range(decode.count)]
    if decode.coefficients == "twos":
        weights[-1] = -weights[-1]
    values = [math.nan] * 2**decode.bits
    offset = 0.5 if grid == "mid_rise" and decode.digits != "pm1" else 0.0
    for chosen in itertools.product(range(len(digits)), repeat=decode.count):
        code = sum(digit << (width * plane) for plane, digit in enumerate(chosen))
        values[code] = sum(weight * digits[digit] for weight, digit in zip(weights, chosen, strict=True)) + offset
    return tuple(values)


@lru_cache(maxsize=1024)
def _boundaries(book: Codebook, rounding: Rounding, dtype: torch.dtype) -> tuple[float, ...]:
    edges: list[float] = []
    for index, (low, high) in enumerate(itertools.pairwise(book.values)):
        match rounding:
            case "floor" | "stochastic":
                edges.append(_first_at_least(high, dtype))
            case "half_up":
                edges.append(_first_at_least((low + high) / 2, dtype))
            case "half_down":
                edges.append(_first_above((low + high) / 2, dtype))
            case "rne":
                # A tie goes to the even code: neighbours of integers and floats differ in their last bit.
                upper = book.codes[index + 1] % 2 == 0 and book.codes[index] % 2 == 1
                edges.append((_first_at_least if upper else _first_above)((low + high) / 2, dtype))
    return tuple(edges)


def _first_at_least(value: float, dtype: torch.dtype) -> float:
    rounded = torch.tensor(value, dtype=torch.float64, device="cpu").to(dtype)
    return float(rounded) if float(rounded) >= value else _next(rounded)


def _first_above(value: float, dtype: torch.dtype) -> float:
    rounded = torch.tensor(value, dtype=torch.float64, device="cpu").to(dtype)
    return float(rounded) if float(rounded) > value else _next(rounded)


def _next(value: Tensor) -> float:
    return float(torch.nextafter(value, value.new_tensor(math.inf)))

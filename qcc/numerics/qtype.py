"""Define the quantization type: what the codes of a tensor mean, and nothing about where they are stored.

A type is five orthogonal facts (decode, grid, levels, zero, when), how codes are rounded and clamped, and
side tensors. Decoding is

    value = product over levels of scale[block] · (decode(code) - zero) + side tensors

Importing this module does not import torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from qcc.errors import Problem, RecipeError
from qcc.numerics.qtype_check import type_problems
from qcc.numerics.qtype_parts import (
    Block,
    CodeLayout,
    Decode,
    Grid,
    IntDecode,
    Level,
    Overflow,
    Rounding,
    Side,
    When,
    Zero,
    levels_text,
)

Granularity = int | Literal["tensor", "row", "token"]


@dataclass(frozen=True)
class QType:
    """Describe a quantized tensor; hashable, checked when made.

    `levels` run from leaf to root and a scale is the product of all of them. `layout` is how codes are
    stored: `dense` bits, `radix` (as many codes a byte as fit, e.g. five ternary digits) or `ovp`
    (outlier-victim pairs, OliVe). `str` gives the one-line text that `parse_qtype` reads back.

    Raises:
        RecipeError: the parts contradict each other; every contradiction is listed.
    """

    decode: Decode
    levels: tuple[Level, ...] = ()
    zero: Zero | None = None
    when: When = "static"
    sides: tuple[Side, ...] = ()
    grid: Grid = "mid_tread"
    rounding: Rounding = "rne"
    overflow: Overflow = "saturate"
    layout: CodeLayout = "dense"

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """Check the parts against one another.

        Raises:
            RecipeError: with one problem for each contradiction.
        """
        parts = (self.decode, self.grid, self.levels, self.zero, self.when, self.layout, self.sides, self.overflow)
        found = list(type_problems(*parts))
        if found:
            raise RecipeError("this format makes no sense", [Problem(str(self), what) for what in found])

    @property
    def text(self) -> str:
        """Give the one-line text form; it holds neither quotes nor backslashes."""
        head = [str(self.decode)]
        head += [word for word in (self.grid, self.layout) if word not in ("mid_tread", "dense")]
        timing = [self.when] if self.when != "static" else []
        timing += [word for word in (self.rounding, self.overflow) if word not in ("rne", "saturate")]
        sections = [" ".join(head), levels_text(self.levels)]
        sections += [str(self.zero) if self.zero else "", " ".join(timing)]
        sections += map(str, self.sides)
        return " | ".join(section for section in sections if section)

    def __str__(self) -> str:
        return self.text


def granularity_block(group: Granularity) -> Block:
    """Give the block of `tensor`, of a `row` of weights, of a `token` of activations or of a group size.

    Raises:
        RecipeError: a group that is not positive.
    """
    if isinstance(group, str):
        return (-1, -1) if group == "tensor" else (1, -1)
    if group < 1:
        raise RecipeError(f"the group size {group} is not positive", fix="use 16 to 256, row or tensor")
    return (1, group)


def int_qtype(
    bits: int,
    *,
    symmetric: bool = True,
    group: Granularity = "row",
    scale: str = "f16",
    when: When = "static",
    narrow: bool = False,
    zero: Literal["pre", "post"] = "pre",
) -> QType:
    """Make the usual integer format with one level of scales.

    Symmetric codes are signed; asymmetric ones are unsigned, with an integer zero point of the codes' own
    width (`pre`) or a real one in the dtype of the scales (`post`).

    Raises:
        RecipeError: bits outside 1..8, an unknown scale dtype, or a group that is not positive.
    """
    levels = (Level(granularity_block(group), scale),)
    if symmetric:
        decode = IntDecode(bits, signed=True, narrow=narrow)
        return QType(decode, levels, when=when, grid="mid_rise" if bits == 1 else "mid_tread")
    dtype = f"u{bits}" if zero == "pre" else scale
    return QType(IntDecode(bits, signed=False), levels, Zero(zero, dtype), when)


def fixed_qtype(
    width: int,
    integer_bits: int,
    *,
    signed: bool = True,
    rounding: Rounding = "rne",
    overflow: Overflow = "saturate",
) -> QType:
    """Make fixed point of `width` bits, `integer_bits` of them (sign included) left of the point.

    Raises:
        RecipeError: a width outside 1..32.
    """
    step = math.ldexp(1.0, integer_bits - width)
    level = Level((-1, -1), "pow2", "constant", step)
    return QType(IntDecode(width, signed), (level,), rounding=rounding, overflow=overflow)

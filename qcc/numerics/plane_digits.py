"""Say which digits a code of digit planes stands for.

The code of an element is a uint8. Plane j, the lowest first, takes bit j for the digits `01` and `pm1` (0 or
-1 where the bit is clear, 1 where it is set), and bits 2j and 2j+1 for the digits `-101`, which hold the digit
plus 1. A field of 3 stands for nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qcc.errors import ShapeError
from qcc.numerics.qtype_parts import DIGIT_STATES, Digits

MAX_CODE_BITS = 8


def digit_bits(digits: Digits) -> int:
    """Give the width in bits of one digit in a code."""
    return 1 if DIGIT_STATES[digits] == 2 else 2


def check_planes(count: int, digits: Digits) -> None:
    """Raise unless the codes of `count` planes fit a byte.

    Raises:
        ShapeError: no plane, more than 8 planes of two digits, or more than 4 of three.
    """
    most = MAX_CODE_BITS // digit_bits(digits)
    if not 1 <= count <= most:
        raise ShapeError(
            f"the codes of {count} planes of the digits {digits} do not fit a byte", fix=f"use 1 to {most} planes"
        )


def digit_matrix(
    count: int, digits: Digits, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> Tensor:
    """Give the digits of every code, lowest plane first, as `[2^bits, count]` of a float `dtype`.

    The row of a ternary code that has a field of 3 is all NaN.

    Raises:
        ShapeError: planes that do not fit a byte.
    """
    check_planes(count, digits)
    bits = digit_bits(digits)
    codes = torch.arange(1 << bits * count, device=device)
    shifts = torch.arange(0, bits * count, bits, device=device)
    fields = (codes[:, None] >> shifts) & ((1 << bits) - 1)
    values = {"01": fields, "pm1": 2 * fields - 1, "-101": fields - 1}[digits].to(dtype)
    return values.masked_fill((fields == 3).any(1, keepdim=True), float("nan"))


def valid_codes(count: int, digits: Digits, device: torch.device | str | None = None) -> Tensor:
    """Give the codes that stand for a value, ascending, as int64 `[states]`.

    Raises:
        ShapeError: planes that do not fit a byte.
    """
    matrix = digit_matrix(count, digits, torch.float32, device)
    return torch.nonzero(~matrix[:, 0].isnan()).flatten()

"""Fixed-point arithmetic on integers: rounding shifts, square roots, and real factors as multiplier and shift.

Tensors are int64 throughout and every result is exact.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rounded_shift(value: Tensor, shift: Tensor | int) -> Tensor:
    """Divide by 2**shift (0..62) and round half up: `(value + (1 << shift >> 1)) >> shift`, an arithmetic shift."""
    amount = torch.as_tensor(shift, dtype=torch.int64)
    return (value + (torch.ones_like(amount) << amount >> 1)) >> amount


def integer_square_root(value: Tensor) -> Tensor:
    """Return the floor of the square root of integers from 0 to 2**62 - 1."""
    root = value.to(torch.float64).sqrt().to(torch.int64)
    # float64 has 53 bits, so the estimate may be one off either way
    root = torch.where(root * root > value, root - 1, root)
    return torch.where((root + 1) * (root + 1) <= value, root + 1, root)


def inverse_square_root(value: Tensor) -> tuple[Tensor, Tensor]:
    """Return (v, t) with `1 / sqrt(value) ~ v * 2**(t - 61)`, of integers from 1 to 2**62 - 1.

    t is the largest with `value * 4**t < 2**62`, and `v = floor(2**61 / isqrt(value * 4**t))`, from 2**30 to 2**31. The
    relative error is below 2**-29: isqrt is below the root by less than one in 2**30, and so is v.
    """
    exponent = torch.zeros_like(value)
    normal = value
    for step in (16, 8, 4, 2, 1):
        fits = normal < 1 << (62 - 2 * step)
        normal = torch.where(fits, normal << 2 * step, normal)
        exponent = torch.where(fits, exponent + step, exponent)
    return (1 << 61) // integer_square_root(normal), exponent

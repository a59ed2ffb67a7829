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


def multiplier_and_shift(ratio: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return int32 (m, s) with `ratio ~ m / 2**s`, m of at most `bits` bits and 0 <= s <= 62, elementwise.

    The relative error is at most 2**-bits, but for ratios below 2**(bits - 63), whose absolute error is below 2**-63.
    A power of two from 2**-62 up has an m of 1, or of the power itself. Ratios of 2**30 and more become 2**30: whatever
    is multiplied by them leaves every range of 30 bits.

    `ratio` is float64, of either sign and finite; `bits` is 1 to 31 (Jacob et al., arXiv 1712.05877, section 2.2).
    """
    mantissa, exponent = torch.frexp(ratio.to(torch.float64).clamp(-(2.0**30), 2.0**30))
    shift = (bits - exponent.to(torch.int64)).clamp(0, 62)
    multiplier = torch.ldexp(mantissa, shift + exponent).round().to(torch.int64)
    # rounding up may give one bit too many, and small multipliers are cheap: drop zeros at the end
    for step in (16, 8, 4, 2, 1):
        fits = (multiplier % (1 << step) == 0) & (multiplier != 0) & (shift >= step)
        multiplier = torch.where(fits, multiplier >> step, multiplier)
        shift = torch.where(fits, shift - step, shift)
    return multiplier.to(torch.int32), torch.where(multiplier == 0, 0, shift).to(torch.int32)


def codes_of(values: Tensor, scale: float, low: int, high: int) -> Tensor:
    """Return `clamp(rne(values / scale), low, high)`, int64: 0 where the scale is 0, and of NaN.

    As `quantize` does with a given symmetric scale: one float32 division for float32 values.
    """
    quotient = values / torch.tensor(scale if scale else float("inf"), dtype=values.dtype)
    return torch.nan_to_num(quotient.round(), nan=0.0).clamp(low, high).to(torch.int64)

"""List the values of small floating-point formats with a sign, E exponent bits and M mantissa bits.

With exponent field e, mantissa field m and bias b a code stands for 2^(e-b)·(1 + m/2^M), or for
2^(1-b)·m/2^M where e is 0. Importing this module does not import torch.
"""

from __future__ import annotations

import math

from qcc.numerics.qtype_parts import FloatDecode

# Only formats of this width give up codes for NaN in the OCP specifications; FP6 and FP4 have none.
OCP_NAN_BITS = 8


def native_bias(decode: FloatDecode) -> float:
    """Give the exponent bias: the declared one, or 2^(E-1) - 1 (2^(E-1) for `fnuz`)."""
    if decode.bias is not None:
        return decode.bias
    half = 2 ** (decode.exponent_bits - 1)
    return half if decode.variant == "fnuz" else half - 1


def float_values(decode: FloatDecode) -> tuple[float, ...]:
    """Give the value of every code from 0 to 2^bits - 1, with infinities and NaN where the variant has them."""
    positive = [_magnitude(decode, code) for code in range(2 ** (decode.bits - 1))]
    negative = [-value for value in positive]
    if decode.variant == "fnuz":
        negative[0] = math.nan
    return (*positive, *negative)


def largest_float(decode: FloatDecode) -> float:
    """Give the largest finite value."""
    return max(value for value in float_values(decode) if math.isfinite(value))


def overflow_code(decode: FloatDecode, negative: bool) -> int | None:
    """Give the code that a cast without saturation gives to values out of range: infinity, else NaN, if any."""
    sign = 2 ** (decode.bits - 1) if negative else 0
    match decode.variant:
        case "ieee":
            return sign + (2**decode.exponent_bits - 1 << decode.mantissa_bits)
        case "fnuz":
            return 2 ** (decode.bits - 1)
        case "ocp_fn" if decode.bits == OCP_NAN_BITS:
            return sign + 2 ** (decode.bits - 1) - 1
        case _:
            return None


def overflow_threshold(decode: FloatDecode) -> tuple[float, bool]:
    """Give where rounding to nearest leaves the range, and whether a tie there does.

    It is halfway from the largest value to what the code above it would stand for if it were no infinity or NaN.
    """
    largest = largest_float(decode)
    code = float_values(decode).index(largest)
    return (largest + _regular(decode, code + 1)) / 2, code % 2 == 1


def nan_code(decode: FloatDecode) -> int | None:
    """Give a code of NaN, or None where the format has none."""
    found = [code for code, value in enumerate(float_values(decode)) if math.isnan(value)]
    return found[0] if found else None


def _magnitude(decode: FloatDecode, code: int) -> float:
    exponent, mantissa = code >> decode.mantissa_bits, code & (2**decode.mantissa_bits - 1)
    top = exponent == 2**decode.exponent_bits - 1
    if decode.variant == "ieee" and top:
        return math.nan if mantissa else math.inf
    if code == overflow_code(decode, negative=False):
        return math.nan
    return _regular(decode, code)


def _regular(decode: FloatDecode, code: int) -> float:
    """Give what the exponent and mantissa fields of a code spell, without special codes."""
    exponent, mantissa = code >> decode.mantissa_bits, code & (2**decode.mantissa_bits - 1)
    bias = native_bias(decode)
    fraction = mantissa / 2**decode.mantissa_bits
    if exponent == 0:
        return _power_of_two(1 - bias) * fraction
    return _power_of_two(exponent - bias) * (1 + fraction)


def _power_of_two(exponent: float) -> float:
    """Give 2^exponent, exact where the exponent is whole."""
    return math.ldexp(1.0, int(exponent)) if exponent == int(exponent) else 2.0**exponent

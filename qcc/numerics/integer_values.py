"""The integers that codes stand for: what an integer contraction multiplies.

A code of a format decodes to `scale * factor * integer` with one power of two `factor` for the whole format. Integers
of a `mid_tread` grid and of a zero point taken off are themselves; a `mid_rise` grid has odd integers under one half;
a table of dyadic numbers has them over their common denominator: `table(-1, -0.5, 0, 0.5, 1)` is -2, -1, 0, 1, 2 under
one half.
"""

from __future__ import annotations

import math

import torch

from qcc.numerics.blocks import spread_blocks
from qcc.numerics.coding import element_values
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import IntDecode, PlanesDecode, TableDecode, is_integer_dtype
from qcc.numerics.stored_parts import side_parts
from qcc.numerics.tensor import QuantizedTensor, code_dtype

WIDEST = 16
"""Bits of the widest integer, sign included, that a table's or plane's value may be."""


def integer_factor(qtype: QType) -> float | None:
    """Return the power of two that a format's integers are multiplied with, or None if it has no integers.

    None is for small floats, free coefficients, selectors, side tensors, zero points that are no integers, and tables
    of numbers that are not integers of `WIDEST` bits over a common power of two.
    """
    zero, decode = qtype.zero, qtype.decode
    integer_zero = zero is None or (zero.kind == "pre" and not zero.levels and is_integer_dtype(zero.dtype))
    if side_parts(qtype) or not integer_zero or qtype.layout == "ovp":
        return None
    if isinstance(decode, IntDecode):
        return 0.5 if qtype.grid == "mid_rise" else 1.0
    table = isinstance(decode, TableDecode) and decode.selector is None
    planes = isinstance(decode, PlanesDecode) and decode.coefficients != "free"
    if not (table or planes) or zero is not None:
        return None
    values = _domain(qtype)
    if not all(map(math.isfinite, values)):
        return None
    denominator = max(value.as_integer_ratio()[1] for value in values)
    widest = max(abs(value) * denominator for value in values)
    return 1.0 / denominator if widest < 2 ** (WIDEST - 1) else None


def integer_range(qtype: QType) -> tuple[int, int]:
    """Return the least and the largest integer that codes of a format stand for; `integer_factor` is not None."""
    factor, decode, zero = integer_factor(qtype), qtype.decode, qtype.zero
    assert factor is not None
    if not isinstance(decode, IntDecode):
        values = _domain(qtype)
        return round(min(values) / factor), round(max(values) / factor)
    if factor == 0.5:
        return 2 * decode.minimum + 1, 2 * decode.maximum + 1
    if zero is None:
        return decode.minimum, decode.maximum
    offset = IntDecode(int(zero.dtype[1:]), zero.dtype[0] == "i")
    return decode.minimum - offset.maximum, decode.maximum - offset.minimum


def integer_domain(qtype: QType) -> list[int]:
    """Return every integer that a code of a format may stand for, rising; `integer_factor` is not None."""
    factor, (low, high) = integer_factor(qtype), integer_range(qtype)
    assert factor is not None
    if isinstance(qtype.decode, IntDecode):
        return list(range(low, high + 1, 2 if factor == 0.5 else 1))
    return sorted({round(value / factor) for value in _domain(qtype)})


def integer_values(quantized: QuantizedTensor) -> torch.Tensor:
    """Return the integers of a tensor, int64 of its shape; the format has some (`integer_factor`)."""
    qtype, shape = quantized.qtype, quantized.shape
    factor = integer_factor(qtype)
    assert factor is not None
    integers = (element_values(quantized.codes, qtype, torch.float64) / factor).to(torch.int64)
    if quantized.zero is None:
        return integers
    return integers - spread_blocks(quantized.zero.to(torch.int64), qtype.levels[0].block, shape).expand(shape)


def _domain(qtype: QType) -> list[float]:
    """Return every value of a table or of digit planes, before any scale."""
    decode = qtype.decode
    if isinstance(decode, TableDecode):
        return [float(value) for value in decode.tables[0]]
    assert isinstance(decode, PlanesDecode)
    codes = torch.arange(2**decode.bits).to(code_dtype(decode))
    if decode.digits == "-101":  # a field of 3 stands for nothing
        fields = torch.stack([(codes.int() >> (2 * at)) & 3 for at in range(decode.count)])
        codes = codes[(fields < 3).all(0)]
    return element_values(codes[None], qtype, torch.float64).flatten().tolist()

"""Tell which formats a contraction may sum as integers. Importing this module does not import torch."""

from __future__ import annotations

from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import IntDecode, PlanesDecode, is_integer_dtype
from qcc.numerics.stored_parts import side_parts


def has_integer_sums(qtype: QType) -> bool:
    """Say whether a format decodes to scale * integer, plus at most a real offset per block (a `post` zero point).

    Floats, tables, a choice among decodes and free coefficients do not; nor do zero points that are real numbers
    taken off the codes, have levels of their own as integers, or are scaled, nor side tensors that add values.
    """
    if not _has_integer_codes(qtype) or side_parts(qtype):
        return False
    zero = qtype.zero
    return zero is None or zero.kind == "post" or (zero.kind == "pre" and is_integer_dtype(zero.dtype))


def sums_integers(left: QType, right: QType, columns: int | None = None) -> bool:
    """Say whether the product of an input and a weight is summed as integers: then scales enter afterwards.

    The input may have no real offset. Sums over `columns` must stay within 64 bits, as those of two operands of
    32-bit fixed point may not; None asks about the formats alone.
    """
    if not has_integer_sums(left) or not has_integer_sums(right):
        return False
    if left.zero is not None and left.zero.kind == "post":
        return False
    # one bit more on either side: a mid_rise grid counts halves, and a zero point may be taken off
    return left.decode.bits + 1 + right.decode.bits + 1 + (columns or 1).bit_length() < 64


def _has_integer_codes(qtype: QType) -> bool:
    decode = qtype.decode
    return isinstance(decode, IntDecode) or (isinstance(decode, PlanesDecode) and decode.coefficients != "free")

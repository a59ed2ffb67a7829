"""Read the top bits of integer codes as codes of their own: one stored master serves every width.

MatQuant (arXiv 2502.06786) slices an 8-bit master to c bits as
clamp((q >> (8-c)) + ((q >> (7-c)) & 1), 0, 2^c - 1) << (8-c), with scale and zero point of the master.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qcc.errors import ShapeError
from qcc.numerics.qtype_parts import IntDecode


def sliced_decode(master: IntDecode, bits: int) -> IntDecode:
    """Give the decode of codes of `bits`, each standing for 2^(master.bits - bits) steps of the master.

    It holds every multiple of that step that is a code of the master, so a narrow master stays narrow and the
    slice of a code never leaves the master's range.

    Raises:
        ShapeError: a width outside 1..master.bits, or a range without any such multiple.
    """
    if not 1 <= bits <= master.bits:
        raise ShapeError(f"cannot keep {bits} bits of {master}", fix=f"keep 1 to {master.bits}")
    dropped = master.bits - bits
    low, high = -(-master.minimum >> dropped), master.maximum >> dropped
    if low > high:
        raise ShapeError(f"{master} has no code that {bits} bits can stand for", fix="keep more bits")
    plain = IntDecode(bits, master.signed)
    if (low, high) == (plain.minimum, plain.maximum):
        return plain
    if master.narrow and (low, high) == (plain.minimum + 1, plain.maximum):
        return IntDecode(bits, master.signed, narrow=True)
    return IntDecode(bits, master.signed, low=low, high=high)


def sliced_view(codes: Tensor, master: IntDecode, bits: int) -> Tensor:
    """Round codes of the master to codes of `bits`, half up, clamped to `sliced_decode`; keeps the dtype.

    The error of a code, in steps of the master with d dropped bits, is at most 2^(d-1), and at most 2^d - 1
    where the clamp acts: on the top codes, and on the lowest of a range that is no multiple of 2^d.

    Raises:
        ShapeError: see `sliced_decode`.
    """
    narrow, dropped = sliced_decode(master, bits), master.bits - bits
    if dropped == 0:
        return codes
    wide = codes.to(torch.int16 if master.bits <= 8 else torch.int64)
    rounded = (wide >> dropped) + ((wide >> (dropped - 1)) & 1)
    return rounded.clamp(narrow.minimum, narrow.maximum).to(codes.dtype)


def slice_codes(codes: Tensor, master: IntDecode, bits: int) -> Tensor:
    """Round codes of the master to those that `bits` can stand for; scale and zero point stay; keeps the dtype.

    `sliced_view(codes) << (master.bits - bits)`.

    Raises:
        ShapeError: see `sliced_decode`.
    """
    return sliced_view(codes, master, bits) << (master.bits - bits)

"""What solvers cannot do with a format, asked before anything runs. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Callable

from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import IntDecode, LowRank, PlanesDecode, Sparse
from qcc.numerics.stored_parts import side_parts


def any_format(qtype: QType) -> str:
    """Say nothing: every format will do."""
    return ""


def not_apart(qtype: QType) -> str:
    """Say why columns cannot be coded one by one; nothing if they can."""
    if qtype.layout == "ovp":
        return "codes columns in pairs, and this solver codes one after another"
    if found := [str(side) for side in side_parts(qtype) if not isinstance(side, Sparse | LowRank)]:
        return f"has side tensors ({', '.join(found)}), which this solver does not know"
    return ""


def not_linear(qtype: QType) -> str:
    """Say why what codes stand for is not linear in one level of float scales; nothing if it is."""
    if reason := not_apart(qtype):
        return reason
    decode = qtype.decode
    integers = isinstance(decode, IntDecode) and (qtype.zero is None or qtype.zero.kind in ("pre", "post"))
    planes = isinstance(decode, PlanesDecode)
    fitted = len(qtype.levels) == 1 and qtype.levels[0].dtype in ("f32", "f16", "bf16")
    plain = qtype.zero is None or not qtype.zero.levels
    if not (integers or planes) or not fitted or not plain:
        return "is not linear in one level of float scales: write integers or digit planes with f16 or f32 scales"
    return ""


def no_planes(digits: str) -> Callable[[QType], str]:
    """Return what says that a format has no digit planes of given digits with free coefficients, if so."""

    def problem(qtype: QType) -> str:
        decode = qtype.decode
        if isinstance(decode, PlanesDecode) and decode.digits == digits and decode.coefficients == "free":
            return ""
        return f"has no digit planes {digits} with free coefficients: write planes(k, {digits}, free) | (1,128) f16"

    return problem

"""Prove that a mask holds no infinity and no NaN."""

from __future__ import annotations

import math

from xdsl.ir import SSAValue

from qcc.ir.elementwise import BinaryOp, CastOp, UnaryOp, WhereOp
from qcc.ir.gather import GatherOp, IndexOp
from qcc.ir.program import ConstantOp
from qcc.ir.shape import ExpandOp, ReshapeOp, SliceOp, TransposeOp
from qcc.ir.types import type_of

_LARGEST = {"f64": 1.7976931348623157e308, "f32": 3.4028234663852886e38, "f16": 65504.0, "bf16": 3.3895313892515355e38}


def is_finite(value: SSAValue) -> bool:
    """Say whether every element is provably finite in its element type."""
    bound = magnitude(value)
    kind = type_of(value)
    return bound is not None and (not kind.is_float or bound <= _LARGEST[kind.scalar])


def magnitude(value: SSAValue) -> float | None:
    """Return a bound on the magnitude of the elements, or None where there is no proof of one."""
    op = value.owner
    if type_of(value).qtype is not None:
        return None
    if type_of(value).scalar == "i1":
        return 1.0
    match op:
        case ConstantOp():
            return abs(float(op.number)) if math.isfinite(float(op.number)) else None
        case ReshapeOp() | ExpandOp() | TransposeOp() | SliceOp() | CastOp():
            return magnitude(op.input)
        case IndexOp() | GatherOp():
            return magnitude(op.input)
        case UnaryOp() if op.function.data in ("neg", "abs"):
            return magnitude(op.input)
        case WhereOp():
            return _both(op.lhs, op.rhs, "max")
        case BinaryOp():
            return _both(op.lhs, op.rhs, str(op.function.data.value))
        case _:
            return None


def _both(lhs: SSAValue, rhs: SSAValue, function: str) -> float | None:
    left, right = magnitude(lhs), magnitude(rhs)
    if left is None or right is None:
        return None
    match function:
        case "add" | "sub":
            return left + right
        case "mul":
            return left * right
        case "max" | "min":
            return max(left, right)
        case _:
            return None

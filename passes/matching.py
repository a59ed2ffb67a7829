"""Questions that patterns ask about the operations behind a value. Nothing here changes the module."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypeVar

from xdsl.ir import Operation, SSAValue

from qcc.ir.dims import Dim, Shape
from qcc.ir.elementwise import BinaryOp, CastOp, UnaryOp
from qcc.ir.gather import ReduceOp
from qcc.ir.program import ConstantOp, WeightOp, int_array
from qcc.ir.shape import ExpandOp, ReshapeOp, SliceOp, TransposeOp
from qcc.ir.types import type_of

OpT = TypeVar("OpT", bound=Operation)
Pair = tuple[SSAValue, SSAValue]

# how far a constant may be from its formula: a float32 rounding, nothing more
_RELATIVE = 1e-7


def shape_of(value: SSAValue) -> Shape:
    """Return the symbolic shape of a value."""
    return type_of(value).shape


def made_by(value: SSAValue, kind: type[OpT]) -> OpT | None:
    """Return the operation of a kind that makes a value, or None."""
    return value.owner if isinstance(value.owner, kind) else None


def unary(value: SSAValue, function: str) -> SSAValue | None:
    """Return x where the value is `function(x)`."""
    op = made_by(value, UnaryOp)
    return op.input if op is not None and op.function.data == function else None


def binary(value: SSAValue, function: str) -> Pair | None:
    """Return (a, b) where the value is `function(a, b)`."""
    op = made_by(value, BinaryOp)
    return (op.lhs, op.rhs) if op is not None and op.function.data == function else None


def either_order(pair: Pair | None) -> Iterator[Pair]:
    """Give both orders of the operands of a commutative operation."""
    if pair is not None:
        yield pair
        yield pair[1], pair[0]


def with_number(value: SSAValue, function: str) -> tuple[SSAValue, float] | None:
    """Return (x, c) where the value is `function(x, c)`, or for `add` and `mul` also `function(c, x)`."""
    pair = binary(value, function)
    orders = either_order(pair) if function in ("add", "mul", "max", "min") else iter([pair] if pair else [])
    for one, other in orders:
        number = number_of(other)
        if number is not None:
            return one, number
    return None


def number_of(value: SSAValue) -> float | None:
    """Return the number that fills a tensor, if it is filled with one."""
    op = value.owner
    if isinstance(op, ConstantOp):
        return float(op.number)
    if isinstance(op, ReshapeOp | ExpandOp | TransposeOp | SliceOp):
        return number_of(op.input)
    return None


def is_number(value: SSAValue, number: float) -> bool:
    """Say whether a tensor is filled with a number (up to a float32 rounding)."""
    return (found := number_of(value)) is not None and is_near(found, number)


def is_near(found: float, wanted: float) -> bool:
    """Say whether two constants are equal up to a float32 rounding."""
    return found == wanted or math.isclose(found, wanted, rel_tol=_RELATIVE)


def mean_of(value: SSAValue) -> SSAValue | None:
    """Return x where the value is the mean of x over its last axis, which stays with size 1."""
    op = made_by(value, ReduceOp)
    if op is not None and op.reduction.data == "mean":
        return op.input if over_last_axis(op) else None
    for function, sign in (("div", 1), ("mul", -1)):
        found = with_number(value, function)
        total = None if found is None else made_by(found[0], ReduceOp)
        if found is None or total is None or total.reduction.data != "sum" or not over_last_axis(total):
            continue
        size = shape_of(total.input)[-1].constant
        if size and is_near(found[1], float(size) ** sign):
            return total.input
    return None


def over_last_axis(op: ReduceOp) -> bool:
    """Say whether a reduction is over the last axis alone and keeps it."""
    return bool(op.keep) and int_array(op.axes) == (type_of(op.input).rank - 1,)


def strip_scale(value: SSAValue) -> tuple[SSAValue, float]:
    """Split a value into another one and the number that it is multiplied by."""
    factor = 1.0
    while True:
        if (found := with_number(value, "mul")) is not None and shape_of(found[0]) == shape_of(value):
            value, factor = found[0], factor * found[1]
        elif (found := with_number(value, "div")) is not None and found[1] != 0:
            value, factor = found[0], factor / found[1]
        else:
            return value, factor


def factors_of(value: SSAValue, atom: SSAValue | None = None) -> tuple[list[SSAValue], float]:
    """Split a product into its factors that are no numbers, and the product of its numbers; `atom` stays whole."""
    if value is atom:
        return [value], 1.0
    number = number_of(value)
    if number is not None:
        return [], number
    pair = binary(value, "mul")
    if pair is not None:
        (left, a), (right, b) = factors_of(pair[0], atom), factors_of(pair[1], atom)
        return left + right, a * b
    quotient = with_number(value, "div")
    if quotient is not None and quotient[1] != 0:
        factors, scale = factors_of(quotient[0], atom)
        return factors, scale / quotient[1]
    return [value], 1.0


def is_stored(value: SSAValue) -> bool:
    """Say whether a value is a weight, or one moved or cast."""
    op = value.owner
    if isinstance(op, ReshapeOp | TransposeOp | CastOp | SliceOp):
        return is_stored(op.input)
    return isinstance(op, WeightOp)


def has_one_use(value: SSAValue) -> bool:
    """Say whether exactly one operand reads a value."""
    return value.has_one_use()


def is_zero(dim: Dim) -> bool:
    """Say whether a dimension is the constant 0."""
    return dim.constant == 0

"""Lower elementwise operations: every operand is a strided view of the result's shape."""

from __future__ import annotations

from collections.abc import Callable

from xdsl.ir import Operation

from qcc.backends.cpu.fields import dtype, nd_fields, read, write
from qcc.backends.cpu.lowering import Lowering
from qcc.backends.cpu.refusal import Refusal
from qcc.backends.cpu.statements import Raw
from qcc.backends.cpu.views import View
from qcc.ir.elementwise import BinaryFunction, BinaryOp, CastOp, UnaryFunction, UnaryOp, WhereOp
from qcc.ir.types import type_of

UNARY: dict[UnaryFunction, str] = {
    UnaryFunction.ABS: "QCC_ABS",
    UnaryFunction.NEG: "QCC_NEG",
    UnaryFunction.EXP: "QCC_EXP",
    UnaryFunction.LOG: "QCC_LOG",
    UnaryFunction.SQRT: "QCC_SQRT",
    UnaryFunction.RSQRT: "QCC_RSQRT",
    UnaryFunction.RECIPROCAL: "QCC_RECIPROCAL",
    UnaryFunction.SIN: "QCC_SIN",
    UnaryFunction.COS: "QCC_COS",
    UnaryFunction.TANH: "QCC_TANH",
    UnaryFunction.ERF: "QCC_ERF",
    UnaryFunction.SIGMOID: "QCC_SIGMOID",
    UnaryFunction.RELU: "QCC_RELU",
    UnaryFunction.SILU: "QCC_SILU",
    UnaryFunction.GELU: "QCC_GELU",
    UnaryFunction.GELU_TANH: "QCC_GELU_TANH",
    UnaryFunction.HARDSWISH: "QCC_HARD_SWISH",
    UnaryFunction.HARDSIGMOID: "QCC_HARD_SIGMOID",
    UnaryFunction.FLOOR: "QCC_FLOOR",
    UnaryFunction.NOT: "QCC_NOT",
}
"""Functions of one number by the kernels' names; `isnan` is the comparison x != x."""

BINARY: dict[BinaryFunction, str] = {
    BinaryFunction.ADD: "QCC_ADD",
    BinaryFunction.SUB: "QCC_SUB",
    BinaryFunction.MUL: "QCC_MUL",
    BinaryFunction.DIV: "QCC_DIV",
    BinaryFunction.MAX: "QCC_MAX",
    BinaryFunction.MIN: "QCC_MIN",
    BinaryFunction.POW: "QCC_POW",
    BinaryFunction.FLOORDIV: "QCC_FLOOR_DIV",
    BinaryFunction.MOD: "QCC_MOD",
    BinaryFunction.AND: "QCC_AND",
    BinaryFunction.OR: "QCC_OR",
    BinaryFunction.XOR: "QCC_XOR",
    BinaryFunction.EQ: "QCC_EQ",
    BinaryFunction.NE: "QCC_NE",
    BinaryFunction.LT: "QCC_LT",
    BinaryFunction.LE: "QCC_LE",
    BinaryFunction.GT: "QCC_GT",
    BinaryFunction.GE: "QCC_GE",
}
"""Functions of two numbers by the kernels' names."""

_LOGICAL = {"QCC_AND", "QCC_OR", "QCC_XOR", "QCC_EQ", "QCC_NE", "QCC_LT", "QCC_LE", "QCC_GT", "QCC_GE"}
KERNEL_SCALARS = ("f32", "i64", "i32", "i8", "u8")
"""Element types of the arithmetic kernels."""
_COSTLY = 8
"""Steps that an elementwise function is taken to cost when calls are split over threads."""


def emit_unary(low: Lowering, op: UnaryOp) -> None:
    """Lower `qcc.unary`."""
    source = low.view(op.input)
    if op.function.data is UnaryFunction.ISNAN:
        emit_binary_views(low, "QCC_NE", source, source, low.result(op.result))
        return
    if source.scalar not in (*KERNEL_SCALARS, "i1"):
        raise Refusal(f"has no kernel for {source.scalar}", "cast to f32 before it")
    target = low.result(op.result)
    x, y = low.collapsed([source, target])
    low.call(
        "unary",
        {
            "x": read(x),
            "y": write(y),
            **nd_fields({"x_stride": x, "y_stride": y}),
            "op": Raw(UNARY[op.function.data]),
            "dtype": dtype(x),
        },
        source.elements * _COSTLY,
    )


def emit_binary(low: Lowering, op: BinaryOp) -> None:
    """Lower `qcc.binary`."""
    target = low.result(op.result)
    left, right = (low.view(one).expand(target.shape) for one in (op.lhs, op.rhs))
    emit_binary_views(low, BINARY[op.function.data], left, right, target)


def emit_binary_views(low: Lowering, function: str, left: View, right: View, target: View) -> None:
    """Combine two views of the result's shape."""
    if left.scalar not in KERNEL_SCALARS and not (left.scalar == "i1" and function in _LOGICAL):
        raise Refusal(f"{function} has no kernel for {left.scalar}", "cast to f32 or i64 before it")
    a, b, y = low.collapsed([left, right, target])
    low.call(
        "binary",
        {
            "a": read(a),
            "b": read(b),
            "y": write(y),
            **nd_fields({"a_stride": a, "b_stride": b, "y_stride": y}),
            "op": Raw(function),
            "dtype": dtype(a),
        },
        target.elements * (_COSTLY if function == "QCC_POW" else 1),
    )


def emit_where(low: Lowering, op: WhereOp) -> None:
    """Lower `qcc.where`."""
    target = low.result(op.result)
    operands = [low.view(one).expand(target.shape) for one in (op.condition, op.lhs, op.rhs)]
    condition, a, b, y = low.collapsed([*operands, target])
    low.call(
        "where",
        {
            "condition": read(condition),
            "a": read(a),
            "b": read(b),
            "y": write(y),
            **nd_fields({"condition_stride": condition, "a_stride": a, "b_stride": b, "y_stride": y}),
            "element_size": y.element_bytes,
        },
        target.elements,
    )


def emit_cast(low: Lowering, op: CastOp) -> None:
    """Lower `qcc.cast`; a cast to the same type is a view."""
    low.views[op.result] = low.cast(low.view(op.input), type_of(op.result).scalar)


LOWERINGS: dict[type[Operation], Callable[..., None]] = {
    UnaryOp: emit_unary,
    BinaryOp: emit_binary,
    WhereOp: emit_where,
    CastOp: emit_cast,
}

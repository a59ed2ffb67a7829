"""Meaning of the elementwise operations.

float16 and bfloat16 are computed in float32 and rounded once, at the result of each operation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from qcc.interpreter.values import Evaluate, Frame, wide
from qcc.ir import elementwise as ir
from qcc.ir.elementwise import BinaryFunction
from qcc.ir.types import type_of
from qcc.numerics.functions import UNARY


def _floordiv(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.div(a, b, rounding_mode="floor")


BINARY: dict[BinaryFunction, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    BinaryFunction.ADD: torch.add,
    BinaryFunction.SUB: torch.sub,
    BinaryFunction.MUL: torch.mul,
    BinaryFunction.DIV: torch.div,
    BinaryFunction.MAX: torch.maximum,
    BinaryFunction.MIN: torch.minimum,
    BinaryFunction.POW: torch.pow,
    BinaryFunction.FLOORDIV: _floordiv,
    BinaryFunction.MOD: torch.remainder,
    BinaryFunction.AND: torch.bitwise_and,
    BinaryFunction.OR: torch.bitwise_or,
    BinaryFunction.XOR: torch.bitwise_xor,
    BinaryFunction.EQ: torch.eq,
    BinaryFunction.NE: torch.ne,
    BinaryFunction.LT: torch.lt,
    BinaryFunction.LE: torch.le,
    BinaryFunction.GT: torch.gt,
    BinaryFunction.GE: torch.ge,
}


def _unary(op: ir.UnaryOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    return UNARY[op.function.data](wide(args[0])).to(frame.torch_dtype(type_of(op.result)))


def _binary(op: ir.BinaryOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    # torch lets a rank-0 tensor follow the other operand's dtype; both have the same dtype here
    return BINARY[op.function.data](wide(args[0]), wide(args[1])).to(frame.torch_dtype(type_of(op.result)))


def _where(op: ir.WhereOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    return torch.where(args[0], args[1], args[2])


def _cast(op: ir.CastOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    return args[0].to(frame.torch_dtype(type_of(op.result)))


TABLE: dict[type, Evaluate] = {
    ir.UnaryOp: _unary,
    ir.BinaryOp: _binary,
    ir.WhereOp: _where,
    ir.CastOp: _cast,
}

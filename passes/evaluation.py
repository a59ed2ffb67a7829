"""Evaluate the few operations that passes fold, on actual weights. They round as the interpreter does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from xdsl.ir import Operation

from qcc.errors import UnsupportedOp
from qcc.ir.elementwise import BinaryOp, CastOp
from qcc.ir.program import ConstantOp
from qcc.ir.shape import ConcatOp, ReshapeOp, SliceOp, TransposeOp
from qcc.ir.types import TensorType, type_of
from qcc.numerics.torch_dtypes import TORCH_DTYPES

ARITHMETIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
}


def evaluate(op: Operation, operands: Sequence[Tensor]) -> Tensor:
    """Return the contiguous result of an operation of static shape.

    Raises:
        UnsupportedOp: for an operation that is never folded.
    """
    kind = type_of(op.results[0])
    match op:
        case ConstantOp():
            result = torch.full(_sizes(kind), op.number)
        case TransposeOp():
            result = operands[0].permute(op.axes)
        case ReshapeOp():
            result = operands[0].reshape(_sizes(kind))
        case SliceOp():
            axis, step, start = op.axis.value.data, op.step.value.data, op.start.data.constant or 0
            window = start + step * torch.arange(_sizes(kind)[axis])
            result = operands[0].index_select(axis, window)
        case ConcatOp():
            result = torch.cat(list(operands), op.axis.value.data)
        case CastOp():
            result = operands[0]
        case BinaryOp() if op.function.data in ARITHMETIC:
            wide = [one.float() if one.dtype in (torch.float16, torch.bfloat16) else one for one in operands]
            result = ARITHMETIC[op.function.data](*wide)
        case _:
            raise UnsupportedOp(f"{op.name} is not evaluated at compile time")
    return result.to(TORCH_DTYPES[kind.scalar]).contiguous()


def _sizes(kind: TensorType) -> tuple[int, ...]:
    sizes = kind.static_shape
    assert sizes is not None  # callers fold static shapes only
    return sizes

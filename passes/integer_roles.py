"""What integer-only programs ask of the values that an operation reads, and what they make of its result.

Two passes ask: the one that puts quantizers between operations, and the one that lowers to integers. They must agree.
"""

from __future__ import annotations

from enum import Enum

from xdsl.ir import Operation, SSAValue

from qcc.ir.elementwise import BinaryOp, CastOp, UnaryFunction, UnaryOp, WhereOp
from qcc.ir.gather import GatherOp, IndexOp, ReduceOp, Reduction
from qcc.ir.nn import ConvOp, EmbeddingOp, LinearOp, MatmulOp, PoolKind, PoolOp, SoftmaxOp, UnfoldOp
from qcc.ir.program import ConstantOp, ReturnOp, WeightOp
from qcc.ir.quant import ContractOp, DequantizeOp, QuantizeOp
from qcc.ir.shape import ConcatOp, ExpandOp, PadOp, ReshapeOp, SliceOp, TransposeOp
from qcc.ir.transformer import AttentionOp, BatchNormOp, NormOp
from qcc.ir.types import type_of


class Role(Enum):
    """What an operation needs of an operand."""

    ANY = "any"  # codes or sums, of whatever width
    CODES = "codes"  # codes of whatever width, which it hands on
    PRODUCT = "product"  # codes of the width that products are taken of
    TABLE = "table"  # codes few enough to index a table
    ROWS = "rows"  # codes wide enough for the statistics of a row
    NONE = "none"  # nothing: a constant, or no float


MOVES = (ReshapeOp, TransposeOp, ExpandOp, SliceOp)
"""Operations that move elements, whatever these are."""

_KEEPS_CONSTANT = (*MOVES, QuantizeOp, DequantizeOp, CastOp, ConcatOp, BinaryOp)
_PICKS = (UnfoldOp, GatherOp, IndexOp, PadOp)
_PRODUCTS = (ContractOp, ConvOp, LinearOp, MatmulOp, AttentionOp, ReturnOp)
_SUMMED = ("add", "sub", "max", "min")
_UNARY_SUMS = (UnaryFunction.RELU, UnaryFunction.NEG)


def is_constant(value: SSAValue) -> bool:
    """Say whether a value is a weight, a number, or one of these decoded or moved."""
    owner = value.owner
    if isinstance(owner, _KEEPS_CONSTANT):
        return all(map(is_constant, owner.operands))
    return isinstance(owner, WeightOp | ConstantOp)


def role_of(op: Operation, index: int) -> Role:
    """Return what an operation needs of operand `index`."""
    value = op.operands[index]
    if type_of(value).qtype is not None or not type_of(value).is_float or is_constant(value):
        return Role.NONE
    if isinstance(op, _PRODUCTS):
        return Role.PRODUCT
    if isinstance(op, NormOp):
        return Role.ROWS
    if isinstance(op, (PoolOp, ReduceOp, ConcatOp, *_PICKS)):
        return Role.CODES
    if isinstance(op, UnaryOp):
        return Role.ANY if op.function.data in _UNARY_SUMS else Role.TABLE
    return _binary_role(op) if isinstance(op, BinaryOp) else Role.ANY


def _binary_role(op: BinaryOp) -> Role:
    function = op.function.data
    if function in _SUMMED:
        return Role.ANY
    constant = is_constant(op.lhs) or is_constant(op.rhs)
    if function == "mul":
        return Role.ANY if constant else Role.PRODUCT
    if function == "div" and is_constant(op.rhs):
        return Role.ANY
    return Role.TABLE if constant else Role.PRODUCT


def hands_on_codes(op: Operation) -> bool:
    """Say whether the result of an operation on codes is codes of the same scale, so that nothing is to be rounded."""
    if isinstance(op, PoolOp):
        return op.kind.data is PoolKind.MAX
    if isinstance(op, ReduceOp):
        return op.reduction.data in (Reduction.MAX, Reduction.MIN)
    if isinstance(op, UnaryOp):
        return op.function.data is UnaryFunction.RELU
    if isinstance(op, BinaryOp):
        return op.function.data in ("max", "min") and is_constant(op.rhs)
    return isinstance(op, MOVES + _PICKS)


def is_made_whole(op: Operation) -> bool:
    """Say whether an operation gives codes of a scale that is chosen for it, not sums that are rounded later."""
    if isinstance(op, UnaryOp):
        return op.function.data not in _UNARY_SUMS
    if isinstance(op, BinaryOp):
        return _binary_role(op) is Role.TABLE
    return isinstance(op, NormOp | SoftmaxOp | EmbeddingOp | ConcatOp)


def is_known(op: Operation) -> bool:
    """Say whether integer-only programs have an operation for this one at all."""
    if isinstance(op, BinaryOp):
        constant = is_constant(op.lhs) or is_constant(op.rhs)
        return op.function.data in (*_SUMMED, "mul") or (constant and op.function.data in ("div", "pow"))
    return isinstance(
        op,
        MOVES
        + _PICKS
        + _PRODUCTS
        + (PoolOp, ReduceOp, ConcatOp, UnaryOp, WhereOp, BatchNormOp, NormOp, SoftmaxOp, EmbeddingOp),
    )

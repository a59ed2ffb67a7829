"""Emits operations of the dialect, located and verified one by one; what changes nothing is not emitted."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.ir import Block, Operation, SSAValue
from xdsl.utils.exceptions import VerifyException

from qcc.frontend.dtypes import Number
from qcc.frontend.refusal import Refusal
from qcc.frontend.symbols import Symbols
from qcc.ir.base import set_location
from qcc.ir.dims import Dim, shape_of
from qcc.ir.elementwise import BinaryOp, CastOp, UnaryOp, WhereOp
from qcc.ir.gather import ReduceOp
from qcc.ir.program import ConstantOp, DimOp
from qcc.ir.shape import ExpandOp, ReshapeOp, SliceOp, TransposeOp
from qcc.ir.types import TensorType, tensor, type_of

Sizes = Sequence[Dim | int | str]


class Builder:
    """Appends operations to a block. `place` says where in the user's model they come from."""

    def __init__(self, block: Block, symbols: Symbols) -> None:
        self.block = block
        self.symbols = symbols
        self.place = ""

    def add(self, op: Operation) -> SSAValue:
        """Append an operation and return its result.

        Raises:
            Refusal: if the operation's verifier refuses it.
        """
        self.append(op)
        return op.results[0]

    def append(self, op: Operation) -> None:
        """Append an operation that may have no result."""
        set_location(op, self.place)
        try:
            op.verify()
        except VerifyException as error:
            raise Refusal(str(error)) from error
        self.block.add_op(op)

    def cast(self, value: SSAValue, scalar: str) -> SSAValue:
        """Convert the elements."""
        return value if type_of(value).scalar == scalar else self.add(CastOp(value, scalar))

    def constant(self, number: Number, scalar: str, shape: Sizes = ()) -> SSAValue:
        """Make a tensor filled with one number."""
        return self.add(ConstantOp(number, tensor(shape, scalar)))

    def operand(self, value: object, scalar: str) -> SSAValue:
        """Make an elementwise operand of a tensor, a number or a dimension."""
        if isinstance(value, SSAValue):
            return self.cast(value, scalar)
        if isinstance(value, Dim):
            if value.constant is None:
                return self.cast(self.add(DimOp(value, tensor([], "i64"))), scalar)
            value = value.constant
        if not isinstance(value, int | float):
            raise Refusal(f"{value!r} is no number")
        return self.constant(value, scalar)

    def unary(self, function: str, value: SSAValue) -> SSAValue:
        """Apply a function of one number."""
        return self.add(UnaryOp(function, value))

    def binary(self, function: str, lhs: SSAValue, rhs: SSAValue) -> SSAValue:
        """Combine two tensors of one element type."""
        return self.add(BinaryOp(function, lhs, rhs))

    def with_number(self, function: str, lhs: SSAValue, number: Number) -> SSAValue:
        """Combine a tensor with a number."""
        return self.binary(function, lhs, self.constant(number, type_of(lhs).scalar))

    def where(self, condition: SSAValue, lhs: SSAValue, rhs: SSAValue) -> SSAValue:
        """Choose between two tensors of one element type."""
        return self.add(WhereOp(condition, lhs, rhs))

    def reduce(self, reduction: str, value: SSAValue, axes: Sequence[int], keep: bool) -> SSAValue:
        """Reduce over axes; over none, the value stays."""
        return self.add(ReduceOp(reduction, value, sorted(axes), keep)) if axes else value

    def reshape(self, value: SSAValue, shape: Sizes) -> SSAValue:
        """Give the elements another shape."""
        return value if type_of(value).shape == shape_of(shape) else self.add(ReshapeOp(value, shape))

    def expand(self, value: SSAValue, shape: Sizes) -> SSAValue:
        """Broadcast to a shape."""
        return value if type_of(value).shape == shape_of(shape) else self.add(ExpandOp(value, shape))

    def transpose(self, value: SSAValue, permutation: Sequence[int]) -> SSAValue:
        """Reorder the axes."""
        if list(permutation) == list(range(type_of(value).rank)):
            return value
        return self.add(TransposeOp(value, permutation))

    def slice(self, value: SSAValue, axis: int, start: Dim | int, size: Dim | int, step: int = 1) -> SSAValue:
        """Take `size` elements from `start` on along one axis."""
        whole = Dim.of(start) == Dim.of(0) and step == 1 and type_of(value).shape[axis] == Dim.of(size)
        return value if whole else self.add(SliceOp(value, axis, start, size, step))

    def stand_in(self, kind: TensorType) -> SSAValue:
        """Stand for a value that could not be made, so that later nodes are still looked at."""
        op = ConstantOp(0, kind)
        self.block.add_op(op)
        return op.results[0]


def swap(rank: int, first: int, second: int) -> list[int]:
    """Return the permutation that exchanges two axes."""
    permutation = list(range(rank))
    permutation[first % rank], permutation[second % rank] = second % rank, first % rank
    return permutation


def inverse(permutation: Sequence[int]) -> list[int]:
    """Return the permutation that undoes another."""
    result = [0] * len(permutation)
    for position, axis in enumerate(permutation):
        result[axis] = position
    return result

"""Operations that move elements: the reshape family."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import DenseArrayBase, FloatAttr, IntegerAttr
from xdsl.irdl import (
    irdl_op_definition,
    operand_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.traits import Pure

from qcc.ir.base import (
    Operand,
    QccOperation,
    dim_attr,
    expect_axis,
    expect_same_element,
    expect_shape,
    integer,
    integers,
    operand_type,
    real,
    refuse,
    show,
)
from qcc.ir.dims import Dim, broadcast, product
from qcc.ir.program import int_array
from qcc.ir.types import DimAttr, TensorType, type_of


@irdl_op_definition
class ReshapeOp(QccOperation):
    """Give the elements, in row-major order, another shape."""

    name = "qcc.reshape"

    input = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$input attr-dict `:` functional-type(operands, results)"

    def __init__(self, value: Operand, shape: Sequence[Dim | int | str]) -> None:
        super().__init__(operands=[value], result_types=[operand_type(value).with_shape(shape)])

    def verify_(self) -> None:
        """Refuse another number or type of elements."""
        expect_same_element(self, [self.input, self.result])
        before, after = type_of(self.input).shape, type_of(self.result).shape
        if product(before) != product(after):
            raise refuse(self, f"{show(before)} and {show(after)} hold different numbers of elements")


@irdl_op_definition
class TransposeOp(QccOperation):
    """Result axis i is operand axis `permutation[i]`."""

    name = "qcc.transpose"

    permutation = prop_def(DenseArrayBase)
    input = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$input attr-dict `:` functional-type(operands, results)"

    def __init__(self, value: Operand, permutation: Sequence[int]) -> None:
        kind = operand_type(value)
        super().__init__(
            properties={"permutation": integers(permutation)},
            operands=[value],
            result_types=[kind.with_shape([kind.shape[axis] for axis in permutation])],
        )

    @property
    def axes(self) -> tuple[int, ...]:
        """The permutation."""
        return int_array(self.permutation)

    def verify_(self) -> None:
        """Refuse what is no permutation of the operand's axes."""
        shape = type_of(self.input).shape
        if sorted(self.axes) != list(range(len(shape))):
            raise refuse(self, f"{list(self.axes)} is no permutation of {len(shape)} axes")
        expect_same_element(self, [self.input, self.result])
        expect_shape(self, self.result, tuple(shape[axis] for axis in self.axes))


@irdl_op_definition
class ExpandOp(QccOperation):
    """Broadcast to the result's shape; new axes come first."""

    name = "qcc.expand"

    input = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$input attr-dict `:` functional-type(operands, results)"

    def __init__(self, value: Operand, shape: Sequence[Dim | int | str]) -> None:
        super().__init__(operands=[value], result_types=[operand_type(value).with_shape(shape)])

    def verify_(self) -> None:
        """Refuse a result that the operand does not broadcast to."""
        expect_same_element(self, [self.input, self.result])
        wide = type_of(self.result).shape
        if broadcast([type_of(self.input).shape, wide]) != wide:
            raise refuse(self, f"{show(type_of(self.input).shape)} does not broadcast to {show(wide)}")


@irdl_op_definition
class SliceOp(QccOperation):
    """Elements `start + step * i` along one axis, i below the result's size."""

    name = "qcc.slice"

    axis = prop_def(IntegerAttr)
    start = prop_def(DimAttr)
    step = prop_def(IntegerAttr)
    input = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$input attr-dict `:` functional-type(operands, results)"

    def __init__(self, value: Operand, axis: int, start: Dim | int | str, size: Dim | int | str, step: int = 1) -> None:
        kind = operand_type(value)
        shape = list(kind.shape)
        shape[axis] = Dim.of(size)
        super().__init__(
            properties={"axis": integer(axis), "start": dim_attr(start), "step": integer(step)},
            operands=[value],
            result_types=[kind.with_shape(shape)],
        )

    def verify_(self) -> None:
        """Refuse a change on another axis, and a static range outside the operand."""
        expect_same_element(self, [self.input, self.result])
        shape, found = type_of(self.input).shape, type_of(self.result).shape
        axis = expect_axis(self, self.axis.value.data, len(shape))
        if len(found) != len(shape) or any(
            a != b for i, (a, b) in enumerate(zip(shape, found, strict=True)) if i != axis
        ):
            raise refuse(self, f"{show(found)} is no slice of {show(shape)} along axis {axis}")
        step = self.step.value.data
        if step < 1:
            raise refuse(self, f"step {step} is not positive")
        last = self.start.data + (found[axis] - 1) * step
        size, end, length = shape[axis].constant, last.constant, found[axis].constant
        if size is not None and end is not None and length != 0 and not 0 <= end < size:
            raise refuse(self, f"reads element {end} of axis {axis}, which has {size}")


@irdl_op_definition
class ConcatOp(QccOperation):
    """Join tensors along one axis."""

    name = "qcc.concat"

    axis = prop_def(IntegerAttr)
    inputs = var_operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$inputs attr-dict `:` functional-type(operands, results)"

    def __init__(self, values: Sequence[Operand], axis: int) -> None:
        kinds = [operand_type(value) for value in values]
        shape = list(kinds[0].shape)
        for kind in kinds[1:]:
            shape[axis] = shape[axis] + kind.shape[axis]
        super().__init__(
            properties={"axis": integer(axis)},
            operands=[list(values)],
            result_types=[kinds[0].with_shape(shape)],
        )

    def verify_(self) -> None:
        """Refuse tensors that differ on another axis."""
        if not self.inputs:
            raise refuse(self, "joins nothing")
        expect_same_element(self, [*self.inputs, self.result])
        shapes = [type_of(value).shape for value in self.inputs]
        axis = expect_axis(self, self.axis.value.data, len(shapes[0]))
        total = Dim.of(0)
        for shape in shapes:
            if len(shape) != len(shapes[0]) or any(
                a != b for i, (a, b) in enumerate(zip(shape, shapes[0], strict=True)) if i != axis
            ):
                raise refuse(self, f"{show(shape)} and {show(shapes[0])} differ on an axis other than {axis}")
            total = total + shape[axis]
        expect_shape(self, self.result, (*shapes[0][:axis], total, *shapes[0][axis + 1 :]))


@irdl_op_definition
class PadOp(QccOperation):
    """Put `low[i]` elements before and `high[i]` after axis i, all equal to `value`."""

    name = "qcc.pad"

    low = prop_def(DenseArrayBase)
    high = prop_def(DenseArrayBase)
    value = prop_def(FloatAttr)
    input = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$input attr-dict `:` functional-type(operands, results)"

    def __init__(self, value: Operand, low: Sequence[int], high: Sequence[int], fill: float = 0.0) -> None:
        kind = operand_type(value)
        shape = [dim + before + after for dim, before, after in zip(kind.shape, low, high, strict=True)]
        super().__init__(
            properties={"low": integers(low), "high": integers(high), "value": real(fill)},
            operands=[value],
            result_types=[kind.with_shape(shape)],
        )

    def verify_(self) -> None:
        """Refuse widths that do not match the axes, or are negative."""
        shape, low, high = type_of(self.input).shape, int_array(self.low), int_array(self.high)
        if not len(shape) == len(low) == len(high) or min((*low, *high), default=0) < 0:
            raise refuse(self, f"pads {show(shape)} by {list(low)} and {list(high)}")
        expect_same_element(self, [self.input, self.result])
        expect_shape(self, self.result, tuple(d + a + b for d, a, b in zip(shape, low, high, strict=True)))

"""Operations that pick, place and combine elements: gathers, scatters, reductions."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import BoolAttr, DenseArrayBase, IntegerAttr
from xdsl.dialects.utils import EnumAttribute
from xdsl.ir import SpacedOpaqueSyntaxAttribute
from xdsl.irdl import (
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.traits import Pure
from xdsl.utils.str_enum import StrEnum

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
    refuse,
    show,
)
from qcc.ir.dims import Dim, broadcast, shape_of
from qcc.ir.program import int_array
from qcc.ir.types import DimAttr, TensorType, type_of


@irdl_op_definition
class IndexOp(QccOperation):
    """`input[indices]` on the axes `axis .. axis+n-1` for n index tensors that broadcast (numpy's rule for
    adjacent index arrays): their common shape takes the place of those axes. Negative indices count from the end.
    """

    name = "qcc.index"

    axis = prop_def(IntegerAttr)
    input = operand_def(TensorType)
    indices = var_operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$input `[` $indices `]` attr-dict `:` functional-type(operands, results)"

    def __init__(self, value: Operand, indices: Sequence[Operand], axis: int = 0) -> None:
        kind = operand_type(value)
        common = broadcast([operand_type(one).shape for one in indices]) or ()
        shape = (*kind.shape[:axis], *common, *kind.shape[axis + len(indices) :])
        super().__init__(
            properties={"axis": integer(axis)},
            operands=[value, list(indices)],
            result_types=[kind.with_shape(shape)],
        )

    def verify_(self) -> None:
        """Refuse index tensors that are not integers or do not broadcast."""
        expect_same_element(self, [self.input, self.result])
        shape, count = type_of(self.input).shape, len(self.indices)
        axis = self.axis.value.data
        if not count or axis < 0 or axis + count > len(shape):
            raise refuse(self, f"{count} index tensors from axis {axis} do not fit {show(shape)}")
        if any(type_of(one).scalar not in ("i64", "i32") for one in self.indices):
            raise refuse(self, "indices must be i64 or i32")
        common = broadcast([type_of(one).shape for one in self.indices])
        if common is None:
            raise refuse(self, "index tensors do not broadcast")
        expect_shape(self, self.result, (*shape[:axis], *common, *shape[axis + count :]))


@irdl_op_definition
class GatherOp(QccOperation):
    """`result[i][j] = input[i][index[i][j]]` along one axis (torch.gather)."""

    name = "qcc.gather"

    axis = prop_def(IntegerAttr)
    input = operand_def(TensorType)
    index = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$input `,` $index attr-dict `:` functional-type(operands, results)"

    def __init__(self, value: Operand, index: Operand, axis: int) -> None:
        super().__init__(
            properties={"axis": integer(axis)},
            operands=[value, index],
            result_types=[operand_type(value).with_shape(operand_type(index).shape)],
        )

    def verify_(self) -> None:
        """Refuse an index tensor of another rank or that is no integer."""
        expect_same_element(self, [self.input, self.result])
        index = type_of(self.index)
        if index.rank != type_of(self.input).rank or index.scalar not in ("i64", "i32"):
            raise refuse(self, f"index {index} does not fit {self.input.type}")
        expect_axis(self, self.axis.value.data, index.rank)
        expect_shape(self, self.result, index.shape)


@irdl_op_definition
class IndexUpdateOp(QccOperation):
    """A copy of `input` in which `input[indices]` (as in `qcc.index`) is `source`; later duplicates win."""

    name = "qcc.index_update"

    axis = prop_def(IntegerAttr)
    input = operand_def(TensorType)
    source = operand_def(TensorType)
    indices = var_operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$input `[` $indices `]` `,` $source attr-dict `:` functional-type(operands, results)"

    def __init__(self, value: Operand, indices: Sequence[Operand], source: Operand, axis: int = 0) -> None:
        super().__init__(
            properties={"axis": integer(axis)},
            operands=[value, source, list(indices)],
            result_types=[operand_type(value)],
        )

    def verify_(self) -> None:
        """Refuse a source that does not broadcast to the place it goes to."""
        expect_same_element(self, [self.input, self.source, self.result])
        shape, count, axis = type_of(self.input).shape, len(self.indices), self.axis.value.data
        expect_shape(self, self.result, shape)
        common = broadcast([type_of(one).shape for one in self.indices])
        if not count or common is None or axis < 0 or axis + count > len(shape):
            raise refuse(self, f"{count} index tensors from axis {axis} do not fit {show(shape)}")
        place = (*shape[:axis], *common, *shape[axis + count :])
        if broadcast([type_of(self.source).shape, place]) != place:
            raise refuse(self, f"source {show(type_of(self.source).shape)} does not fit {show(place)}")


@irdl_op_definition
class SliceUpdateOp(QccOperation):
    """A copy of `input` whose elements `start + step * i` along `axis` are `source`."""

    name = "qcc.slice_update"

    axis = prop_def(IntegerAttr)
    start = prop_def(DimAttr)
    step = prop_def(IntegerAttr)
    input = operand_def(TensorType)
    source = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$input `,` $source attr-dict `:` functional-type(operands, results)"

    def __init__(self, value: Operand, source: Operand, axis: int, start: Dim | int | str, step: int = 1) -> None:
        super().__init__(
            properties={"axis": integer(axis), "start": dim_attr(start), "step": integer(step)},
            operands=[value, source],
            result_types=[operand_type(value)],
        )

    def verify_(self) -> None:
        """Refuse a source of another rank or another size beside the axis."""
        expect_same_element(self, [self.input, self.source, self.result])
        shape, part = type_of(self.input).shape, type_of(self.source).shape
        expect_shape(self, self.result, shape)
        axis = expect_axis(self, self.axis.value.data, len(shape))
        if len(part) != len(shape) or any(
            a != b for i, (a, b) in enumerate(zip(shape, part, strict=True)) if i != axis
        ):
            raise refuse(self, f"{show(part)} is no slice of {show(shape)} along axis {axis}")


class Reduction(StrEnum):
    """Ways to reduce; `argmax` gives the first maximum's position as `i64`, `any`/`all` take `i1`."""

    SUM = "sum"
    MEAN = "mean"
    MAX = "max"
    MIN = "min"
    ANY = "any"
    ALL = "all"
    ARGMAX = "argmax"


@irdl_attr_definition
class ReductionAttr(EnumAttribute[Reduction], SpacedOpaqueSyntaxAttribute):
    """A way to reduce, `#qcc<reduction mean>` (bare where an operation names it)."""

    name = "qcc.reduction"


@irdl_op_definition
class ReduceOp(QccOperation):
    """Reduce over axes; reduced axes stay with size 1 if `keep`, else disappear."""

    name = "qcc.reduce"

    reduction = prop_def(ReductionAttr)
    axes = prop_def(DenseArrayBase)
    keep = prop_def(BoolAttr)
    input = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$reduction $input attr-dict `:` functional-type(operands, results)"

    def __init__(self, reduction: str, value: Operand, axes: Sequence[int], keep: bool) -> None:
        kind = operand_type(value)
        shape = _reduced(kind.shape, axes, keep)
        result = kind.with_shape(shape)
        super().__init__(
            properties={
                "reduction": ReductionAttr(Reduction(reduction)),
                "axes": integers(axes),
                "keep": BoolAttr.from_bool(keep),
            },
            operands=[value],
            result_types=[result.with_element("i64") if reduction == "argmax" else result],
        )

    def verify_(self) -> None:
        """Refuse axes outside the operand, and a wrong result type."""
        kind, axes = type_of(self.input), int_array(self.axes)
        for axis in axes:
            expect_axis(self, axis, kind.rank)
        reduction = self.reduction.data
        if reduction in (Reduction.ANY, Reduction.ALL) and kind.scalar != "i1":
            raise refuse(self, f"{reduction} takes i1, got {kind.scalar}")
        wanted = "i64" if reduction is Reduction.ARGMAX else kind.scalar
        if type_of(self.result).scalar != wanted:
            raise refuse(self, f"{reduction} of {kind.scalar} gives {wanted}")
        expect_shape(self, self.result, _reduced(kind.shape, axes, bool(self.keep)))


def _reduced(shape: Sequence[Dim], axes: Sequence[int], keep: bool) -> tuple[Dim, ...]:
    if keep:
        return tuple(Dim.of(1) if axis in axes else dim for axis, dim in enumerate(shape))
    return tuple(dim for axis, dim in enumerate(shape) if axis not in axes)


@irdl_op_definition
class CumulativeSumOp(QccOperation):
    """Running sum along one axis."""

    name = "qcc.cumulative_sum"

    axis = prop_def(IntegerAttr)
    input = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$input attr-dict `:` functional-type(operands, results)"

    def __init__(self, value: Operand, axis: int) -> None:
        super().__init__(properties={"axis": integer(axis)}, operands=[value], result_types=[operand_type(value)])

    def verify_(self) -> None:
        """Refuse an axis outside the operand."""
        expect_axis(self, self.axis.value.data, type_of(self.input).rank)
        expect_same_element(self, [self.input, self.result])
        expect_shape(self, self.result, shape_of(type_of(self.input).shape))

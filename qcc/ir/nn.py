"""The canonical float operations of neural networks."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import DenseArrayBase, IntegerAttr
from xdsl.dialects.utils import EnumAttribute
from xdsl.ir import SpacedOpaqueSyntaxAttribute
from xdsl.irdl import (
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    prop_def,
    result_def,
    traits_def,
)
from xdsl.traits import Pure
from xdsl.utils.str_enum import StrEnum

from qcc.ir.base import (
    Operand,
    OptionalOperand,
    QccOperation,
    expect_axis,
    expect_float,
    expect_numbers,
    expect_same_element,
    expect_shape,
    integer,
    integers,
    operand_type,
    optional,
    refuse,
    show,
)
from qcc.ir.dims import Dim, broadcast, product
from qcc.ir.program import int_array
from qcc.ir.types import TensorType, type_of


@irdl_op_definition
class LinearOp(QccOperation):
    """`input @ weight^T + bias`: `[..., K] x [N, K] -> [..., N]`."""

    name = "qcc.linear"

    input = operand_def(TensorType)
    weight = operand_def(TensorType)
    bias = opt_operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$input `,` $weight (`bias` $bias^)? attr-dict `:` functional-type(operands, results)"

    def __init__(self, value: Operand, weight: Operand, bias: OptionalOperand = None) -> None:
        kind = operand_type(value)
        super().__init__(
            operands=[value, weight, optional(bias)],
            result_types=[kind.with_shape((*kind.shape[:-1], operand_type(weight).shape[0]))],
        )

    def verify_(self) -> None:
        """Refuse operands whose K or N differ."""
        expect_same_element(self, [*self.operands, self.result])
        kind, weight = expect_float(self, self.input, "input"), type_of(self.weight)
        check_linear_shapes(self, kind, weight, None if self.bias is None else type_of(self.bias))


def check_linear_shapes(op: QccOperation, kind: TensorType, weight: TensorType, bias: TensorType | None) -> None:
    """Refuse `[..., K] x [N, K] + [N] -> [..., N]` whose sizes do not meet."""
    if weight.rank != 2 or kind.rank < 1 or kind.shape[-1] != weight.shape[1]:
        raise refuse(op, f"input {show(kind.shape)} does not meet weight {show(weight.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise refuse(op, f"bias {show(bias.shape)} does not meet weight {show(weight.shape)}")
    expect_shape(op, op.results[0], (*kind.shape[:-1], weight.shape[0]))


@irdl_op_definition
class MatmulOp(QccOperation):
    """Batched matrix product `[..., M, K] x [..., K, N] -> [..., M, N]`; leading axes broadcast."""

    name = "qcc.matmul"

    lhs = operand_def(TensorType)
    rhs = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$lhs `,` $rhs attr-dict `:` functional-type(operands, results)"

    def __init__(self, lhs: Operand, rhs: Operand) -> None:
        left, right = operand_type(lhs), operand_type(rhs)
        lead = broadcast([left.shape[:-2], right.shape[:-2]]) or ()
        super().__init__(
            operands=[lhs, rhs],
            result_types=[left.with_shape((*lead, left.shape[-2], right.shape[-1]))],
        )

    def verify_(self) -> None:
        """Refuse operands that do not meet in K, or do not broadcast."""
        expect_same_element(self, [self.lhs, self.rhs, self.result])
        left, right = expect_float(self, self.lhs, "lhs").shape, type_of(self.rhs).shape
        if min(len(left), len(right)) < 2 or left[-1] != right[-2]:
            raise refuse(self, f"{show(left)} and {show(right)} do not multiply")
        lead = broadcast([left[:-2], right[:-2]])
        if lead is None:
            raise refuse(self, f"leading axes of {show(left)} and {show(right)} do not broadcast")
        expect_shape(self, self.result, (*lead, left[-2], right[-1]))


@irdl_op_definition
class ConvOp(QccOperation):
    """Convolution over the last n axes: `[B, C, *S] x [O, C / groups, *window] -> [B, O, *S']`."""

    name = "qcc.conv"

    stride = prop_def(DenseArrayBase)
    padding = prop_def(DenseArrayBase)
    dilation = prop_def(DenseArrayBase)
    groups = prop_def(IntegerAttr)
    input = operand_def(TensorType)
    weight = operand_def(TensorType)
    bias = opt_operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$input `,` $weight (`bias` $bias^)? attr-dict `:` functional-type(operands, results)"

    def __init__(
        self,
        value: Operand,
        weight: Operand,
        bias: OptionalOperand = None,
        *,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int = 1,
    ) -> None:
        kind, filters = operand_type(value), operand_type(weight)
        shape = window_shape(kind, filters.shape[2:], stride, padding, dilation)
        super().__init__(
            properties={
                "stride": integers(stride),
                "padding": integers(padding),
                "dilation": integers(dilation),
                "groups": integer(groups),
            },
            operands=[value, weight, optional(bias)],
            result_types=[kind.with_shape((kind.shape[0], filters.shape[0], *shape))],
        )

    def verify_(self) -> None:
        """Refuse channels, groups or windows that do not fit."""
        expect_same_element(self, [*self.operands, self.result])
        kind, weight = expect_float(self, self.input, "input"), type_of(self.weight)
        spatial = kind.rank - 2
        settings = [int_array(one) for one in (self.stride, self.padding, self.dilation)]
        if spatial < 1 or weight.rank != kind.rank or any(len(one) != spatial for one in settings):
            raise refuse(self, f"input {show(kind.shape)} and weight {show(weight.shape)} do not convolve")
        groups = self.groups.value.data
        if groups < 1 or weight.shape[1] * groups != kind.shape[1] or weight.shape[0].exact_div(groups) is None:
            raise refuse(self, f"{groups} groups do not divide {show(kind.shape)} by {show(weight.shape)} channels")
        if self.bias is not None and type_of(self.bias).shape != weight.shape[:1]:
            raise refuse(self, f"bias {self.bias.type} does not meet weight {show(weight.shape)}")
        shape = window_shape(kind, weight.shape[2:], *settings)
        expect_shape(self, self.result, (kind.shape[0], weight.shape[0], *shape))


@irdl_op_definition
class UnfoldOp(QccOperation):
    """Windows of the last n axes as rows: `[B, C, *S] -> [B, *S', C * product(window)]`.

    A row holds the elements that one output position of a convolution reads, zeros where the window reaches into the
    padding, in the order (channel, *window offset): that of a weight `[O, C, *window]` reshaped to rows.
    """

    name = "qcc.unfold"

    window = prop_def(DenseArrayBase)
    stride = prop_def(DenseArrayBase)
    padding = prop_def(DenseArrayBase)
    dilation = prop_def(DenseArrayBase)
    input = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$input attr-dict `:` functional-type(operands, results)"

    def __init__(
        self,
        value: Operand,
        *,
        window: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
    ) -> None:
        source = operand_type(value)
        super().__init__(
            properties={
                "window": integers(window),
                "stride": integers(stride),
                "padding": integers(padding),
                "dilation": integers(dilation),
            },
            operands=[value],
            result_types=[source.with_shape(_unfolded(source, window, stride, padding, dilation))],
        )

    def verify_(self) -> None:
        """Refuse windows that do not fit the spatial axes."""
        kind = expect_numbers(self, self.input, "input")
        window, stride, padding, dilation = (
            int_array(one) for one in (self.window, self.stride, self.padding, self.dilation)
        )
        spatial = kind.rank - 2
        if spatial < 1 or any(len(one) != spatial for one in (window, stride, padding, dilation)):
            raise refuse(self, f"window {list(window)} does not fit {show(kind.shape)}")
        if min(*window, *stride, *dilation) < 1 or min(padding) < 0:
            raise refuse(self, "window, stride and dilation must be positive, padding not negative")
        expect_same_element(self, [self.input, self.result])
        shape = _unfolded(kind, window, stride, padding, dilation)
        if any(dim.constant is not None and dim.constant < 1 for dim in shape[1:-1]):
            raise refuse(self, f"window {list(window)} is wider than {show(kind.shape)} with its padding")
        expect_shape(self, self.result, shape)


def _unfolded(
    kind: TensorType, window: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> tuple[Dim, ...]:
    sizes = [Dim.of(size) for size in window]
    return (kind.shape[0], *window_shape(kind, sizes, stride, padding, dilation), product([kind.shape[1], *sizes]))


def window_shape(
    kind: TensorType,
    window: Sequence[Dim],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Dim, ...]:
    """Return the spatial shape of a convolution or pooling over `kind` = [B, C, *S]."""
    sizes = zip(kind.shape[2:], window, stride, padding, dilation, strict=True)
    return tuple((size + 2 * p - (w - 1) * d - 1) // s + 1 for size, w, s, p, d in sizes)


@irdl_op_definition
class EmbeddingOp(QccOperation):
    """Rows of a table: `[V, D]` at integers `[...] -> [..., D]`."""

    name = "qcc.embedding"

    table = operand_def(TensorType)
    ids = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$table `,` $ids attr-dict `:` functional-type(operands, results)"

    def __init__(self, table: Operand, ids: Operand, scalar: str | None = None) -> None:
        kind = operand_type(table)
        shape = (*operand_type(ids).shape, kind.shape[-1])
        result = kind.with_shape(shape) if scalar is None else kind.with_shape(shape).with_element(scalar)
        super().__init__(operands=[table, ids], result_types=[result])

    def verify_(self) -> None:
        """Refuse a table that is no matrix, and ids that are no integers. The table may be quantized, or integers."""
        table, ids = type_of(self.table), type_of(self.ids)
        if table.rank != 2 or ids.scalar not in ("i64", "i32"):
            raise refuse(self, f"table {table} cannot be read at {ids}")
        if table.qtype is None:
            expect_same_element(self, [self.table, self.result])
        if table.qtype is not None:
            expect_float(self, self.result, "result")
        expect_shape(self, self.result, (*ids.shape, table.shape[1]))


@irdl_op_definition
class SoftmaxOp(QccOperation):
    """`exp(x - max) / sum exp(x - max)` along one axis."""

    name = "qcc.softmax"

    axis = prop_def(IntegerAttr)
    input = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$input attr-dict `:` functional-type(operands, results)"

    def __init__(self, value: Operand, axis: int) -> None:
        super().__init__(properties={"axis": integer(axis)}, operands=[value], result_types=[operand_type(value)])

    def verify_(self) -> None:
        """Refuse an axis outside the operand."""
        kind = expect_float(self, self.input, "input")
        expect_axis(self, self.axis.value.data, kind.rank)
        expect_same_element(self, [self.input, self.result])
        expect_shape(self, self.result, kind.shape)


class PoolKind(StrEnum):
    """`average_valid` leaves padding out of the divisor (torch's `count_include_pad=False`); `sum` takes integers."""

    MAX = "max"
    AVERAGE = "average"
    AVERAGE_VALID = "average_valid"
    SUM = "sum"


@irdl_attr_definition
class PoolKindAttr(EnumAttribute[PoolKind], SpacedOpaqueSyntaxAttribute):
    """A kind of pooling, `#qcc<pool_kind max>` (bare where an operation names it)."""

    name = "qcc.pool_kind"


@irdl_op_definition
class PoolOp(QccOperation):
    """Pooling over windows of the last n axes of `[B, C, *S]`.

    Floats have a maximum and averages, integers a maximum and a sum. Padding is -inf (of integers the least) for the
    maximum, else zero.
    """

    name = "qcc.pool"

    kind = prop_def(PoolKindAttr)
    window = prop_def(DenseArrayBase)
    stride = prop_def(DenseArrayBase)
    padding = prop_def(DenseArrayBase)
    input = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$kind $input attr-dict `:` functional-type(operands, results)"

    def __init__(
        self,
        kind: str,
        value: Operand,
        *,
        window: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
    ) -> None:
        source = operand_type(value)
        shape = window_shape(source, [Dim.of(w) for w in window], stride, padding, [1] * len(window))
        super().__init__(
            properties={
                "kind": PoolKindAttr(PoolKind(kind)),
                "window": integers(window),
                "stride": integers(stride),
                "padding": integers(padding),
            },
            operands=[value],
            result_types=[source.with_shape((*source.shape[:2], *shape))],
        )

    def verify_(self) -> None:
        """Refuse windows that do not fit the spatial axes, averages of integers, and sums of floats."""
        kind = expect_numbers(self, self.input, "input")
        if self.kind.data is not PoolKind.MAX and kind.is_float == (self.kind.data is PoolKind.SUM):
            raise refuse(self, f"{self.kind.data} does not take {kind.scalar}")
        window, stride, padding = (int_array(one) for one in (self.window, self.stride, self.padding))
        if not len(window) == len(stride) == len(padding) == kind.rank - 2 or min(window, default=0) < 1:
            raise refuse(self, f"window {list(window)} does not fit {show(kind.shape)}")
        expect_same_element(self, [self.input, self.result])
        shape = window_shape(kind, [Dim.of(w) for w in window], stride, padding, [1] * len(window))
        expect_shape(self, self.result, (*kind.shape[:2], *shape))

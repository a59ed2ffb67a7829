"""The operations of integer-only programs: between input and output quantizer they compute with plain integers.

Every result is exact: an operation whose integers leave 64 bits is an error, never a wrong number.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import IntegerAttr
from xdsl.irdl import (
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.traits import Pure

from qcc.ir.base import (
    Operand,
    OptionalOperand,
    QccOperation,
    expect_integer,
    expect_shape,
    integer,
    operand_type,
    optional,
    refuse,
    show,
)
from qcc.ir.dims import broadcast
from qcc.ir.parameters import check_given
from qcc.ir.types import INTEGER_RANGES, TensorType, tensor, type_of
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import IntDecode

SUMS = ("i32", "i64")
"""Element types of sums."""


@irdl_op_definition
class CodesOp(QccOperation):
    """The codes of a tensor in an integer format, zero points left in, as plain integers of the same shape."""

    name = "qcc.codes"

    input = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$input attr-dict `:` functional-type(operands, results)"

    def __init__(self, value: Operand, scalar: str | None = None) -> None:
        kind = operand_type(value)
        super().__init__(operands=[value], result_types=[kind.with_element(scalar or code_scalar(kind.qtype))])

    def verify_(self) -> None:
        """Refuse a format whose codes are no integers, and an element type that does not hold them."""
        kind, result = type_of(self.input), expect_integer(self, self.result, "result")
        expect_shape(self, self.result, kind.shape)
        _check_codes(self, kind, result)


@irdl_op_definition
class OfCodesOp(QccOperation):
    """The quantized tensor that has given integers as codes and given parameters, in the format's order.

    Integers outside the range of the format are an error.
    """

    name = "qcc.of_codes"

    input = operand_def(TensorType)
    parameters = var_operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = (
        "$input (`parameters` $parameters^ `:` type($parameters))? attr-dict `:` type($input) `->` type($result)"
    )

    def __init__(self, value: Operand, qtype: QType, parameters: Sequence[Operand] = ()) -> None:
        super().__init__(operands=[value, list(parameters)], result_types=[operand_type(value).with_element(qtype)])

    def verify_(self) -> None:
        """Refuse codes that are no integers, and parameters that are not all those of the format."""
        kind, result = expect_integer(self, self.input, "input"), type_of(self.result)
        expect_shape(self, self.result, kind.shape)
        _check_codes(self, result, kind)
        if result.qtype is not None:
            if result.qtype.when == "dynamic_local":
                raise refuse(self, f"'{result.qtype}' computes its scales from values, which codes are not")
            check_given(self, kind.shape, result.qtype, self.parameters)


def code_scalar(qtype: QType | None) -> str:
    """Return the narrowest element type that holds the codes of a format; i32 where there is none."""
    decode = None if qtype is None else qtype.decode
    if not isinstance(decode, IntDecode) or decode.bits > 8:
        return "i32"
    return "i8" if decode.signed else "u8"


def _check_codes(op: QccOperation, coded: TensorType, plain: TensorType) -> None:
    decode = None if coded.qtype is None else coded.qtype.decode
    if not isinstance(decode, IntDecode):
        raise refuse(op, f"needs a format of integer codes, got {coded}")
    low, high = INTEGER_RANGES[plain.scalar]
    if decode.minimum < low or decode.maximum > high:
        raise refuse(op, f"{plain.scalar} does not hold codes from {decode.minimum} to {decode.maximum}")


@irdl_op_definition
class IntegerContractOp(QccOperation):
    """`input @ integers(weight)^T + bias`, exact: [..., K] x [N, K] -> [..., N] in `i32` or `i64`.

    The integers of a weight are its codes less their zero points, of a mid-rise grid the odd integers 2 * code + 1, of
    a table or of digit planes their values over the common denominator (`qcc.numerics.integer_values`); its scales do
    not count. With `groups` g the input is [..., g * K]: rows n of the weight, N / g at a time, meet the g blocks of K
    columns in turn, as the windows of a grouped convolution do. `bias` is [N] in the element type of the result.
    """

    name = "qcc.integer_contract"

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
        groups: int = 1,
        scalar: str = "i32",
    ) -> None:
        kind = operand_type(value)
        super().__init__(
            properties={"groups": integer(groups)},
            operands=[value, weight, optional(bias)],
            result_types=[tensor((*kind.shape[:-1], operand_type(weight).shape[0]), scalar)],
        )

    def verify_(self) -> None:
        """Refuse a plain weight, sizes that do not meet, and a bias that is not of the result's type."""
        kind, weight = expect_integer(self, self.input, "input"), type_of(self.weight)
        result, groups = expect_integer(self, self.result, "result"), self.groups.value.data
        if weight.qtype is None:
            raise refuse(self, "weight must be quantized")
        if result.scalar not in SUMS:
            raise refuse(self, f"sums must be i32 or i64, got {result.scalar}")
        if groups < 1 or weight.rank != 2 or kind.rank < 1 or kind.shape[-1] != weight.shape[1] * groups:
            raise refuse(self, f"input {show(kind.shape)} does not meet {groups} groups of {show(weight.shape)}")
        if weight.shape[0].exact_div(groups) is None:
            raise refuse(self, f"{groups} groups do not divide {weight.shape[0]} rows")
        if self.bias is not None and type_of(self.bias) != tensor(weight.shape[:1], result.scalar):
            raise refuse(self, f"bias {self.bias.type} is not {tensor(weight.shape[:1], result.scalar)}")
        expect_shape(self, self.result, (*kind.shape[:-1], weight.shape[0]))


@irdl_op_definition
class IntegerMatmulOp(QccOperation):
    """Exact batched product `[..., M, K] x [..., K, N] -> [..., M, N]` of plain integers; leading axes broadcast."""

    name = "qcc.integer_matmul"

    lhs = operand_def(TensorType)
    rhs = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$lhs `,` $rhs attr-dict `:` functional-type(operands, results)"

    def __init__(self, lhs: Operand, rhs: Operand, scalar: str = "i32") -> None:
        left, right = operand_type(lhs).shape, operand_type(rhs).shape
        lead = broadcast([left[:-2], right[:-2]]) or ()
        super().__init__(operands=[lhs, rhs], result_types=[tensor((*lead, left[-2], right[-1]), scalar)])

    def verify_(self) -> None:
        """Refuse operands that are no integers, do not meet in K, or do not broadcast."""
        left, right = (expect_integer(self, one, "operand").shape for one in (self.lhs, self.rhs))
        if expect_integer(self, self.result, "result").scalar not in SUMS:
            raise refuse(self, f"sums must be i32 or i64, got {self.result.type}")
        if min(len(left), len(right)) < 2 or left[-1] != right[-2]:
            raise refuse(self, f"{show(left)} and {show(right)} do not multiply")
        lead = broadcast([left[:-2], right[:-2]])
        if lead is None:
            raise refuse(self, f"leading axes of {show(left)} and {show(right)} do not broadcast")
        expect_shape(self, self.result, (*lead, left[-2], right[-1]))


@irdl_op_definition
class LookupOp(QccOperation):
    """`table[input - low]`: a function of integers as the table of its values.

    `table` is a plain integer tensor of rank 1 and gives the result its element type. An input below `low`, or beyond
    the table, is an error.
    """

    name = "qcc.lookup"

    low = prop_def(IntegerAttr)
    input = operand_def(TensorType)
    table = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$input `,` $table attr-dict `:` functional-type(operands, results)"

    def __init__(self, value: Operand, table: Operand, low: int) -> None:
        kind = operand_type(value).with_element(operand_type(table).scalar)
        super().__init__(properties={"low": integer(low)}, operands=[value, table], result_types=[kind])

    def verify_(self) -> None:
        """Refuse floats, and a table that is no vector of the result's elements."""
        kind, table = expect_integer(self, self.input, "input"), expect_integer(self, self.table, "table")
        if table.rank != 1 or (size := table.shape[0].constant) is None or size < 1:
            raise refuse(self, f"table {table} must be a vector of known length")
        if expect_integer(self, self.result, "result").scalar != table.scalar:
            raise refuse(self, f"result {self.result.type} has not the elements of the table {table}")
        expect_shape(self, self.result, kind.shape)

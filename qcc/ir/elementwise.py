"""Elementwise operations. Operands broadcast by numpy's rules; shapes align at the last axis."""

from __future__ import annotations

from xdsl.dialects.utils import EnumAttribute
from xdsl.ir import SpacedOpaqueSyntaxAttribute
from xdsl.irdl import (
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    prop_def,
    result_def,
    traits_def,
)
from xdsl.traits import Pure
from xdsl.utils.str_enum import StrEnum

from qcc.ir.base import (
    Operand,
    QccOperation,
    expect_same_element,
    expect_shape,
    operand_type,
    refuse,
    show,
)
from qcc.ir.dims import broadcast
from qcc.ir.types import TensorType, type_of


class UnaryFunction(StrEnum):
    """Functions of one number."""

    ABS = "abs"
    NEG = "neg"
    EXP = "exp"
    LOG = "log"
    SQRT = "sqrt"
    RSQRT = "rsqrt"
    RECIPROCAL = "reciprocal"
    SIN = "sin"
    COS = "cos"
    TANH = "tanh"
    ERF = "erf"
    SIGMOID = "sigmoid"
    RELU = "relu"
    SILU = "silu"
    GELU = "gelu"  # x * Phi(x), by erf (Hendrycks & Gimpel, arXiv 1606.08415)
    GELU_TANH = "gelu_tanh"  # the tanh approximation of the same paper
    HARDSWISH = "hardswish"  # x * relu6(x + 3) / 6 (Howard et al., arXiv 1905.02244)
    HARDSIGMOID = "hardsigmoid"
    FLOOR = "floor"
    NOT = "not"  # logical, i1 only
    ISNAN = "isnan"  # float to i1


class BinaryFunction(StrEnum):
    """Functions of two numbers; comparisons give `i1`."""

    ADD = "add"
    SUB = "sub"
    MUL = "mul"
    DIV = "div"
    MAX = "max"
    MIN = "min"
    POW = "pow"
    FLOORDIV = "floordiv"
    MOD = "mod"  # sign of the divisor, as in Python
    AND = "and"
    OR = "or"
    XOR = "xor"
    EQ = "eq"
    NE = "ne"
    LT = "lt"
    LE = "le"
    GT = "gt"
    GE = "ge"


COMPARISONS: frozenset[str] = frozenset("eq ne lt le gt ge".split())


@irdl_attr_definition
class UnaryFunctionAttr(EnumAttribute[UnaryFunction], SpacedOpaqueSyntaxAttribute):
    """A function of one number, `#qcc<unary_function gelu>` (bare inside an operation)."""

    name = "qcc.unary_function"


@irdl_attr_definition
class BinaryFunctionAttr(EnumAttribute[BinaryFunction], SpacedOpaqueSyntaxAttribute):
    """A function of two numbers, `#qcc<binary_function add>` (bare inside an operation)."""

    name = "qcc.binary_function"


@irdl_op_definition
class UnaryOp(QccOperation):
    """Apply a function to every element."""

    name = "qcc.unary"

    function = prop_def(UnaryFunctionAttr)
    input = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$function $input attr-dict `:` functional-type(operands, results)"

    def __init__(self, function: str, value: Operand, kind: TensorType | None = None) -> None:
        source = kind or operand_type(value)
        super().__init__(
            properties={"function": UnaryFunctionAttr(UnaryFunction(function))},
            operands=[value],
            result_types=[source.with_element("i1") if function == "isnan" else source],
        )

    def verify_(self) -> None:
        """Refuse a shape or element type other than the operand's."""
        expect_shape(self, self.result, type_of(self.input).shape)
        function = self.function.data
        scalar = type_of(self.input).scalar
        if function is UnaryFunction.ISNAN:
            if type_of(self.result).scalar != "i1":
                raise refuse(self, "isnan gives i1")
            return
        expect_same_element(self, [self.input, self.result])
        integer_ok = function in (UnaryFunction.ABS, UnaryFunction.NEG, UnaryFunction.RELU)
        if (function is UnaryFunction.NOT) != (scalar == "i1"):
            raise refuse(self, f"{function} does not take {scalar}")
        if scalar != "i1" and not type_of(self.input).is_float and not integer_ok:
            raise refuse(self, f"{function} takes floating-point tensors, got {scalar}")


@irdl_op_definition
class BinaryOp(QccOperation):
    """Combine two tensors elementwise, with broadcasting. Both have the same element type."""

    name = "qcc.binary"

    function = prop_def(BinaryFunctionAttr)
    lhs = operand_def(TensorType)
    rhs = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$function $lhs `,` $rhs attr-dict `:` functional-type(operands, results)"

    def __init__(self, function: str, lhs: Operand, rhs: Operand) -> None:
        left, right = operand_type(lhs), operand_type(rhs)
        shape = broadcast([left.shape, right.shape])
        kind = left.with_shape(left.shape if shape is None else shape)
        super().__init__(
            properties={"function": BinaryFunctionAttr(BinaryFunction(function))},
            operands=[lhs, rhs],
            result_types=[kind.with_element("i1") if function in COMPARISONS else kind],
        )

    def verify_(self) -> None:
        """Refuse operands that do not broadcast, or a wrong result type."""
        left, right = type_of(self.lhs), type_of(self.rhs)
        expect_same_element(self, [self.lhs, self.rhs])
        shape = broadcast([left.shape, right.shape])
        if shape is None:
            raise refuse(self, f"shapes {show(left.shape)} and {show(right.shape)} do not broadcast")
        expect_shape(self, self.result, shape)
        wanted = "i1" if self.function.data in COMPARISONS else left.scalar
        if type_of(self.result).scalar != wanted:
            raise refuse(self, f"{self.function.data} gives {wanted}, got {type_of(self.result).scalar}")


@irdl_op_definition
class WhereOp(QccOperation):
    """`condition ? lhs : rhs`, with broadcasting."""

    name = "qcc.where"

    condition = operand_def(TensorType)
    lhs = operand_def(TensorType)
    rhs = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$condition `,` $lhs `,` $rhs attr-dict `:` functional-type(operands, results)"

    def __init__(self, condition: Operand, lhs: Operand, rhs: Operand) -> None:
        kinds = [operand_type(one) for one in (condition, lhs, rhs)]
        shape = broadcast([kind.shape for kind in kinds])
        super().__init__(
            operands=[condition, lhs, rhs],
            result_types=[kinds[1].with_shape(kinds[1].shape if shape is None else shape)],
        )

    def verify_(self) -> None:
        """Refuse a condition that is not `i1`, and shapes that do not broadcast."""
        if type_of(self.condition).scalar != "i1":
            raise refuse(self, f"condition must be i1, got {self.condition.type}")
        expect_same_element(self, [self.lhs, self.rhs, self.result])
        shape = broadcast([type_of(one).shape for one in self.operands])
        if shape is None:
            raise refuse(self, "operands do not broadcast")
        expect_shape(self, self.result, shape)


@irdl_op_definition
class CastOp(QccOperation):
    """Convert elements: floats round to nearest even, floats to integers truncate, numbers to `i1` test `!= 0`."""

    name = "qcc.cast"

    input = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$input attr-dict `:` functional-type(operands, results)"

    def __init__(self, value: Operand, scalar: str) -> None:
        super().__init__(operands=[value], result_types=[operand_type(value).with_element(scalar)])

    def verify_(self) -> None:
        """Refuse a change of shape."""
        expect_shape(self, self.result, type_of(self.input).shape)

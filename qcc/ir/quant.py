"""The quantization operations. Remove every one of them and the original float graph is left.

`dequantize` is the only semantics: every other operation here is defined by what it does to the real numbers
that its codes stand for.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import IntegerAttr
from xdsl.dialects.utils import EnumAttribute
from xdsl.ir import SpacedOpaqueSyntaxAttribute, SSAValue
from xdsl.irdl import (
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.traits import Pure
from xdsl.utils.str_enum import StrEnum

from qcc.ir.base import (
    Operand,
    OptionalOperand,
    QccOperation,
    expect_float,
    expect_integer,
    expect_shape,
    integer,
    operand_type,
    optional,
    present,
    refuse,
    show,
)
from qcc.ir.dims import Dim
from qcc.ir.nn import check_linear_shapes
from qcc.ir.parameters import check_given, check_parameters, given_parts, parameter_types
from qcc.ir.types import INTEGER_RANGES, QTypeAttr, TensorType, tensor, type_of
from qcc.numerics.qtype import QType
from qcc.numerics.stored_parts import Role, parameter_parts, root_parts


@irdl_op_definition
class QuantizeOp(QccOperation):
    """Encode a float tensor in the result's format.

    The format's parameters, in its order (scales leaf to root, offset, zero points leaf to root, their offset,
    selector), are given, as for static activations, or computed from the values at hand (dynamic, weights, and
    whatever is not calibrated yet). A `dynamic_local` format is given the scales above its leaf, and
    the selector of a `select` by blocks of channels, and computes the rest.
    """

    name = "qcc.quantize"

    input = operand_def(TensorType)
    parameters = var_operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = (
        "$input (`parameters` $parameters^ `:` type($parameters))? attr-dict `:` type($input) `->` type($result)"
    )

    def __init__(self, value: Operand, qtype: QType, parameters: Sequence[Operand] = ()) -> None:
        super().__init__(
            operands=[value, list(parameters)],
            result_types=[operand_type(value).with_element(qtype)],
        )

    @property
    def scales(self) -> tuple[SSAValue, ...]:
        """The scales that are given, leaf to root; of a `dynamic_local` format those above the leaf."""
        return self._given("scale")

    @property
    def zero(self) -> SSAValue | None:
        """The zero point of the leaf blocks, if one is given."""
        return next(iter(self._given("zero")), None)

    def _given(self, role: Role) -> tuple[SSAValue, ...]:
        qtype = type_of(self.result).qtype
        parts = given_parts(qtype) if qtype is not None and self.parameters else ()
        return tuple(value for part, value in zip(parts, self.parameters, strict=False) if part.role == role)

    def verify_(self) -> None:
        """Refuse an input that is not float, and parameters that are not the format's."""
        kind = expect_float(self, self.input, "input")
        result = type_of(self.result)
        if result.qtype is None:
            raise refuse(self, f"result must be quantized, got {result}")
        expect_shape(self, self.result, kind.shape)
        if self.parameters:
            check_given(self, kind.shape, result.qtype, self.parameters)


@irdl_op_definition
class DequantizeOp(QccOperation):
    """The real numbers that codes stand for, rounded to the result's element type."""

    name = "qcc.dequantize"

    input = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$input attr-dict `:` functional-type(operands, results)"

    def __init__(self, value: Operand, scalar: str = "f32") -> None:
        super().__init__(operands=[value], result_types=[operand_type(value).with_element(scalar)])

    def verify_(self) -> None:
        """Refuse an input that is not quantized."""
        if type_of(self.input).qtype is None:
            raise refuse(self, f"input must be quantized, got {self.input.type}")
        expect_float(self, self.result, "result")
        expect_shape(self, self.result, type_of(self.input).shape)


@irdl_op_definition
class QparamsOp(QccOperation):
    """The parameters of a format from the values of a tensor, all of them in the format's order (see `qcc.quantize`).

    `roots`, the scales above the leaf, stay where they are given.
    """

    name = "qcc.qparams"

    format = prop_def(QTypeAttr)
    input = operand_def(TensorType)
    roots = var_operand_def(TensorType)
    outputs = var_result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$input (`roots` $roots^)? attr-dict `:` functional-type(operands, results)"

    def __init__(self, value: Operand, qtype: QType, roots: Sequence[Operand] = ()) -> None:
        types = parameter_types(operand_type(value).shape, qtype)
        super().__init__(properties={"format": QTypeAttr(qtype)}, operands=[value, list(roots)], result_types=[types])

    def verify_(self) -> None:
        """Refuse results that are not the format's parameters, and roots that are not its upper scales."""
        kind, qtype = expect_float(self, self.input, "input"), self.format.data
        check_parameters(self, kind.shape, qtype, parameter_parts(qtype), self.outputs)
        if self.roots:
            check_parameters(self, kind.shape, qtype, root_parts(qtype), self.roots)


@irdl_op_definition
class RequantOp(QccOperation):
    """`clamp(round_half_up(input * multiplier / 2**shift))`: integers to narrower integers without floats.

    `input` is [..., C] of any integers; `multiplier` and `shift` (0..62) are `i32` [1] or [C] (Jacob et al., arXiv
    1712.05877). Exact in 64 bits: `(input * multiplier + (1 << shift >> 1)) >> shift`, an arithmetic shift; a product
    beyond 63 bits is an error. The clamp is to `low`..`high`, where they are given, else to the range of the result's
    element type. A power of two has multiplier 1.
    """

    name = "qcc.requant"

    low = opt_prop_def(IntegerAttr)
    high = opt_prop_def(IntegerAttr)
    input = operand_def(TensorType)
    multiplier = operand_def(TensorType)
    shift = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$input `,` $multiplier `,` $shift attr-dict `:` functional-type(operands, results)"

    def __init__(
        self,
        value: Operand,
        multiplier: Operand,
        shift: Operand,
        scalar: str = "i8",
        *,
        low: int | None = None,
        high: int | None = None,
    ) -> None:
        limits = {name: None if one is None else integer(one) for name, one in (("low", low), ("high", high))}
        super().__init__(
            properties=present(limits),
            operands=[value, multiplier, shift],
            result_types=[operand_type(value).with_element(scalar)],
        )

    def verify_(self) -> None:
        """Refuse anything but integers, parameters that are neither per tensor nor per channel, and empty ranges."""
        kind = expect_integer(self, self.input, "input")
        for value in (self.multiplier, self.shift):
            if type_of(value).scalar != "i32":
                raise refuse(self, f"multiplier and shift must be i32, got {value.type}")
            if type_of(value).shape not in ((Dim.of(1),), kind.shape[-1:]):
                raise refuse(self, f"{value.type} is neither per tensor nor per channel of {show(kind.shape)}")
        if type_of(self.result).scalar not in ("i8", "u8", "i32"):
            raise refuse(self, f"result must be i8, u8 or i32, got {self.result.type}")
        check_limits(self, self.low, self.high, type_of(self.result))
        expect_shape(self, self.result, kind.shape)


def check_limits(op: QccOperation, low: IntegerAttr | None, high: IntegerAttr | None, result: TensorType) -> None:
    """Refuse a clamp to an empty range, or to one that the result's element type does not hold."""
    least, most = INTEGER_RANGES[result.scalar]
    bottom, top = (least if low is None else low.value.data), (most if high is None else high.value.data)
    if not least <= bottom <= top <= most:
        raise refuse(op, f"clamps to {bottom}..{top}, which {result.scalar} does not hold or which is empty")


class Plan(StrEnum):
    """How a contraction is computed; what it means never depends on it."""

    DEQUANT_FIRST = "dequant_first"  # decode the weights, multiply in float
    GROUP_AFTER = "group_after"  # integer sums inside a group, scales after
    LOOKUP = "lookup"  # tables of partial sums indexed by weight bits
    PLANES = "planes"  # bit plane by bit plane
    TERNARY = "ternary"  # additions and subtractions only
    NATIVE = "native"  # the hardware's scaled matrix instruction


@irdl_attr_definition
class PlanAttr(EnumAttribute[Plan], SpacedOpaqueSyntaxAttribute):
    """A plan, `#qcc<plan group_after>` (bare where an operation names it)."""

    name = "qcc.plan"


class Exactness(StrEnum):
    """What a backend promises against `dequantize` then multiply."""

    E0 = "E0"  # integers, bit for bit
    E1 = "E1"  # equal in real arithmetic; the accumulator rounds
    E2 = "E2"  # approximate, with a stated bound


@irdl_attr_definition
class ExactnessAttr(EnumAttribute[Exactness], SpacedOpaqueSyntaxAttribute):
    """A class of exactness, `#qcc<exactness E1>` (bare where an operation names it)."""

    name = "qcc.exactness"


@irdl_op_definition
class ContractOp(QccOperation):
    """`dequantize(input) @ dequantize(weight)^T + bias`: the quantized `linear`.

    `input` is quantized or float, `weight` is quantized. With integer formats on both sides the sums inside a scale
    block are integers and exact; scales enter afterwards.
    """

    name = "qcc.contract"

    plan = opt_prop_def(PlanAttr)
    exactness = prop_def(ExactnessAttr)
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
        scalar: str = "f32",
        plan: str | None = None,
        exactness: str = "E1",
    ) -> None:
        kind = operand_type(value)
        result = tensor((*kind.shape[:-1], operand_type(weight).shape[0]), scalar)
        super().__init__(
            properties=present(
                {
                    "plan": None if plan is None else PlanAttr(Plan(plan)),
                    "exactness": ExactnessAttr(Exactness(exactness)),
                }
            ),
            operands=[value, weight, optional(bias)],
            result_types=[result],
        )

    def verify_(self) -> None:
        """Refuse a float weight, and sizes that do not meet."""
        kind, weight = type_of(self.input), type_of(self.weight)
        if weight.qtype is None:
            raise refuse(self, "weight must be quantized; qcc.linear takes floats")
        expect_float(self, self.result, "result")
        if kind.qtype is None:
            expect_float(self, self.input, "input")
        check_linear_shapes(self, kind, weight, None if self.bias is None else type_of(self.bias))

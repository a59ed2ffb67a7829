"""The operations of integer-only programs that work on whole rows: softmax and normalisation."""

from __future__ import annotations

from xdsl.dialects.builtin import IntegerAttr
from xdsl.irdl import (
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    traits_def,
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
    present,
    refuse,
    show,
)
from qcc.ir.dims import Dim, broadcast
from qcc.ir.quant import check_limits
from qcc.ir.transformer import NormKind, NormKindAttr
from qcc.ir.types import INTEGER_RANGES, TensorType, type_of

NORM_FRACTION = 24
"""Fraction bits of a normalised element of `qcc.integer_norm`."""


@irdl_op_definition
class IntegerSoftmaxOp(QccOperation):
    """Softmax along the last axis on integers, by a table of the exponential and one exact division an element.

        e[i] = table[min(max(x) - x[i], T - 1)]          s = sum e
        y[i] = floor((2 * unit * e[i] + s) / (2 * s))

    `table` is `i32` [T], positive at 0 and nowhere negative: for inputs of scale c it holds exp(-c * d) in fixed point,
    and its last entry is for everything beyond. `unit` is the code of probability 1. Where `mask` (`i1`, broadcast
    against the input) is false an element is left out: it counts neither for the maximum nor for the sum, and its
    result is 0; so is that of a row that keeps none.
    """

    name = "qcc.integer_softmax"

    unit = prop_def(IntegerAttr)
    input = operand_def(TensorType)
    table = operand_def(TensorType)
    mask = opt_operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$input `,` $table (`mask` $mask^)? attr-dict `:` functional-type(operands, results)"

    def __init__(
        self, value: Operand, table: Operand, mask: OptionalOperand = None, *, unit: int, scalar: str = "i8"
    ) -> None:
        super().__init__(
            properties={"unit": integer(unit)},
            operands=[value, table, optional(mask)],
            result_types=[operand_type(value).with_element(scalar)],
        )

    def verify_(self) -> None:
        """Refuse a table that is no vector of `i32`, a unit that the result does not hold, and a mask that is none."""
        kind, table = expect_integer(self, self.input, "input"), type_of(self.table)
        unit, high = self.unit.value.data, INTEGER_RANGES[expect_integer(self, self.result, "result").scalar][1]
        if kind.rank < 1:
            raise refuse(self, "has no axis to normalise")
        if table.scalar != "i32" or table.rank != 1 or (size := table.shape[0].constant) is None or size < 1:
            raise refuse(self, f"table {table} must be a vector of i32 of known length")
        if not 1 <= unit <= min(high, 2**16):
            raise refuse(self, f"unit {unit} is outside 1..{min(high, 2**16)}")
        if self.mask is not None:
            mask = type_of(self.mask)
            if mask.scalar != "i1" or broadcast([mask.shape, kind.shape]) != kind.shape:
                raise refuse(self, f"mask {mask} does not keep elements of {show(kind.shape)}")
        expect_shape(self, self.result, kind.shape)


@irdl_op_definition
class IntegerNormOp(QccOperation):
    """Normalise over the last axis of n integers, without floats: kinds `layer` and `rms` of `qcc.norm`.

        d[i] = n * x[i] - sum x   (layer)     or   d[i] = x[i]   (rms)
        q = max(sum d^2 + eps, 1);   the largest t with q * 4^t < 2^62;   v = floor(2^61 / isqrt(q * 4^t))
        z[i] = (d[i] * v + half) >> (37 - t)                  d[i] / sqrt(q) with 24 fraction bits
        y[i] = clamp((z[i] * multiplier[i] + bias[i] + half) >> shift, low, high)

    `half` is half of what the shift divides by, so both shifts round half up; `isqrt` is the floor of the square root.
    `multiplier` is `i32` [1] or [n] and carries sqrt(n), the weight and the scale of the result; `bias` is `i64` [1] or
    [n]; `shift` (0..62) is `i32` [1]; `eps` is that of the norm in units of d^2, times n.
    """

    name = "qcc.integer_norm"

    kind = prop_def(NormKindAttr)
    eps = prop_def(IntegerAttr)
    low = opt_prop_def(IntegerAttr)
    high = opt_prop_def(IntegerAttr)
    input = operand_def(TensorType)
    multiplier = operand_def(TensorType)
    shift = operand_def(TensorType)
    bias = opt_operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = (
        "$kind $input `,` $multiplier `,` $shift (`bias` $bias^)? attr-dict `:` functional-type(operands, results)"
    )

    def __init__(
        self,
        kind: str,
        value: Operand,
        multiplier: Operand,
        shift: Operand,
        bias: OptionalOperand = None,
        *,
        eps: int,
        scalar: str = "i8",
        low: int | None = None,
        high: int | None = None,
    ) -> None:
        limits = {name: None if one is None else integer(one) for name, one in (("low", low), ("high", high))}
        super().__init__(
            properties=present({"kind": NormKindAttr(NormKind(kind)), "eps": integer(eps), **limits}),
            operands=[value, multiplier, shift, optional(bias)],
            result_types=[operand_type(value).with_element(scalar)],
        )

    def verify_(self) -> None:
        """Refuse parameters of another type or size, an `rms_plus1`, and an axis of unknown length."""
        kind, result = expect_integer(self, self.input, "input"), expect_integer(self, self.result, "result")
        if self.kind.data is NormKind.RMS_PLUS1:
            raise refuse(self, "rms_plus1 is rms with a multiplier of one plus the weight")
        if kind.rank < 1 or kind.shape[-1].constant is None:
            raise refuse(self, f"the last axis of {show(kind.shape)} must be known")
        if not 0 <= self.eps.value.data < 2**62:
            raise refuse(self, f"eps {self.eps.value.data} is outside 0..2^62-1")
        one = (Dim.of(1),)
        for name, value, scalar, shapes in (
            ("multiplier", self.multiplier, "i32", (one, kind.shape[-1:])),
            ("shift", self.shift, "i32", (one,)),
            ("bias", self.bias, "i64", (one, kind.shape[-1:])),
        ):
            if value is not None and (type_of(value).scalar != scalar or type_of(value).shape not in shapes):
                raise refuse(self, f"{name} {value.type} does not fit {show(kind.shape)}")
        check_limits(self, self.low, self.high, result)
        expect_shape(self, self.result, kind.shape)

"""ATen's elementwise operators."""

from __future__ import annotations

import math
from functools import partial

import torch
from xdsl.ir import SSAValue

from qcc.frontend.builder import Builder
from qcc.frontend.call import Call, Handler, Values
from qcc.frontend.dtypes import Number, promote
from qcc.ir.dims import Dim
from qcc.ir.types import TensorType, type_of

aten = torch.ops.aten


def unary(b: Builder, call: Call, *, function: str) -> Values:
    """Apply a function that gives the type it takes; integers become floats where torch does so."""
    return b.unary(function, b.cast(call.value("self"), call.result.scalar))


def predicate(b: Builder, call: Call, *, function: str) -> Values:
    """Apply a function from numbers to truth values."""
    return b.unary(function, call.value("self"))


def gelu(b: Builder, call: Call) -> Values:
    """`gelu`, exact or by tanh."""
    function = "gelu_tanh" if call.text("approximate") == "tanh" else "gelu"
    return b.unary(function, b.cast(call.value("self"), call.result.scalar))


def logical_not(b: Builder, call: Call) -> Values:
    """`not (x != 0)`."""
    return b.unary("not", b.cast(call.value("self"), "i1"))


def bitwise_not(b: Builder, call: Call) -> Values:
    """Invert every bit: `-x - 1` on integers."""
    value = call.value("self")
    if type_of(value).scalar == "i1":
        return b.unary("not", value)
    return b.with_number("sub", b.unary("neg", value), 1)


def ceil(b: Builder, call: Call) -> Values:
    """`-floor(-x)`."""
    return b.unary("neg", b.unary("floor", b.unary("neg", call.value("self"))))


def floor(b: Builder, call: Call) -> Values:
    """`floor`, which leaves integers alone."""
    value = call.value("self")
    return b.unary("floor", value) if type_of(value).is_float else value


def trunc(b: Builder, call: Call) -> Values:
    """Round towards zero."""
    return _trunc(b, call.value("self"))


def _trunc(b: Builder, value: SSAValue) -> SSAValue:
    up = b.unary("neg", b.unary("floor", b.unary("neg", value)))
    return b.where(b.with_number("lt", value, 0), up, b.unary("floor", value))


def log1p(b: Builder, call: Call) -> Values:
    """`log(1 + x)`, exact for small x."""
    return _log1p(b, b.cast(call.value("self"), call.result.scalar))


def _log1p(b: Builder, value: SSAValue) -> SSAValue:
    """Compute `log(u) * x / (u - 1)` for u = 1 + x rounded (Goldberg, ACM Computing Surveys 23(1), theorem 4)."""
    near = b.with_number("add", value, 1.0)
    step = b.with_number("sub", near, 1.0)
    exact = b.binary("mul", b.unary("log", near), b.binary("div", value, step))
    # without a step there is nothing to divide by, and an infinite one would give inf / inf
    exact = b.where(b.with_number("eq", value, math.inf), value, exact)
    return b.where(b.with_number("eq", step, 0.0), value, exact)


def expm1(b: Builder, call: Call) -> Values:
    """`exp(x) - 1`, exact for small x."""
    return _expm1(b, b.cast(call.value("self"), call.result.scalar))


def _expm1(b: Builder, value: SSAValue) -> SSAValue:
    """Compute `(u - 1) * x / log(u)` for u = exp(x) near 1, else `u - 1` (Kahan's method)."""
    grown = b.unary("exp", value)
    step = b.with_number("sub", grown, 1.0)
    exact = b.binary("mul", step, b.binary("div", value, b.unary("log", grown)))
    near = b.with_number("lt", b.unary("abs", value), 0.5)
    return b.where(b.with_number("eq", step, 0.0), value, b.where(near, exact, step))


def sign(b: Builder, call: Call) -> Values:
    """`(x > 0) - (x < 0)`."""
    value, scalar = call.value("self"), call.result.scalar
    above, below = (b.cast(b.with_number(one, value, 0), scalar) for one in ("gt", "lt"))
    return b.binary("sub", above, below)


def square(b: Builder, call: Call) -> Values:
    """`x * x`."""
    value = b.cast(call.value("self"), call.result.scalar)
    return b.binary("mul", value, value)


def isinf(b: Builder, call: Call) -> Values:
    """`abs(x) == inf`."""
    return b.with_number("eq", b.unary("abs", call.value("self")), math.inf)


_BOOLEAN = {"add": "or", "mul": "and", "max": "or", "min": "and"}


def arithmetic(b: Builder, call: Call, *, function: str, left: str = "self", right: str = "other") -> Values:
    """Combine two operands in the result's element type; `alpha` scales the one on the right."""
    scalar = call.result.scalar
    lhs, rhs = b.operand(call.raw(left), scalar), b.operand(call.raw(right), scalar)
    alpha = call.arguments.get("alpha", 1)
    if alpha != 1:
        rhs = b.binary("mul", rhs, b.operand(alpha, scalar))
    # torch's sums and products of truth values are disjunctions and conjunctions
    return b.binary(_BOOLEAN.get(function, function) if scalar == "i1" else function, lhs, rhs)


def divide(b: Builder, call: Call) -> Values:
    """`div` with a rounding mode: none, `floor` or `trunc`."""
    mode, scalar = call.raw("rounding_mode"), call.result.scalar
    lhs, rhs = (b.operand(call.raw(name), scalar) for name in ("self", "other"))
    if mode == "floor":
        return b.binary("floordiv", lhs, rhs)
    if mode is None:
        return b.binary("div", lhs, rhs)
    if call.result.is_float:
        return _trunc(b, b.binary("div", lhs, rhs))
    quotient = b.binary("floordiv", b.unary("abs", lhs), b.unary("abs", rhs))
    negative = b.binary("xor", b.with_number("lt", lhs, 0), b.with_number("lt", rhs, 0))
    return b.where(negative, b.unary("neg", quotient), quotient)


def fmod(b: Builder, call: Call) -> Values:
    """The remainder with the sign of the dividend."""
    scalar = call.result.scalar
    lhs, rhs = (b.operand(call.raw(name), scalar) for name in ("self", "other"))
    size = b.binary("mod", b.unary("abs", lhs), b.unary("abs", rhs))
    return b.where(b.with_number("lt", lhs, 0), b.unary("neg", size), size)


def _operand_type(value: object) -> TensorType | Number:
    if isinstance(value, SSAValue):
        return type_of(value)
    return 1 if isinstance(value, Dim) or not isinstance(value, int | float) else value


def comparison(b: Builder, call: Call, *, function: str) -> Values:
    """Compare two operands in the element type that torch promotes them to."""
    left, right = call.raw("self"), call.raw("other")
    scalar = promote(_operand_type(left), _operand_type(right))
    return b.binary(function, b.operand(left, scalar), b.operand(right, scalar))


def logical(b: Builder, call: Call, *, function: str) -> Values:
    """Combine two operands as truth values."""
    return b.binary(function, b.operand(call.raw("self"), "i1"), b.operand(call.raw("other"), "i1"))


# torch computes these powers by the same products and roots
_POWERS = {0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal"}


def power(b: Builder, call: Call) -> Values:
    """`x ** y`."""
    scalar, exponent = call.result.scalar, call.raw("exponent")
    base = b.operand(call.raw("self"), scalar)
    if isinstance(exponent, int | float):
        if exponent == 1:
            return base
        if exponent == 2:
            return b.binary("mul", base, base)
        if exponent == 3:
            return b.binary("mul", b.binary("mul", base, base), base)
        if call.result.is_float and float(exponent) in _POWERS:
            return b.unary(_POWERS[float(exponent)], base)
    return b.binary("pow", base, b.operand(exponent, scalar))


def where(b: Builder, call: Call) -> Values:
    """`condition ? self : other`."""
    scalar = call.result.scalar
    lhs, rhs = b.operand(call.raw("self"), scalar), b.operand(call.raw("other"), scalar)
    return b.where(b.cast(call.value("condition"), "i1"), lhs, rhs)


def masked_fill(b: Builder, call: Call) -> Values:
    """`mask ? value : self`."""
    kind = call.result
    fill = b.operand(call.raw("value"), kind.scalar)
    return b.where(call.value("mask"), fill, b.expand(b.cast(call.value("self"), kind.scalar), kind.shape))


def clamp(b: Builder, call: Call, *, low: str = "min", high: str = "max") -> Values:
    """`min(max(x, low), high)`; either bound may be missing."""
    scalar = call.result.scalar
    value = b.cast(call.value("self"), scalar)
    if call.given(low):
        value = b.binary("max", value, b.operand(call.raw(low), scalar))
    if call.given(high):
        value = b.binary("min", value, b.operand(call.raw(high), scalar))
    return value


def relu6(b: Builder, call: Call) -> Values:
    """`min(max(x, 0), 6)`."""
    return b.with_number("min", b.with_number("max", call.value("self"), 0), 6)


def leaky_relu(b: Builder, call: Call) -> Values:
    """`x > 0 ? x : slope * x`."""
    value = call.value("self")
    scaled = b.with_number("mul", value, call.number("negative_slope"))
    return b.where(b.with_number("gt", value, 0), value, scaled)


def elu(b: Builder, call: Call) -> Values:
    """`x > 0 ? scale * x : alpha * scale * (exp(input_scale * x) - 1)` (arXiv 1511.07289)."""
    value, scale = call.value("self"), call.real("scale")
    grown = _expm1(b, b.with_number("mul", value, call.real("input_scale")))
    below = b.with_number("mul", grown, call.real("alpha") * scale)
    return b.where(b.with_number("gt", value, 0), b.with_number("mul", value, scale), below)


def softplus(b: Builder, call: Call) -> Values:
    """`log(1 + exp(beta * x)) / beta`, and x where `beta * x` exceeds the threshold."""
    value, beta = call.value("self"), call.real("beta")
    scaled = b.with_number("mul", value, beta)
    # exp of what the threshold lets through only, so that the branch not taken cannot overflow
    bounded = b.with_number("min", scaled, call.real("threshold"))
    curve = _log1p(b, b.unary("exp", bounded))
    return b.where(b.with_number("gt", scaled, call.real("threshold")), value, b.with_number("div", curve, beta))


def addc(b: Builder, call: Call, *, function: str) -> Values:
    """`self + value * (tensor1 op tensor2)`."""
    scalar = call.result.scalar
    part = b.binary(function, *(b.cast(call.value(name), scalar) for name in ("tensor1", "tensor2")))
    if call.raw("value") != 1:
        part = b.binary("mul", part, b.operand(call.raw("value"), scalar))
    return b.binary("add", b.cast(call.value("self"), scalar), part)


_UNARY = "abs neg exp log sqrt rsqrt reciprocal sin cos tanh erf sigmoid relu silu hardswish hardsigmoid".split()
_COMPARISONS = "eq ne lt le gt ge".split()
_LOGICAL = {"logical_and": "and", "logical_or": "or", "logical_xor": "xor"}

TABLE: dict[object, Handler] = {
    **{getattr(aten, name).default: partial(unary, function=name) for name in _UNARY},
    **{getattr(aten, name).Tensor: partial(comparison, function=name) for name in _COMPARISONS},
    **{getattr(aten, name).Scalar: partial(comparison, function=name) for name in _COMPARISONS},
    **{getattr(aten, name).default: partial(logical, function=function) for name, function in _LOGICAL.items()},
    aten.isnan.default: partial(predicate, function="isnan"),
    aten.isinf.default: isinf,
    aten.log1p.default: log1p,
    aten.expm1.default: expm1,
    aten.gelu.default: gelu,
    aten.logical_not.default: logical_not,
    aten.bitwise_not.default: bitwise_not,
    aten.ceil.default: ceil,
    aten.floor.default: floor,
    aten.trunc.default: trunc,
    aten.sign.default: sign,
    aten.square.default: square,
    aten.add.Tensor: partial(arithmetic, function="add"),
    aten.add.Scalar: partial(arithmetic, function="add"),
    aten.sub.Tensor: partial(arithmetic, function="sub"),
    aten.sub.Scalar: partial(arithmetic, function="sub"),
    aten.rsub.Tensor: partial(arithmetic, function="sub", left="other", right="self"),
    aten.rsub.Scalar: partial(arithmetic, function="sub", left="other", right="self"),
    aten.mul.Tensor: partial(arithmetic, function="mul"),
    aten.mul.Scalar: partial(arithmetic, function="mul"),
    aten.div.Tensor: partial(arithmetic, function="div"),
    aten.div.Scalar: partial(arithmetic, function="div"),
    aten.div.Tensor_mode: divide,
    aten.div.Scalar_mode: divide,
    aten.floor_divide.default: partial(arithmetic, function="floordiv"),
    aten.remainder.Tensor: partial(arithmetic, function="mod"),
    aten.remainder.Scalar: partial(arithmetic, function="mod"),
    aten.fmod.Tensor: fmod,
    aten.fmod.Scalar: fmod,
    aten.maximum.default: partial(arithmetic, function="max"),
    aten.minimum.default: partial(arithmetic, function="min"),
    aten.max.other: partial(arithmetic, function="max"),
    aten.min.other: partial(arithmetic, function="min"),
    aten.bitwise_and.Tensor: partial(arithmetic, function="and"),
    aten.bitwise_and.Scalar: partial(arithmetic, function="and"),
    aten.bitwise_or.Tensor: partial(arithmetic, function="or"),
    aten.bitwise_or.Scalar: partial(arithmetic, function="or"),
    aten.bitwise_xor.Tensor: partial(arithmetic, function="xor"),
    aten.bitwise_xor.Scalar: partial(arithmetic, function="xor"),
    # the operators of Python keep their own names in training graphs
    aten.__and__.Tensor: partial(arithmetic, function="and"),
    aten.__and__.Scalar: partial(arithmetic, function="and"),
    aten.__or__.Tensor: partial(arithmetic, function="or"),
    aten.__or__.Scalar: partial(arithmetic, function="or"),
    aten.__xor__.Tensor: partial(arithmetic, function="xor"),
    aten.__xor__.Scalar: partial(arithmetic, function="xor"),
    aten.pow.Tensor_Scalar: power,
    aten.pow.Tensor_Tensor: power,
    aten.pow.Scalar: power,
    aten.where.self: where,
    aten.where.Scalar: where,
    aten.where.ScalarSelf: where,
    aten.where.ScalarOther: where,
    aten.masked_fill.Scalar: masked_fill,
    aten.masked_fill.Tensor: masked_fill,
    aten.clamp.default: clamp,
    aten.clamp.Tensor: clamp,
    aten.clamp_min.default: partial(clamp, high="none"),
    aten.clamp_max.default: partial(clamp, low="none"),
    aten.hardtanh.default: partial(clamp, low="min_val", high="max_val"),
    aten.relu6.default: relu6,
    aten.leaky_relu.default: leaky_relu,
    aten.elu.default: elu,
    aten.softplus.default: softplus,
    aten.addcmul.default: partial(addc, function="mul"),
    aten.addcdiv.default: partial(addc, function="div"),
}

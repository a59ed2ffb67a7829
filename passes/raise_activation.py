"""Raise activation functions that are written out.

    x * sigmoid(x)                                             ->  silu(x)
    1 / (1 + exp(-x)), x / (1 + exp(-x))                       ->  sigmoid(x), silu(x)
    x * (1 + erf(x / sqrt 2)) / 2                              ->  gelu(x)
    x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 * x^3))) / 2      ->  gelu_tanh(x)
    min(max(x + 3, 0), 6) / 6, x * min(max(x + 3, 0), 6) / 6   ->  hardsigmoid(x), hardswish(x)

    cast(f(cast(x)))                                           ->  f(x)    f16 or bf16 computed in f32: f's definition

Products match in any association and order. Legality: the constants are the formula's up to a float32 rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern

from qcc.ir.elementwise import BinaryOp, CastOp, UnaryOp
from qcc.ir.types import type_of
from qcc.passes.matching import (
    binary,
    either_order,
    factors_of,
    is_near,
    is_number,
    made_by,
    number_of,
    strip_scale,
    unary,
    with_number,
)
from qcc.passes.rewriting import replace, rewrite

_CUBIC = 0.044715


@dataclass(frozen=True)
class RaiseActivation(ModulePass):
    """The pass."""

    name: ClassVar[str] = "raise-activation"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module."""
        rewrite(op, [RaiseReciprocal(), RaiseProduct(), AbsorbCasts()])


class RaiseReciprocal(RewritePattern):
    """a / (1 + exp(-x)) -> sigmoid(x), or silu(x) where a is x"""

    def match_and_rewrite(self, op: object, rewriter: PatternRewriter) -> None:
        if isinstance(op, UnaryOp) and op.function.data == "reciprocal":
            value = _logistic(op.input)
            if value is not None:
                replace(rewriter, op, [UnaryOp("sigmoid", value)])
        elif isinstance(op, BinaryOp) and op.function.data == "div":
            value = _logistic(op.rhs)
            if value is None or value.type != op.result.type:
                return
            if op.lhs is value:
                replace(rewriter, op, [UnaryOp("silu", value)])
            elif is_number(op.lhs, 1.0):
                replace(rewriter, op, [UnaryOp("sigmoid", value)])


def _logistic(value: SSAValue) -> SSAValue | None:
    """Return x where the value is 1 + exp(-x)."""
    found = with_number(value, "add")
    if found is None or found[1] != 1.0:
        return None
    exponent = unary(found[0], "exp")
    return None if exponent is None else unary(exponent, "neg")


class RaiseProduct(RewritePattern):
    """A product of x and a gate of x -> an activation of x"""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: BinaryOp, rewriter: PatternRewriter, /) -> None:
        if op.function.data not in ("mul", "div") or not type_of(op.result).is_float:
            return
        factors, scale = factors_of(op.result)
        if len(factors) == 1:
            clamped = _clamped(factors[0])
            if clamped is not None and is_near(scale, 1 / 6) and clamped.type == op.result.type:
                replace(rewriter, op, [UnaryOp("hardsigmoid", clamped)])
        for gate in factors:
            for value in _gated_values(gate):
                others, scale = factors_of(op.result, value)
                if sorted(map(id, others)) != sorted(map(id, (value, gate))) or value.type != op.result.type:
                    continue
                function = _gated(value, gate, scale)
                if function is not None:
                    replace(rewriter, op, [UnaryOp(function, value)])
                    return


def _gated_values(gate: SSAValue) -> list[SSAValue]:
    """List the values that a gate may be a gate of."""
    found = unary(gate, "sigmoid") or unary(gate, "hardsigmoid") or _clamped(gate)
    if found is not None:
        return [found]
    shifted = with_number(gate, "add")
    if shifted is None:
        return []
    if (inner := unary(shifted[0], "erf")) is not None:
        return [strip_scale(inner)[0]]
    if (inner := unary(shifted[0], "tanh")) is None:
        return []
    factors, _ = factors_of(inner)
    sums = [pair for one in factors if (pair := binary(one, "add")) is not None]
    return [*(term for pair in sums for term in pair), *(one for one in factors if binary(one, "add") is None)]


class AbsorbCasts(RewritePattern):
    """cast(f(cast(x))) -> f(x), which is computed in float32 by definition"""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: CastOp, rewriter: PatternRewriter, /) -> None:
        activation = made_by(op.input, UnaryOp)
        widened = None if activation is None else made_by(activation.input, CastOp)
        if activation is None or widened is None or not op.input.has_one_use():
            return
        if type_of(op.result).scalar not in ("f16", "bf16") or type_of(op.input).scalar != "f32":
            return
        if widened.input.type == op.result.type:
            replace(rewriter, op, [UnaryOp(str(activation.function.data.value), widened.input)])


def _gated(value: SSAValue, gate: SSAValue, scale: float) -> str | None:
    """Return the function that `scale * value * gate` is."""
    if unary(gate, "sigmoid") is value and scale == 1.0:
        return "silu"
    if unary(gate, "hardsigmoid") is value and scale == 1.0:
        return "hardswish"
    if _clamped(gate) is value and is_near(scale, 1 / 6):
        return "hardswish"
    shifted = with_number(gate, "add")
    if shifted is None or shifted[1] != 1.0 or scale != 0.5:
        return None
    if (inner := unary(shifted[0], "erf")) is not None:
        factors, factor = factors_of(inner, value)
        return "gelu" if factors == [value] and is_near(factor, math.sqrt(0.5)) else None
    if (inner := unary(shifted[0], "tanh")) is not None:
        return "gelu_tanh" if _is_tanh_argument(inner, value) else None
    return None


def _clamped(value: SSAValue) -> SSAValue | None:
    """Return x where the value is min(max(x + 3, 0), 6), in either order."""
    for outer, inner, outer_bound, inner_bound in (("min", "max", 6.0, 0.0), ("max", "min", 0.0, 6.0)):
        first = with_number(value, outer)
        second = None if first is None or first[1] != outer_bound else with_number(first[0], inner)
        if second is not None and second[1] == inner_bound:
            shifted = with_number(second[0], "add")
            return shifted[0] if shifted is not None and shifted[1] == 3.0 else None
    return None


def _is_tanh_argument(inner: SSAValue, value: SSAValue) -> bool:
    """Say whether the value is sqrt(2/pi) * (x + 0.044715 * x^3), or with x in front of (1 + 0.044715 * x^2)."""
    factors, factor = factors_of(inner, value)
    if not is_near(factor, math.sqrt(2 / math.pi)):
        return False
    others = [one for one in factors if one is not value]
    if len(others) != 1 or len(factors) > 2:
        return False
    for one, other in either_order(binary(others[0], "add")):
        if len(factors) == 1 and one is value and _is_power(other, value, 3):
            return True
        if len(factors) == 2 and number_of(one) == 1.0 and _is_power(other, value, 2):
            return True
    return False


def _is_power(term: SSAValue, value: SSAValue, power: int) -> bool:
    """Say whether a term is 0.044715 * value^power."""
    factors, factor = factors_of(term, value)
    degree = 0
    for one in factors:
        raised = with_number(one, "pow")
        if one is value:
            degree += 1
        elif raised is not None and raised[0] is value:
            degree += int(raised[1]) if raised[1] == int(raised[1]) else power + 1
        else:
            return False
    return degree == power and is_near(factor, _CUBIC)

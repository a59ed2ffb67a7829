"""Raise normalisations that are written out.

    x * rsqrt(mean(x * x) + eps)                       ->  norm rms(x)
    norm rms(x) * w                                    ->  norm rms(x, w)
    norm rms(x) * (1 + w)                              ->  norm rms_plus1(x, w)      f32 and f64
    norm rms(x - mean(x))                              ->  norm layer(x)
    norm layer(x) * w + b                              ->  norm layer(x, w, b)       f32 and f64
    cast(norm(cast(x), cast(w), cast(b)))              ->  norm(x, w, b)             where the wide norm does what
                                                           the narrow one is defined to do

Legality: means are over the last axis, which the weight [K] scales. The casts of float16 and bfloat16 go only where
the definition of `qcc.norm` rounds at the same places: `rms` without a weight, `rms_plus1` and `layer` with all their
parameters cast. A norm that others read too is left as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern

from qcc.ir.dims import Dim
from qcc.ir.elementwise import BinaryOp, CastOp
from qcc.ir.shape import ExpandOp, ReshapeOp
from qcc.ir.transformer import NormKind, NormOp
from qcc.ir.types import type_of
from qcc.passes.matching import (
    binary,
    either_order,
    is_number,
    made_by,
    mean_of,
    shape_of,
    unary,
    with_number,
)
from qcc.passes.rewriting import replace, rewrite


@dataclass(frozen=True)
class RaiseNorm(ModulePass):
    """The pass."""

    name: ClassVar[str] = "raise-norm"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module."""
        rewrite(op, [RaiseBare(), RaiseLayer(), AbsorbCasts(), AbsorbWeight(), AbsorbBias()])


class RaiseBare(RewritePattern):
    """x * rsqrt(mean(x * x) + eps) -> norm rms(x)"""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: BinaryOp, rewriter: PatternRewriter, /) -> None:
        if op.function.data == "mul":
            for value, factor in either_order((op.lhs, op.rhs)):
                eps = _mean_square(unary(factor, "rsqrt") or _inverse_root(factor), value)
                if eps is not None:
                    replace(rewriter, op, [NormOp("rms", value, eps=eps)])
                    return
        elif op.function.data == "div":
            eps = _mean_square(unary(op.rhs, "sqrt"), op.lhs)
            if eps is not None:
                replace(rewriter, op, [NormOp("rms", op.lhs, eps=eps)])


def _inverse_root(value: SSAValue) -> SSAValue | None:
    """Return x where the value is 1 / sqrt(x)."""
    inner = unary(value, "reciprocal")
    if inner is None and (pair := binary(value, "div")) is not None and is_number(pair[0], 1.0):
        inner = pair[1]
    return None if inner is None else unary(inner, "sqrt")


def _mean_square(value: SSAValue | None, root: SSAValue) -> float | None:
    """Return eps where the value is mean(root * root) + eps."""
    found = None if value is None else with_number(value, "add")
    if found is None or found[1] < 0:
        return None
    square = mean_of(found[0])
    if square is None:
        return None
    if binary(square, "mul") == (root, root):
        return found[1]
    power = with_number(square, "pow")
    return found[1] if power is not None and power == (root, 2.0) else None


class RaiseLayer(RewritePattern):
    """norm rms(x - mean(x)) -> norm layer(x)"""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: NormOp, rewriter: PatternRewriter, /) -> None:
        centred = binary(op.input, "sub")
        if op.kind.data is not NormKind.RMS or op.weight is not None or centred is None:
            return
        if mean_of(centred[1]) is centred[0]:
            replace(rewriter, op, [NormOp("layer", centred[0], eps=op.eps.value.data)])


class AbsorbWeight(RewritePattern):
    """norm rms(x) * w -> norm rms(x, w)"""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: BinaryOp, rewriter: PatternRewriter, /) -> None:
        if op.function.data != "mul":
            return
        for value, other in either_order((op.lhs, op.rhs)):
            norm = made_by(value, NormOp)
            weight = _vector(other, value)
            if norm is None or weight is None or norm.weight is not None or norm.bias is not None:
                continue
            is_wide = type_of(value).scalar in ("f32", "f64")
            if not value.has_one_use() or norm.kind.data is NormKind.RMS_PLUS1:
                continue
            if norm.kind.data is NormKind.LAYER and not is_wide:
                continue
            kind = str(norm.kind.data.value)
            grown = with_number(weight, "add")
            if is_wide and kind == "rms" and grown is not None and grown[1] == 1.0 and _is_vector(grown[0], value):
                kind, weight = "rms_plus1", grown[0]
            replace(rewriter, op, [NormOp(kind, norm.input, weight, eps=norm.eps.value.data)])
            return


class AbsorbBias(RewritePattern):
    """norm layer(x, w) + b -> norm layer(x, w, b)"""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: BinaryOp, rewriter: PatternRewriter, /) -> None:
        if op.function.data != "add" or type_of(op.result).scalar not in ("f32", "f64"):
            return
        for value, other in either_order((op.lhs, op.rhs)):
            norm = made_by(value, NormOp)
            bias = _vector(other, value)
            if norm is None or bias is None or norm.kind.data is not NormKind.LAYER or norm.bias is not None:
                continue
            if value.has_one_use():
                replace(rewriter, op, [NormOp("layer", norm.input, norm.weight, bias, eps=norm.eps.value.data)])
                return


def _is_vector(value: SSAValue, like: SSAValue) -> bool:
    return shape_of(value) == shape_of(like)[-1:]


def _vector(value: SSAValue, like: SSAValue) -> SSAValue | None:
    """Return the vector [K] behind a value that broadcasts it over the leading axes of `like`."""
    while not _is_vector(value, like):
        op = value.owner
        if not isinstance(op, ReshapeOp | ExpandOp) or shape_of(value)[-1:] != shape_of(like)[-1:]:
            return None
        if isinstance(op, ReshapeOp) and any(dim != Dim.of(1) for dim in shape_of(value)[:-1]):
            return None
        value = op.input
    return value


class AbsorbCasts(RewritePattern):
    """cast(norm(cast(x), cast(w), cast(b))) -> norm(x, w, b)"""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: CastOp, rewriter: PatternRewriter, /) -> None:
        norm = made_by(op.input, NormOp)
        narrow = type_of(op.result).qtype is None and type_of(op.result).scalar
        if norm is None or narrow not in ("f16", "bf16") or type_of(op.input).scalar != "f32":
            return
        if not op.input.has_one_use() or (norm.kind.data is NormKind.RMS and norm.weight is not None):
            return
        value, weight, bias = (_before_cast(one, narrow) for one in (norm.input, norm.weight, norm.bias))
        if value is None or (weight is None) != (norm.weight is None) or (bias is None) != (norm.bias is None):
            return
        replace(rewriter, op, [NormOp(norm.kind.data.value, value, weight, bias, eps=norm.eps.value.data)])


def _before_cast(value: SSAValue | None, scalar: str) -> SSAValue | None:
    cast = None if value is None else made_by(value, CastOp)
    return cast.input if cast is not None and type_of(cast.input).scalar == scalar else None

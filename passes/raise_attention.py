"""Raise attention that is written out, and let it read grouped heads as they are.

    safe_softmax(scale * (q @ k^T) + mask) @ v      ->  attention(q, k, v, mask)
    softmax(scale * (q @ k^T)) @ v                  ->  attention(q, k, v)
    softmax(scale * (q @ k^T) + mask) @ v           ->  attention(q, k, v, mask)    no element of the mask is -inf
    attention(q, k, v, where(keep, 0, -inf))        ->  attention(q, k, v, keep)    also through expand and cast
    cast(attention(cast(q), cast(k), cast(v)))      ->  attention(q, k, v)          f16 or bf16 computed in f32
    attention(q, repeat(k), repeat(v))              ->  attention(q, k, v)          repeat: every head n times in a row

The scale may be on q, on k, on both, or on the product; a boolean mask may be in a where. Safe softmax gives zeros for
rows whose scores are all -inf, which is what `qcc.attention` does.

Legality: plain softmax gives NaN where all scores of a row are -inf, so it is raised only where there is no mask or
the mask is made of finite numbers. float16 and bfloat16 round once instead of at each operation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern

from qcc.ir.dims import Dim, broadcast
from qcc.ir.elementwise import CastOp, UnaryOp, WhereOp
from qcc.ir.gather import ReduceOp
from qcc.ir.nn import MatmulOp, SoftmaxOp
from qcc.ir.shape import ExpandOp, ReshapeOp, TransposeOp
from qcc.ir.transformer import AttentionOp
from qcc.ir.types import type_of
from qcc.passes.canonicalize import PATTERNS
from qcc.passes.finite import is_finite
from qcc.passes.matching import (
    binary,
    either_order,
    is_number,
    made_by,
    number_of,
    over_last_axis,
    shape_of,
    strip_scale,
    unary,
)
from qcc.passes.rewriting import replace, rewrite


@dataclass(frozen=True)
class RaiseAttention(ModulePass):
    """The pass."""

    name: ClassVar[str] = "raise-attention"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module."""
        rewrite(op, [RaiseProducts(), SimplifyMask(), AbsorbCasts(), ReadGroupedHeads(), *PATTERNS])


@dataclass(frozen=True)
class _Scores:
    query: SSAValue
    turned_key: SSAValue
    scale: float
    mask: SSAValue | None = None
    keep: SSAValue | None = None


class RaiseProducts(RewritePattern):
    """softmax(scale * (q @ k^T) + mask) @ v -> attention(q, k, v, mask)"""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: MatmulOp, rewriter: PatternRewriter, /) -> None:
        if type_of(op.lhs).rank != 4 or type_of(op.rhs).rank != 4:
            return
        found = _probabilities(op.lhs)
        scores = None if found is None else _scores(found[0])
        if found is None or scores is None or not _is_legal(scores, is_safe=found[1]):
            return
        if not _heads_fit(scores, op.rhs):
            return
        mask = scores.keep if scores.keep is not None else scores.mask
        key = TransposeOp(scores.turned_key, [0, 1, 3, 2])
        attention = AttentionOp(scores.query, key, op.rhs, mask, scale=scores.scale)
        if attention.result.type == op.result.type:
            replace(rewriter, op, [key, attention])


def _heads_fit(scores: _Scores, value: SSAValue) -> bool:
    query, key, values = shape_of(scores.query), shape_of(scores.turned_key), shape_of(value)
    if len(query) != 4 or len(key) != 4 or query[0] != key[0] or key[:2] != values[:2] or key[3] != values[2]:
        return False
    shape = (*query[:3], key[3])
    given = [one for one in (scores.mask, scores.keep) if one is not None]
    return (key[1] in (query[1], Dim.of(1))) and all(broadcast([shape_of(one), shape]) == shape for one in given)


def _is_legal(scores: _Scores, *, is_safe: bool) -> bool:
    if scores.mask is not None and scores.keep is not None:
        return False
    return is_safe or (scores.keep is None and (scores.mask is None or is_finite(scores.mask)))


def _probabilities(value: SSAValue) -> tuple[SSAValue, bool] | None:
    """Return (scores, is safe) where the value is a softmax over the last axis of scores."""
    value = _strip_cast(value)
    guarded = made_by(value, WhereOp)
    if guarded is not None:
        dead, keeps = _emptiness(guarded.condition)
        zero, kept = (guarded.rhs, guarded.lhs) if keeps else (guarded.lhs, guarded.rhs)
        softmax = made_by(kept, SoftmaxOp)
        if softmax is None or not is_number(zero, 0.0) or not _is_last(softmax) or dead is not softmax.input:
            return None
        return _strip_cast(softmax.input), True
    softmax = made_by(value, SoftmaxOp)
    return None if softmax is None or not _is_last(softmax) else (_strip_cast(softmax.input), False)


def _is_last(op: SoftmaxOp) -> bool:
    return op.axis.value.data == type_of(op.result).rank - 1


def _emptiness(condition: SSAValue) -> tuple[SSAValue | None, bool]:
    """Return the scores whose rows are tested for being all -inf, and whether the test holds for rows that are not."""
    inner, keeps = unary(condition, "not"), False
    if inner is None:
        inner, keeps = condition, True
    reduced = made_by(inner, ReduceOp)
    if reduced is None or not over_last_axis(reduced):
        return None, keeps
    if reduced.reduction.data == "all":
        return _scores_equal_to_infinity(reduced.input, "eq"), not keeps
    if reduced.reduction.data != "any":
        return None, keeps
    negated = unary(reduced.input, "not")
    if negated is not None:
        return _scores_equal_to_infinity(negated, "eq"), keeps
    return _scores_equal_to_infinity(reduced.input, "ne"), keeps


def _scores_equal_to_infinity(value: SSAValue, function: str) -> SSAValue | None:
    for one, other in either_order(binary(value, function)):
        if is_number(other, -math.inf):
            return one
    return None


def _strip_cast(value: SSAValue) -> SSAValue:
    """Look through a cast between floating-point types: softmax is often taken in a wider one."""
    op = made_by(value, CastOp)
    return op.input if op is not None and type_of(op.input).is_float else value


def _scores(value: SSAValue) -> _Scores | None:
    """Split scores into query, turned key, scale and mask."""
    masked = made_by(value, WhereOp)
    if masked is not None:
        if is_number(masked.rhs, -math.inf) and (plain := _product(masked.lhs)) is not None:
            return _Scores(plain.query, plain.turned_key, plain.scale, keep=masked.condition)
        return None
    if (plain := _product(value)) is not None:
        return plain
    for one, mask in either_order(binary(value, "add")):
        if (plain := _product(one)) is not None:
            return _Scores(plain.query, plain.turned_key, plain.scale, mask=mask)
    return None


def _product(value: SSAValue) -> _Scores | None:
    """Match scale * (q @ k^T), the scale anywhere."""
    value, scale = strip_scale(value)
    product = made_by(_strip_cast(value), MatmulOp)
    if product is None or type_of(product.result).rank != 4:
        return None
    (query, left), (key, right) = strip_scale(product.lhs), strip_scale(product.rhs)
    return _Scores(query, key, scale * left * right)


class SimplifyMask(RewritePattern):
    """attention(.., where(keep, 0, -inf)) -> attention(.., keep), through expansions"""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: AttentionOp, rewriter: PatternRewriter, /) -> None:
        if op.mask is None:
            return
        shape = (*shape_of(op.query)[:3], shape_of(op.key)[2])
        expand = made_by(op.mask, ExpandOp)
        if expand is not None and broadcast([shape_of(expand.input), shape]) == shape:
            _give_mask(op, expand.input, rewriter)
            return
        chosen = made_by(_strip_cast(op.mask), WhereOp)
        if chosen is None:
            return
        numbers = number_of(chosen.lhs), number_of(chosen.rhs)
        if broadcast([shape_of(chosen.condition), shape]) != shape:
            return
        if numbers == (0.0, -math.inf):
            _give_mask(op, chosen.condition, rewriter)
        elif numbers == (-math.inf, 0.0):
            _give_mask(op, UnaryOp("not", chosen.condition), rewriter)


def _give_mask(op: AttentionOp, mask: SSAValue | UnaryOp, rewriter: PatternRewriter) -> None:
    made: list[Operation] = [] if isinstance(mask, SSAValue) else [mask]
    scale, causal = op.scale.value.data, bool(op.causal)
    replace(rewriter, op, [*made, AttentionOp(op.query, op.key, op.value, mask, scale=scale, causal=causal)])


class AbsorbCasts(RewritePattern):
    """cast(attention(cast(q), cast(k), cast(v))) -> attention(q, k, v), whose definition is to compute in float32"""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: CastOp, rewriter: PatternRewriter, /) -> None:
        attention = made_by(op.input, AttentionOp)
        narrow = type_of(op.result).scalar
        if attention is None or narrow not in ("f16", "bf16") or type_of(op.input).scalar != "f32":
            return
        query, key, value = (_strip_cast(one) for one in (attention.query, attention.key, attention.value))
        if not op.input.has_one_use() or any(type_of(one).scalar != narrow for one in (query, key, value)):
            return
        scale, causal = attention.scale.value.data, bool(attention.causal)
        replace(rewriter, op, [AttentionOp(query, key, value, attention.mask, scale=scale, causal=causal)])


class ReadGroupedHeads(RewritePattern):
    """attention(q, repeat(k), repeat(v)) -> attention(q, k, v)"""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: AttentionOp, rewriter: PatternRewriter, /) -> None:
        key, value = _repeated_heads(op.key), _repeated_heads(op.value)
        if key is None or value is None or shape_of(key)[1] != shape_of(value)[1]:
            return
        if shape_of(op.query)[1].exact_div(shape_of(key)[1]) is None:
            return
        scale, causal = op.scale.value.data, bool(op.causal)
        keys, values = _drop_unit_axis(key), _drop_unit_axis(value)
        attention = AttentionOp(op.query, keys, values, op.mask, scale=scale, causal=causal)
        replace(rewriter, op, [keys, values, attention])


def _repeated_heads(value: SSAValue) -> SSAValue | None:
    """Return x [B, H, 1, T, D] where the value is x with every head repeated, as [B, H * n, T, D]."""
    merged = made_by(value, ReshapeOp)
    expand = None if merged is None else made_by(merged.input, ExpandOp)
    if expand is None or type_of(expand.result).rank != 5 or type_of(expand.input).rank != 5:
        return None
    narrow, wide = shape_of(expand.input), shape_of(expand.result)
    if narrow[2] != Dim.of(1) or narrow[:2] + narrow[3:] != wide[:2] + wide[3:]:
        return None
    return expand.input if shape_of(value) == (wide[0], wide[1] * wide[2], *wide[3:]) else None


def _drop_unit_axis(value: SSAValue) -> ReshapeOp:
    shape = shape_of(value)
    return ReshapeOp(value, [*shape[:2], *shape[3:]])

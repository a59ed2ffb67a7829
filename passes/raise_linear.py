"""Raise products with stored weights to linear layers.

    matmul(x, transpose(w))              ->  linear(x, w)                  w a weight [N, K], moved or cast or not
    matmul(x, w)                         ->  linear(x, transpose(w))       w a weight [K, N] (GPT-2's Conv1D)
    linear(reshape(x), w)                ->  reshape(linear(x, w))         the reshape flattens leading axes only
    add(linear(x, w), b)                 ->  linear(x, w, b)               b [N], the product read by nothing else
    add(reshape(linear(x, w)), b)        ->  reshape(linear(x, w, b))      the reshape keeps the last axis

Legality: equal in real arithmetic; the shapes named above. In float16 and bfloat16 the bias is added before the one
rounding of the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern

from qcc.ir.dims import Shape
from qcc.ir.elementwise import BinaryOp
from qcc.ir.nn import LinearOp, MatmulOp
from qcc.ir.shape import ExpandOp, ReshapeOp, TransposeOp
from qcc.ir.types import type_of
from qcc.passes.canonicalize import PATTERNS
from qcc.passes.matching import either_order, is_stored, made_by, shape_of
from qcc.passes.rewriting import replace, rewrite


@dataclass(frozen=True)
class RaiseLinear(ModulePass):
    """The pass."""

    name: ClassVar[str] = "raise-linear"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module."""
        rewrite(op, [RaiseProduct(), SinkReshape(), AbsorbBias(), *PATTERNS])


class RaiseProduct(RewritePattern):
    """matmul(x, transpose(w)) -> linear(x, w)"""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: MatmulOp, rewriter: PatternRewriter, /) -> None:
        if type_of(op.rhs).rank != 2 or not is_stored(op.rhs):
            return
        turned = made_by(op.rhs, TransposeOp)
        if turned is not None and turned.axes == (1, 0):
            replace(rewriter, op, [LinearOp(op.lhs, turned.input)])
        else:
            weight = TransposeOp(op.rhs, [1, 0])
            replace(rewriter, op, [weight, LinearOp(op.lhs, weight)])


class SinkReshape(RewritePattern):
    """linear(reshape(x), w) -> reshape(linear(x, w))"""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: LinearOp, rewriter: PatternRewriter, /) -> None:
        flat = made_by(op.input, ReshapeOp)
        if flat is None or not _flattens_leading_axes(shape_of(flat.input), shape_of(op.input)):
            return
        linear = LinearOp(flat.input, op.weight, op.bias)
        linear.attributes.update(op.attributes)
        replace(rewriter, op, [linear, ReshapeOp(linear, shape_of(op.result))])


def _flattens_leading_axes(before: Shape, after: Shape) -> bool:
    return len(before) > len(after) >= 1 and before[-1] == after[-1]


class AbsorbBias(RewritePattern):
    """add(linear(x, w), b) -> linear(x, w, b)"""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: BinaryOp, rewriter: PatternRewriter, /) -> None:
        if op.function.data != "add":
            return
        for value, other in either_order((op.lhs, op.rhs)):
            reshape = made_by(value, ReshapeOp)
            inner = value if reshape is None else reshape.input
            linear = made_by(inner, LinearOp)
            if linear is None or linear.bias is not None or shape_of(value) != shape_of(op.result):
                continue
            if not (value.has_one_use() and inner.has_one_use()) or shape_of(inner)[-1:] != shape_of(value)[-1:]:
                continue
            bias = _vector(other, shape_of(linear.weight)[:1])
            if bias is None:
                continue
            made = LinearOp(linear.input, linear.weight, bias)
            made.attributes.update(linear.attributes)
            replace(rewriter, op, [made] if reshape is None else [made, ReshapeOp(made, shape_of(value))])
            return


def _vector(value: SSAValue, shape: Shape) -> SSAValue | None:
    """Return the stored vector [N] behind a value that broadcasts it over leading axes."""
    while shape_of(value) != shape:
        op = value.owner
        if not isinstance(op, ExpandOp | ReshapeOp) or shape_of(value)[-1:] != shape:
            return None
        value = op.input
    return value if is_stored(value) else None

"""Bring modules to one form, so that patterns need to know one form only.

    reshape(x) : type of x                ->  x            likewise transpose, expand, cast, slice, pad, concat
    reshape(reshape(x))                   ->  reshape(x)   likewise transpose and expand
    x * 1, x + 0, x and true, not not x   ->  x
    binary(expand(x), y)                  ->  binary(x, y) where broadcasting does what the expansion did
    move(constant)                        ->  constant     move: reshape, expand, transpose, slice
    matmul(reshape(a), reshape(b))        ->  reshape(matmul(a, b)) where the reshapes flatten the batch axes alone

Equal pure operations become one, and what nothing reads goes. Legality: each is an identity of real numbers, shapes
being equal as symbolic expressions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern
from xdsl.traits import Pure

from qcc.ir.dims import broadcast, product
from qcc.ir.elementwise import BinaryOp, CastOp, UnaryOp, WhereOp
from qcc.ir.nn import MatmulOp
from qcc.ir.program import ConstantOp
from qcc.ir.shape import ConcatOp, ExpandOp, PadOp, ReshapeOp, SliceOp, TransposeOp
from qcc.ir.types import type_of
from qcc.passes.matching import is_zero, made_by, number_of, shape_of, unary
from qcc.passes.rewriting import replace, rewrite


@dataclass(frozen=True)
class Canonicalize(ModulePass):
    """The pass."""

    name: ClassVar[str] = "canonicalize"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module."""
        rewrite(op, PATTERNS)
        while merge_equal_operations(op):
            rewrite(op, PATTERNS)


class DropIdentity(RewritePattern):
    """Drop what moves or converts nothing."""

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if not isinstance(op, ReshapeOp | TransposeOp | ExpandOp | CastOp | SliceOp | PadOp | ConcatOp):
            return
        if len(op.operands) != 1 or op.operands[0].type != op.result.type:
            return
        if isinstance(op, TransposeOp) and op.axes != tuple(range(len(op.axes))):
            return
        if isinstance(op, SliceOp) and not (is_zero(op.start.data) and op.step.value.data == 1):
            return
        rewriter.replace(op, [], new_results=[op.operands[0]])


class MergeReshapes(RewritePattern):
    """reshape(reshape(x)) -> reshape(x)"""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: ReshapeOp, rewriter: PatternRewriter, /) -> None:
        if (inner := made_by(op.input, ReshapeOp)) is not None:
            replace(rewriter, op, [ReshapeOp(inner.input, shape_of(op.result))])


class MergeTransposes(RewritePattern):
    """transpose(transpose(x)) -> transpose(x)"""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: TransposeOp, rewriter: PatternRewriter, /) -> None:
        if (inner := made_by(op.input, TransposeOp)) is not None:
            replace(rewriter, op, [TransposeOp(inner.input, [inner.axes[axis] for axis in op.axes])])


class MergeExpands(RewritePattern):
    """expand(expand(x)) -> expand(x)"""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: ExpandOp, rewriter: PatternRewriter, /) -> None:
        if (inner := made_by(op.input, ExpandOp)) is not None:
            replace(rewriter, op, [ExpandOp(inner.input, shape_of(op.result))])


class MoveConstants(RewritePattern):
    """A moved constant is a constant of another shape."""

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if not isinstance(op, ReshapeOp | TransposeOp | ExpandOp | SliceOp):
            return
        constant = made_by(op.input, ConstantOp)
        if constant is not None:
            replace(rewriter, op, [ConstantOp(constant.number, type_of(op.result))])


_NEUTRAL = {"add": 0.0, "sub": 0.0, "mul": 1.0, "div": 1.0, "and": 1.0, "or": 0.0}
_COMMUTATIVE = ("add", "mul", "and", "or")


class DropNeutral(RewritePattern):
    """x * 1, x + 0, x and true -> x"""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: BinaryOp, rewriter: PatternRewriter, /) -> None:
        function = op.function.data
        neutral = _NEUTRAL.get(function)
        if neutral is None or (function in ("and", "or") and type_of(op.result).scalar != "i1"):
            return
        for kept, other in ((op.lhs, op.rhs), (op.rhs, op.lhs)):
            if kept is op.rhs and function not in _COMMUTATIVE:
                return
            if number_of(other) == neutral and kept.type == op.result.type:
                rewriter.replace(op, [], new_results=[kept])
                return


class DropDoubleNot(RewritePattern):
    """not not x -> x"""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: UnaryOp, rewriter: PatternRewriter, /) -> None:
        inner = unary(op.input, "not") if op.function.data == "not" else None
        if inner is not None:
            rewriter.replace(op, [], new_results=[inner])


class LetBroadcastingExpand(RewritePattern):
    """binary(expand(x), y) -> binary(x, y), also for where and the batch axes of matmul"""

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if not isinstance(op, BinaryOp | WhereOp | MatmulOp):
            return
        lead = slice(None, -2) if isinstance(op, MatmulOp) else slice(None)
        for operand in op.operands:
            expand = made_by(operand, ExpandOp)
            if expand is None:
                continue
            short, wide = shape_of(expand.input), shape_of(operand)
            if isinstance(op, MatmulOp) and (len(short) < 2 or short[-2:] != wide[-2:]):
                continue
            others = [shape_of(one)[lead] for one in op.operands if one is not operand]
            if broadcast([short[lead], *others]) == shape_of(op.result)[lead]:
                operands = [expand.input if one is operand else one for one in op.operands]
                rewriter.replace(op, [_rebuild(op, operands)])
                return


def _rebuild(op: BinaryOp | WhereOp | MatmulOp, operands: list[SSAValue]) -> Operation:
    return type(op).create(
        operands=operands, result_types=[op.result.type], properties=op.properties, attributes=op.attributes
    )


class UnflattenBatches(RewritePattern):
    """matmul(reshape(a), reshape(b)) -> reshape(matmul(a, b)) where [*lead, M, K] was flattened to [B, M, K]"""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: MatmulOp, rewriter: PatternRewriter, /) -> None:
        left, right = made_by(op.lhs, ReshapeOp), made_by(op.rhs, ReshapeOp)
        if left is None or right is None or type_of(op.lhs).rank != 3 or type_of(op.rhs).rank != 3:
            return
        a, b = shape_of(left.input), shape_of(right.input)
        if a[-2:] != shape_of(op.lhs)[-2:] or b[-2:] != shape_of(op.rhs)[-2:]:
            return
        # the batch axes may have been cut differently before (grouped heads): the coarser cut serves both
        lead = min(a[:-2], b[:-2], key=len)
        if len(lead) < 2 or product(a[:-2]) != product(b[:-2]):
            return
        sides = [ReshapeOp(one, [*lead, *shape_of(one)[-2:]]) for one in (left.input, right.input)]
        result = MatmulOp(*sides)
        replace(rewriter, op, [*sides, result, ReshapeOp(result, shape_of(op.result))])


PATTERNS: list[RewritePattern] = [
    DropIdentity(),
    MergeReshapes(),
    MergeTransposes(),
    MergeExpands(),
    MoveConstants(),
    DropNeutral(),
    DropDoubleNot(),
    LetBroadcastingExpand(),
    UnflattenBatches(),
]


def merge_equal_operations(module: ModuleOp) -> bool:
    """Let equal pure operations be one; attributes (where they come from) do not tell them apart.

    xDSL's own pass compares attributes too, and every operation here carries its place in the user's model.
    """
    changed = False
    for region in [region for op in module.ops for region in op.regions]:
        known: dict[tuple[object, ...], Operation] = {}
        for op in list(region.block.ops):
            if not op.has_trait(Pure) or op.regions:
                continue
            key = _key(op)
            first = known.setdefault(key, op)
            if first is op:
                continue
            for old, new in zip(op.results, first.results, strict=True):
                old.replace_all_uses_with(new)
            op.detach()
            op.erase()
            changed = True
    return changed


def _key(op: Operation) -> tuple[object, ...]:
    properties: frozenset[tuple[str, Attribute]] = frozenset(op.properties.items())
    return op.name, properties, tuple(op.operands), tuple(op.result_types)

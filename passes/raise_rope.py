"""Raise rotary position embeddings that are written out.

    x * cos + concat(-x2, x1) * sin                              ->  rope half(x, cos, sin)
    concat(x1 * cos - x2 * sin, x2 * cos + x1 * sin)             ->  rope half(x, concat(cos, cos), concat(sin, sin))
    x * cos + stack(-odd, even) * sin                            ->  rope interleaved(x, cos, sin)
    stack(even * cos - odd * sin, odd * cos + even * sin)        ->  rope interleaved(x, twice(cos), twice(sin))

with x1, x2 the halves of the last axis, `even` and `odd` its elements of step 2, `stack` on a new last axis that is
then merged, and `twice` each element two times in a row. Legality: the pieces are exactly those of one value, and the
angles broadcast to it. float16 and bfloat16 round once instead of at each operation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern

from qcc.ir.dims import Dim, broadcast
from qcc.ir.elementwise import BinaryOp
from qcc.ir.shape import ConcatOp, ExpandOp, ReshapeOp, SliceOp
from qcc.ir.transformer import RopeOp
from qcc.ir.types import type_of
from qcc.passes.matching import Pair, binary, either_order, made_by, shape_of, unary
from qcc.passes.rewriting import replace, rewrite

Piece = tuple[SSAValue, str, int]
"""(the whole value, how it is cut: half or interleaved, which piece: 0 or 1)"""


@dataclass(frozen=True)
class RaiseRope(ModulePass):
    """The pass."""

    name: ClassVar[str] = "raise-rope"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module."""
        rewrite(op, [RaiseTurned(), RaisePieces()])


class RaiseTurned(RewritePattern):
    """x * cos + turned * sin -> rope(x, cos, sin)"""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: BinaryOp, rewriter: PatternRewriter, /) -> None:
        if op.function.data != "add" or type_of(op.result).rank < 1:
            return
        for straight, crossed in either_order((op.lhs, op.rhs)):
            for turned, sin in either_order(binary(crossed, "mul")):
                found = _turned(turned)
                if found is None:
                    continue
                value, pairing = found
                for other, cos in either_order(binary(straight, "mul")):
                    if other is value and _fits(value, op.result, cos, sin):
                        replace(rewriter, op, [RopeOp(pairing, value, cos, sin)])
                        return


def _fits(value: SSAValue, result: SSAValue, *angles: SSAValue) -> bool:
    shape = shape_of(value)
    wide = all(broadcast([shape_of(one), shape]) == shape for one in angles)
    return wide and shape == shape_of(result) and shape[-1].exact_div(2) is not None


def _turned(value: SSAValue) -> tuple[SSAValue, str] | None:
    """Return (x, pairing) where the value is x with every pair (a, b) turned to (-b, a)."""
    parts = _joined(value)
    if parts is None:
        return None
    (first, second), pairing = parts
    negated = unary(first, "neg")
    left = None if negated is None else _piece(negated)
    right = _piece(second)
    if left is None or right is None or left[0] is not right[0] or left[1:] != (pairing, 1):
        return None
    return (left[0], pairing) if right[1:] == (pairing, 0) else None


def _joined(value: SSAValue) -> tuple[Pair, str] | None:
    """Return two pieces and how they are joined along the last axis: end to end, or element by element."""
    merged = made_by(value, ReshapeOp)
    joint = made_by(value if merged is None else merged.input, ConcatOp)
    if joint is None or len(joint.inputs) != 2 or joint.axis.value.data != type_of(joint.result).rank - 1:
        return None
    first, second = joint.inputs
    if merged is None:
        return ((first, second), "half") if shape_of(first) == shape_of(second) else None
    stacked = shape_of(joint.result)
    if stacked[-1] != Dim.of(2) or shape_of(value) != (*stacked[:-2], stacked[-2] * 2):
        return None
    pieces = [_without_unit_axis(one) for one in (first, second)]
    if pieces[0] is None or pieces[1] is None:
        return None
    return (pieces[0], pieces[1]), "interleaved"


def _without_unit_axis(value: SSAValue) -> SSAValue | None:
    """Return x [..., n] where the value is x as [..., n, 1]."""
    op = made_by(value, ReshapeOp)
    if op is None or shape_of(value) != (*shape_of(op.input), Dim.of(1)):
        return None
    return op.input


def _piece(value: SSAValue) -> Piece | None:
    """Return which half, or which elements of step 2, of which value this is."""
    cut = made_by(value, SliceOp)
    if cut is not None and cut.axis.value.data == type_of(value).rank - 1:
        half, start, step = shape_of(cut.input)[-1].exact_div(2), cut.start.data, cut.step.value.data
        if half is None or shape_of(value)[-1] != half:
            return None
        if step == 1 and start in (Dim.of(0), half):
            return cut.input, "half", int(start == half)
        if step == 2 and start in (Dim.of(0), Dim.of(1)):
            return cut.input, "interleaved", int(start == Dim.of(1))
        return None
    return _paired_piece(value)


def _paired_piece(value: SSAValue) -> Piece | None:
    """Find even or odd elements that are cut from a reshape to pairs [..., n, 2]."""
    flat = made_by(value, ReshapeOp)
    cut = None if flat is None else made_by(flat.input, SliceOp)
    paired = None if cut is None else made_by(cut.input, ReshapeOp)
    if flat is None or cut is None or paired is None:
        return None
    shape, whole = shape_of(paired.result), shape_of(paired.input)
    start = cut.start.data.constant
    if cut.axis.value.data != len(shape) - 1 or shape[-1] != Dim.of(2) or start not in (0, 1):
        return None
    if shape_of(cut.result)[-1] != Dim.of(1) or whole != (*shape[:-2], shape[-2] * 2):
        return None
    return (paired.input, "interleaved", start) if shape_of(value) == shape[:-1] else None


class RaisePieces(RewritePattern):
    """join(a * cos - b * sin, b * cos + a * sin) -> rope(x, cos, sin), a and b the pieces of x"""

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if not isinstance(op, ConcatOp | ReshapeOp):
            return
        parts = _joined(op.result)
        if parts is None:
            return
        (first, second), pairing = parts
        difference, total = binary(first, "sub"), binary(second, "add")
        if difference is None or total is None:
            return
        for a, cos in either_order(binary(difference[0], "mul")):
            for b, sin in either_order(binary(difference[1], "mul")):
                left, right = _piece(a), _piece(b)
                if left is None or right is None or left[0] is not right[0] or shape_of(left[0]) != shape_of(op.result):
                    continue
                if left[1:] != (pairing, 0) or right[1:] != (pairing, 1) or not _is_sum(total, b, cos, a, sin):
                    continue
                if not _spans_last_axis(a, cos, sin):
                    continue
                made = [*_repeated(cos, pairing), *_repeated(sin, pairing)]
                wide = made[len(made) // 2 - 1].results[0], made[-1].results[0]
                replace(rewriter, op, [*made, RopeOp(pairing, left[0], *wide)])
                return


def _is_sum(total: Pair, b: SSAValue, cos: SSAValue, a: SSAValue, sin: SSAValue) -> bool:
    return any(
        set(binary(one, "mul") or ()) == {b, cos} and set(binary(other, "mul") or ()) == {a, sin}
        for one, other in either_order(total)
    )


def _spans_last_axis(piece: SSAValue, *angles: SSAValue) -> bool:
    return all(shape_of(one)[-1:] == shape_of(piece)[-1:] for one in angles)


def _repeated(angle: SSAValue, pairing: str) -> list[Operation]:
    """Make the operations that give both members of a pair the same angle."""
    if pairing == "half":
        return [ConcatOp([angle, angle], type_of(angle).rank - 1)]
    lead, size = shape_of(angle)[:-1], shape_of(angle)[-1]
    column = ReshapeOp(angle, [*lead, size, 1])
    pair = ExpandOp(column, [*lead, size, 2])
    return [column, pair, ReshapeOp(pair, [*lead, size * 2])]

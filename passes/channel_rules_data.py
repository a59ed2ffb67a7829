"""How elementwise operations and movements of elements carry channels: see `channel_trace` for what a rule is."""

from __future__ import annotations

from xdsl.ir import Operation, SSAValue

from qcc.ir.elementwise import BinaryOp, CastOp, UnaryFunction, UnaryOp, WhereOp
from qcc.ir.gather import GatherOp, IndexOp, IndexUpdateOp, ReduceOp, SliceUpdateOp
from qcc.ir.program import int_array
from qcc.ir.shape import ConcatOp, ExpandOp, PadOp, ReshapeOp, SliceOp, TransposeOp
from qcc.ir.storage import CacheOp
from qcc.ir.transform import PermuteOp, RotateOp, ScaleAxisOp
from qcc.ir.types import type_of
from qcc.passes.channel_rules_layers import LAYERS, on
from qcc.passes.channel_trace import Kind, Rule, Trace
from qcc.passes.channels import Place, expanded, joined, reshaped, sliced, transposed
from qcc.passes.matching import number_of


def _spans(operand: SSAValue, result: SSAValue, axes: tuple[int, ...]) -> tuple[bool, ...]:
    """Say for each axis of the result whether an operand that broadcasts to it has entries of its own there."""
    offset = type_of(result).rank - type_of(operand).rank
    shape, wide = type_of(operand).shape, type_of(result).shape
    return tuple(axis >= offset and shape[axis - offset] == wide[axis] for axis in axes)


def _broadcast(trace: Trace, op: Operation, at: int | None, place: Place) -> Place:
    """Return the place of an operand as it is laid out on the result."""
    if at is None:
        return place
    offset = type_of(op.results[0]).rank - type_of(op.operands[at]).rank
    axes = tuple(axis + offset for axis in place.axes)
    if not all(_spans(op.operands[at], op.results[0], axes)):
        trace.block(op, "it repeats the channels", "")
    return place.on(op.results[0], axes)


def _reach_operand(trace: Trace, op: Operation, index: int, out: Place) -> None:
    """Reach an operand that broadcasts to the result on which channels lie as `out`."""
    spans = _spans(op.operands[index], op.results[0], out.axes)
    if not any(spans):
        if trace.kind is not Kind.PERMUTATION and number_of(op.operands[index]) != 0:
            trace.block(op, "it adds the same to every channel", "")
        return
    if not all(spans):
        trace.block(op, "one operand is shared by positions of the space, such as heads", "")
    offset = type_of(op.results[0]).rank - type_of(op.operands[index]).rank
    axes = tuple(axis - offset for axis in out.axes)
    trace.reach(op, index, out.on(op.operands[index], axes))


def _binary(trace: Trace, op: BinaryOp, at: int | None, place: Place) -> None:
    function = op.function.data.value
    out = _broadcast(trace, op, at, place)
    if function in ("add", "sub") or (trace.kind is Kind.PERMUTATION):
        _all_alike(trace, op, at, out, range(2))
    elif function in ("mul", "div"):
        _product(trace, op, at, out)
    else:
        trace.block(op, f"{function} is not linear", "")


def _all_alike(trace: Trace, op: Operation, at: int | None, out: Place, operands: range) -> None:
    """Carry channels through an operation that acts on every operand's channels alike."""
    if at is not None:
        on(trace, op, None, out)
    for index in operands:
        if index != at:
            _reach_operand(trace, op, index, out)


def _product(trace: Trace, op: BinaryOp, at: int | None, out: Place) -> None:
    able = (0,) if op.function.data == "div" else (0, 1)
    spanning = tuple(i for i in (0, 1) if any(_spans(op.operands[i], op.results[0], out.axes)))
    if at is not None and at not in able:
        trace.block(op, "the channels divide", "")
    if len(spanning) > 1 and trace.kind is not Kind.DIAGONAL:
        trace.block(op, f"channels are multiplied one by one, which does not commute with a {trace.kind}", "")
    if at is not None:
        if len(spanning) > 1:
            trace.carry(op, at)
        on(trace, op, None, out)
        return
    options = tuple(i for i in able if i in spanning)
    if not options:
        trace.block(op, "what carries the channels divides", "")
    chosen = options[0] if len(options) == 1 else trace.choose(op, options)
    if len(spanning) > 1:
        trace.carry(op, chosen)
    _reach_operand(trace, op, chosen, out)


def _unary(trace: Trace, op: UnaryOp, at: int | None, place: Place) -> None:
    function = op.function.data
    if trace.kind is Kind.DIAGONAL and function in (UnaryFunction.RELU, UnaryFunction.ABS):
        trace.positive[op] = None  # max(f x, 0) = f max(x, 0) for f > 0
    elif trace.kind is not Kind.PERMUTATION and function is not UnaryFunction.NEG:
        trace.block(op, f"{function.value} is not linear", "")
    on(trace, op, 0 if at is None else None, place)


def _cast(trace: Trace, op: CastOp, at: int | None, place: Place) -> None:
    floats = type_of(op.input).is_float and type_of(op.result).is_float
    if not floats and trace.kind is not Kind.PERMUTATION:
        trace.block(op, "it rounds to integers", "")
    on(trace, op, 0 if at is None else None, place)


def _where(trace: Trace, op: WhereOp, at: int | None, place: Place) -> None:
    out = _broadcast(trace, op, at, place)
    if trace.kind is Kind.PERMUTATION:
        _all_alike(trace, op, at, out, range(3))
        return
    if at == 0:
        trace.block(op, "a condition has no scale", "")
    if trace.kind is not Kind.DIAGONAL and any(_spans(op.condition, op.result, out.axes)):
        trace.block(op, "it picks channels one by one", "")
    _all_alike(trace, op, at, out, range(1, 3))


def _reduce(trace: Trace, op: ReduceOp, at: int | None, place: Place) -> None:
    reduced = int_array(op.axes)
    kept = [axis for axis in range(type_of(op.input).rank) if bool(op.keep) or axis not in reduced]
    if at == 0 and set(place.axes) & set(reduced):
        trace.block(op, "it reduces over the channels", "")
    if op.reduction.data.value not in ("sum", "mean") and trace.kind is not Kind.PERMUTATION:
        if trace.kind is not Kind.DIAGONAL or op.reduction.data.value not in ("max", "min"):
            trace.block(op, f"{op.reduction.data.value} is not linear", "")
        trace.positive[op] = None
    if at == 0:
        on(trace, op, None, place, tuple(kept.index(axis) for axis in place.axes))
    else:
        on(trace, op, 0, place, tuple(kept[axis] for axis in place.axes))


def _reshape(trace: Trace, op: ReshapeOp, at: int | None, place: Place) -> None:
    trace.reach(op, None if at == 0 else 0, reshaped(op, place, trace.size, forward=at == 0))


def _transpose(trace: Trace, op: TransposeOp, at: int | None, place: Place) -> None:
    trace.reach(op, None if at == 0 else 0, transposed(op, place, forward=at == 0))


def _expand(trace: Trace, op: ExpandOp, at: int | None, place: Place) -> None:
    trace.reach(op, None if at == 0 else 0, expanded(op, place, forward=at == 0))


def _slice(trace: Trace, op: SliceOp, at: int | None, place: Place) -> None:
    if trace.kind is Kind.CENTRING and op.axis.value.data in place.axes:
        trace.block(op, "it reads a part of the channels, whose mean is another", "")
    trace.reach(op, None if at == 0 else 0, sliced(op, place, forward=at == 0))


def _concat(trace: Trace, op: ConcatOp, at: int | None, place: Place) -> None:
    for index, moved in joined(op, place, at):
        trace.reach(op, index, moved)


def _pad(trace: Trace, op: PadOp, at: int | None, place: Place) -> None:
    if any(int_array(op.low)[axis] or int_array(op.high)[axis] for axis in place.axes):
        trace.block(op, "it adds channels", "")
    if op.value.value.data != 0 and trace.kind is not Kind.PERMUTATION:
        trace.block(op, f"it fills in {op.value.value.data}", "")
    on(trace, op, 0 if at is None else None, place)


def _index(trace: Trace, op: IndexOp, at: int | None, place: Place) -> None:
    first, count = op.axis.value.data, len(op.indices)
    common = type_of(op.result).rank - type_of(op.input).rank + count
    length = count if at == 0 else common
    if at not in (None, 0) or any(first <= axis < first + length for axis in place.axes):
        trace.block(op, "it picks channels by their number", "")
    shift = (common - count) * (1 if at == 0 else -1)
    axes = tuple(axis if axis < first else axis + shift for axis in place.axes)
    on(trace, op, None if at == 0 else 0, place, axes)


def _gather(trace: Trace, op: GatherOp, at: int | None, place: Place) -> None:
    if at == 1 or op.axis.value.data in place.axes or trace.kind is not Kind.DIAGONAL:
        trace.block(op, "it picks elements of single channels", "")
    on(trace, op, None if at == 0 else 0, place)


def _write(trace: Trace, op: IndexUpdateOp | SliceUpdateOp | CacheOp, at: int | None, place: Place) -> None:
    """Carry channels through a write of rows: into a buffer, beside the axes that name the place."""
    match op:
        case IndexUpdateOp():
            first, count = op.axis.value.data, len(op.indices)
            if any(type_of(one).rank != 1 for one in op.indices) or count != 1:
                trace.block(op, "it writes at several places at once", "")
            written = {first}
        case SliceUpdateOp():
            written = {op.axis.value.data}
        case CacheOp():
            written = {2}
    if (at is not None and at > 1) or set(place.axes) & written:
        trace.block(op, "it picks channels by their number", "")
    if type_of(op.operands[1]).rank != type_of(op.results[0]).rank:
        trace.block(op, "what it writes is repeated", "")
    for index in (None, 0, 1):
        if index != at:
            on(trace, op, index, place)


def _online(trace: Trace, op: RotateOp | PermuteOp | ScaleAxisOp, at: int | None, place: Place) -> None:
    if at not in (None, 0) or op.axis.value.data in place.axes:
        trace.block(op, "a transform inserted earlier acts on the same channels", "")
    on(trace, op, None if at == 0 else 0, place)


RULES: dict[type[Operation], Rule] = {
    **LAYERS,
    BinaryOp: _binary,
    CacheOp: _write,
    CastOp: _cast,
    ConcatOp: _concat,
    ExpandOp: _expand,
    GatherOp: _gather,
    IndexOp: _index,
    IndexUpdateOp: _write,
    PadOp: _pad,
    PermuteOp: _online,
    ReduceOp: _reduce,
    ReshapeOp: _reshape,
    RotateOp: _online,
    ScaleAxisOp: _online,
    SliceOp: _slice,
    SliceUpdateOp: _write,
    TransposeOp: _transpose,
    UnaryOp: _unary,
    WhereOp: _where,
}
"""Every operation that channels can be followed through."""

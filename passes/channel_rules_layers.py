"""How layers, norms, attention and state carry channels: see `channel_trace` for what a rule is."""

from __future__ import annotations

import numpy as np
from xdsl.ir import Operation

from qcc.ir.gather import CumulativeSumOp
from qcc.ir.nn import ConvOp, EmbeddingOp, LinearOp, MatmulOp, PoolKind, PoolOp, SoftmaxOp
from qcc.ir.program import ProgramOp, ReturnOp, StateOp, UpdateStateOp
from qcc.ir.transformer import AttentionOp, BatchNormOp, NormKind, NormOp, RopeOp, RopePairing
from qcc.ir.types import type_of
from qcc.passes.channel_trace import Kind, Rule, Trace
from qcc.passes.channels import Atoms, Place, copied, same, settle


def on(trace: Trace, op: Operation, at: int | None, place: Place, axes: tuple[int, ...] | None = None) -> None:
    """Reach an operand or the result of an operation with the atoms of a place."""
    trace.reach(op, at, place.on(op.results[0] if at is None else op.operands[at], axes))


def _flipped(place: Place) -> Place:
    return Place(place.value, place.axes, place.atoms, not place.dual)


def _linear(trace: Trace, op: LinearOp, at: int | None, place: Place) -> None:
    last = type_of(op.result).rank - 1
    if at in (None, 0) and last not in place.axes:
        if op.bias is not None and trace.kind is not Kind.PERMUTATION:
            trace.block(op, "its bias is the same for all positions of the axis that the channels lie on", "")
        on(trace, op, 0 if at is None else None, place)
        return
    if len(place.axes) > 1:
        trace.block(op, "it sums over a part of the axes that the channels lie on", "")
    rows = at is None or at == 2 or (at == 1 and place.axes == (0,))
    if rows:
        on(trace, op, None, place, (last,))
        for index in range(1, len(op.operands)):
            on(trace, op, index, place, (0,))
    elif at == 0:
        on(trace, op, 1, _flipped(place), (1,))
    else:
        on(trace, op, 0, _flipped(place), (last,))


def _conv(trace: Trace, op: ConvOp, at: int | None, place: Place) -> None:
    grouped = op.groups.value.data != 1
    if at in (None, 0) and place.axes != (1,):
        trace.block(op, "it sums over windows of the axes that the channels lie on", "")
    rows = at is None or at == 2 or (at == 1 and place.axes == (0,))
    if grouped and (not rows or trace.kind is not Kind.DIAGONAL):
        trace.block(op, f"its {op.groups.value.data} groups read some channels each", "")
    if rows:
        on(trace, op, None, place, (1,))
        for index in range(1, len(op.operands)):
            on(trace, op, index, place, (0,))
    elif at == 0:
        on(trace, op, 1, _flipped(place), (1,))
    elif place.axes == (1,):
        on(trace, op, 0, _flipped(place), (1,))
    else:
        trace.block(op, "the channels lie on its windows", "")


def _matmul(trace: Trace, op: MatmulOp, at: int | None, place: Place) -> None:
    left, right, out = (type_of(one).rank for one in (op.lhs, op.rhs, op.result))
    # (operand, axis) -> (operand, axis, whether it is summed over there)
    partners: dict[tuple[int | None, int], tuple[int | None, int, bool]] = {
        (0, left - 1): (1, right - 2, True),
        (1, right - 2): (0, left - 1, True),
        (0, left - 2): (None, out - 2, False),
        (None, out - 2): (0, left - 2, False),
        (1, right - 1): (None, out - 1, False),
        (None, out - 1): (1, right - 1, False),
    }
    found = partners.get((at, place.axes[0])) if len(place.axes) == 1 else None
    if found is None:
        trace.block(op, "the channels lie on its batch axes", "")
    target, axis, summed = found
    on(trace, op, target, _flipped(place) if summed else place, (axis,))


def _embedding(trace: Trace, op: EmbeddingOp, at: int | None, place: Place) -> None:
    last = type_of(op.result).rank - 1
    if at is None and place.axes == (last,):
        on(trace, op, 0, place, (1,))
    elif at == 0 and place.axes == (1,):
        on(trace, op, None, place, (last,))
    else:
        trace.block(op, "the channels lie on the rows that it picks", "")


def _norm(trace: Trace, op: NormOp, at: int | None, place: Place) -> None:
    last = type_of(op.result).rank - 1
    if at not in (None, 0):
        trace.block(op, "its weight or bias is computed at run time", "")
    if last not in place.axes:
        if trace.kind is not Kind.PERMUTATION:
            trace.block(op, "it normalises away what each position of that axis is scaled by", "")
        on(trace, op, 0 if at is None else None, place)
        return
    if len(place.axes) > 1:
        for axis in range(len(place.axes) - 1):
            trace.separate(place.atoms, axis)
    match trace.kind:
        case Kind.DIAGONAL:
            _scaled_norm(trace, op, at, place)
        case Kind.CENTRING:
            _centred_norm(trace, op, at, place)
        case Kind.ROTATION:
            _rotated_norm(trace, op, at, place)
        case Kind.PERMUTATION:
            if len(place.axes) > 1 and len(op.operands) > 1:
                trace.block(op, "its weight is shared by the heads", "")
            on(trace, op, 0 if at is None else None, place)
            for index in range(1, len(op.operands)):
                on(trace, op, index, place, (0,))


def _rotated_norm(trace: Trace, op: NormOp, at: int | None, place: Place) -> None:
    if op.kind.data is NormKind.LAYER:
        fix = "bake the mean into what writes the stream first (transform fold_norm)"
        trace.block(op, "a LayerNorm subtracts the mean, which a rotation does not keep", fix)
    if len(op.operands) > 1:
        fix = "fold its weight into the layers that read it first (transform fold_norm)"
        trace.block(op, "it scales each channel by its weight, which does not commute with a rotation", fix)
    on(trace, op, 0 if at is None else None, place)


def _scaled_norm(trace: Trace, op: NormOp, at: int | None, place: Place) -> None:
    if at == 0:
        what = "a norm divides by a sum over all channels, so a scale of single channels does not go through it"
        trace.block(op, what, "leave the channels alone that this norm reads")
    shared = place.atoms.reshape(-1, place.atoms.shape[-1])
    for row in shared[1:]:
        trace.tie(shared[0], row)
    on_last = place.on(op.result, (type_of(op.result).rank - 1,), shared[0])
    settle(trace.affine.setdefault(op, []), on_last, trace.size)


def _centred_norm(trace: Trace, op: NormOp, at: int | None, place: Place) -> None:
    if at is None:
        fix = "a norm whose result is added to the stream (post-norm) keeps its mean"
        trace.block(op, "the mean of a norm's result cannot be baked into its weight", fix)
    if op.kind.data is not NormKind.LAYER or len(place.axes) > 1:
        trace.block(op, "it reads the mean of the channels", "")
    trace.centred[op] = None


def _batch_norm(trace: Trace, op: BatchNormOp, at: int | None, place: Place) -> None:
    if at not in (None, 0):
        trace.block(op, "its parameters are computed at run time", "")
    if trace.kind is not Kind.PERMUTATION:
        fix = "fold it into the layer before it first (transform fold_norm)"
        trace.block(op, "it normalises each channel by statistics of its own", fix)
    on(trace, op, 0 if at is None else None, place)
    if 1 in place.axes:
        if len(place.axes) > 1:
            trace.block(op, "its parameters are shared by positions of the space", "")
        for index in range(1, len(op.operands)):
            on(trace, op, index, place, (0,))


def _rope(trace: Trace, op: RopeOp, at: int | None, place: Place) -> None:
    last = type_of(op.result).rank - 1
    if at not in (None, 0):
        trace.block(op, "the channels lie on its table of angles", "")
    if last in place.axes:
        if trace.kind in (Kind.ROTATION, Kind.CENTRING):
            fix = "rotate after the rotary embedding, where only queries meet keys (option r3)"
            trace.block(op, "it turns pairs of channels by an angle that depends on the position", fix)
        half = place.atoms.shape[-1] // 2
        if op.pairing.data is RopePairing.HALF:
            trace.tie(place.atoms[..., :half], place.atoms[..., half:])
        else:
            trace.tie(place.atoms[..., ::2], place.atoms[..., 1::2])
        if trace.kind is Kind.PERMUTATION:
            trace.alike = True
            settle(trace.ropes.setdefault(op, []), place.on(op.result), trace.size)
    elif any(type_of(op.operands[index]).rank > last - min(place.axes) for index in (1, 2)):
        trace.block(op, "its angles differ along the axis that the channels lie on", "")
    on(trace, op, 0 if at is None else None, place)


def grouped(atoms: Atoms, copies: int, size: int) -> Atoms:
    """Lay the channels of key heads out over the query heads that read them: `[Hkv, ...] -> [Hkv * copies, ...]`."""
    if copies == 1:
        return atoms
    repeated = np.moveaxis(copied(atoms, copies, size), -1, 1)
    return repeated.reshape(atoms.shape[0] * copies, *atoms.shape[1:])


def _ungrouped(trace: Trace, op: AttentionOp, atoms: Atoms, copies: int) -> Atoms:
    if copies == 1:
        return atoms
    first = atoms[::copies]
    found = np.where(first < 0, first, first % trace.size + trace.size * (first // trace.size // copies))
    if not same(grouped(found, copies, trace.size), atoms):
        what = f"{copies} query heads share each key and value head, so their channels are not independent"
        trace.block(op, what, "start from the channels of the value or key layer")
    return found


def _attention(trace: Trace, op: AttentionOp, at: int | None, place: Place) -> None:
    if at == 3 or set(place.axes) - {1, 3}:
        trace.block(op, "the channels lie on its positions or its mask", "")
    contracted = at in (0, 1)
    if place.axes == (1,) and (contracted or trace.kind is not Kind.DIAGONAL):
        trace.block(op, "whole heads are its channels", "")
    queries, keys = (type_of(one).shape[1] for one in (op.query, op.key))
    copies = queries.exact_div(keys)
    if copies is None or copies.constant is None:
        trace.block(op, "the number of its heads is not fixed", "")
    narrow = at in (1, 2)
    atoms = place.atoms
    if 1 in place.axes:
        grown = grouped(atoms, copies.constant, trace.size)
        atoms = grown if narrow else _ungrouped(trace, op, atoms, copies.constant)
        trace.separate(place.atoms if narrow else atoms, 0)
    target = {None: 2, 2: None, 0: 1, 1: 0}[at]
    moved = Place(place.value, place.axes, atoms, place.dual != contracted)
    on(trace, op, target, moved)


def _softmax(trace: Trace, op: SoftmaxOp, at: int | None, place: Place) -> None:
    if trace.kind is not Kind.PERMUTATION:
        trace.block(op, "it is not linear", "")
    on(trace, op, 0 if at is None else None, place)


def _pool(trace: Trace, op: PoolOp, at: int | None, place: Place) -> None:
    if set(place.axes) - {0, 1}:
        trace.block(op, "it pools over the axes that the channels lie on", "")
    if op.kind.data is PoolKind.MAX and trace.kind is not Kind.PERMUTATION:
        if trace.kind is not Kind.DIAGONAL:
            trace.block(op, "a maximum is not linear", "")
        trace.positive[op] = None
    on(trace, op, 0 if at is None else None, place)


def _running_sum(trace: Trace, op: CumulativeSumOp, at: int | None, place: Place) -> None:
    if op.axis.value.data in place.axes:
        trace.block(op, "it sums over the channels", "")
    on(trace, op, 0 if at is None else None, place)


def _state(trace: Trace, op: StateOp | UpdateStateOp, at: int | None, place: Place) -> None:
    program = op.parent_op()
    assert isinstance(program, ProgramOp)  # state is read and written in programs only
    key = op.key.data
    settle(trace.states.setdefault(key, []), place.on(op.operands[0] if op.operands else op.results[0]), trace.size)
    for other in program.body.walk():
        if isinstance(other, StateOp) and other.key.data == key:
            on(trace, other, None, place)
        elif isinstance(other, UpdateStateOp) and other.key.data == key:
            on(trace, other, 0, place)


def _return(trace: Trace, op: ReturnOp, at: int | None, place: Place) -> None:
    program = op.parent_op()
    name = program.output_names[at] if isinstance(program, ProgramOp) and at is not None else str(at)
    trace.block(op, f"output '{name}' of the program must stay in the order and scale that the caller knows", "")


LAYERS: dict[type[Operation], Rule] = {
    AttentionOp: _attention,
    BatchNormOp: _batch_norm,
    ConvOp: _conv,
    CumulativeSumOp: _running_sum,
    EmbeddingOp: _embedding,
    LinearOp: _linear,
    MatmulOp: _matmul,
    NormOp: _norm,
    PoolOp: _pool,
    ReturnOp: _return,
    RopeOp: _rope,
    SoftmaxOp: _softmax,
    StateOp: _state,
    UpdateStateOp: _state,
}
"""Operation -> how it carries channels."""

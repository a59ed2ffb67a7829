"""Find the keys and values of attention, and the buffers that hold them between calls.

A buffer is a cache where its graph proves it: a mutable buffer `[B, H, T, D]`, read by one operation alone, which
writes rows at one vector of positions along axis 2; what comes out is read by attention and becomes the buffer's next
value. Nothing is known by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import BlockArgument, Operation, SSAValue

from qcc.ir.base import location_of
from qcc.ir.elementwise import CastOp
from qcc.ir.gather import IndexOp, IndexUpdateOp, SliceUpdateOp
from qcc.ir.program import StateOp, UpdateStateOp
from qcc.ir.shape import ConcatOp, ExpandOp, ReshapeOp, SliceOp, TransposeOp
from qcc.ir.transform import RotateOp
from qcc.ir.transformer import AttentionOp
from qcc.ir.types import type_of
from qcc.passes.matching import made_by

_MOVES = (ReshapeOp, TransposeOp, ExpandOp, SliceOp, CastOp, IndexOp, RotateOp)
_WRITES = (IndexUpdateOp, SliceUpdateOp, ConcatOp)
KEEP_IN_BUFFERS = "keep the cache in mutable buffers of the model (qcc.frontend.static_cache), or leave kv_cache away"
"""What to do about a cache that cannot be held as codes."""


@dataclass(frozen=True, eq=False)
class Cache:
    """A mutable buffer of keys or values: what it holds when the program is entered, the write, and the next value."""

    state: StateOp
    write: IndexUpdateOp
    update: UpdateStateOp

    @property
    def positions(self) -> SSAValue:
        """Where rows are written, `i64 [n]`."""
        return self.write.indices[0]


def attention_names(module: ModuleOp) -> dict[AttentionOp, str]:
    """Return the attentions of a module in program order, named after the modules they are computed in."""
    found = [op for op in module.walk() if isinstance(op, AttentionOp)]
    return {op: location_of(op).split(" (")[0] or f"attention_{index}" for index, op in enumerate(found)}


def cache_of(value: SSAValue) -> Cache | str | None:
    """Return the cache that keys or values are read from; None where they are computed by the call at hand.

    A text says why what they are read from cannot be held as codes.
    """
    write = made_by(value, IndexUpdateOp)
    state = None if write is None else made_by(write.input, StateOp)
    if write is not None and state is not None:
        return _proved(state, write)
    for op in _moved_from(value):
        if isinstance(op, StateOp):
            return f"the buffer '{op.key.data}' is read through other operations than a write of rows along axis 2"
    return None if not _is_kept_by_caller(value) else "the caller keeps them, in inputs of the program"


def _proved(state: StateOp, write: IndexUpdateOp) -> Cache | str:
    key, kind, rows = state.key.data, type_of(state.result), type_of(write.source)
    if kind.rank != 4 or not kind.is_float or kind.static_shape is None:
        return f"the buffer '{key}' is {kind}, not floats [B, H, T, D] of a fixed shape"
    if write.axis.value.data != 2 or len(write.indices) != 1 or type_of(write.indices[0]).rank != 1:
        return f"the buffer '{key}' is not written at one vector of positions along axis 2"
    fits = rows.rank == 4 and (rows.shape[:2], rows.shape[3]) == (kind.shape[:2], kind.shape[3])
    if not fits or rows.shape[2] != type_of(write.indices[0]).shape[0]:
        return f"the buffer '{key}' is written with {rows}, which are not the rows of its positions"
    if type_of(write.indices[0]).scalar != "i64":
        return f"the buffer '{key}' is written at positions of {type_of(write.indices[0]).scalar}, not i64"
    if others := [one.operation.name for one in state.result.uses if one.operation is not write]:
        return f"the buffer '{key}' is also read by {', '.join(others)}"
    readers = [(one.operation, one.index) for one in write.result.uses]
    updates = [op for op, _ in readers if isinstance(op, UpdateStateOp)]
    if [one.key.data for one in updates] != [key]:
        return f"what is written into the buffer '{key}' is not its next value"
    strange = [op.name for op, index in readers if not _takes_cache(op, index)]
    if strange:
        return f"the buffer '{key}' is read by {', '.join(strange)} besides attention"
    return Cache(state, write, updates[0])


def _takes_cache(op: Operation, index: int) -> bool:
    return isinstance(op, UpdateStateOp) or (isinstance(op, AttentionOp) and index in (1, 2))


def _moved_from(value: SSAValue) -> Iterator[Operation]:
    """Iterate over what a value is put together from, through operations that only move or write elements."""
    pending, seen = [value], set[SSAValue]()
    while pending:
        one = pending.pop()
        owner = one.owner
        if one in seen or not isinstance(owner, Operation):
            continue
        seen.add(one)
        yield owner
        if isinstance(owner, _MOVES):
            pending.append(owner.operands[0])
        elif isinstance(owner, ConcatOp):
            pending.extend(owner.operands)
        elif isinstance(owner, IndexUpdateOp | SliceUpdateOp):
            pending.extend(owner.operands[:2])


def _is_kept_by_caller(value: SSAValue) -> bool:
    """Say whether rows are written into, or joined to, an input of the program."""
    chain = list(_moved_from(value))
    ends = [operand for op in chain for operand in op.operands if isinstance(operand, BlockArgument)]
    return any(isinstance(op, _WRITES) for op in chain) and any(type_of(end).is_float for end in ends)

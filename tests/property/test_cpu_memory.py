"""Views address the elements they should; the arena never gives one place to two live values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.ir import SSAValue

from qcc.backends.cpu.arena import Lifetime, plan_arena
from qcc.backends.cpu.emitter import lifetimes, lower
from qcc.backends.cpu.statements import pointers
from qcc.backends.cpu.views import Buffer, View, as_rows, collapse, dense
from qcc.ir.dims import Dim, shape_of
from qcc.ir.elementwise import BinaryOp, UnaryOp
from qcc.ir.gather import ReduceOp, SliceUpdateOp
from qcc.ir.nn import SoftmaxOp
from qcc.ir.program import program_of
from qcc.ir.shape import ConcatOp, ReshapeOp, SliceOp, TransposeOp
from qcc.ir.store import WeightStore
from qcc.ir.types import SymbolAttr, tensor, type_of
from tests.modules import make

VALUES = {"s0": 3, "s1": 5}


def evaluate(view: View) -> torch.Tensor:
    """Read the positions that a view addresses, for VALUES."""
    known = [dim.evaluate(VALUES) for dim in (*view.shape, *view.strides, view.offset)]
    return torch.as_strided(torch.arange(200_000), known[: view.rank], known[view.rank : -1], known[-1])


@dataclass
class Step:
    """One change of a view and of the tensor it stands for."""

    view: View
    tensor: torch.Tensor


def change(step: Step, kind: int, seed: int) -> Step:
    """Apply one of: permute, slice, unit axis, merge, split; a reshape that needs a copy leaves the step as it is."""
    view, found = step.view, step.tensor
    axis = seed % max(view.rank, 1)
    if kind == 0 and view.rank > 1:
        order = [*range(view.rank)]
        order[axis], order[-1] = order[-1], order[axis]
        return Step(view.permute(order), found.permute(order))
    if kind == 1 and view.rank and found.shape[axis] > 2:
        size = view.shape[axis] - 2
        return Step(view.slice(axis, Dim.of(1), size), found.narrow(axis, 1, found.shape[axis] - 2))
    shape = list(view.shape)
    if kind == 2:
        shape.insert(axis, Dim.of(1))
    elif kind == 3 and axis + 1 < view.rank:
        shape[axis : axis + 2] = [shape[axis] * shape[axis + 1]]
    elif kind == 4 and view.rank and (half := shape[axis].exact_div(2)) is not None:
        shape[axis : axis + 1] = [Dim.of(2), half]
    moved = view.reshape(tuple(shape))
    if moved is None:
        return step
    return Step(moved, found.reshape([dim.evaluate(VALUES) for dim in shape]))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(["s0", "s1", 1, 2, 4, 6, "2*s0", "s0*s1"]), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 7)), max_size=8),
)
def test_views_address_what_torch_does(sizes: list[str | int], changes: list[tuple[int, int]]) -> None:
    view = dense(Buffer("input"), "f32", shape_of(sizes))
    step = Step(view, evaluate(view))
    for kind, seed in changes:
        step = change(step, kind, seed)
        assert torch.equal(evaluate(step.view), step.tensor)
        if step.view.is_contiguous:
            start = int(step.tensor.flatten()[0])
            assert torch.equal(step.tensor.flatten(), torch.arange(start, start + step.tensor.numel()))
        merged = collapse([step.view])[0]
        assert torch.equal(evaluate(merged).flatten(), step.tensor.flatten())
        rows = as_rows(step.view)
        if rows is not None:
            count, length, stride = (dim.evaluate(VALUES) for dim in (rows.count, rows.length, rows.stride))
            first = rows.view.offset.evaluate(VALUES)
            strided = torch.as_strided(torch.arange(200_000), (count, length), (stride, 1), first)
            assert torch.equal(strided.flatten(), step.tensor.flatten())


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 8), st.integers(1, 9), st.booleans()), max_size=25),
    st.integers(1, 500),
)
def test_live_values_never_share_a_slot(lives: list[tuple[int, int, int, bool]], actual: int) -> None:
    all_lives = [
        Lifetime(Buffer("temp", i), first, first + length, Dim.symbol("s0") * size if grows else Dim.of(size * 100))
        for i, (first, length, size, grows) in enumerate(lives)
    ]
    plan = plan_arena(all_lives, {"s0": 128})
    for i, one in enumerate(all_lives):
        slot = plan.slots[plan.placement[one.buffer]]
        assert one.size.evaluate({"s0": actual}) <= max(size.evaluate({"s0": actual}) for size in slot)
        for other in all_lives[:i]:
            assert not one.overlaps(other) or plan.placement[one.buffer] != plan.placement[other.buffer]
    busiest = max((sum(o.first <= t <= o.last for o in all_lives) for t in range(40)), default=0)
    assert len(plan.slots) >= busiest


def grow(values: list[SSAValue], kind: int, a: int, b: int) -> SSAValue:
    """Make one more square value out of those at hand."""
    x, y = values[a % len(values)], values[b % len(values)]
    match kind:
        case 0:
            return UnaryOp("exp", x).result
        case 1:
            return BinaryOp("add", x, y).result
        case 2:
            return TransposeOp(x, (1, 0)).result
        case 3:
            return SliceUpdateOp(x, SliceOp(y, 0, 1, 2), 0, 3).result
        case 4:
            return SoftmaxOp(x, b % 2).result
        case 5:
            joined = ConcatOp([x, y], 0).result
            return SliceOp(joined, 0, 2, type_of(x).shape[0]).result
        case _:
            total = ReduceOp("sum", x, [b % 2], True).result
            return BinaryOp("mul", x, total).result


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=14))
def test_schedules_read_what_was_written(steps: list[tuple[int, int, int]]) -> None:
    """Simulate memory: whatever a call reads was last written by the call that made the value, in any random graph."""

    def build(x: SSAValue) -> list[SSAValue]:
        values = [x]
        for kind, a, b in steps:
            values.append(grow(values, kind, a, b))
        return [ReshapeOp(values[-1], [64]).result, values[len(values) // 2]]

    module = make({"x": tensor([8, 8], "f32")}, build, [])
    lowered = lower(program_of(module), WeightStore())
    owner: dict[object, Buffer] = {}
    written: set[Buffer] = set()
    plan = lowered.places.plan
    for call in lowered.schedule.calls:
        buffers = [(p.view.buffer, p.writable) for p in pointers(call.fields)]
        for buffer, writes in buffers:
            if buffer.kind != "temp" or buffer in lowered.schedule.aliases:
                continue
            slot = plan.placement[buffer]
            if writes:
                owner[slot] = buffer
                written.add(buffer)
        for buffer, writes in buffers:
            if buffer.kind == "temp" and buffer not in lowered.schedule.aliases:
                assert buffer in written
                assert owner[plan.placement[buffer]] == buffer or writes
    assert {life.buffer for life in lifetimes(lowered.schedule)} == set(plan.placement)


def test_symbols_keep_the_plan_sound() -> None:
    module = make(
        {"x": tensor(["s0", 8], "f32")}, lambda x: UnaryOp("exp", UnaryOp("neg", x)), [SymbolAttr.make("s0", 1)]
    )
    plan = lower(program_of(module), WeightStore()).places.plan
    assert plan.bytes_for({"s0": 3}) == 128
    assert plan.bytes_for({"s0": 1000}) == 32_000

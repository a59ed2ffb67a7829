"""Elementwise operations, softmax and normalisation."""

from __future__ import annotations

import numpy as np
from xdsl.dialects.builtin import IntegerAttr
from xdsl.ir import Operation

from qcc.backends.hls.elements import Element
from qcc.backends.hls.lower_shape import broadcast_to
from qcc.backends.hls.lowering import (
    FEWER_BITS,
    Flow,
    Known,
    Lowering,
    Refusal,
    Table,
    check_accumulator,
    layer_of,
    scalar_range,
    static_shape,
)
from qcc.backends.hls.steps import FORMULAS, Array, Lookup, Requant, Step, Steps, WithNumber, combine
from qcc.backends.hls.units_rows import JoinUnit, MapUnit, NormUnit, SoftmaxUnit
from qcc.ir.elementwise import BinaryOp, CastOp, UnaryFunction, UnaryOp
from qcc.ir.integer import LookupOp
from qcc.ir.integer_rows import IntegerNormOp, IntegerSoftmaxOp
from qcc.ir.quant import RequantOp
from qcc.ir.transformer import NormKind
from qcc.ir.types import INTEGER_RANGES, type_of


def _apply(low: Lowering, op: Operation, flow: Flow, step: Step) -> None:
    """Let the unit before compute a step, else add a unit for it."""
    if (extended := low.extend(flow, op, step)) is not None:
        low.set(op, extended)
        return
    steps = Steps(flow.element, (step,))
    rows = flow.count // step.channels
    unit = MapUnit(rows, step.channels, flow.element, steps=steps) if step.channels > 1 else _uniform(flow, steps)
    edge = low.emit("map", op, unit, (flow.edge,), steps.result, flow.count)
    low.set(op, Flow(edge, flow.shape, flow.order, steps.result, op))


def _uniform(flow: Flow, steps: Steps) -> MapUnit:
    return MapUnit(1, flow.count, flow.element, steps=steps)


def _by_channel(low: Lowering, flow: Flow, *tables: Array) -> tuple[Flow, list[Array]]:
    """Bring tables of the last axis into the order of travel, and the stream into rows if it is not in rows."""
    channels = flow.shape[-1] if flow.shape else 1
    if all(one.size == 1 for one in tables):
        return flow, [one.reshape(1) for one in tables]
    split = flow.order.rows(channels)
    if split is None:
        flow = low.plain(flow)
        split = flow.order.rows(channels)
        assert split is not None, "row-major order keeps rows whole"
    places = split[1].indices()
    return flow, [one.reshape(1) if one.size == 1 else one.reshape(-1)[places] for one in tables]


def _requant(low: Lowering, op: Operation) -> None:
    assert isinstance(op, RequantOp)
    flow = low.flow(op.input, op)
    tables = low.numbers(op.multiplier), low.numbers(op.shift)
    flow, (multiplier, shift) = _by_channel(low, flow, *tables)
    least, most = INTEGER_RANGES[type_of(op.result).scalar]
    step = Requant(multiplier, shift, _limit(op.low, least), _limit(op.high, most), layer_of(op))
    step.wide(flow.element)
    _apply(low, op, flow, step)


def _limit(given: IntegerAttr | None, otherwise: int) -> int:
    return otherwise if given is None else int(given.value.data)


def _lookup(low: Lowering, op: Operation) -> None:
    assert isinstance(op, LookupOp)
    flow, table, first = low.flow(op.input, op), low.numbers(op.table), op.low.value.data
    if flow.element.low < first or flow.element.high >= first + len(table):
        what = f"has a table for {first}..{first + len(table) - 1}, and its input reaches {flow.element.low}"
        raise Refusal(f"{what}..{flow.element.high}", "clamp the input to the table")
    _apply(low, op, flow, Lookup(table, first))


def _unary(low: Lowering, op: Operation) -> None:
    assert isinstance(op, UnaryOp)
    flow, zero = low.flow(op.input, op), np.zeros(1, np.int64)
    match op.function.data:
        case UnaryFunction.RELU:
            _apply(low, op, flow, WithNumber("max", zero))
        case UnaryFunction.NEG:
            _apply(low, op, flow, WithNumber("sub", zero, turned=True))
        case _:
            fix = "use a recipe of integers only, which makes it a table"
            raise Refusal(f"computes {op.function.data.value} of integers", fix)


def _cast(low: Lowering, op: Operation) -> None:
    assert isinstance(op, CastOp)
    found, kind = low.value(op.input), type_of(op.result)
    if kind.qtype is not None or kind.is_float:
        raise Refusal(f"casts to {kind}", "use a recipe of integers only")
    if isinstance(found, Known):
        low.values[op.result] = Known(low.numbers(op.input))
        return
    holds = scalar_range(kind)
    if found.element.raw or found.element.low < holds.low or found.element.high > holds.high:
        raise Refusal(f"casts {found.element.low}..{found.element.high} to {kind.scalar}", "requantize it first")
    low.set(op, Flow(found.edge, found.shape, found.order, found.element, found.op))


def _binary(low: Lowering, op: Operation) -> None:
    assert isinstance(op, BinaryOp)
    function = op.function.data.value
    if function not in FORMULAS:
        raise Refusal(f"computes {function} of integers", f"units compute {', '.join(FORMULAS)}")
    left, right = low.value(op.lhs), low.value(op.rhs)
    if isinstance(left, Known) and isinstance(right, Known):
        one, other = np.broadcast_arrays(low.numbers(op.lhs), low.numbers(op.rhs))
        folded = [combine(function, int(a), np.array([b]), False)[0] for a, b in zip(one.flat, other.flat, strict=True)]
        low.values[op.result] = Known(np.array(folded, np.int64).reshape(one.shape))
        return
    for known, flow, turned in ((right, left, False), (left, right, True)):
        if isinstance(known, Known) and isinstance(flow, Flow) and flow.shape == static_shape(op.result):
            numbers = low.numbers(op.lhs if turned else op.rhs)
            if numbers.size == 1 or numbers.size == numbers.shape[-1] == flow.shape[-1]:
                flow, (numbers,) = _by_channel(low, flow, numbers)
                _apply(low, op, flow, _checked(op, flow.element, WithNumber(function, numbers, turned)))
                return
    _join(low, op, function)


def _checked(op: BinaryOp, element: Element, step: WithNumber) -> WithNumber:
    _expect_scalar(op, step.reach(element))
    return step


def _expect_scalar(op: BinaryOp, reach: Element) -> None:
    """Refuse results that leave the element type: the program would wrap there."""
    holds = scalar_range(type_of(op.result))
    if reach.low < holds.low or reach.high > holds.high:
        check_accumulator(reach)
        what = f"{op.function.data.value} reaches {reach.low}..{reach.high}, outside {type_of(op.result).scalar}"
        raise Refusal(what, f"leave headroom; {FEWER_BITS}")


def _join(low: Lowering, op: BinaryOp, function: str) -> None:
    shape = static_shape(op.result)
    left, right = (broadcast_to(low, op, low.flow(one, op), shape) for one in (op.lhs, op.rhs))
    if left.order != right.order:
        # the one that travels in row-major order can follow the other through one buffer
        if left.order.is_row_major:
            left = low.ordered(left, right.order)
        else:
            right = low.ordered(right, left.order)
    corners = [
        int(combine(function, a, np.array([b]), False)[0])
        for a in (left.element.low, left.element.high)
        for b in (right.element.low, right.element.high)
    ]
    sums = Element(min(corners), max(corners))
    _expect_scalar(op, sums)
    unit = JoinUnit(left.count, function, left.element, right.element, steps=Steps(sums))
    edge = low.emit(function, op, unit, (left.edge, right.edge), sums, left.count)
    low.set(op, Flow(edge, shape, left.order, sums, op))


def _rows(low: Lowering, flow: Flow) -> tuple[Flow, Array]:
    """Bring a stream into whole rows of its last axis; returns the place of every element of a row."""
    split = flow.order.rows(flow.shape[-1])
    if split is None:
        flow = low.plain(flow)
        split = flow.order.rows(flow.shape[-1])
        assert split is not None, "row-major order keeps rows whole"
    return flow, split[1].indices()


def _softmax(low: Lowering, op: Operation) -> None:
    assert isinstance(op, IntegerSoftmaxOp)
    flow, _ = _rows(low, low.flow(op.input, op))
    table, unit_code = low.numbers(op.table), op.unit.value.data
    inputs = [flow.edge]
    if op.mask is not None:
        mask = low.ordered(broadcast_to(low, op, low.flow(op.mask, op), flow.shape), flow.order)
        if mask.element != Element(0, 1):
            raise Refusal("has a mask that is no truth value")
        inputs.append(mask.edge)
    result = Element(0, unit_code)
    channels = flow.shape[-1]
    unit = SoftmaxUnit(flow.count // channels, channels, table, unit_code, flow.element, op.mask is not None)
    edge = low.emit("softmax", op, unit, tuple(inputs), result, flow.count)
    low.set(op, Flow(edge, flow.shape, flow.order, result, op))


def _norm(low: Lowering, op: Operation) -> None:
    assert isinstance(op, IntegerNormOp)
    flow, places = _rows(low, low.flow(op.input, op))
    channels, kind = flow.shape[-1], op.kind.data
    multiplier, shift = low.numbers(op.multiplier), int(low.numbers(op.shift).reshape(-1)[0])
    bias = np.zeros(1, np.int64) if op.bias is None else low.numbers(op.bias)
    tables = [one.reshape(1) if one.size == 1 else one.reshape(-1)[places] for one in (multiplier, bias)]
    reach = max(abs(flow.element.low), abs(flow.element.high)) * (2 * channels if kind is NormKind.LAYER else 1)
    if channels * reach**2 + op.eps.value.data >= 2**62:
        raise Refusal(f"squares {channels} elements of {flow.element.bits} bits to over 62 bits", FEWER_BITS)
    least, most = INTEGER_RANGES[type_of(op.result).scalar]
    unit = NormUnit(
        flow.count // channels, channels, kind is NormKind.LAYER, op.eps.value.data, flow.element, tables[0], tables[1],
        shift, _limit(op.low, least), _limit(op.high, most),
    )  # fmt: skip
    edge = low.emit("norm", op, unit, (flow.edge,), unit.result, flow.count)
    low.set(op, Flow(edge, flow.shape, flow.order, unit.result, op))


LOWERINGS: Table = {
    RequantOp: _requant,
    LookupOp: _lookup,
    UnaryOp: _unary,
    CastOp: _cast,
    BinaryOp: _binary,
    IntegerSoftmaxOp: _softmax,
    IntegerNormOp: _norm,
}

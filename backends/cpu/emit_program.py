"""Lower weights, state, constants and the program's outputs."""

from __future__ import annotations

from collections.abc import Callable

from xdsl.ir import Operation

from qcc.backends.cpu.ctext import c_dim, c_double, c_float, c_integer
from qcc.backends.cpu.fields import dtype, write
from qcc.backends.cpu.lowering import Lowering
from qcc.backends.cpu.refusal import Refusal
from qcc.backends.cpu.statements import Raw
from qcc.backends.cpu.views import ONE, ZERO, Buffer, View, dense
from qcc.ir.dims import Shape, product
from qcc.ir.program import ConstantOp, DimOp, IotaOp, ReturnOp, StateOp, UpdateStateOp, WeightOp
from qcc.ir.types import type_of


def emit_weight(low: Lowering, op: WeightOp) -> None:
    """Lower `qcc.weight`: plain ones are views, quantized ones are packed by their readers."""
    kind = type_of(op.result)
    if kind.qtype is None:
        assert kind.static_shape is not None
        low.views[op.result] = low.constants.weight(op.key.data, kind.scalar, kind.static_shape)


def emit_state(low: Lowering, op: StateOp) -> None:
    """Lower `qcc.state`: the buffer lives in the session."""
    kind = type_of(op.result)
    if kind.static_shape is None or kind.qtype is not None:
        raise Refusal(f"a buffer of type {kind} has no fixed storage", "give it a static shape and plain elements")
    low.views[op.result] = dense(Buffer("state", key=op.key.data), kind.scalar, kind.shape)


def filled(number: float | int, scalar: str, shape: Shape) -> View:
    """Return a view that repeats one number."""
    if scalar == "f32":
        text = c_float(number)
    elif scalar == "f64":
        text = c_double(number)
    elif scalar in ("f16", "bf16"):
        raise Refusal(f"a constant of type {scalar} cannot be stored")
    else:
        text = c_integer(int(bool(number)) if scalar == "i1" else int(number))
    return View(Buffer("constant", key=text), scalar, shape, (ZERO,) * len(shape))


def emit_constant(low: Lowering, op: ConstantOp) -> None:
    """Lower `qcc.constant`: one stored number, repeated by strides of 0."""
    kind = type_of(op.result)
    low.views[op.result] = filled(op.number, kind.scalar, kind.shape)


def emit_dim(low: Lowering, op: DimOp) -> None:
    """Lower `qcc.dim`."""
    target = low.result(op.result)
    low.call(
        "iota",
        {
            "y": write(target),
            "count": 1,
            "start": Raw(f"(double)({c_dim(op.dim.data)})", (op.dim.data,)),
            "dtype": dtype(target),
        },
        ONE,
    )


def emit_iota(low: Lowering, op: IotaOp) -> None:
    """Lower `qcc.iota`."""
    target = low.result(op.result)
    if target.scalar not in ("f32", "i64", "i32"):
        raise Refusal(f"has no kernel for {target.scalar}", "count in i64 and cast")
    low.call(
        "iota",
        {
            "y": write(target),
            "count": target.elements,
            "start": Raw(f"(double)({c_dim(op.start.data)})", (op.start.data,)),
            "step": Raw(f"{op.step.value.data}.0"),
            "dtype": dtype(target),
        },
        target.elements,
    )


def emit_return(low: Lowering, op: ReturnOp) -> None:
    """Lower `qcc.return`: a temporary that is exactly one output is computed in the output's memory."""
    for index, value in enumerate(op.values):
        view = low.view(value)
        buffer = view.buffer
        whole = low.schedule.temps.get(buffer) == product(view.shape) * view.element_bytes
        if whole and view.is_contiguous and view.offset == ZERO and buffer not in low.schedule.aliases:
            low.schedule.aliases[buffer] = Buffer("output", index)
        else:
            low.copy(view, dense(Buffer("output", index), view.scalar, view.shape))


def emit_update_state(low: Lowering, op: UpdateStateOp) -> None:
    """Note the value; `finish_state` moves it when everything else has been read."""
    low.pending.append((op.key.data, low.view(op.value)))


def finish_state(low: Lowering) -> None:
    """Move new values into the state buffers: first out of other states' memory, then into place."""
    moves: list[tuple[View, View]] = []
    for key, view in low.pending:
        target = dense(Buffer("state", key=key), view.scalar, view.shape)
        if view.buffer == target.buffer and view.is_contiguous and view.offset == ZERO:
            continue
        if view.buffer.kind == "state":
            aside = low.temp(view.scalar, view.shape)
            low.copy(view, aside)
            view = aside
        moves.append((view, target))
    for view, target in moves:
        low.copy(view, target)


LOWERINGS: dict[type[Operation], Callable[..., None]] = {
    WeightOp: emit_weight,
    StateOp: emit_state,
    ConstantOp: emit_constant,
    DimOp: emit_dim,
    IotaOp: emit_iota,
    ReturnOp: emit_return,
    UpdateStateOp: emit_update_state,
}

"""ATen's operators that make tensors from numbers."""

from __future__ import annotations

from functools import partial

import torch
from xdsl.ir import SSAValue

from qcc.frontend.builder import Builder
from qcc.frontend.call import Call, Handler, Values
from qcc.frontend.dtypes import Number
from qcc.frontend.refusal import Refusal
from qcc.ir.dims import Dim
from qcc.ir.program import IotaOp
from qcc.ir.types import tensor, type_of

aten = torch.ops.aten


def filled(b: Builder, call: Call, *, number: Number) -> Values:
    """Fill the result with a fixed number; `empty` promises nothing, zeros are as good as anything."""
    return b.constant(number, call.result.scalar, call.result.shape)


def full(b: Builder, call: Call, *, name: str) -> Values:
    """Fill the result with a number, a dimension or a tensor of rank 0."""
    kind, value = call.result, call.raw(name)
    if isinstance(value, int | float):
        return b.constant(value, kind.scalar, kind.shape)
    return b.expand(b.operand(value, kind.scalar), kind.shape)


def count(b: Builder, size: Dim, start: Dim | int = 0, step: int = 1) -> SSAValue:
    """Make `start + step * i` of type i64."""
    return b.add(IotaOp(start, step, tensor([size], "i64")))


def arange(b: Builder, call: Call) -> Values:
    """`start + step * i`; with a fractional start or step, in floating point."""
    kind = call.result
    start = call.raw("start") if "start" in call.arguments else 0
    step = call.raw("step") if "step" in call.arguments else 1
    if isinstance(start, int | Dim) and isinstance(step, int):
        return b.cast(count(b, kind.shape[0], start, step), kind.scalar)
    if not kind.is_float or isinstance(start, Dim):
        raise Refusal("arange of integers between fractional bounds", "use integer bounds")
    steps = b.binary("mul", b.cast(count(b, kind.shape[0]), kind.scalar), b.operand(step, kind.scalar))
    return b.binary("add", steps, b.operand(start, kind.scalar))


def linspace(b: Builder, call: Call) -> Values:
    """`start + i * (end - start) / (steps - 1)`."""
    kind, steps = call.result, call.integer("steps")
    start, end = call.real("start"), call.real("end")
    width = (end - start) / (steps - 1) if steps > 1 else 0.0
    return b.with_number("add", b.with_number("mul", b.cast(count(b, Dim.of(steps)), kind.scalar), width), start)


def eye(b: Builder, call: Call) -> Values:
    """Ones on the diagonal."""
    rows, columns = call.result.shape
    same = b.binary("eq", b.reshape(count(b, rows), [rows, 1]), count(b, columns))
    return b.cast(same, call.result.scalar)


def triangle(b: Builder, call: Call, *, function: str) -> Values:
    """Keep what lies below (`column - row <= diagonal`) or above; zeros elsewhere."""
    value = call.value("self")
    kind = type_of(value)
    *_, rows, columns = kind.shape
    row = b.reshape(count(b, rows, call.dim("diagonal")), [rows, 1])
    keep = b.binary(function, count(b, columns), row)
    if kind.scalar == "i1":
        return b.binary("and", value, keep)
    return b.where(keep, value, b.constant(0, kind.scalar))


TABLE: dict[object, Handler] = {
    aten.zeros.default: partial(filled, number=0),
    aten.zeros_like.default: partial(filled, number=0),
    aten.new_zeros.default: partial(filled, number=0),
    aten.ones.default: partial(filled, number=1),
    aten.ones_like.default: partial(filled, number=1),
    aten.new_ones.default: partial(filled, number=1),
    aten.empty.memory_format: partial(filled, number=0),
    aten.empty_like.default: partial(filled, number=0),
    aten.new_empty.default: partial(filled, number=0),
    aten.full.default: partial(full, name="fill_value"),
    aten.full_like.default: partial(full, name="fill_value"),
    aten.new_full.default: partial(full, name="fill_value"),
    aten.scalar_tensor.default: partial(full, name="s"),
    aten.fill.Scalar: partial(full, name="value"),
    aten.fill.Tensor: partial(full, name="value"),
    aten.arange.default: arange,
    aten.arange.start: arange,
    aten.arange.start_step: arange,
    aten.linspace.default: linspace,
    aten.eye.default: eye,
    aten.eye.m: eye,
    aten.tril.default: partial(triangle, function="le"),
    aten.triu.default: partial(triangle, function="ge"),
}

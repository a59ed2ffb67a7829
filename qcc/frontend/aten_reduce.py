"""ATen's reductions, running sums and softmax."""

from __future__ import annotations

import math
from functools import partial

import torch
from xdsl.ir import SSAValue

from qcc.frontend.builder import Builder
from qcc.frontend.call import Call, Handler, Values
from qcc.frontend.refusal import Refusal
from qcc.ir.dims import Dim, product
from qcc.ir.gather import CumulativeSumOp
from qcc.ir.nn import SoftmaxOp
from qcc.ir.types import type_of

aten = torch.ops.aten


def _keep(call: Call) -> bool:
    return bool(call.arguments.get("keepdim", False))


def reduce(b: Builder, call: Call, *, reduction: str) -> Values:
    """Reduce over `dim`, or over all axes, in the result's element type."""
    value = call.value("self")
    return b.reduce(reduction, b.cast(value, call.result.scalar), call.axes("dim", value), _keep(call))


def reduce_all(b: Builder, call: Call, *, reduction: str) -> Values:
    """Reduce over all axes."""
    value = call.value("self")
    return b.reduce(reduction, b.cast(value, call.result.scalar), range(type_of(value).rank), keep=False)


def truth(b: Builder, call: Call, *, reduction: str) -> Values:
    """`any` and `all` of numbers that are not zero."""
    value = call.value("self")
    axes = call.axes("dim", value) if "dim" in call.arguments else range(type_of(value).rank)
    return b.cast(b.reduce(reduction, b.cast(value, "i1"), list(axes), _keep(call)), call.result.scalar)


def extremum(b: Builder, call: Call, *, reduction: str) -> Values:
    """`max.dim` and `min.dim`: the values and the first position of each."""
    value = call.value("self")
    axes = call.axes("dim", value)
    keyed = value if reduction == "max" else b.unary("neg", value)
    best = b.reduce(reduction, value, axes, _keep(call))
    return best, b.reduce("argmax", keyed, axes, _keep(call))


def argmax(b: Builder, call: Call, *, negate: bool) -> Values:
    """`argmax` and `argmin`; without `dim`, the position in the flattened tensor."""
    value = call.value("self")
    value = b.unary("neg", value) if negate else value
    if call.given("dim"):
        return b.reduce("argmax", value, call.axes("dim", value), _keep(call))
    flat = b.reshape(value, [product(type_of(value).shape)])
    return b.reshape(b.reduce("argmax", flat, [0], keep=False), call.result.shape)


def variance(b: Builder, call: Call, *, root: bool) -> Values:
    """`sum((x - mean)^2) / (n - correction)`, and its square root."""
    value = b.cast(call.value("self"), call.result.scalar)
    axes = call.axes("dim", value) if "dim" in call.arguments else list(range(type_of(value).rank))
    count = product(type_of(value).shape[axis] for axis in axes)
    centred = b.binary("sub", value, b.reduce("mean", value, axes, keep=True))
    total = b.reduce("sum", b.binary("mul", centred, centred), axes, _keep(call))
    freedom = count - _correction(call)
    result = b.binary("div", total, b.operand(freedom, call.result.scalar))
    return b.unary("sqrt", result) if root else result


def _correction(call: Call) -> Dim:
    if "correction" in call.arguments:
        number = 1 if call.raw("correction") is None else call.number("correction")
        if number != int(number):
            raise Refusal(f"a correction of {number}")
        return Dim.of(int(number))
    return Dim.of(1 if call.flag("unbiased") else 0)


def vector_norm(b: Builder, call: Call) -> Values:
    """The Euclidean norm."""
    if call.real("ord") != 2.0:
        raise Refusal(f"a vector norm of order {call.raw('ord')}", "use order 2")
    value = b.cast(call.value("self"), call.result.scalar)
    total = b.reduce("sum", b.binary("mul", value, value), call.axes("dim", value), _keep(call))
    return b.unary("sqrt", total)


def cumsum(b: Builder, call: Call) -> Values:
    """A running sum."""
    value = b.cast(call.value("self"), call.result.scalar)
    return b.add(CumulativeSumOp(value, call.axis("dim", value))) if type_of(value).rank else value


def _for_softmax(b: Builder, call: Call) -> SSAValue:
    value = b.cast(call.value("self"), call.result.scalar)
    if not type_of(value).rank:
        raise Refusal("softmax of a tensor of rank 0")
    return value


def softmax(b: Builder, call: Call) -> Values:
    """`softmax`, in the element type asked for."""
    value = _for_softmax(b, call)
    return b.add(SoftmaxOp(value, call.axis("dim", value)))


def safe_softmax(b: Builder, call: Call) -> Values:
    """`softmax`, with zeros for a row of which every element is -inf."""
    value = _for_softmax(b, call)
    axis = call.axis("dim", value)
    empty = b.reduce("all", b.with_number("eq", value, -math.inf), [axis], keep=True)
    zero = b.constant(0.0, call.result.scalar)
    return b.where(empty, zero, b.add(SoftmaxOp(value, axis)))


def log_softmax(b: Builder, call: Call) -> Values:
    """`x - max - log(sum(exp(x - max)))`."""
    value = _for_softmax(b, call)
    axes = [call.axis("dim", value)]
    shifted = b.binary("sub", value, b.reduce("max", value, axes, keep=True))
    total = b.reduce("sum", b.unary("exp", shifted), axes, keep=True)
    return b.binary("sub", shifted, b.unary("log", total))


TABLE: dict[object, Handler] = {
    aten.sum.default: partial(reduce_all, reduction="sum"),
    aten.sum.dim_IntList: partial(reduce, reduction="sum"),
    aten.mean.default: partial(reduce_all, reduction="mean"),
    aten.mean.dim: partial(reduce, reduction="mean"),
    aten.amax.default: partial(reduce, reduction="max"),
    aten.amin.default: partial(reduce, reduction="min"),
    aten.max.default: partial(reduce_all, reduction="max"),
    aten.min.default: partial(reduce_all, reduction="min"),
    aten.max.dim: partial(extremum, reduction="max"),
    aten.min.dim: partial(extremum, reduction="min"),
    aten.argmax.default: partial(argmax, negate=False),
    aten.argmin.default: partial(argmax, negate=True),
    aten.any.default: partial(truth, reduction="any"),
    aten.any.dim: partial(truth, reduction="any"),
    aten.any.dims: partial(truth, reduction="any"),
    aten.all.default: partial(truth, reduction="all"),
    aten.all.dim: partial(truth, reduction="all"),
    aten.all.dims: partial(truth, reduction="all"),
    aten.var.default: partial(variance, root=False),
    aten.var.dim: partial(variance, root=False),
    aten.var.correction: partial(variance, root=False),
    aten.std.default: partial(variance, root=True),
    aten.std.dim: partial(variance, root=True),
    aten.std.correction: partial(variance, root=True),
    aten.linalg_vector_norm.default: vector_norm,
    aten.cumsum.default: cumsum,
    aten.softmax.int: softmax,
    aten._softmax.default: softmax,
    aten._safe_softmax.default: safe_softmax,
    aten.log_softmax.int: log_softmax,
    aten._log_softmax.default: log_softmax,
}

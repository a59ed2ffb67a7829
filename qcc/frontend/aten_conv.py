"""ATen's convolutions and poolings."""

from __future__ import annotations

from functools import partial

import torch
from xdsl.ir import SSAValue

from qcc.frontend.aten_shape import pad_pairs
from qcc.frontend.builder import Builder
from qcc.frontend.call import Call, Handler, Values
from qcc.frontend.refusal import Refusal
from qcc.ir.dims import Dim
from qcc.ir.nn import ConvOp, PoolOp
from qcc.ir.types import type_of

aten = torch.ops.aten


def convolution(b: Builder, call: Call) -> Values:
    """Convolution over the axes after [B, C]; an input without a batch axis gets one."""
    scalar = call.result.scalar
    value, weight = b.cast(call.value("input"), scalar), b.cast(call.value("weight"), scalar)
    bias = call.optional("bias")
    if call.arguments.get("transposed", False):
        raise Refusal("a transposed convolution", "upsample and convolve instead")
    count = type_of(weight).rank - 2
    batched = _batched(b, value, count)
    stride, dilation = call.integers("stride", count), call.integers("dilation", count)
    batched, padding = _padding(b, call, batched, weight, dilation)
    op = ConvOp(
        batched,
        weight,
        None if bias is None else b.cast(bias, scalar),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=call.integer("groups"),
    )
    result = b.add(op)
    for dim in type_of(result).shape:
        b.symbols.require(dim - 1)
    return b.reshape(result, call.result.shape)


def _batched(b: Builder, value: SSAValue, count: int) -> SSAValue:
    kind = type_of(value)
    return b.reshape(value, [1, *kind.shape]) if kind.rank == count + 1 else value


def _padding(
    b: Builder, call: Call, value: SSAValue, weight: SSAValue, dilation: list[int]
) -> tuple[SSAValue, list[int]]:
    """Return the input and its symmetric padding; `same` may need one more element at the end."""
    window = type_of(weight).shape[2:]
    if not isinstance(call.raw("padding"), str):
        return value, call.integers("padding", len(window))
    if call.text("padding") == "valid":
        return value, [0] * len(window)
    totals = [(size.constant or 1) * d - d for size, d in zip(window, dilation, strict=True)]
    widths = [one for total in reversed(totals) for one in (0, total % 2)]
    return pad_pairs(b, value, widths), [total // 2 for total in totals]


def _window(call: Call, count: int) -> tuple[list[int], list[int], list[int]]:
    window = call.integers("kernel_size", count)
    stride = call.integers("stride", count) or window
    return window, stride, call.integers("padding", count)


def _pooled(b: Builder, call: Call, kind: str, count: int) -> SSAValue:
    value = _batched(b, call.value("self"), count)
    window, stride, padding = _window(call, count)
    result = b.add(PoolOp(kind, value, window=window, stride=stride, padding=padding))
    for dim in type_of(result).shape:
        b.symbols.require(dim - 1)
    found, wanted = type_of(result).shape[2:], call.result.shape[-count:]
    if call.flag("ceil_mode") and found != wanted:
        raise Refusal("pooling with ceil_mode", "pad the input so that the windows fit")
    return b.reshape(result, call.result.shape)


def max_pool(b: Builder, call: Call, *, count: int) -> Values:
    """The maximum of every window."""
    if any(one != 1 for one in call.integers("dilation")):
        raise Refusal("max pooling with dilation")
    return _pooled(b, call, "max", count)


def max_pool_with_indices(b: Builder, call: Call, *, count: int) -> Values:
    """The maximum of every window; its position is not computed."""
    value = max_pool(b, call, count=count)
    assert isinstance(value, SSAValue)
    return value, None


def average_pool(b: Builder, call: Call, *, count: int) -> Values:
    """The mean of every window."""
    if call.arguments.get("divisor_override") is not None:
        raise Refusal("average pooling with divisor_override")
    return _pooled(b, call, "average" if call.flag("count_include_pad") else "average_valid", count)


def adaptive_pool(b: Builder, call: Call, *, kind: str, count: int) -> Values:
    """Pool to a given size: to 1 by a reduction, to a divisor of the input by equal windows."""
    value, sizes = call.value("self"), call.integers("output_size", count)
    shape = type_of(value).shape
    spatial = shape[-count:]
    if all(size == 1 for size in sizes):
        axes = list(range(len(shape) - count, len(shape)))
        return b.reduce("max" if kind == "max" else "mean", value, axes, keep=True)
    window: list[int] = []
    for have, want in zip(spatial, sizes, strict=True):
        if have.constant is None or have.constant % want:
            raise Refusal(
                f"adaptive pooling of {have} elements to {want}", "pool to size 1, or to a divisor of a static size"
            )
        window.append(have.constant // want)
    op = PoolOp(kind, _batched(b, value, count), window=window, stride=window, padding=[0] * count)
    return b.reshape(b.add(op), call.result.shape)


def adaptive_max_pool(b: Builder, call: Call, *, count: int) -> Values:
    """The maximum of equal windows; its position is not computed."""
    value = adaptive_pool(b, call, kind="max", count=count)
    assert isinstance(value, SSAValue)
    return value, None


def upsample_nearest(b: Builder, call: Call) -> Values:
    """Repeat every pixel by whole factors along both axes."""
    value = call.value("self" if "self" in call.arguments else "input")
    shape, wanted = list(type_of(value).shape), call.result.shape
    for axis in range(2, len(shape)):
        factor = wanted[axis].exact_div(shape[axis]) if shape[axis].terms else None
        if factor is None or factor.constant is None:
            raise Refusal("nearest upsampling by a fraction", "use whole factors")
        apart = b.reshape(value, [*shape[: axis + 1], 1, *shape[axis + 1 :]])
        wide = b.expand(apart, [*shape[: axis + 1], factor, *shape[axis + 1 :]])
        shape[axis] = shape[axis] * Dim.of(factor)
        value = b.reshape(wide, shape)
    return value


TABLE: dict[object, Handler] = {
    aten.conv1d.default: convolution,
    aten.conv2d.default: convolution,
    aten.conv3d.default: convolution,
    aten.conv1d.padding: convolution,
    aten.conv2d.padding: convolution,
    aten.conv3d.padding: convolution,
    aten.convolution.default: convolution,
    aten.max_pool1d.default: partial(max_pool, count=1),
    aten.max_pool2d.default: partial(max_pool, count=2),
    aten.max_pool2d_with_indices.default: partial(max_pool_with_indices, count=2),
    aten.avg_pool1d.default: partial(average_pool, count=1),
    aten.avg_pool2d.default: partial(average_pool, count=2),
    aten.adaptive_avg_pool1d.default: partial(adaptive_pool, kind="average", count=1),
    aten.adaptive_avg_pool2d.default: partial(adaptive_pool, kind="average", count=2),
    aten._adaptive_avg_pool2d.default: partial(adaptive_pool, kind="average", count=2),
    aten.adaptive_max_pool2d.default: partial(adaptive_max_pool, count=2),
    aten.upsample_nearest2d.default: upsample_nearest,
    aten.upsample_nearest2d.vec: upsample_nearest,
}

"""Meaning of the neural-network operations.

float16 and bfloat16 operands are computed with in float32; the result is rounded once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from qcc.interpreter.values import Evaluate, Frame, fail, wide
from qcc.ir import nn as ir
from qcc.ir import transformer
from qcc.ir.nn import PoolKind
from qcc.ir.program import int_array
from qcc.ir.transformer import NormKind, RopePairing
from qcc.ir.types import type_of
from qcc.numerics.quantize import dequantize
from qcc.numerics.tensor import QuantizedTensor

_CONV: dict[int, Callable[..., torch.Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_MAX_POOL: dict[int, Callable[..., torch.Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOL: dict[int, Callable[..., torch.Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _linear(op: ir.LinearOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    value, weight, *bias = map(wide, args)
    return F.linear(value, weight, *bias).to(frame.torch_dtype(type_of(op.result)))


def _matmul(op: ir.MatmulOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    return torch.matmul(wide(args[0]), wide(args[1])).to(frame.torch_dtype(type_of(op.result)))


def _conv(op: ir.ConvOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    value, weight, *bias = map(wide, args)
    conv = _CONV.get(value.dim() - 2)
    if conv is None:
        raise fail(op, f"convolution over {value.dim() - 2} axes", fix="use one to three spatial axes")
    result = conv(
        value,
        weight,
        bias[0] if bias else None,
        stride=int_array(op.stride),
        padding=int_array(op.padding),
        dilation=int_array(op.dilation),
        groups=op.groups.value.data,
    )
    return result.to(frame.torch_dtype(type_of(op.result)))


def _unfold(op: ir.UnfoldOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    (value,) = args
    window, padding = int_array(op.window), int_array(op.padding)
    value = F.pad(value, [width for size in reversed(padding) for width in (size, size)])
    for axis, (size, step, dilation) in enumerate(
        zip(window, int_array(op.stride), int_array(op.dilation), strict=True), start=2
    ):
        reach = (size - 1) * dilation + 1
        if reach > value.shape[axis]:
            raise fail(op, f"a window over {reach} elements is wider than the padded axis of {value.shape[axis]}")
        value = value.unfold(axis, reach, step)[..., ::dilation]
    positions = range(2, 2 + len(window))
    return value.permute(0, *positions, 1, *range(2 + len(window), value.dim())).flatten(1 + len(window))


def _embedding(op: ir.EmbeddingOp, args: list[torch.Tensor | QuantizedTensor], frame: Frame) -> torch.Tensor:
    table, ids = args
    assert isinstance(ids, torch.Tensor)
    rows = table.shape[0]
    if ids.numel() and not (int(ids.min()) >= 0 and int(ids.max()) < rows):
        raise fail(op, f"ids {int(ids.min())}..{int(ids.max())} are outside a table of {rows} rows")
    if not isinstance(table, torch.Tensor):
        table = dequantize(table, frame.torch_dtype(type_of(op.result)))
    return table[ids.long()]


def _softmax(op: ir.SoftmaxOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    return torch.softmax(wide(args[0]), op.axis.value.data).to(args[0].dtype)


def _pool(op: ir.PoolOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    if not args[0].is_floating_point():
        return _integer_pool(op, args[0])
    value, kind = wide(args[0]), op.kind.data
    window, stride, padding = int_array(op.window), int_array(op.stride), int_array(op.padding)
    # pads by hand: torch takes no padding above half the window
    widths = [width for size in reversed(padding) for width in (size, size)]
    if kind is PoolKind.MAX:
        result = _MAX_POOL[len(window)](F.pad(value, widths, value=float("-inf")), window, stride)
    else:
        result = _AVERAGE_POOL[len(window)](F.pad(value, widths), window, stride)
        if kind is PoolKind.AVERAGE_VALID:
            inside = F.pad(torch.ones_like(value[:1, :1]), widths)
            result = result / _AVERAGE_POOL[len(window)](inside, window, stride)
    return result.to(args[0].dtype)


def _integer_pool(op: ir.PoolOp, value: torch.Tensor) -> torch.Tensor:
    window = int_array(op.window)
    largest = op.kind.data is PoolKind.MAX
    widths = [width for size in reversed(int_array(op.padding)) for width in (size, size)]
    padded = F.pad(value, widths, value=torch.iinfo(value.dtype).min if largest else 0)
    if not largest:
        padded = padded.to(torch.int64)
    for axis, (size, step) in enumerate(zip(window, int_array(op.stride), strict=True), start=2):
        parts = padded.unfold(axis, size, step)
        padded = parts.amax(-1) if largest else parts.sum(-1)
    limits = torch.iinfo(value.dtype)
    if padded.numel() and not limits.min <= int(padded.min()) <= int(padded.max()) <= limits.max:
        raise fail(op, f"sums up to {int(padded.abs().max())} do not fit {value.dtype}", "sum in wider integers")
    return padded.to(value.dtype)


def _norm(op: transformer.NormOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    value, eps, kind = wide(args[0]), op.eps.value.data, op.kind.data
    weight = args[1] if op.weight is not None else None
    bias = args[-1] if op.bias is not None else None
    if kind is NormKind.LAYER:
        value = value - value.mean(-1, keepdim=True)
    value = value * torch.rsqrt(value.square().mean(-1, keepdim=True) + eps)
    if kind is NormKind.RMS:
        value = value.to(args[0].dtype)
        return value if weight is None else (wide(value) * wide(weight)).to(args[0].dtype)
    if weight is not None:
        value = value * (1 + wide(weight) if kind is NormKind.RMS_PLUS1 else wide(weight))
    return (value if bias is None else value + wide(bias)).to(args[0].dtype)


def _batch_norm(op: transformer.BatchNormOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    def channels(one: torch.Tensor) -> torch.Tensor:
        return wide(one).reshape(-1, *[1] * (args[0].dim() - 2))

    value, mean, variance = wide(args[0]), channels(args[1]), channels(args[2])
    value = (value - mean) / torch.sqrt(variance + op.eps.value.data)
    if op.weight is not None:
        value = value * channels(args[3])
    if op.bias is not None:
        value = value + channels(args[-1])
    return value.to(args[0].dtype)


def _rope(op: transformer.RopeOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    value, cos, sin = map(wide, args)
    if op.pairing.data is RopePairing.HALF:
        first, second = value.chunk(2, -1)
        turned = torch.cat((-second, first), -1)
    else:
        turned = torch.stack((-value[..., 1::2], value[..., ::2]), -1).flatten(-2)
    return (value * cos + turned * sin).to(args[0].dtype)


def _attention(op: transformer.AttentionOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    query, key, value = map(wide, args[:3])
    mask = args[3] if op.mask is not None else None
    groups = query.shape[1] // key.shape[1]
    key, value = (one.repeat_interleave(groups, 1) for one in (key, value))
    scores = (query @ key.transpose(-1, -2)) * op.scale.value.data
    none = torch.tensor(float("-inf"), dtype=scores.dtype)
    if mask is not None:
        scores = torch.where(mask, scores, none) if mask.dtype == torch.bool else scores + wide(mask)
    if op.causal:
        keep = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        scores = torch.where(keep, scores, none)
    empty = (scores == none).all(-1, keepdim=True)
    weights = torch.where(empty, torch.zeros_like(none), torch.softmax(scores, -1))
    return (weights @ value).to(args[0].dtype)


TABLE: dict[type, Evaluate] = {
    ir.LinearOp: _linear,
    ir.MatmulOp: _matmul,
    ir.ConvOp: _conv,
    ir.UnfoldOp: _unfold,
    ir.EmbeddingOp: _embedding,
    ir.SoftmaxOp: _softmax,
    ir.PoolOp: _pool,
    transformer.NormOp: _norm,
    transformer.BatchNormOp: _batch_norm,
    transformer.RopeOp: _rope,
    transformer.AttentionOp: _attention,
}

"""ATen's operators of neural networks: contractions, normalisation, attention."""

from __future__ import annotations

import math
from functools import partial

import torch
from xdsl.ir import SSAValue

from qcc.frontend.builder import Builder
from qcc.frontend.call import Call, Handler, Values
from qcc.frontend.refusal import Refusal
from qcc.ir.dims import Dim, broadcast, product
from qcc.ir.nn import LinearOp, MatmulOp
from qcc.ir.transformer import AttentionOp, BatchNormOp, NormOp
from qcc.ir.types import type_of
from qcc.numerics.torch_dtypes import TORCH_DTYPES

aten = torch.ops.aten


def _cast_optional(b: Builder, value: SSAValue | None, scalar: str) -> SSAValue | None:
    return None if value is None else b.cast(value, scalar)


def linear(b: Builder, call: Call) -> Values:
    """`input @ weight^T + bias`; under autocast the operands take the result's element type."""
    scalar = call.result.scalar
    value, weight = b.cast(call.value("input"), scalar), b.cast(call.value("weight"), scalar)
    if type_of(weight).rank != 2:
        raise Refusal("linear with a weight of rank 1", "give the weight two axes")
    return b.add(LinearOp(value, weight, _cast_optional(b, call.optional("bias"), scalar)))


def matmul(b: Builder, call: Call, *, left: str = "self", right: str = "other") -> Values:
    """The product of matrices and vectors, by the rules of `torch.matmul`."""
    scalar = call.result.scalar
    return b.reshape(_product(b, *(b.cast(call.value(name), scalar) for name in (left, right))), call.result.shape)


def _product(b: Builder, lhs: SSAValue, rhs: SSAValue) -> SSAValue:
    if type_of(lhs).rank == 1:
        lhs = b.reshape(lhs, [1, *type_of(lhs).shape])
    if type_of(rhs).rank == 1:
        rhs = b.reshape(rhs, [*type_of(rhs).shape, 1])
    return b.add(MatmulOp(lhs, rhs))


def addmm(b: Builder, call: Call, *, left: str, right: str) -> Values:
    """`beta * self + alpha * (left @ right)`."""
    scalar = call.result.scalar
    value = b.reshape(
        _product(b, b.cast(call.value(left), scalar), b.cast(call.value(right), scalar)), call.result.shape
    )
    if call.number("alpha") != 1:
        value = b.with_number("mul", value, call.number("alpha"))
    if call.number("beta") == 0:
        return value
    bias = b.cast(call.value("self"), scalar)
    if call.number("beta") != 1:
        bias = b.with_number("mul", bias, call.number("beta"))
    return b.binary("add", value, bias)


def _normalise(b: Builder, call: Call, kind: str, eps: float) -> SSAValue:
    """Normalise over the last axes, in the widest element type that takes part; the result is rounded once."""
    value, scalar = call.value("input"), call.result.scalar
    parameters = [call.optional("weight"), call.optional("bias") if "bias" in call.arguments else None]
    wide = {type_of(one).scalar for one in (value, *parameters) if one is not None} - {scalar}
    working = "f64" if "f64" in wide else "f32" if wide else scalar
    shape = type_of(value).shape
    axes = len(call.sequence("normalized_shape"))
    size = product(shape[len(shape) - axes :])
    flat = b.reshape(b.cast(value, working), [*shape[: len(shape) - axes], size])
    weight, bias = (None if one is None else b.reshape(b.cast(one, working), [size]) for one in parameters)
    return b.cast(b.reshape(b.add(NormOp(kind, flat, weight, bias, eps=eps)), shape), scalar)


def layer_norm(b: Builder, call: Call) -> Values:
    """Layer normalisation."""
    return _normalise(b, call, "layer", call.real("eps"))


def native_layer_norm(b: Builder, call: Call) -> Values:
    """Layer normalisation; its mean and deviation are for gradients."""
    return _normalise(b, call, "layer", call.real("eps")), None, None


def rms_norm(b: Builder, call: Call) -> Values:
    """Root-mean-square normalisation; the default epsilon is the element type's own."""
    eps = call.real("eps") if call.given("eps") else torch.finfo(TORCH_DTYPES[call.result.scalar]).eps
    return _normalise(b, call, "rms", eps)


def fused_rms_norm(b: Builder, call: Call) -> Values:
    """Root-mean-square normalisation; the second result is for gradients."""
    return rms_norm_value(b, call), None


def rms_norm_value(b: Builder, call: Call) -> SSAValue:
    """Return the value of a root-mean-square normalisation."""
    value = rms_norm(b, call)
    assert isinstance(value, SSAValue)
    return value


def group_norm(b: Builder, call: Call) -> Values:
    """Normalise groups of channels (Wu & He, arXiv 1803.08494)."""
    value, groups = call.value("input"), call.integer("num_groups" if "num_groups" in call.arguments else "group")
    kind = type_of(value)
    batch, channels, *spatial = kind.shape
    size = channels.exact_div(groups)
    if size is None:
        raise Refusal(f"{groups} groups do not divide {channels} channels")
    flat = b.reshape(value, [batch, groups, size * product(spatial)])
    result = b.reshape(b.add(NormOp("layer", flat, eps=call.real("eps"))), kind.shape)
    for name, function in (("weight", "mul"), ("bias", "add")):
        if (parameter := call.optional(name)) is not None:
            column = b.reshape(b.cast(parameter, kind.scalar), [channels, *[1] * len(spatial)])
            result = b.binary(function, result, column)
    return result


def native_group_norm(b: Builder, call: Call) -> Values:
    """Group normalisation; the further results are for gradients."""
    value = group_norm(b, call)
    assert isinstance(value, SSAValue)
    return value, None, None


def _batch_norm(b: Builder, call: Call) -> SSAValue:
    value, scalar = call.value("input"), call.result.scalar
    names = ("running_mean", "running_var", "weight", "bias")
    mean, variance, weight, bias = (call.optional(name) for name in names)
    if mean is None or variance is None or call.arguments.get("training", False):
        raise Refusal("batch normalisation by the statistics of the batch", "call model.eval() before the export")
    stored = [one for one in (mean, variance, weight, bias) if one is not None]
    wide = any(type_of(one).scalar != scalar for one in stored)
    working = "f32" if wide and scalar in ("f16", "bf16") else scalar
    weight, bias = _cast_optional(b, weight, working), _cast_optional(b, bias, working)
    mean, variance = b.cast(mean, working), b.cast(variance, working)
    op = BatchNormOp(b.cast(value, working), mean, variance, weight, bias, eps=call.real("eps"))
    return b.cast(b.add(op), scalar)


def batch_norm(b: Builder, call: Call) -> Values:
    """Batch normalisation with stored statistics."""
    return _batch_norm(b, call)


def native_batch_norm(b: Builder, call: Call) -> Values:
    """Batch normalisation with stored statistics; the further results are for gradients."""
    return _batch_norm(b, call), None, None


def attention(b: Builder, call: Call, *, grouped: bool = False) -> Values:
    """`scaled_dot_product_attention` on [..., H, S, D]; `grouped` heads of keys serve several of queries each."""
    scalar, dropout = call.result.scalar, call.arguments.get("dropout_p", 0.0)
    if dropout != 0.0:
        raise Refusal("attention with dropout", "call model.eval() before the export")
    query, key, value = (b.cast(call.value(name), scalar) for name in ("query", "key", "value"))
    lead = broadcast([type_of(one).shape[:-3] for one in (query, key, value)])
    if lead is None:
        raise Refusal("the batch axes of query, key and value do not broadcast")
    grouped = grouped or bool(call.arguments.get("enable_gqa", False))
    heads = max((type_of(one).shape[-3] for one in (query, key, value) if type_of(one).rank > 2), key=_size, default=1)
    tensors: list[SSAValue] = []
    for one in (query, key, value):
        shape = type_of(one).shape
        own = shape[-3] if len(shape) > 2 and grouped else Dim.of(heads)
        wide = b.expand(one, (*lead, own, *shape[-2:])) if len(shape) > 2 else one
        tensors.append(b.reshape(wide, (product(lead), own, *shape[-2:])))
    width = type_of(query).shape[-1].constant
    if not call.given("scale") and width is None:
        raise Refusal("attention over a dynamic head size", "keep the size of heads static")
    scale = call.real("scale") if call.given("scale") else 1.0 / math.sqrt(width or 1)
    mask = _mask(b, call, scalar, len(lead))
    wide_query, wide_key, wide_value = tensors
    op = AttentionOp(wide_query, wide_key, wide_value, mask, scale=scale, causal=call.flag("is_causal"))
    return b.reshape(b.add(op), call.result.shape)


def _size(dim: Dim) -> int:
    return dim.constant or 0


def _mask(b: Builder, call: Call, scalar: str, lead: int) -> SSAValue | None:
    mask = call.optional("attn_mask")
    if mask is None:
        return None
    kind = type_of(mask)
    mask = mask if kind.scalar == "i1" else b.cast(mask, scalar)
    if lead > 1 and any(dim != Dim.of(1) for dim in kind.shape[:-3]):
        raise Refusal("attention with several batch axes and a mask over them", "flatten the batch axes")
    return b.reshape(mask, ([Dim.of(1)] * (4 - min(kind.rank, 4)) + list(kind.shape))[-4:])


def flash_attention(b: Builder, call: Call) -> Values:
    """The fused attention of torch's CPU kernels, whose heads may be grouped; its second result is for gradients."""
    value = attention(b, call, grouped=True)
    assert isinstance(value, SSAValue)
    return value, None


def dropout(b: Builder, call: Call) -> Values:
    """Dropout at inference: nothing is dropped."""
    if call.flag("train") and call.real("p") != 0.0:
        raise Refusal("dropout in training mode", "call model.eval() before the export")
    return call.value("input")


TABLE: dict[object, Handler] = {
    aten.linear.default: linear,
    aten.matmul.default: matmul,
    aten.mm.default: partial(matmul, right="mat2"),
    aten.bmm.default: partial(matmul, right="mat2"),
    aten.mv.default: partial(matmul, right="vec"),
    aten.dot.default: partial(matmul, right="tensor"),
    aten.addmm.default: partial(addmm, left="mat1", right="mat2"),
    aten.baddbmm.default: partial(addmm, left="batch1", right="batch2"),
    aten.layer_norm.default: layer_norm,
    aten.native_layer_norm.default: native_layer_norm,
    aten.rms_norm.default: rms_norm,
    aten._fused_rms_norm.default: fused_rms_norm,
    aten.group_norm.default: group_norm,
    aten.native_group_norm.default: native_group_norm,
    aten.batch_norm.default: batch_norm,
    aten._native_batch_norm_legit_no_training.default: native_batch_norm,
    aten.scaled_dot_product_attention.default: attention,
    aten._scaled_dot_product_flash_attention_for_cpu.default: flash_attention,
    aten.dropout.default: dropout,
    aten.feature_dropout.default: dropout,
    aten.alpha_dropout.default: dropout,
}

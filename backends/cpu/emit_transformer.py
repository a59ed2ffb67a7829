"""Lower normalisation, rotary embedding and attention."""

from __future__ import annotations

from collections.abc import Callable

import torch
from xdsl.ir import Operation, SSAValue

from qcc.backends.cpu.ctext import c_float
from qcc.backends.cpu.emit_cache import STATUS, attention_caches
from qcc.backends.cpu.fields import read, write
from qcc.backends.cpu.lowering import Lowering
from qcc.backends.cpu.refusal import Refusal
from qcc.backends.cpu.statements import Array, Raw, Value
from qcc.backends.cpu.views import ONE, ZERO, View, dense
from qcc.backends.cpu.weights import tensor_bytes, view_name
from qcc.ir.dims import product
from qcc.ir.transformer import AttentionOp, BatchNormOp, NormKind, NormOp, RopeOp, RopePairing
from qcc.ir.types import type_of

NORMS = {
    NormKind.LAYER: "QCC_NORM_LAYER",
    NormKind.RMS: "QCC_NORM_RMS",
    NormKind.RMS_PLUS1: "QCC_NORM_RMS_PLUS1",
}
"""Kinds of normalisation by the kernels' names."""


def emit_norm(low: Lowering, op: NormOp) -> None:
    """Lower `qcc.norm`."""
    rows = low.rows(low.view(op.input))
    target = low.result(op.result)
    fields: dict[str, Value] = {"x": read(rows.view), "y": write(target)}
    if op.weight is not None:
        fields["gamma"] = read(low.contiguous(low.view(op.weight)))
    if op.bias is not None:
        fields["beta"] = read(low.contiguous(low.view(op.bias)))
    fields |= {
        "x_stride": rows.stride,
        "y_stride": rows.length,
        "rows": rows.count,
        "k": rows.length,
        "eps": Raw(c_float(op.eps.value.data)),
        "kind": Raw(NORMS[op.kind.data]),
    }
    low.call("norm", fields, target.elements * 2)


def emit_batch_norm(low: Lowering, op: BatchNormOp) -> None:
    """Lower `qcc.batch_norm`: stored statistics become one scale and one shift per channel, in float64."""
    source = low.contiguous(low.view(op.input))
    target = low.result(op.result)
    scale, shift = _folded(low, op)
    channels = source.shape[1]
    low.call(
        "channel_affine",
        {
            "x": read(source),
            "scale": read(scale),
            "shift": read(shift),
            "y": write(target),
            "rows": source.shape[0] * channels,
            "channels": channels,
            "k": product(source.shape[2:]),
        },
        target.elements,
    )


def _folded(low: Lowering, op: BatchNormOp) -> tuple[View, View]:
    eps = op.eps.value.data
    views = [None if one is None else low.view(one) for one in (op.mean, op.variance, op.weight, op.bias)]
    for view in views:
        if view is not None and low.constants.tensor(view) is None:
            raise Refusal("has statistics or parameters computed at run time", "export the model in eval mode")

    def value(index: int, missing: float) -> torch.Tensor:
        view = views[index]
        found = None if view is None else low.constants.tensor(view)
        return torch.tensor(missing, dtype=torch.float64) if found is None else found.to(torch.float64)

    def scale() -> torch.Tensor:
        return value(2, 1.0) / torch.sqrt(value(1, 1.0) + eps)

    def shift() -> torch.Tensor:
        return value(3, 0.0) - value(0, 0.0) * scale()

    names = " ".join("-" if view is None else view_name(view) for view in views)
    shape = type_of(op.mean).shape
    made = [
        low.constants.derived(f"{names} eps {eps!r}: scale", lambda: tensor_bytes(scale().to(torch.float32))),
        low.constants.derived(f"{names} eps {eps!r}: shift", lambda: tensor_bytes(shift().to(torch.float32))),
    ]
    return dense(made[0], "f32", shape), dense(made[1], "f32", shape)


def emit_rope(low: Lowering, op: RopeOp) -> None:
    """Lower `qcc.rope` on [B, H, S, D]; fewer axes get leading ones, more are merged."""
    kind = type_of(op.result)
    source = low.unit_last(_four_axes(low, low.view(op.input)))
    cos, sin = (_angles(low, one, source) for one in (op.cos, op.sin))
    target = low.temp("f32", (source.shape[0], source.shape[2], source.shape[1], source.shape[3]))
    seen = target.permute((0, 2, 1, 3))
    low.call(
        "rope",
        {
            "x": read(source),
            "cos": read(cos),
            "sin": read(sin),
            "y": write(seen),
            "batch": source.shape[0],
            "heads": source.shape[1],
            "positions": source.shape[2],
            "dim": source.shape[3],
            "rotary_dim": source.shape[3],
            "x_stride": Array(source.strides[:3]),
            "y_stride": Array(seen.strides[:3]),
            "table_stride": Array((cos.strides[0], cos.strides[2])),
            "interleaved": int(op.pairing.data is RopePairing.INTERLEAVED),
        },
        source.elements * 2,
    )
    low.views[op.result] = low.reshaped(seen, kind.shape)


def _four_axes(low: Lowering, view: View) -> View:
    if view.rank > 4:
        return low.reshaped(view, (product(view.shape[:-3]), *view.shape[-3:]))
    return view.expand((*[ONE] * (4 - view.rank), *view.shape))


def _angles(low: Lowering, value: SSAValue, source: View) -> View:
    """See cos or sin over [B, H, S, D]; it must not depend on the head, and both tables share their strides."""
    view, rank = low.view(value), type_of(value).rank
    if rank > 4:
        raise Refusal(f"its angles have {rank} axes; the kernels take 4")
    four = view.expand((*[ONE] * (4 - rank), *view.shape))
    four = low.contiguous(four)
    wide = four.expand(source.shape) if four.shape[3] == source.shape[3] else None
    if wide is None or (wide.strides[1] != ZERO and source.shape[1] != ONE):
        raise Refusal("its angles differ from head to head", "apply it to one head at a time")
    return wide


def emit_attention(low: Lowering, op: AttentionOp) -> None:
    """Lower `qcc.attention`; the result is stored [B, S, H, D], as the projection after it reads it."""
    query = low.unit_last(low.view(op.query))
    batch, heads, queries, width = type_of(op.result).shape
    kv_heads, keys = type_of(op.key).shape[1:3]
    fields = attention_caches(low, op)
    in_cache = bool(fields)
    for name, value in (("k", op.key), ("v", op.value)):
        if f"{name}_cache" not in fields:
            view = low.unit_last(low.view(value))
            fields |= {name: read(view), f"{name}_stride": Array(view.strides[:3])}
    target = low.temp("f32", (batch, queries, heads, width)).permute((0, 2, 1, 3))
    low.views[op.result] = target
    fields |= {"q": read(query), "out": write(target)}
    if op.mask is not None:
        mask = low.view(op.mask)
        if mask.scalar not in ("f32", "i1"):
            raise Refusal(f"its mask is {mask.scalar}; the kernels take i1 and f32")
        wide = mask.expand((batch, heads, queries, keys))
        fields |= {"mask": read(wide), "mask_is_bool": int(mask.scalar == "i1"), "mask_stride": Array(wide.strides)}
    fields |= {
        "causal": int(bool(op.causal)),
        "batch": batch,
        "heads": heads,
        "kv_heads": kv_heads,
        "queries": queries,
        "keys": keys,
        "dim": query.shape[3],
        "v_dim": width,
        "q_stride": Array(query.strides[:3]),
        "out_stride": Array(target.strides[:3]),
        "scale": Raw(c_float(op.scale.value.data)),
    }
    work = batch * heads * queries * keys * (query.shape[3] + width) // 8
    low.call("attention", fields, work, scratch=True, status=STATUS if in_cache else "")


LOWERINGS: dict[type[Operation], Callable[..., None]] = {
    NormOp: emit_norm,
    BatchNormOp: emit_batch_norm,
    RopeOp: emit_rope,
    AttentionOp: emit_attention,
}

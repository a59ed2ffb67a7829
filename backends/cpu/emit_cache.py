"""Lower quantized KV caches: codes, scales and recent tokens live in the session, attention reads their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from xdsl.ir import Operation

from qcc.backends.cpu.fields import read, write
from qcc.backends.cpu.lowering import Lowering
from qcc.backends.cpu.refusal import Refusal
from qcc.backends.cpu.statements import Address, Array, Struct, Value
from qcc.backends.cpu.views import View
from qcc.ir.cache import RECENT, CacheAppendOp, CacheReadOp, CacheRoundOp
from qcc.ir.dims import Dim, product
from qcc.ir.kernel import origin_of
from qcc.ir.transformer import AttentionOp
from qcc.ir.types import TensorType, tensor, type_of
from qcc.numerics.kv_cache import tokens_a_group
from qcc.numerics.qtype_parts import IntDecode

STATUS = "positions of a cache are not consecutive, or outside it"

_Cache = CacheAppendOp | CacheReadOp | CacheRoundOp


def _format(op: _Cache, dim: Dim) -> Struct:
    qtype = op.format.data
    assert isinstance(qtype.decode, IntDecode), "the verifier holds this"
    (level,) = qtype.levels
    return Struct({
        "token_group": tokens_a_group(qtype),
        "channel_group": dim if level.block[1] == -1 else level.block[1],
        "window": op.window.value.data,
        "bits": qtype.decode.bits,
        "has_zero": int(qtype.zero is not None),
        "half": int(level.dtype == "f16"),
    })  # fmt: skip


def _refuse_others(kind: TensorType) -> None:
    if kind.scalar != "f32":
        raise Refusal(f"keeps rows of {kind.scalar}; the kernels take f32", "export the model in float32")


def _call_fields(
    low: Lowering, op: CacheAppendOp | CacheReadOp, views: Mapping[str, View], kind: TensorType, count: Dim
) -> dict[str, Value]:
    """Write what reading and writing have in common; `kind` is what the whole cache stands for."""
    batch, heads, tokens, dim = kind.shape
    parts: dict[str, Value] = {"format": _format(op, dim)}
    # the kernels' struct serves reading and writing, so no member is const
    parts |= {name: write(view) for name, view in views.items()}
    parts |= {"tokens": tokens, "dim": dim}
    if RECENT in views:
        parts["ring"] = views[RECENT].shape[2]
    positions = read(low.contiguous(low.view(op.positions)))
    return {"positions": positions, "cache": Struct(parts), "batch": batch, "heads": heads, "count": count}


def emit_cache_append(low: Lowering, op: CacheAppendOp) -> None:
    """Lower `qcc.cache_append`, in place where the old parts are dead."""
    kind = type_of(op.rows)
    _refuse_others(kind)
    rows = low.unit_last(low.view(op.rows))
    batch, heads, count, dim = kind.shape
    whole = tensor((batch, heads, type_of(op.parts[0]).shape[2], dim), kind.scalar)
    views = {
        name: low.updatable(op, old, new) for name, old, new in zip(op.part_names, op.parts, op.outputs, strict=True)
    }
    fields = {**_call_fields(low, op, views, whole, count), "rows": read(rows), "row_stride": Array(rows.strides[:3])}
    low.call("cache_append", fields, rows.elements * 8, status=STATUS)


def emit_cache_read(low: Lowering, op: CacheReadOp) -> None:
    """Lower `qcc.cache_read`: to nothing yet where attention alone reads it, as attention reads caches in place."""
    _refuse_others(type_of(op.result))
    if not all(isinstance(use.operation, AttentionOp) for use in op.result.uses):
        read_now(low, op)


def read_now(low: Lowering, op: CacheReadOp) -> None:
    """Write what a cache stands for as floats."""
    fields = _read_fields(low, op)
    target = low.result(op.result)
    low.call("cache_read", {**fields, "y": write(target)}, target.elements, status=STATUS)


def _read_fields(low: Lowering, op: CacheReadOp) -> dict[str, Value]:
    views = {name: low.contiguous(low.view(one)) for name, one in zip(op.part_names, op.parts, strict=True)}
    return _call_fields(low, op, views, type_of(op.result), product(type_of(op.positions).shape))


def attention_caches(low: Lowering, op: AttentionOp) -> dict[str, Value]:
    """Write the members of `qcc_attention` for keys and values that are in caches; read what cannot stay there."""
    reads: dict[str, CacheReadOp] = {}
    for name, value in (("k_cache", op.key), ("v_cache", op.value)):
        origin = origin_of(value)
        if isinstance(one := origin.owner, CacheReadOp) and origin not in low.views:
            if any(origin_of(one.positions) is not origin_of(other.positions) for other in reads.values()):
                read_now(low, one)
            else:
                reads[name] = one
    fields: dict[str, Value] = {}
    for name, one in reads.items():
        found = _read_fields(low, one)
        cache = found["cache"]
        assert isinstance(cache, Struct), "_call_fields made it"
        fields |= {name: Address("qcc_cache_parts", cache.fields), "positions": found["positions"]}
        fields["count"] = found["count"]
    return fields


def emit_cache_round(low: Lowering, op: CacheRoundOp) -> None:
    """Lower `qcc.cache_round`."""
    kind = type_of(op.result)
    _refuse_others(kind)
    source = low.unit_last(low.view(op.input))
    batch, heads, tokens, dim = kind.shape
    target = low.result(op.result)
    fields: dict[str, Value] = {"x": read(source), "y": write(target), "format": _format(op, dim)}
    fields |= {"batch": batch, "heads": heads, "tokens": tokens, "dim": dim, "x_stride": Array(source.strides[:3])}
    low.call("cache_round", fields, target.elements * 8)


LOWERINGS: dict[type[Operation], Callable[..., None]] = {
    CacheAppendOp: emit_cache_append,
    CacheReadOp: emit_cache_read,
    CacheRoundOp: emit_cache_round,
}

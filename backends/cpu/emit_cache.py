"""Lower quantized KV caches: codes, scales and recent tokens live in the session, attention reads their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from xdsl.ir import Operation

from qcc.backends.cpu.fields import read, write
from qcc.backends.cpu.lowering import Lowering
from qcc.backends.cpu.refusal import Refusal
from qcc.backends.cpu.statements import Array, Struct, Value
from qcc.backends.cpu.views import View
from qcc.ir.cache import RECENT, CacheAppendOp, CacheReadOp, CacheRoundOp
from qcc.ir.dims import Dim, product
from qcc.ir.types import TensorType, type_of
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


def _parts(op: CacheAppendOp | CacheReadOp, views: Mapping[str, View], tokens: Dim, dim: Dim) -> Struct:
    fields: dict[str, Value] = {"format": _format(op, dim)}
    # the kernels' struct serves reading and writing, so no member is const
    fields |= {name: write(view) for name, view in views.items()}
    fields |= {"tokens": tokens, "dim": dim}
    if RECENT in views:
        fields["ring"] = views[RECENT].shape[2]
    return Struct(fields)


def emit_cache_append(low: Lowering, op: CacheAppendOp) -> None:
    """Lower `qcc.cache_append`, in place where the old parts are dead."""
    kind = type_of(op.rows)
    _refuse_others(kind)
    rows = low.view(op.rows)
    rows = rows if rows.unit_last else low.contiguous(rows)
    batch, heads, count, dim = kind.shape
    views = {
        name: low.updatable(op, old, new) for name, old, new in zip(op.part_names, op.parts, op.outputs, strict=True)
    }
    low.call(
        "cache_append",
        {
            "rows": read(rows),
            "positions": read(low.contiguous(low.view(op.positions))),
            "cache": _parts(op, views, type_of(op.parts[0]).shape[2], dim),
            "batch": batch,
            "heads": heads,
            "count": count,
            "row_stride": Array(rows.strides[:3]),
        },
        rows.elements * 8,
        status=STATUS,
    )


def emit_cache_read(low: Lowering, op: CacheReadOp) -> None:
    """Lower `qcc.cache_read`: one layer's keys or values at a time are floats."""
    kind = type_of(op.result)
    _refuse_others(kind)
    batch, heads, tokens, dim = kind.shape
    views = {name: low.contiguous(low.view(one)) for name, one in zip(op.part_names, op.parts, strict=True)}
    target = low.result(op.result)
    low.call(
        "cache_read",
        {
            "positions": read(low.contiguous(low.view(op.positions))),
            "cache": _parts(op, views, tokens, dim),
            "y": write(target),
            "batch": batch,
            "heads": heads,
            "count": product(type_of(op.positions).shape),
        },
        target.elements,
        status=STATUS,
    )


def emit_cache_round(low: Lowering, op: CacheRoundOp) -> None:
    """Lower `qcc.cache_round`."""
    kind = type_of(op.result)
    _refuse_others(kind)
    source = low.view(op.input)
    source = source if source.unit_last else low.contiguous(source)
    batch, heads, tokens, dim = kind.shape
    target = low.result(op.result)
    low.call(
        "cache_round",
        {
            "x": read(source),
            "y": write(target),
            "format": _format(op, dim),
            "batch": batch,
            "heads": heads,
            "tokens": tokens,
            "dim": dim,
            "x_stride": Array(source.strides[:3]),
        },
        target.elements * 8,
    )


LOWERINGS: dict[type[Operation], Callable[..., None]] = {
    CacheAppendOp: emit_cache_append,
    CacheReadOp: emit_cache_read,
    CacheRoundOp: emit_cache_round,
}

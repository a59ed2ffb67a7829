"""Transformer blocks of many kinds, built by hand, on which folds are tried."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

from qcc.ir.elementwise import BinaryOp, UnaryOp
from qcc.ir.nn import EmbeddingOp, LinearOp
from qcc.ir.program import WeightOp
from qcc.ir.shape import ConcatOp, ExpandOp, ReshapeOp, SliceOp, TransposeOp
from qcc.ir.store import WeightStore
from qcc.ir.transformer import AttentionOp, NormOp, RopeOp
from qcc.ir.types import tensor, type_of
from tests.modules import Made, kind_of, make

VOCABULARY = 11


@dataclass(frozen=True)
class Kind:
    """What a block is like; `leak` is the value that the program returns beside its logits."""

    batch: int = 1
    seq: int = 3
    kv: int = 2
    groups: int = 2
    dim: int = 4
    rope: str = "half"
    norm: str = "rms"
    fused: bool = False
    repeat: bool = False
    activation: str = "silu"
    gated: bool = True
    hidden: int = 6
    post_norm: bool = False
    qk_norm: bool = False
    tied: bool = True
    bias: bool = True
    positions: bool = False
    cut: bool = False
    leak: str = ""

    @property
    def width(self) -> int:
        """Channels of the stream: not those of the heads together."""
        return 12


@dataclass
class _Builder:
    kind: Kind
    store: WeightStore = field(default_factory=WeightStore)
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    seen: dict[str, SSAValue] = field(default_factory=dict[str, SSAValue])

    def weight(self, name: str, *shape: int, around: float = 0.0) -> WeightOp:
        """Name a random tensor of the store."""
        if name not in self.store:
            noise = torch.randn(shape, generator=self.generator, dtype=torch.float64)
            self.store[name] = around + noise * (0.3 if around else shape[-1] ** -0.5)
        return WeightOp(name, tensor(shape, "f64"))

    def linear(self, value: Made, name: str, rows: int) -> Made:
        """Apply a layer."""
        columns = type_of(SSAValue.get(value)).shape[-1].constant
        assert columns is not None
        bias = self.weight(f"{name}.bias", rows) if self.kind.bias else None
        return LinearOp(value, self.weight(f"{name}.weight", rows, columns), bias)

    def norm(self, value: Made, name: str, width: int, kind: str) -> Made:
        """Apply a norm with a weight away from 1."""
        weight = self.weight(f"{name}.weight", width, around=1.0)
        bias = self.weight(f"{name}.bias", width) if kind == "layer" else None
        return NormOp(kind, value, weight, bias, eps=1e-5)

    def heads(self, value: Made, count: int) -> Made:
        """Split the last axis into heads: [B, S, H * D] -> [B, H, S, D]."""
        kind = self.kind
        return TransposeOp(ReshapeOp(value, [kind.batch, kind.seq, count, kind.dim]), [0, 2, 1, 3])


def block(kind: Kind) -> tuple[ModuleOp, WeightStore, dict[str, torch.Tensor]]:
    """Build an embedding, one block and a head in float64; gives the module, its store and inputs."""
    builder = _Builder(kind)
    ids = torch.arange(kind.batch * kind.seq).reshape(kind.batch, kind.seq) * 3 % VOCABULARY
    angle = torch.randn(kind.seq, kind.dim // 2, generator=builder.generator, dtype=torch.float64)
    angle = angle.repeat(1, 2) if kind.rope != "interleaved" else angle.repeat_interleave(2, 1)
    inputs = {"ids": ids, "cos": angle.cos(), "sin": angle.sin()}

    def build(ids: SSAValue, cos: SSAValue, sin: SSAValue) -> list[Made]:
        logits = _model(builder, ids, cos, sin)
        return [logits, builder.seen[kind.leak]] if kind.leak else [logits]

    module = make({name: kind_of(value) for name, value in inputs.items()}, build)
    return module, builder.store, inputs


def _model(b: _Builder, ids: SSAValue, cos: SSAValue, sin: SSAValue) -> Made:
    kind = b.kind
    table = b.weight("embed.weight", VOCABULARY, kind.width)
    stream: Made = EmbeddingOp(table, ids)
    if kind.positions:
        stream = BinaryOp("add", stream, b.weight("positions", 1, kind.seq, kind.width))
    normed = b.norm(stream, "norm1", kind.width, kind.norm)
    attended = b.linear(_attention(b, normed, cos, sin), "o", kind.width)
    stream = BinaryOp("add", normed if kind.post_norm else stream, attended)
    b.seen |= {"stream": SSAValue.get(stream), "norm": SSAValue.get(normed)}
    second = b.norm(stream, "norm2", kind.width, kind.norm)
    stream = BinaryOp("add", second if kind.post_norm else stream, b.linear(_mlp(b, second), "down", kind.width))
    last = b.norm(stream, "norm3", kind.width, kind.norm)
    head = b.weight("embed.weight" if kind.tied else "head.weight", VOCABULARY, kind.width)
    return LinearOp(last, head)


def _attention(b: _Builder, value: Made, cos: SSAValue, sin: SSAValue) -> Made:
    kind = b.kind
    count, narrow = kind.kv * kind.groups, kind.kv * kind.dim
    wide = count * kind.dim
    if kind.fused:
        joined = b.linear(value, "qkv", wide + 2 * narrow)
        q, k, v = (SliceOp(joined, 2, at, size) for at, size in ((0, wide), (wide, narrow), (wide + narrow, narrow)))
    else:
        q, k, v = b.linear(value, "q", wide), b.linear(value, "k", narrow), b.linear(value, "v", narrow)
    query, key, values = b.heads(q, count), b.heads(k, kind.kv), b.heads(v, kind.kv)
    if kind.qk_norm:
        query, key = (b.norm(one, name, kind.dim, "rms") for one, name in ((query, "qn"), (key, "kn")))
    if kind.rope:
        query, key = RopeOp(kind.rope, query, cos, sin), RopeOp(kind.rope, key, cos, sin)
    b.seen |= {"keys": SSAValue.get(key), "values": SSAValue.get(values)}
    if kind.repeat:
        key, values = (_repeated(kind, one) for one in (key, values))
    mixed = AttentionOp(query, key, values, scale=0.5, causal=True)
    return ReshapeOp(TransposeOp(mixed, [0, 2, 1, 3]), [kind.batch, kind.seq, wide])


def _repeated(kind: Kind, value: Made) -> Made:
    lead, tail = [kind.batch, kind.kv], [kind.seq, kind.dim]
    widened = ExpandOp(ReshapeOp(value, [*lead, 1, *tail]), [*lead, kind.groups, *tail])
    return ReshapeOp(widened, [kind.batch, kind.kv * kind.groups, *tail])


def _mlp(b: _Builder, value: Made) -> Made:
    kind = b.kind
    gate: Made = b.linear(value, "gate", kind.hidden)
    made: Made = UnaryOp(kind.activation, gate)
    if kind.gated:
        made = BinaryOp("mul", made, b.linear(value, "up", kind.hidden))
    b.seen["inner"] = SSAValue.get(made)
    if not kind.cut:
        return made
    half = kind.hidden // 2
    return ConcatOp([SliceOp(made, 2, 0, half), SliceOp(made, 2, half, kind.hidden - half)], 2)

"""The kernels of quantized caches, bit for bit the interpreter: codes, scales, recent tokens and what is read."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from qcc.interpreter import Interpreter
from qcc.numerics.kv_cache import cache_qtype
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import IntDecode
from tests.kv_caches import empty_parts, keeper, rounded
from tests.unit import cpu_kernels_abi as abi

BATCH, HEADS, TOKENS = 2, 3, 21
KEPT: list[dict[str, np.ndarray]] = []
"""Arrays that structs of a test point into."""


def draw(chance: random.Random) -> tuple[QType, int, int]:
    """A format, a window, and channels a head."""
    by_channel = chance.random() < 0.5
    group = chance.choice([1, 2, 5, 8]) if by_channel else chance.choice([-1, 1, 4, 7])
    qtype = cache_qtype(
        chance.randint(2, 8),
        symmetric=chance.random() < 0.5,
        group=group,
        by_channel=by_channel,
        scale=chance.choice(["f16", "f32"]),
    )
    return qtype, chance.choice([0, 0, 1, 4, 30]), chance.choice([1, 7, 16, 33])


def hard_rows(chance: random.Random, size: int) -> torch.Tensor:
    rows = torch.randn(BATCH, HEADS, TOKENS, size, generator=torch.Generator().manual_seed(chance.randrange(1000)))
    rows *= chance.choice([1e-7, 1.0, 1.0, 1e6])
    rows[0, 0] += chance.choice([0.0, 50.0])
    rows[0, 1, 3] = 0
    if chance.random() < 0.3:
        rows[1, 2, 5, 0], rows[1, 1, 7, -1], rows[1, 0, 9, 0] = float("nan"), float("inf"), float("-inf")
    return rows


def format_of(qtype: QType, window: int, size: int) -> abi.c.Structure:
    assert isinstance(qtype.decode, IntDecode)
    tokens, channels = qtype.levels[0].block
    return abi.fill(
        abi.CacheFormat,
        token_group=tokens,
        channel_group=size if channels == -1 else channels,
        window=window,
        bits=qtype.decode.bits,
        has_zero=int(qtype.zero is not None),
        half=int(qtype.levels[0].dtype == "f16"),
    )


def parts_of(parts: dict[str, np.ndarray], qtype: QType, window: int, size: int) -> abi.c.Structure:
    ring = parts["recent"].shape[2] if "recent" in parts else 0
    form = format_of(qtype, window, size)
    return abi.fill(abi.CacheParts, format=form, **parts, tokens=TOKENS, dim=size, ring=ring)


def same(found: np.ndarray, wanted: torch.Tensor) -> None:
    np.testing.assert_array_equal(found, wanted.numpy())  # NaN equals NaN


@pytest.mark.parametrize("seed", range(24))
def test_append_and_read(kernels: abi.Kernels, seed: int) -> None:
    chance = random.Random(seed)
    qtype, window, size = draw(chance)
    rows = hard_rows(chance, size)
    shape = (BATCH, HEADS, TOKENS, size)
    oracle = Interpreter(*keeper(shape, qtype, window))
    parts = {name: one.numpy() for name, one in empty_parts(shape, qtype, window).items()}
    cache = parts_of(parts, qtype, window, size)
    at = 0
    while at < TOKENS:
        count = min(chance.choice([1, 1, 2, 9, TOKENS]), TOKENS - at)
        positions = np.arange(at, at + count)
        given = rows[:, :, at : at + count]
        wanted = list(oracle.run({"rows": given, "positions": torch.from_numpy(positions)}).values())
        # rows as a projection gives them: tokens before heads
        laid = np.ascontiguousarray(given.numpy().swapaxes(1, 2)).swapaxes(1, 2)
        status = np.zeros(1, np.int32)
        common = {"positions": positions, "cache": cache, "batch": BATCH, "heads": HEADS, "count": count}
        kernels.run("cache_append", 3, rows=laid, row_stride=abi.strides(laid)[:3], status=status, **common)
        found = np.full(shape, 7, np.float32)
        kernels.run("cache_read", 5, y=found, status=status, **common)
        assert not status[0]
        same(found, wanted[0])
        for array, part in zip(parts.values(), wanted[1:], strict=True):
            same(array, part)
        at += count


@pytest.mark.parametrize("seed", range(12))
def test_round(kernels: abi.Kernels, seed: int) -> None:
    chance = random.Random(1000 + seed)
    qtype, window, size = draw(chance)
    rows = hard_rows(chance, size)
    wanted = rounded(rows, qtype, window)
    laid = np.ascontiguousarray(rows.numpy().swapaxes(1, 2)).swapaxes(1, 2)
    found = np.full(rows.shape, 7, np.float32)
    sizes = {"batch": BATCH, "heads": HEADS, "tokens": TOKENS, "dim": size}
    form = format_of(qtype, window, size)
    kernels.run("cache_round", 4, x=laid, y=found, format=form, x_stride=abi.strides(laid)[:3], **sizes)
    same(found, wanted)


@pytest.mark.parametrize("positions", [[0, 2], [3, 2], [TOKENS - 1, TOKENS], [-1, 0], [2**40, 2**40 + 1]])
def test_positions_with_gaps_or_outside_change_nothing(kernels: abi.Kernels, positions: list[int]) -> None:
    qtype = cache_qtype(4, symmetric=False, group=-1, by_channel=False)
    parts = {name: one.numpy() for name, one in empty_parts((BATCH, HEADS, TOKENS, 8), qtype, 0).items()}
    rows, status = np.ones((BATCH, HEADS, 2, 8), np.float32), np.zeros(1, np.int32)
    kernels.run(
        "cache_append", 2, rows=rows, positions=np.array(positions), cache=parts_of(parts, qtype, 0, 8),
        batch=BATCH, heads=HEADS, count=2, row_stride=abi.strides(rows)[:3], status=status,
    )  # fmt: skip
    assert status[0] == 1
    assert not any(one.any() for one in parts.values())


def attention_of(chance: random.Random, length: int, size: int) -> dict[str, object]:
    """Queries, a mask and the other members of an attention over a cache; strides are those of contiguous arrays."""
    group, queries = chance.choice([1, 2, 4, 5]), chance.choice([1, 1, 2, 7, 8, 13])
    queries = min(queries, length)
    generator = np.random.default_rng(chance.randrange(1000))
    q = generator.standard_normal((BATCH, HEADS * group, queries, size)).astype(np.float32)
    if chance.random() < 0.2:
        q[0, 0, 0, 0] = chance.choice([np.inf, np.nan, -np.inf])
    seen = np.arange(TOKENS) <= np.arange(length - queries, length)[:, None]
    least = chance.choice([-np.inf, float(np.finfo(np.float32).min), -3.0])
    mask = chance.choice([seen, np.where(seen, 0, least).astype(np.float32), None])
    shape = (BATCH, HEADS * group, queries, TOKENS)
    return {
        "q": q,
        "q_stride": abi.strides(q)[:3],
        "mask": mask,
        "mask_is_bool": int(mask is not None and mask.dtype == bool),
        "mask_stride": (0, 0, 0, 0) if mask is None else abi.strides(mask, shape),
        "causal": chance.randint(0, 1),
        "causal_offset": length - queries,
        "batch": BATCH,
        "heads": HEADS * group,
        "kv_heads": HEADS,
        "queries": queries,
        "keys": TOKENS,
        "dim": size,
        "v_dim": size,
        "scale": 0.3,
    }


@pytest.mark.parametrize("seed", range(40))
def test_attention_reads_a_cache_as_it_would_read_floats(kernels: abi.Kernels, seed: int) -> None:
    """Bit for bit, whether keys, values or both are in a cache, and whatever the mask says of tokens behind its end."""
    chance = random.Random(2000 + seed)
    length, size = chance.choice([1, 6, 13, 20, TOKENS]), chance.choice([1, 16, 33, 64])
    positions, status = np.arange(length), np.zeros(1, np.int32)
    common = {"positions": positions, "count": length, "status": status}
    caches: list[abi.c.Structure] = []
    floats: list[np.ndarray] = []
    for _ in range(2):
        qtype, window, _ = draw(chance)
        rows = hard_rows(chance, size).numpy()[:, :, :length].copy()
        parts = {name: one.numpy() for name, one in empty_parts((BATCH, HEADS, TOKENS, size), qtype, window).items()}
        cache = parts_of(parts, qtype, window, size)
        sizes = {"cache": cache, "batch": BATCH, "heads": HEADS}
        kernels.run("cache_append", 1, rows=rows, row_stride=abi.strides(rows)[:3], **sizes, **common)
        floats.append(np.full((BATCH, HEADS, TOKENS, size), 7, np.float32))
        kernels.run("cache_read", 1, y=floats[-1], **sizes, **common)
        caches.append(cache)
        KEPT.append(parts)
    fields = attention_of(chance, length, size)
    q = fields["q"]
    assert isinstance(q, np.ndarray)
    stride = abi.strides(floats[0])[:3]
    results: list[np.ndarray] = []
    for in_cache in ((False, False), (True, True), (True, False), (False, True)):
        out = np.full(q.shape, 7, np.float32)
        fields |= {"out": out, "out_stride": abi.strides(out)[:3]}
        for name, cached, cache, rows in zip("kv", in_cache, caches, floats, strict=True):
            fields[f"{name}_cache"] = abi.c.addressof(cache) if cached else None
            fields[name], fields[f"{name}_stride"] = (None, (0, 0, 0)) if cached else (rows, stride)
        kernels.run("attention", 3, **fields, **common)
        results.append(out)
    KEPT.clear()
    assert not status[0]
    for one in results[1:]:
        np.testing.assert_array_equal(one.view(np.int32), results[0].view(np.int32))


def test_attention_over_a_cache_refuses_positions_outside_it(kernels: abi.Kernels) -> None:
    chance = random.Random(0)
    qtype = cache_qtype(4, symmetric=False, group=-1, by_channel=False)
    parts = {name: one.numpy() for name, one in empty_parts((BATCH, HEADS, TOKENS, 16), qtype, 0).items()}
    cache, status = parts_of(parts, qtype, 0, 16), np.zeros(1, np.int32)
    fields = attention_of(chance, 5, 16)
    q = fields["q"]
    assert isinstance(q, np.ndarray)
    out = np.full(q.shape, 7, np.float32)
    fields |= {"out": out, "out_stride": abi.strides(out)[:3], "k_cache": abi.c.addressof(cache)}
    fields |= {"v_cache": abi.c.addressof(cache), "positions": np.array([TOKENS]), "count": 1, "status": status}
    kernels.run("attention", 3, **fields)
    assert status[0] == 1
    assert (out == 7).all()

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

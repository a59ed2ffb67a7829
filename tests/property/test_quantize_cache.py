"""A quantized cache reads what its format says of every token, however the tokens were written."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import ModuleOp

from qcc.errors import RecipeError, ShapeError, UnsupportedOp
from qcc.interpreter import Interpreter
from qcc.ir.cache import CacheAppendOp
from qcc.ir.context import QccContext
from qcc.ir.program import StateOp
from qcc.ir.store import WeightStore
from qcc.numerics.kv_cache import cache_qtype, settled, tokens_a_group
from qcc.numerics.qtype import QType
from qcc.numerics.quantize import dequantize, quantize
from qcc.passes.quantize_cache import QuantizeCache
from tests import folding, kv_caches

HEADS, SIZE, TOKENS = 2, 6, 23


@st.composite
def formats(draw: st.DrawFn) -> QType:
    by_channel = draw(st.booleans())
    group = draw(st.integers(1, 7)) if by_channel else draw(st.sampled_from([-1, 1, 4, 6]))
    return cache_qtype(
        draw(st.integers(2, 8)),
        symmetric=draw(st.booleans()),
        group=group,
        by_channel=by_channel,
        scale=draw(st.sampled_from(["f16", "f32"])),
    )


def keeper(qtype: QType, window: int, batch: int = 1) -> Interpreter:
    return Interpreter(*kv_caches.keeper((batch, HEADS, TOKENS, SIZE), qtype, window))


def write(cache: Interpreter, rows: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """Write rows from position 0 on, so many a call, and return what the last call reads."""
    at, found = 0, torch.empty(0)
    for count in counts:
        call = {"rows": rows[:, :, at : at + count], "positions": torch.arange(at, at + count)}
        found, at = cache.run(call)["y"], at + count
    return found


def cuts(total: int) -> st.SearchStrategy[list[int]]:
    """Ways to write so many tokens in calls of one or more."""
    bounds = st.lists(st.integers(1, total - 1), unique=True) if total > 1 else st.just(list[int]())
    return bounds.map(lambda inner: [b - a for a, b in zip([0, *sorted(inner)], [*sorted(inner), total], strict=True)])


def expected(rows: torch.Tensor, qtype: QType, window: int) -> torch.Tensor:
    """What a cache holds of `rows`: whole groups in front of the window rounded, the rest as it is, then zeros."""
    length = rows.shape[2]
    done = settled(length, qtype, window)
    wanted = torch.zeros(rows.shape[0], HEADS, TOKENS, SIZE)
    wanted[:, :, :length] = rows
    group = tokens_a_group(qtype)
    for start in range(0, done, group):  # every group by itself
        wanted[:, :, start : start + group] = dequantize(quantize(rows[:, :, start : start + group], qtype))
    return wanted


def hard(rows: torch.Tensor, kind: str) -> torch.Tensor:
    rows = rows.clone()
    match kind:
        case "zeros":
            rows[:, 0] = 0
        case "biased":
            rows[..., 0] += 100
        case "tiny":
            rows *= 1e-6
        case "huge":
            rows *= 1e6
        case "nan":
            rows[:, 0, 0, 0], rows[:, -1, -1, -1] = float("nan"), float("inf")
        case _:
            pass
    return rows


@settings(max_examples=50, deadline=None)
@given(
    data=st.data(), qtype=formats(), window=st.integers(0, 9), length=st.integers(1, TOKENS), batch=st.integers(1, 2),
    kind=st.sampled_from(["plain", "zeros", "biased", "tiny", "huge", "nan"]), seed=st.integers(0, 999),
)  # fmt: skip
def test_what_is_read_does_not_depend_on_how_it_was_written(
    data: st.DataObject, qtype: QType, window: int, length: int, batch: int, kind: str, seed: int
) -> None:
    rows = torch.randn(batch, HEADS, length, SIZE, generator=torch.Generator().manual_seed(seed))
    rows = hard(rows, kind)
    cache = keeper(qtype, window, batch)
    wanted = expected(rows, qtype, window)
    found = write(cache, rows, data.draw(cuts(length)))
    torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)
    # without a cache the same rows read the same
    rounded = kv_caches.rounded(rows, qtype, window)
    torch.testing.assert_close(rounded, wanted[:, :, :length], rtol=0, atol=0, equal_nan=True)
    # the last token once more, then anew from the start
    again = {"rows": rows[:, :, -1:], "positions": torch.tensor([length - 1])}
    torch.testing.assert_close(cache.run(again)["y"], wanted, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(write(cache, rows, [length]), wanted, rtol=0, atol=0, equal_nan=True)


@given(length=st.integers(0, 200), window=st.integers(0, 40), group=st.integers(1, 33))
def test_the_window_is_kept_and_codes_are_whole_groups(length: int, window: int, group: int) -> None:
    qtype = cache_qtype(4, symmetric=False, group=group, by_channel=True)
    done, later = settled(length, qtype, window), settled(length + 1, qtype, window)
    assert done % group == 0
    assert min(window, length) <= length - done < window + group
    assert done <= later <= length + 1  # codes never become floats again


@settings(max_examples=20, deadline=None)
@given(qtype=formats(), window=st.integers(0, 9), first=st.integers(1, 15), seed=st.integers(0, 99))
def test_codes_never_change_once_they_are_written(qtype: QType, window: int, first: int, seed: int) -> None:
    rows = torch.randn(1, HEADS, TOKENS, SIZE, generator=torch.Generator().manual_seed(seed))
    cache = keeper(qtype, window)
    before = write(cache, rows, [first])
    done = settled(first, qtype, window)
    at = torch.arange(first, TOKENS)
    after = cache.run({"rows": rows[:, :, first:], "positions": at})["y"]
    assert torch.equal(after[:, :, :done], before[:, :, :done])


def test_channels_far_from_zero_lose_less_by_channel_than_by_token() -> None:
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(1, HEADS, 64, 32, generator=generator) + 8 * torch.randn(1, 1, 1, 32, generator=generator)
    queries = torch.randn(1, HEADS, 64, 32, generator=generator)
    losses: list[float] = []
    for by_channel in (True, False):
        qtype = cache_qtype(4, symmetric=False, group=32, by_channel=by_channel)
        lost = dequantize(quantize(keys, qtype)) - keys
        losses.append(float((queries @ lost.mT).square().mean()))
    assert losses[0] * 3 < losses[1]


@pytest.mark.parametrize("positions", [[0, 2], [3, 2], [TOKENS - 1, TOKENS], [-1, 0]])
def test_positions_with_gaps_or_outside_are_an_error(positions: list[int]) -> None:
    cache = keeper(cache_qtype(8, symmetric=True, group=-1, by_channel=False), 0)
    with pytest.raises(ShapeError, match="positions"):
        cache.run({"rows": torch.randn(1, HEADS, 2, SIZE), "positions": torch.tensor(positions)})


def apply(module: ModuleOp, store: WeightStore, **recipe: object) -> None:
    QuantizeCache(json.dumps(recipe)).apply(QccContext(store), module)
    module.verify()


SCHEMES = [
    {"format": "int8"},
    {"format": "uint4", "group": 8},
    {"keys": {"format": "uint4", "axis": "channel", "group": 4}, "values": {"format": "uint2"}, "window": 3},
    {"values": {"format": "int4", "axis": "channel", "group": 3}},
]


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_a_decoder_calls_as_it_decodes(scheme: dict[str, object]) -> None:
    """Prefill gives what the same tokens give one by one, up to what a later token finds rounded."""
    module, store, inputs = folding.raised("cached_llama")
    plain = Interpreter(module.clone(), store, "f64").run(inputs)["output"]
    apply(module, store, kv_cache=scheme)
    whole = Interpreter(module, store, "f64").run(inputs)["output"]
    assert 0 < float((whole - plain).abs().max()) < 0.6 * float(plain.abs().max())
    stepwise, last = Interpreter(module, store, "f64"), whole
    for index in range(inputs["input_ids"].shape[1]):
        step = {"input_ids": inputs["input_ids"][:, index : index + 1], "cache_position": torch.tensor([index])}
        last = stepwise.run(step)["output"]
    if "axis" not in str(scheme):  # without groups of tokens every step sees what prefill saw
        torch.testing.assert_close(last[:, -1], whole[:, -1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["cached_llama", "llama", "gpt2"])
def test_a_window_over_all_tokens_changes_nothing(name: str) -> None:
    module, store, inputs = folding.raised(name)
    plain = folding.outputs(module.clone(), store, inputs)
    apply(module, store, kv_cache={"keys": {"format": "uint2", "axis": "channel", "group": 4}, "window": 24})
    found = folding.outputs(module, store, inputs)
    assert all(torch.equal(found[key], value) for key, value in plain.items())


def test_overrides_name_attentions() -> None:
    module, store, _ = folding.raised("cached_llama")
    first = {"match": "*.layers.0.self_attn", "kv_cache": {"keys": {"format": "int8"}, "values": {"format": "uint4"}}}
    apply(module, store, kv_cache={"format": "uint2"}, overrides=[first])
    formats = [str(op.format.data) for op in module.walk() if isinstance(op, CacheAppendOp)]
    assert [text.split()[0] for text in formats] == ["int8", "uint4", "uint2", "uint2"]
    states = {op.key.data for op in module.walk() if isinstance(op, StateOp)}
    assert {"keys_0.codes", "keys_0.scale", "values_0.zero"} < states
    assert all(key in store for key in states)
    assert "keys_0" not in store


def test_what_fits_nothing_is_refused() -> None:
    module, store, _ = folding.raised("cached_llama")
    with pytest.raises(RecipeError, match=r"layers\.9.* matches no attention"):
        apply(module, store, overrides=[{"match": "*.layers.9.*", "kv_cache": {"format": "int8"}}])
    with pytest.raises(RecipeError, match="24 tokens never fills a group of 32"):
        apply(module, store, kv_cache={"keys": {"format": "uint4", "axis": "channel", "group": 32}})
    store["keys_0"] = store.tensor("keys_0") + 1
    with pytest.raises(UnsupportedOp, match="does not begin as zeros"):
        apply(module, store, kv_cache={"format": "int8"})

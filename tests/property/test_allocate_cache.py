"""Bits of keys and values by attention: what brute force finds, within the budget."""

from __future__ import annotations

import json
from itertools import product

import pytest
import torch

from qcc.calibrate.run import SampleRun
from qcc.errors import RecipeError
from qcc.interpreter import Interpreter
from qcc.ir.cache import CacheAppendOp, CacheRoundOp
from qcc.ir.context import QccContext
from qcc.passes.allocate_cache import AllocateCache, allocated_cache_recipe
from qcc.passes.kv_sites import attention_names
from qcc.passes.quantize_cache import QuantizeCache
from qcc.recipes.load import load_recipe
from qcc.recipes.model import Recipe
from tests import folding, zoo

BITS = (8, 4, 2)
SIZE = 16  # channels of a head; one f16 scale and one f16 zero point a token and head


def recipe(bits_per_value: float, **more: object) -> Recipe:
    chosen = {"bits": list(BITS), "bits_per_value": bits_per_value}
    return load_recipe({"kv_cache": {"format": "uint4"}, "allocate": {"kv_cache": chosen}, **more})


def samples() -> list[dict[str, torch.Tensor]]:
    return [{"input_ids": zoo.tokens(1, 10)}, {"input_ids": zoo.tokens(2, 7)}]


def chosen_by(one: Recipe) -> list[tuple[int, int]]:
    module, store, _ = folding.raised("llama")
    store = folding.single(store)
    AllocateCache(one.model_dump_json()).apply(QccContext(store, SampleRun(samples())), module)
    written = allocated_cache_recipe(one, module)
    assert written.allocate is None
    schemes = [override.kv_cache for override in written.overrides if override.kv_cache]
    widths = [(int(s.key_scheme.format[-1]), int(s.value_scheme.format[-1])) for s in schemes]
    QuantizeCache(written.model_dump_json()).apply(QccContext(store), module)
    formats = [str(op.format.data).split()[0] for op in module.walk() if isinstance(op, CacheRoundOp)]
    assert sorted(formats) == sorted(f"uint{bits}" for pair in widths for bits in pair)
    return widths


def harms() -> list[dict[tuple[int, int], float]]:
    """The harm of every pair of every attention, measured by hand."""
    module, store, _ = folding.raised("llama")
    store = folding.single(store)
    exact = [Interpreter(module.clone(), store).run(one)["output"].double() for one in samples()]
    table: list[dict[tuple[int, int], float]] = []
    for name in attention_names(module).values():
        row: dict[tuple[int, int], float] = {}
        for keys, values in product(BITS, repeat=2):
            scheme = {"keys": {"format": f"uint{keys}"}, "values": {"format": f"uint{values}"}}
            copy = module.clone()
            text = json.dumps({"overrides": [{"match": name, "kv_cache": scheme}]})
            QuantizeCache(text).apply(QccContext(store), copy)
            found = [Interpreter(copy, store).run(one)["output"].double() for one in samples()]
            noise = sum(float((a - b).square().sum()) for a, b in zip(found, exact, strict=True))
            row[keys, values] = noise / sum(float(one.square().sum()) for one in exact)
        table.append(row)
    return table


def test_the_choice_is_that_of_brute_force() -> None:
    table = harms()
    for budget in (4.0, 5.0, 6.0, 7.5, 10.0):
        widths = chosen_by(recipe(budget))
        fitting = [
            pairs
            for pairs in product(table[0], repeat=len(table))
            if sum(bits + 32 / SIZE for pair in pairs for bits in pair) <= budget * 2 * len(table)
        ]
        assert tuple(widths) in fitting

        def harm(pairs: tuple[tuple[int, int], ...]) -> float:
            return sum(row[pair] for row, pair in zip(table, pairs, strict=True))

        assert harm(tuple(widths)) == pytest.approx(min(map(harm, fitting)), rel=1e-4)


def test_overrides_keep_what_they_give_and_count() -> None:
    first = {"match": "*.layers.0.self_attn", "kv_cache": {"format": "uint8"}}
    widths = chosen_by(recipe(7.0, overrides=[first]))
    assert (8, 8) in widths
    assert sum(bits + 32 / SIZE for pair in widths for bits in pair) <= 7.0 * 4


def test_budgets_below_the_least_are_refused() -> None:
    module, store, _ = folding.raised("llama")
    with pytest.raises(RecipeError, match=r"3\.9 bits per value cannot be met, 4 is the least"):
        AllocateCache(recipe(3.9).model_dump_json()).apply(QccContext(store), module)


def test_a_model_with_a_cache_is_measured_by_its_cache() -> None:
    module, store, inputs = folding.raised("cached_llama")
    store = folding.single(store)
    one = recipe(6.0)
    AllocateCache(one.model_dump_json()).apply(QccContext(store, SampleRun([dict(inputs)])), module)
    QuantizeCache(one.model_dump_json()).apply(QccContext(store), module)
    formats = [str(op.format.data).split()[0] for op in module.walk() if isinstance(op, CacheAppendOp)]
    assert len(formats) == 4
    assert sum(int(text[-1]) + 32 / SIZE for text in formats) <= 6.0 * 4

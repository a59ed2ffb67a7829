"""Models with quantized keys and values, compiled to C, held to the interpreter call by call."""

from __future__ import annotations

import functools
import json
from itertools import pairwise

import pytest
import torch

import qcc
from qcc.errors import QccError
from qcc.ir.cache import CacheAppendOp, CacheRoundOp
from qcc.ir.program import StateOp
from qcc.ir.types import type_of
from qcc.numerics.elements import ELEMENT_BYTES
from tests import zoo
from tests.compiling import FLOAT_BOUND, apart, exported, interpreter

CACHE, PREFILL = 32, 13
SCHEMES = {
    "int8": {"format": "int8"},
    "uint4": {"format": "uint4", "group": 8},
    "kivi": {
        "keys": {"format": "uint2", "axis": "channel", "group": 8},
        "values": {"format": "int4"},
        "window": 5,
    },
}


@functools.cache
def compiled_llama(scheme: str) -> qcc.Compiled:
    module, args, kwargs, shapes = zoo.cached_llama(CACHE)
    recipe = {"kv_cache": SCHEMES[scheme]}
    return qcc.compile(module, args, kwargs, dynamic_shapes=shapes, recipe=recipe, threads=2)


def calls() -> list[dict[str, torch.Tensor]]:
    """A prefill, then tokens one by one up to the end of the cache."""
    text = torch.randint(1, 97, (1, CACHE), generator=torch.Generator().manual_seed(5))
    cuts = [0, *range(PREFILL, CACHE + 1)]
    return [{"input_ids": text[:, a:b], "cache_position": torch.arange(a, b)} for a, b in pairwise(cuts)]


def state_bytes(compiled: qcc.Compiled) -> int:
    kinds = [type_of(op.result) for op in compiled.module.walk() if isinstance(op, StateOp)]
    return sum(ELEMENT_BYTES[kind.scalar] * torch.Size(kind.static_shape or ()).numel() for kind in kinds)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_call_equals_the_interpreter(scheme: str) -> None:
    compiled = compiled_llama(scheme)
    assert sum(isinstance(op, CacheAppendOp) for op in compiled.module.walk()) == 4
    oracle = interpreter(compiled)
    differences: list[float] = []
    for _ in range(2):  # a second text in the same session
        differences += [apart(compiled.run(one)["output"], oracle.run(one)["output"]) for one in calls()]
    # a key or value that a float's last bit moves over a rounding boundary takes the next code
    assert sorted(differences)[len(differences) // 2] <= FLOAT_BOUND
    assert max(differences) <= 0.02


def test_memory_is_saved() -> None:
    floats = 4 * 2 * 2 * CACHE * 16  # bytes, layers x keys and values, heads, tokens, channels
    assert state_bytes(compiled_llama("int8")) == 2 * floats * (16 + 2) // (4 * 16)
    assert state_bytes(compiled_llama("uint4")) == 2 * floats * (8 + 2 * 4) // (4 * 16)


def test_calls_that_do_not_go_on_are_refused() -> None:
    compiled = compiled_llama("int8")
    compiled.reset()
    first, second, *_ = calls()
    wanted = [compiled.run(one)["output"] for one in (first, second)]
    strange = [{**second, "cache_position": torch.tensor(one)} for one in ([CACHE], [-1], [2**40])]
    for call in (*strange, {**first, "cache_position": torch.arange(PREFILL).flip(0)}):
        compiled.reset()
        compiled.run(first)
        with pytest.raises(QccError, match="consecutive"):
            compiled.run(call)
    compiled.reset()
    again = [compiled.run(one)["output"] for one in (first, second)]
    assert all(map(torch.equal, again, wanted))


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_models_without_a_cache_round_keys_and_values(name: str) -> None:
    compiled = qcc.compile(exported(name), recipe={"kv_cache": SCHEMES["kivi"]}, threads=2)
    assert sum(isinstance(op, CacheRoundOp) for op in compiled.module.walk()) == 4
    _, args, kwargs, _ = zoo.MODELS[name]()
    inputs = dict(kwargs)
    assert not args
    found, wanted = compiled.run(inputs), interpreter(compiled).run(inputs)
    assert max(apart(found[key], value) for key, value in wanted.items()) <= 0.02


def test_the_artifact_keeps_the_recipe() -> None:
    compiled = compiled_llama("kivi")
    manifest = json.loads((compiled.folder / "manifest.json").read_text("utf-8"))
    assert manifest["recipe"]["kv_cache"]["keys"]["axis"] == "channel"
    assert manifest["recipe"]["kv_cache"]["window"] == 5

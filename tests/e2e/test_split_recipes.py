"""Recipes that keep parts of weights apart or use formats of papers: they run, and have the bits that they state."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from xdsl.dialects.builtin import ModuleOp

from qcc.calibrate.run import SampleRun
from qcc.frontend.export import import_program
from qcc.interpreter import Interpreter
from qcc.ir.context import QccContext
from qcc.ir.program import WeightOp
from qcc.ir.quant import ContractOp
from qcc.ir.store import WeightStore
from qcc.ir.types import type_of
from qcc.numerics.qtype_bits import storage_bits
from qcc.numerics.qtype_parts import LowRank, Sparse
from qcc.passes.assign_formats import AssignFormats
from qcc.passes.pipeline import raising, run_passes, solving
from qcc.passes.transforms import transforming
from qcc.recipes.load import load_recipe
from qcc.recipes.model import split_type
from tests import zoo

BITS: dict[str, Callable[[int, int], float]] = {
    "lqlora-w3": lambda n, k: 3 + 8 / 64 + (32 * -(-n // 256) * (k // 64) + 32 + 16 * 16 * (n + k)) / (n * k),
    "spqr-w3": lambda n, k: 3.375 + (64 * -(-n // 16) * (k // 16) + 32 * (round(0.0075 * n * k) + n + 1)) / (n * k),
    "flexq-w6a6": lambda n, k: 6 + 16 / 64,
    "abq-w2a8": lambda n, k: 8 * -(-64 // 3) / 64 + 16 / 64,
    "llmfp4-w4a4": lambda n, k: 4 + 32 / k,
    "zeroquantfp-w4a8": lambda n, k: 4 + 8 / 64 + 16 / k + (8 * 8 * (n + k) + 2 * 8 * 32) / (n * k),
    "nvint4-rotated": lambda n, k: 4 + 8 / 16 + 32 / (n * k),
}
"""Bits per weight of a matrix of n rows and k columns, by each recipe's description."""

LOSS = {
    "lqlora-w3": 0.25,
    "spqr-w3": 0.25,
    "flexq-w6a6": 0.08,
    "abq-w2a8": 0.6,
    "llmfp4-w4a4": 0.35,
    "zeroquantfp-w4a8": 0.2,
    "nvint4-rotated": 0.3,
}
"""What the logits may lose, relative to their norm."""


def tokens(batch: int, seed: int) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(1, 97, (batch, 24), generator=torch.Generator().manual_seed(seed))}


@functools.cache
def decoder() -> tuple[ModuleOp, dict[str, torch.Tensor], torch.Tensor]:
    """Return a raised decoder whose columns are multiples of 64, its weights, and its logits."""
    model, args, kwargs, shapes = zoo.llama(intermediate_size=128)
    with torch.no_grad():
        imported = import_program(torch.export.export(model, args, kwargs, dynamic_shapes=shapes))
    run_passes(raising(), QccContext(imported.store), imported.module)
    weights = {key: imported.store.tensor(key) for key in imported.store}
    wanted = Interpreter(imported.module, WeightStore(weights)).run(tokens(4, 0))["output"]
    return imported.module, weights, wanted.double()


@functools.cache
def compiled(name: str) -> tuple[ModuleOp, WeightStore, float]:
    """Return a decoder under a recipe, and the relative error of its logits on tokens that it was not calibrated on."""
    plain, weights, wanted = decoder()
    module, store, recipe = plain.clone(), WeightStore(weights), load_recipe(name)
    passes = [*transforming(recipe), AssignFormats(recipe.model_dump_json()), *solving()]
    run_passes(passes, QccContext(store, SampleRun([tokens(2, seed) for seed in range(1, 9)])), module)
    found = Interpreter(module, store).run(tokens(4, 0))["output"].double()
    return module, store, float((found - wanted).norm() / wanted.norm())


def contractions(module: ModuleOp) -> list[tuple[str, Any]]:
    found = [op.weight.owner for op in module.walk() if isinstance(op, ContractOp)]
    return [(one.key.data, type_of(one.result)) for one in found if isinstance(one, WeightOp)]


@pytest.mark.parametrize("name", BITS)
def test_it_runs_and_has_the_bits_it_states(name: str) -> None:
    module, store, loss = compiled(name)
    assert len(contractions(module)) >= 14
    for key, kind in contractions(module):
        n, k = kind.static_shape
        assert storage_bits(kind.qtype, (n, k)) == pytest.approx(BITS[name](n, k) * n * k, abs=1)
        if any(isinstance(side, Sparse | LowRank) for side in kind.qtype.sides):
            assert None not in store.quantized(key).sides
    assert loss < LOSS[name]


@pytest.mark.parametrize(
    "shape", [(384, 384), (384, 1536), (1536, 384), (256, 256), (128, 256), (704, 256), (256, 704)]
)
def test_spqr_takes_less_than_four_bits_all_told(shape: tuple[int, int]) -> None:
    recipe = load_recipe("spqr-w3")
    whole = split_type(recipe.weights.qtype(), recipe.outliers, recipe.low_rank)
    assert storage_bits(whole, shape) < 4 * shape[0] * shape[1]

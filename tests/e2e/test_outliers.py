"""What transforms are for: a decoder with channels 50 times the others, quantized with and without them.

The channels are made by the weights of norms and undone in the layers behind them, so the float function is that of a
decoder without outliers, and all that is lost is lost by quantization.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from qcc.calibrate.run import SampleRun
from qcc.interpreter import Interpreter
from qcc.ir.context import QccContext
from qcc.ir.nn import LinearOp
from qcc.ir.program import WeightOp
from qcc.ir.store import WeightStore
from qcc.ir.transformer import NormOp
from qcc.passes.assign_formats import AssignFormats
from qcc.passes.pipeline import run_passes, solving
from qcc.passes.transforms import transforming
from qcc.recipes.load import load_recipe
from tests.folding import raised

OUTLIERS = [3, 17, 40]
FACTOR = 50.0


def with_outliers() -> tuple[Any, WeightStore]:
    """Return a decoder of which three channels behind every norm are large."""
    module, store, _ = raised("llama")
    store = WeightStore({key: store.tensor(key).to(torch.float32) for key in store})
    factors = torch.ones(64).index_fill(0, torch.tensor(OUTLIERS), FACTOR)
    for norm in [op for op in module.walk() if isinstance(op, NormOp)]:
        layers = [use.operation for use in norm.result.uses if isinstance(use.operation, LinearOp)]
        for value, factor in [(norm.weight, factors), *((layer.weight, 1 / factors) for layer in layers)]:
            assert value is not None
            assert isinstance(value.owner, WeightOp)
            store[value.owner.key.data] = store.tensor(value.owner.key.data) * factor
    return module, store


def tokens(batch: int, seed: int) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(1, 97, (batch, 24), generator=torch.Generator().manual_seed(seed))}


@functools.cache
def loss(name: str, transforms: tuple[str, ...] | None = None, *, by_row: bool = False) -> float:
    """Return the relative error of the logits under a recipe, on tokens that were not calibrated on."""
    module, store = with_outliers()
    test, samples = tokens(4, 0), [tokens(2, seed) for seed in range(1, 9)]
    wanted = Interpreter(module.clone(), WeightStore({k: store[k] for k in store})).run(test)["output"].double()
    recipe = load_recipe(name)
    recipe = recipe if transforms is None else recipe.model_copy(update={"transforms": transforms})
    if by_row:
        recipe = recipe.model_copy(update={"weights": recipe.weights.model_copy(update={"group": "row"})})
    passes = [*transforming(recipe), AssignFormats(recipe.model_dump_json()), *solving()]
    run_passes(passes, QccContext(store, SampleRun(samples)), module)
    found = Interpreter(module, store).run(test)["output"].double()
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("name", ["quarot-w4a4", "mergequant-w4a4"])
def test_four_bits_need_a_transform(name: str) -> None:
    assert loss("rtn-w4a4") > 0.8
    assert loss(name) < 0.35 * loss("rtn-w4a4")


def test_static_steps_by_channel_are_as_good_as_rotations() -> None:
    assert loss("mergequant-w4a4") < 1.25 * loss("quarot-w4a4")


def test_smoothing_saves_eight_bits() -> None:
    assert loss("smoothquant-w8a8") < 0.2 * loss("smoothquant-w8a8", ())


def test_awq_finds_the_columns_that_matter() -> None:
    assert loss("awq-w4", by_row=True) < 0.8 * loss("awq-w4", (), by_row=True)

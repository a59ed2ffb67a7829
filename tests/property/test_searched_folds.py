"""Searches among folds find what they say: steps, exponents and channels that lose least on the samples."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass

from qcc.calibrate.run import SampleRun
from qcc.errors import QccError
from qcc.interpreter import Interpreter
from qcc.ir.context import QccContext
from qcc.ir.nn import LinearOp
from qcc.ir.program import WeightOp
from qcc.ir.quant import ContractOp, QuantizeOp
from qcc.ir.store import WeightStore
from qcc.ir.transformer import NormOp
from qcc.ir.types import type_of
from qcc.passes.assign_formats import AssignFormats
from qcc.passes.float_view import float_view
from qcc.passes.pipeline import pipeline, run_passes
from qcc.passes.qsm import Qsm
from qcc.passes.round_folds import RoundFolds
from qcc.passes.smooth import Smooth
from qcc.passes.smooth_search import best_alpha
from qcc.passes.solve_weights import SolveWeights
from qcc.recipes.load import load_recipe
from tests.folding import raised
from tests.modules import Made, kind_of, make


def behind_a_norm(width: int, rows: int, seed: int, spread: float) -> tuple[ModuleOp, WeightStore, Tensor]:
    """Two layers behind one norm, some channels of which stand out, in float32."""
    generator = torch.Generator().manual_seed(seed)
    stored = {
        "norm.weight": torch.randn(width, generator=generator).mul(spread).exp(),
        "first.weight": torch.randn(5, width, generator=generator),
        "second.weight": torch.randn(3, width, generator=generator),
    }
    x = torch.randn(rows, width, generator=generator)

    def build(value: SSAValue) -> list[Made]:
        gamma, *weights = [WeightOp(name, kind_of(one)) for name, one in stored.items()]
        normed = NormOp("rms", value, gamma, eps=1e-6)
        return [LinearOp(normed, weight) for weight in weights]

    return make({"x": kind_of(x)}, build), WeightStore(stored), x


def loss(model: tuple[ModuleOp, WeightStore, Tensor], recipe: str, *passes: ModulePass) -> float:
    """Return the squared error of all outputs after transforms and rounding."""
    module, store, x = model
    wanted = Interpreter(module, store).run({"x": x})
    every = [*passes, RoundFolds(), AssignFormats(recipe), SolveWeights()]
    run_passes(every, QccContext(store, SampleRun([{"x": x}])), module)
    found = Interpreter(module, store).run({"x": x})
    return sum(float((found[name] - wanted[name]).double().square().sum()) for name in wanted)


@settings(max_examples=25, deadline=None)
@given(
    width=st.integers(2, 24), rows=st.integers(1, 40), seed=st.integers(0, 999),
    spread=st.sampled_from([0.0, 0.5, 1.5]), bits=st.integers(3, 8),
)  # fmt: skip
def test_adaptive_steps_lose_no_more_than_those_of_activations_alone(
    width: int, rows: int, seed: int, spread: float, bits: int
) -> None:
    recipe = json.dumps({"weights": {"format": f"int{bits}"}, "activations": {"format": f"int{bits}"}})

    def with_clip(clip: str) -> float:
        return loss(behind_a_norm(width, rows, seed, spread), recipe, Qsm(recipe, clip))  # type: ignore[arg-type]

    assert with_clip("adaptive") <= 1.01 * with_clip("mse") + 1e-9


def test_adaptive_steps_lose_less_where_norms_are_uneven() -> None:
    recipe = json.dumps({"weights": {"format": "int4"}, "activations": {"format": "int4"}})
    found = {
        clip: loss(behind_a_norm(48, 200, 0, 1.0), recipe, Qsm(recipe, clip)) for clip in ("amax", "mse", "adaptive")
    }
    assert found["adaptive"] < 0.97 * found["mse"]
    assert found["adaptive"] < 0.97 * found["amax"]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_exponent_is_that_of_least_loss_among_all(seed: int) -> None:
    """What the search measures without folding is what folding and rounding gives."""
    recipe = json.dumps({"weights": {"format": "int3", "scale": "f32"}})
    losses = [loss(behind_a_norm(16, 30, seed, 1.0), recipe, Smooth(step / 20)) for step in range(21)]
    searched = loss(behind_a_norm(16, 30, seed, 1.0), recipe, Smooth(search=True, recipe=recipe))
    assert searched == pytest.approx(min(losses), rel=1e-4)
    assert min(losses) < 0.9 * losses[0]


def test_where_nothing_is_quantized_the_exponent_is_one_half() -> None:
    module, store, x = behind_a_norm(8, 3, 0, 1.0)
    context = QccContext(store, SampleRun([{"x": x}]))
    assert best_alpha(context, module, "smooth", json.dumps({}), [], lambda alpha: []) == 0.5


def test_an_exponent_is_searched_on_samples() -> None:
    module, store, _ = behind_a_norm(8, 3, 0, 1.0)
    with pytest.raises(QccError, match="needs calibration"):
        run_passes([Smooth(search=True)], QccContext(store), module)


def test_mergequant_leaves_no_scale_to_compute_behind_norms() -> None:
    """Between a norm and a contraction there is rounding by a constant step, and copies of channels."""
    module, store, inputs = raised("llama")
    run_passes(pipeline(load_recipe("mergequant-w4a4")), QccContext(store, SampleRun([inputs])), module)
    folded = [op for op in module.walk() if isinstance(op, QuantizeOp) and isinstance(_origin(op), NormOp)]
    assert len(folded) == 5  # two norms in each of two blocks, and the one before the head
    for op in folded:
        qtype = type_of(op.result).qtype
        assert qtype is not None
        assert (qtype.when, [level.statistic for level in qtype.levels]) == ("static", ["constant"])
        assert qtype.levels[0].constant == 1.0
        assert all(isinstance(one.owner, WeightOp) for one in op.parameters)
        assert all(isinstance(use.operation, ContractOp) for use in op.result.uses)
    others = [op for op in module.walk() if isinstance(op, QuantizeOp) and op not in folded]
    assert len(others) == 4  # inputs of output and down projections have no norm that could take a step
    float_view(module).module.verify()


def _origin(op: QuantizeOp) -> object:
    owner = op.input.owner
    return owner.input.owner if getattr(owner, "name", "") == "qcc.expand_k" else owner  # type: ignore[union-attr]

"""Recipes with transforms, from the model to C: with every format in float the function stays."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import qcc
from qcc.errors import IllegalFold, QccError
from qcc.passes.pipeline import planning
from qcc.recipes.load import load_recipe
from tests import compiling, zoo

EVERYTHING = [
    "residual_channels", "expand_k", "qsm", "smooth_attention", "awq", "smooth", "diagonal", "permute", "rotate",
    "fold_norm",
]  # fmt: skip


def model_with_uneven_norms(name: str) -> zoo.Model:
    model, args, kwargs, shapes = zoo.MODELS[name]()
    generator = torch.Generator().manual_seed(11)
    for key, parameter in model.named_parameters():
        if "norm" in key or "ln_" in key:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data = parameter.data * (1 + 0.3 * noise) + 0.1 * noise
    return model, args, kwargs, shapes


def compiled_error(name: str, recipe: dict[str, Any]) -> float:
    model, args, kwargs, shapes = model_with_uneven_norms(name)
    with torch.no_grad():
        wanted = model(*args, **kwargs)
        compiled = qcc.compile(model, args, kwargs, dynamic_shapes=shapes, recipe=recipe, calibration=[kwargs])
    found = compiled(*args, **kwargs)
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_all_transforms_together_keep_the_function(name: str) -> None:
    recipe = {"transforms": EVERYTHING, "rotate": {"r1": True, "r2": True, "r3": True, "r4": True}}
    assert compiled_error(name, recipe) < 2e-5


def test_migrated_steps_run_in_c() -> None:
    plain = {"weights": {"format": "int8"}, "activations": {"format": "int8"}}
    assert compiled_error("llama", {**plain, "transforms": ["qsm"], "qsm": {"clip": "amax"}}) < 0.1


def test_residual_channels_run_in_c_and_in_the_report() -> None:
    """The program in C is the one that is interpreted, and a report sees what the second codes are good for."""
    model, args, kwargs, shapes = zoo.llama(intermediate_size=128)
    with torch.no_grad():
        model.get_parameter("model.model.norm.weight")[::9] *= 20
    int4 = {"format": "int4", "group": 32}
    losses: list[float] = []
    ratios: list[list[float]] = []
    for transforms in ([], ["residual_channels"]):
        recipe = {"weights": {"format": "int8"}, "activations": int4, "transforms": transforms}
        compiled = qcc.compile(model, args, kwargs, dynamic_shapes=shapes, recipe=recipe, calibration=[kwargs])
        found = compiled(*args, **kwargs)
        wanted = compiling.interpreter(compiled).run(kwargs)[compiled.output_names[0]]
        assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-3
        with torch.no_grad():
            losses.append(float((found - model(*args, **kwargs)).square().mean()))
        layers = json.loads((compiled.folder / "report.json").read_text("utf-8"))["layers"]
        ratios.append([layer["sqnr_db"] for layer in layers])
    assert len(ratios[0]) == len(ratios[1]) == 15
    assert ratios[1][-1] > ratios[0][-1] + 3  # the head reads the outliers
    assert losses[1] < 0.5 * losses[0]


def test_a_post_norm_encoder_is_refused_or_kept() -> None:
    model, args, kwargs, shapes = zoo.bert()
    with pytest.raises(IllegalFold, match="illegal_folds: keep"):
        qcc.compile(model, args, kwargs, dynamic_shapes=shapes, recipe={"transforms": ["smooth"]}, calibration=[kwargs])
    recipe = {"transforms": ["smooth", "rotate"], "rotate": {"r1": False}, "illegal_folds": "keep"}
    compiled = qcc.compile(model, args, kwargs, dynamic_shapes=shapes, recipe=recipe, calibration=[kwargs])
    with torch.no_grad():
        wanted = model(*args, **kwargs).last_hidden_state
    assert float((compiled(*args, **kwargs).last_hidden_state - wanted).abs().max()) < 1e-4


def test_transforms_run_in_the_order_of_the_pipeline() -> None:
    passes = [one.name for one in planning(load_recipe({"transforms": EVERYTHING}))]
    wanted = [
        "fold-batch-norm", "fold-norm", "centre-streams", "rotate-streams", "rotate-values", "permute", "diagonal",
        "smooth", "awq", "smooth-attention", "qsm", "expand-k", "round-folds", "assign-formats", "residual-channels",
    ]  # fmt: skip
    assert [name for name in passes if name in wanted] == wanted
    sorted_ = load_recipe({"transforms": EVERYTHING, "permute": {"inputs": True}})
    passes = [one.name for one in planning(sorted_)]
    assert "permute" not in passes
    assert passes.index("qsm") < passes.index("permute-inputs") < passes.index("expand-k")
    implied = [one.name for one in planning(load_recipe({"transforms": ["rotate"]}))]
    assert "fold-norm" in implied
    without = [one.name for one in planning(load_recipe({"transforms": ["rotate"], "rotate": {"r1": False}}))]
    assert "fold-norm" not in without


def test_transforms_without_samples_say_how_to_give_them() -> None:
    model, args, kwargs, shapes = zoo.llama()
    with pytest.raises(QccError, match="transform smooth needs calibration"):
        qcc.compile(model, args, kwargs, dynamic_shapes=shapes, recipe={"transforms": ["smooth"]})

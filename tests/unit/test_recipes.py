from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from qcc.errors import RecipeError
from qcc.numerics.presets import PRESETS, format_of
from qcc.recipes.load import load_recipe, recipe_names, recipe_text, recipe_yaml


@pytest.mark.parametrize("name", recipe_names())
def test_named_recipes_load_and_survive_json(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.description
    assert load_recipe(recipe.model_dump_json()) == recipe
    assert load_recipe(recipe.model_dump()) == recipe
    assert load_recipe(yaml.safe_load(recipe_yaml(recipe))) == recipe


def test_the_recipes_the_documentation_names_are_there() -> None:
    assert {"w8a8", "w4a8", "w8", "w4"} <= set(recipe_names())


def test_formats_of_w4a8() -> None:
    recipe = load_recipe("w4a8")
    assert str(recipe.weights.qtype()) == "uint4 | (1,32) f16 | pre u4"
    assert str(recipe.activations.qtype()) == "int8 | (1,32) f32 | dynamic"


@pytest.mark.parametrize("name", [*PRESETS, "fixed<8,3>", "fp<2,1>", "bipolar<2>"])
def test_formats_are_taken_by_name_and_by_text(name: str) -> None:
    """What is stored is static, what is computed at run time dynamic; the recipe survives JSON either way."""
    qtype = format_of(name)
    if qtype.when == "static":
        for text in (name, str(qtype)):
            recipe = load_recipe({"weights": {"format": text}, "embeddings": {"format": text}})
            assert recipe.weights.qtype() == recipe.embeddings.qtype() == qtype
            assert load_recipe(recipe.model_dump_json()) == recipe
    activations = load_recipe({"activations": {"format": name}}).activations.qtype()
    assert activations == replace(qtype, when="dynamic")


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(recipe_text("w8"))
    assert load_recipe(path) == load_recipe("w8") == load_recipe(str(path))


def test_all_unknown_keys_are_named_with_the_nearest_one() -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe({"weigths": {}, "weights": {"gruop": 32, "format": "int4"}, "overrides": [{"mach": "x"}]})
    text = str(caught.value)
    assert len(caught.value.problems) == 4  # the override also lacks its `match`
    for near in ("did you mean 'weights'", "did you mean 'group'", "did you mean 'match'"):
        assert near in text


@pytest.mark.parametrize(
    ("data", "part"),
    [
        ({"weights": {"format": "int9"}}, "int9"),
        ({"weights": {"format": "int4", "group": 0}}, "weights.group"),
        ({"weights": {"format": "mxpf4"}}, "did you mean mxfp4"),
        ({"weights": {"format": "uint4 | (1,32) f17"}}, "f17"),
        ({"weights": {"format": "mxfp4", "group": 32}}, "says its own group"),
        ({"weights": {"format": "nf4-g64", "scale": "f32"}}, "says its own scale"),
        ({"weights": {"format": "int8-token"}}, "is dynamic, but these values are stored"),
        ({"embeddings": {"format": "int8 | token f32 | dynamic"}}, "is dynamic, but these values are stored"),
        ({"embeddings": {"format": "mxfp8_e4m3", "group": 8}}, "says its own group"),
        ({"activations": {"format": "mxfp4", "group": 32}}, "says its own group"),
        ({"activations": {"format": "nvfp4", "granularity": "tensor"}}, "says its own granularity"),
        ({"activations": {"format": "int8-token", "when": "static"}}, "says otherwise"),
        ({"version": 2}, "version"),
        ({"activations": {"granularity": "channels"}}, "activations.granularity"),
        ({"activations": {"format": "int8", "granularity": "channel"}}, "add when: static"),
        ({"activations": {"format": "int8", "clip": "mse"}}, "add when: static"),
        ({"activations": {"format": "int8", "clip": 101, "when": "static", "group": 8}}, "activations.clip"),
        ({"activations": {"format": "int8", "when": "static"}}, "cannot go by token"),
        ({"transforms": ["smoth"]}, "transforms.0"),
        ({"outliers": {"fraction": 2}}, "outliers.fraction"),
    ],
)
def test_wrong_values_are_located(data: dict[str, object], part: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(data)
    assert part in str(caught.value)


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("w4a88")
    assert "did you mean 'w4a8'" in str(caught.value)


@pytest.mark.parametrize("text", ["- a\n- b\n", "weights: {format: int4", ""])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert "broken.yaml" in str(caught.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("does/not/exist.yaml")
    assert "does/not/exist.yaml" in str(caught.value)

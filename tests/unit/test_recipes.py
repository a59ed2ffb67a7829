from __future__ import annotations

from pathlib import Path

import pytest

from qcc.errors import RecipeError
from qcc.recipes.load import load_recipe, recipe_names, recipe_text


@pytest.mark.parametrize("name", recipe_names())
def test_named_recipes_load_and_survive_json(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.description
    assert load_recipe(recipe.model_dump_json()) == recipe
    assert load_recipe(recipe.model_dump()) == recipe


def test_the_recipes_the_documentation_names_are_there() -> None:
    assert {"w8a8", "w4a8", "w8", "w4"} <= set(recipe_names())


def test_formats_of_w4a8() -> None:
    recipe = load_recipe("w4a8")
    assert str(recipe.weights.qtype()) == "uint4 | (1,32) f16 | pre u4"
    assert str(recipe.activations.qtype()) == "int8 | (1,32) f32 | dynamic"


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
        ({"version": 2}, "version"),
        ({"activations": {"granularity": "channel"}}, "activations.granularity"),
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

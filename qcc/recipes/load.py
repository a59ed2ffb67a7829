"""Recipes by name, by path, as JSON text or as a dict; whatever is wrong is said at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import BaseModel, ValidationError

from qcc.errors import Problem, RecipeError
from qcc.recipes.kv_cache import KvCache
from qcc.recipes.model import (
    ActivationScheme,
    Allocation,
    Expansion,
    Factors,
    Migration,
    Outliers,
    Override,
    Recipe,
    Rotation,
    Smoothing,
    Sorting,
    TensorScheme,
    WeightScheme,
)

RecipeSource = str | Path | Mapping[str, Any] | Recipe

_SECTIONS: dict[str, type[BaseModel]] = {
    "weights": WeightScheme,
    "activations": ActivationScheme,
    "embeddings": TensorScheme,
    "kv_cache": KvCache,
    "rotate": Rotation,
    "permute": Sorting,
    "smooth": Smoothing,
    "smooth_attention": Smoothing,
    "qsm": Migration,
    "expand_k": Expansion,
    "outliers": Outliers,
    "low_rank": Factors,
    "overrides": Override,
    "allocate": Allocation,
}


def recipe_names() -> list[str]:
    """List the recipes that come with qcc."""
    return sorted(entry.name.removesuffix(".yaml") for entry in files("qcc.recipes").iterdir() if _is_yaml(entry.name))


def _is_yaml(name: str) -> bool:
    return name.endswith(".yaml")


def recipe_name(source: RecipeSource) -> str:
    """Return what to call a recipe: its name or path, and nothing for one that was given as a value."""
    named = isinstance(source, str | Path) and not str(source).lstrip().startswith("{")
    return str(source) if named else ""


def recipe_text(name: str) -> str:
    """Return the YAML text of a recipe that comes with qcc.

    Raises:
        RecipeError: if there is none of this name; the nearest name is suggested.
    """
    names = recipe_names()
    if name not in names:
        raise RecipeError(f"there is no recipe '{name}'", fix=f"{_nearest(name, names)}`qcc recipes` lists all")
    return files("qcc.recipes").joinpath(f"{name}.yaml").read_text("utf-8")


def load_recipe(source: RecipeSource) -> Recipe:
    """Load a recipe from a name, the path of a YAML file, JSON text, a dict, or a recipe itself.

    Raises:
        RecipeError: listing every unknown key (with the nearest one), wrong value and unknown format.
    """
    if isinstance(source, Recipe):
        return source
    if isinstance(source, Mapping):
        return _validate(dict(source), "recipe")
    text = str(source)
    if text.lstrip().startswith("{"):
        return _validate(_parse(text, "recipe"), "recipe")
    if isinstance(source, Path) or text.endswith((".yaml", ".yml", ".json")) or "/" in text:
        path = Path(text)
        if not path.is_file():
            raise RecipeError(f"{path}: no such recipe file", fix="give a path that exists, or a name: `qcc recipes`")
        return _validate(_parse(path.read_text("utf-8"), str(path)), str(path))
    return _validate(_parse(recipe_text(text), text), text)


def recipe_yaml(recipe: Recipe) -> str:
    """Return a recipe as YAML that loads as the same recipe; what is left at its default is left away."""
    data = {"version": recipe.version, **recipe.model_dump(mode="json", exclude_defaults=True)}
    return yaml.safe_dump(data, sort_keys=False, width=120, default_flow_style=None)


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        data = json.loads(text) if text.lstrip().startswith("{") else yaml.safe_load(text)
    except (yaml.YAMLError, json.JSONDecodeError) as error:
        raise RecipeError(f"{where}: not readable as YAML or JSON: {error}") from error
    if not isinstance(data, dict):
        raise RecipeError(f"{where}: a recipe is a mapping of keys to values", fix="see `qcc recipes w4a8`")
    return cast(dict[str, Any], data)


def _validate(data: dict[str, Any], where: str) -> Recipe:
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        problems = [_problem(detail) for detail in error.errors()]
        raise RecipeError(f"{where}: the recipe is not valid", problems) from error


def _problem(detail: Any) -> Problem:
    path = [str(part) for part in detail["loc"] if not str(part).startswith(("literal", "constrained", "function"))]
    if detail["type"] == "extra_forbidden":
        section = _SECTIONS.get(path[0], Recipe) if len(path) > 1 else Recipe
        known = list(section.model_fields)
        return Problem(".".join(path), "unknown key", f"{_nearest(path[-1], known)}known: {', '.join(known)}")
    message = str(detail["msg"]).removeprefix("Value error, ")
    return Problem(".".join(path), f"{message} (got {detail['input']!r})")


def _nearest(word: str, known: list[str]) -> str:
    matches = get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean '{matches[0]}'? " if matches else ""

"""The options of `torch.compile(model, backend="qcc", options={...})`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from qcc.errors import Problem, QccError, RecipeError
from qcc.recipes.load import RecipeSource, load_recipe
from qcc.recipes.model import Recipe

KNOWN = {
    "recipe": "a recipe's name, path, dict or text; default w8a8",
    "target": "cpu or triton; default by the device of the tensors",
    "calibration": "an iterable of argument tuples or of dicts by argument name",
    "cache_dir": "folder of the compile cache",
    "overrides": "settings by layer, added to the recipe's overrides",
    "strict": "True: raise where anything would be left to Inductor or in float",
}
"""Every key, and what it is."""


@dataclass(frozen=True)
class JitOptions:
    """What a caller of `torch.compile` may ask for; `target` empty goes by the device of the tensors."""

    recipe: Recipe
    target: str = ""
    calibration: Iterable[Any] | None = None
    cache_dir: Path | None = None
    strict: bool = False


def read_options(options: Mapping[str, Any] | None, mode: str | None = None) -> JitOptions:
    """Read what `torch.compile` passes on.

    Raises:
        QccError: for a mode, or listing every key that is not known (with the nearest) and every wrong value.
        RecipeError: for a recipe or overrides that are not valid.
    """
    if mode is not None:
        raise QccError(f"backend qcc has no mode '{mode}'", fix='write options={"recipe": ...} instead of mode=')
    given = dict(options or {})
    problems = [Problem(f"option '{key}'", "is not known", _nearest(key)) for key in given if key not in KNOWN]
    problems += _wrong_types(given)
    if problems:
        raise QccError("some options of torch.compile cannot be taken", problems)
    cache_dir = given.get("cache_dir")
    return JitOptions(
        recipe=_recipe(given.get("recipe", "w8a8"), given.get("overrides") or ()),
        target=given.get("target") or "",
        calibration=given.get("calibration"),
        cache_dir=None if cache_dir is None else Path(cache_dir),
        strict=given.get("strict", False),
    )


def _nearest(key: object) -> str:
    found = get_close_matches(str(key), KNOWN, 1)
    return f"did you mean '{found[0]}'?" if found else f"known: {', '.join(KNOWN)}"


_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "recipe": ((str, Path, Mapping, Recipe), "give a name, a path or a dict"),
    "target": ((str,), "give 'cpu' or 'triton'"),
    "calibration": ((Iterable,), "give an iterable of argument tuples or dicts"),
    "cache_dir": ((str, Path), "give a path"),
    "overrides": ((Mapping, list, tuple), "give {pattern: settings}, or a list as in a recipe"),
    "strict": ((bool,), "give True or False"),
}


def _wrong_types(given: Mapping[str, Any]) -> list[Problem]:
    optional = ("target", "calibration", "cache_dir", "overrides")
    return [
        Problem(f"option '{key}'", f"is {given[key]!r}", fix)
        for key, (kinds, fix) in _TYPES.items()
        if key in given and not isinstance(given[key], kinds) and not (given[key] is None and key in optional)
    ]


def _recipe(source: RecipeSource, overrides: Mapping[str, Any] | Sequence[Any]) -> Recipe:
    """Load a recipe and add overrides behind its own, so that they win."""
    recipe = load_recipe(source)
    if not overrides:
        return recipe
    if isinstance(overrides, Mapping):
        pairs = overrides.items()
        if wrong := [pattern for pattern, settings in pairs if not isinstance(settings, Mapping)]:
            problems = [
                Problem(f"overrides['{pattern}']", "is no mapping", "e.g. {'weights': {...}}") for pattern in wrong
            ]
            raise RecipeError("the overrides are not valid", problems)
        overrides = [{"match": pattern, **settings} for pattern, settings in pairs]
    data = recipe.model_dump(mode="json")
    return load_recipe({**data, "overrides": [*data["overrides"], *overrides]})

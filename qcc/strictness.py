"""What `--strict` refuses: everything that is done otherwise than it was asked for, and would work all the same."""

from __future__ import annotations

import re
from collections.abc import Sequence

from qcc.artifact import Coverage, LayerEntry
from qcc.errors import Problem, QccError
from qcc.ir.base import KEPT_BY_RECIPE

_WITHOUT = "compile without --strict to take them as they are"
_IN_RECIPE = "or say in the recipe which layers stay in float"


def refuse_fallbacks(coverage: Coverage, others: Sequence[Problem] = ()) -> None:
    """Refuse layers that are left in float though the recipe does not say so, and `others` that a backend names.

    Raises:
        QccError: listing all of them; for layers, with overrides to paste that say in the recipe what would happen.
    """
    layers = [one for one in coverage.layers if one.left_in_float not in ("", KEPT_BY_RECIPE)]
    problems = [Problem(one.name, f"is left in float: {one.left_in_float}") for one in layers]
    problems += others
    if problems:
        fix = f"{_WITHOUT}, {_IN_RECIPE}:\n{_overrides(layers)}" if layers else _WITHOUT
        raise QccError(f"--strict: {len(problems)} fallbacks", problems, fix=fix)


def _overrides(layers: Sequence[LayerEntry]) -> str:
    """Write overrides that mean these layers and no others."""
    lines = [f"  - {{match: 're:^{re.escape(one.name)}$', weights: {{format: f32}}}}" for one in layers]
    return "\n".join(["overrides:", *lines])

"""What a recipe says about each layer: its name, its formats, and why it stays in float.

Two passes ask: the one that lowers convolutions, and the one that assigns formats. They must agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import yaml
from xdsl.dialects.builtin import StringAttr
from xdsl.ir import Operation

from qcc.errors import Problem
from qcc.ir.base import KEPT_BY_RECIPE, LAYER, location_of
from qcc.ir.dims import product
from qcc.ir.nn import ConvOp, LinearOp
from qcc.ir.program import WeightOp
from qcc.ir.types import type_of
from qcc.numerics.qtype import QType
from qcc.numerics.stored_parts import parameter_parts, side_parts
from qcc.passes.solvers.table import SOLVERS
from qcc.recipes.model import ActivationScheme, Factors, Outliers, Override, Recipe, WeightScheme, split_type

INPUT_FORMAT = "input_format"
"""Name of the attribute with the static format that a fold has prepared a layer's input for."""

ALLOCATED = "allocated"
"""Name of the attribute with the weights, as YAML, that bit allocation chose for a layer."""

_NOTHING_APART: dict[str, dict[str, object]] = {"outliers": {"fraction": 0}, "low_rank": {"rank": 0}}
"""What a recipe says where a weight is all codes."""


@dataclass(frozen=True)
class LayerScheme:
    """The formats of one layer; `reason` says why it is not quantized, and is empty if it is."""

    name: str
    weights: WeightScheme
    activations: ActivationScheme
    reason: str = ""
    outliers: Outliers = field(default_factory=Outliers)
    low_rank: Factors = field(default_factory=Factors)

    @property
    def weight_type(self) -> QType:
        """The type of the weight with everything that is kept apart from its codes."""
        return split_type(self.weights.qtype(), self.outliers, self.low_rank)


def layer_name(op: Operation) -> str:
    """Return the name of a layer: what a pass noted, else its weight's name, else its place in the model."""
    noted = op.attributes.get(LAYER)
    if isinstance(noted, StringAttr):
        return noted.data
    weight = op.operands[1].owner
    if isinstance(weight, WeightOp):
        # what is after a slash says how a constant was folded
        return weight.key.data.split("/")[0].removesuffix(".weight")
    return location_of(op) or op.name


def matches(override: Override, name: str) -> bool:
    """Say whether an override means the layer: by regular expression after `re:`, pattern, or name."""
    return override.matches(name)


def scheme_of(recipe: Recipe, layer: LinearOp | ConvOp) -> LayerScheme:
    """Return the formats of a layer: the recipe's, those of the last override that matches, or what was allocated."""
    name = layer_name(layer)
    weights, activations = recipe.weights, recipe.activations
    outliers, low_rank = recipe.outliers, recipe.low_rank
    for override in recipe.overrides:
        if matches(override, name):
            weights = override.weights or weights
            activations = override.activations or activations
            outliers = override.outliers or outliers
            low_rank = override.low_rank or low_rank
    if (chosen := allocated_weights(layer)) is not None:
        weights = chosen
    noted = layer.attributes.get(INPUT_FORMAT)
    if isinstance(noted, StringAttr):
        activations = ActivationScheme(format=noted.data, when="static")
    return LayerScheme(name, weights, activations, _reason(layer, weights), outliers, low_rank)


def allocated_weights(layer: Operation) -> WeightScheme | None:
    """Return what bit allocation chose for a layer, if it did."""
    noted = layer.attributes.get(ALLOCATED)
    return WeightScheme.model_validate(yaml.safe_load(noted.data)) if isinstance(noted, StringAttr) else None


def allocate_weights(layer: Operation, weights: WeightScheme) -> None:
    """Note what bit allocation chose for a layer."""
    layer.attributes[ALLOCATED] = StringAttr(_inline(weights.model_dump(exclude_defaults=True)))


def _inline(data: dict[str, object]) -> str:
    return yaml.safe_dump(data, default_flow_style=True, sort_keys=False, width=1000).strip()


def solver_problems(where: str, scheme: WeightScheme) -> Iterator[Problem]:
    """Say what is wrong with the solver of weights, if anything."""
    solver = SOLVERS.get(scheme.solver)
    if solver is None:
        what, known = "is not available in this version of qcc", ", ".join(SOLVERS)
        yield Problem(f"{where}: solver {scheme.solver}", what, f"set one of {known}")
    elif not scheme.is_float and (what := solver.problem(scheme.qtype())):
        yield Problem(f"{where}: solver {scheme.solver}", f"cannot solve '{scheme.qtype()}', which {what}")


def _reason(layer: LinearOp | ConvOp, weights: WeightScheme) -> str:
    if weights.is_float:
        return KEPT_BY_RECIPE
    if not isinstance(layer.weight.owner, WeightOp):
        return "its weight is computed at run time"
    if isinstance(layer, ConvOp) and (groups := layer.groups.value.data) != 1:
        columns = product(type_of(layer.weight).shape[1:])
        return f"grouped convolution: its {groups} groups reduce over {columns} weights each, too few to quantize"
    return ""


def misfits(layer: LinearOp, scheme: LayerScheme) -> dict[str, Problem]:
    """Return by section of the recipe what does not fit the layer: groups, `outliers`, `low_rank`."""
    columns = type_of(layer.weight).shape[1].constant
    found: dict[str, Problem] = {}
    for role, one in (("weights", scheme.weights), ("activations", scheme.activations)):
        for group in [] if one.is_float else _groups(one.qtype()):
            if columns is not None and columns % group and role not in found:
                what = f"{role} cannot use group {group}: it does not divide {columns} columns"
                found[role] = Problem(scheme.name, what)
    return found | _split_misfits(type_of(layer.weight).static_shape, scheme)


def _split_misfits(shape: tuple[int, ...] | None, scheme: LayerScheme) -> dict[str, Problem]:
    """Return what is wrong with outliers and factors beside the format of the weight."""
    own = () if scheme.weights.is_float else side_parts(scheme.weights.qtype())
    found: dict[str, Problem] = {}
    for role, side in (("outliers", scheme.outliers.side()), ("low_rank", scheme.low_rank.side())):
        if side is not None and own:
            what = f"{side} cannot be added to a format that has {', '.join(map(str, own))}"
            found[role] = Problem(scheme.name, what)
    rank = scheme.low_rank.rank
    if shape is not None and rank >= min(shape):
        what = f"a product of rank {rank} is as large as its weight of {' x '.join(map(str, shape))}"
        found["low_rank"] = Problem(scheme.name, what)
    return found


def _groups(qtype: QType) -> list[int]:
    """Return the lengths along the columns of all blocks of a format, the shortest first."""
    return sorted({part.block[-1] for part in parameter_parts(qtype)} - {-1})


def row_overrides(found: Sequence[tuple[LayerScheme, Iterable[str]]], names: Sequence[str]) -> str:
    """Return YAML to paste into a recipe: one scale per row for the given roles of the given layers.

    Where the format says its groups itself, the override leaves it in float instead.
    `names` are those of all layers; a pattern that would mean others as well is written as an exact one.
    """
    lines = ["overrides:"]
    for scheme, roles in found:
        lines.append(f"  - {_inline(_row_override(scheme, roles, names))}")
    return "\n".join(lines)


def pattern_of(name: str, names: Sequence[str]) -> str:
    """Return a pattern that means the layer of this name and no other of all `names`."""
    alone = sum(matches(Override(match=name), one) for one in names) == 1
    return name if alone else f"re:^{re.escape(name)}$"


def _row_override(scheme: LayerScheme, roles: Iterable[str], names: Sequence[str]) -> dict[str, object]:
    """Return an override with one scale per row, whose pattern means this layer and no other."""
    override: dict[str, object] = {"match": pattern_of(scheme.name, names)}
    if "weights" in roles:
        weights = {**scheme.weights.model_dump(exclude_defaults=True), "group": "row"}
        override["weights"] = {"format": "f32"} if scheme.weights.is_whole else weights
    if "activations" in roles:
        kept = scheme.activations.model_dump(exclude_defaults=True, exclude={"group"})
        activations = {**kept, "granularity": "tensor" if scheme.activations.when == "static" else "token"}
        override["activations"] = {"format": "f32"} if scheme.activations.is_whole else activations
    override |= {role: nothing for role, nothing in _NOTHING_APART.items() if role in roles}
    return override

"""Choose the format of every layer's weights from candidates, by what each costs and what it harms, within a budget.

    linear(x, w, b)  ->  linear(x, w, b) {allocated = "{format: uint3, group: 32}"}

Only the attribute is set; `assign-formats` follows it. Each layer gets exactly one candidate; layers of one fuse group,
of one name and of one stored weight get the same. The harm of a candidate is measured on samples (`sensitivity`), the
cost is its bits with scales and zero points, and an integer program finds the least harm that the budget allows, harms
of several layers being added. Layers that an override gives weights keep them and count against the budget. A candidate
whose group does not divide the columns of a layer is no choice for it. `allocated_recipe` writes the result as
overrides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.passes import ModulePass

from qcc.errors import Problem, RecipeError
from qcc.ir.base import FUSE_GROUP
from qcc.ir.context import QccContext, calibration_of, store_of
from qcc.ir.nn import ConvOp, LinearOp
from qcc.ir.program import WeightOp
from qcc.ir.quant import ContractOp
from qcc.ir.types import type_of
from qcc.numerics.qtype_bits import storage_bits
from qcc.passes.layer_schemes import (
    ALLOCATED,
    LayerScheme,
    allocate_weights,
    allocated_weights,
    layer_name,
    matches,
    misfits,
    pattern_of,
    scheme_of,
    solver_problems,
)
from qcc.passes.solvers.allocation import allocate, least_cost
from qcc.recipes.load import load_recipe
from qcc.recipes.model import Budget, Override, Recipe, WeightScheme


@dataclass(frozen=True)
class AllocateBits(ModulePass):
    """The pass; needs the weight store and samples. `recipe`: a name, a path, or JSON text."""

    name: ClassVar[str] = "allocate-bits"

    recipe: str = "mixed-auto"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Set the attributes, where the recipe allocates and there are layers to choose for.

        Raises:
            RecipeError: listing the solvers that a candidate cannot have and the layers that no candidate fits; or if
                the budget cannot be met, saying the least possible.
            QccError: if there are no samples.
            ShapeError: if samples do not fit the program, or listing the layers whose harm is not finite.
        """
        recipe = load_recipe(self.recipe)
        allocation = recipe.allocate
        if allocation is None or allocation.budget is None:
            return
        _refuse_solvers(allocation.candidates)
        layers = [_Layer.of(recipe, one) for one in op.walk() if isinstance(one, LinearOp)]
        layers = [one for one in layers if not one.scheme.reason]
        groups = _grouped([one for one in layers if not one.fixed], allocation.candidates)
        if not groups:
            return
        budget = _Budget(allocation.budget, [one for one in layers if one.fixed], groups)
        budget.refuse_unmet()
        from qcc.passes.sensitivity import Choice, harms  # torch stays out of the import of the pass

        calibration = calibration_of(ctx, "bit allocation", "give each layer its format by overrides")
        choices = [Choice([one.op for one in group.layers], group.options) for group in groups]
        say = ctx.say if isinstance(ctx, QccContext) else None
        measured = harms(op, store_of(ctx, self.name), calibration, choices, allocation.by, say)
        chosen = allocate(measured, budget.costs, budget.room)
        for group, place in zip(groups, chosen, strict=True):
            for layer in group.layers:
                allocate_weights(layer.op, group.options[place])
        if say is not None:
            say(_summary(groups, chosen))


@dataclass(frozen=True, eq=False)
class _Layer:
    """A linear layer, what the recipe says of it, and whether an override gives its weights."""

    op: LinearOp
    scheme: LayerScheme
    fixed: bool

    @staticmethod
    def of(recipe: Recipe, op: LinearOp) -> _Layer:
        op.attributes.pop(ALLOCATED, None)
        scheme = scheme_of(recipe, op)
        fixed = any(one.weights is not None and matches(one, scheme.name) for one in recipe.overrides)
        return _Layer(op, scheme, fixed)

    @property
    def key(self) -> str:
        weight = self.op.weight.owner
        assert isinstance(weight, WeightOp)  # others are left in float
        return weight.key.data

    @property
    def shape(self) -> tuple[int, ...]:
        return type_of(self.op.weight).static_shape or ()

    def takes(self, weights: WeightScheme) -> bool:
        return "weights" not in misfits(self.op, LayerScheme(self.scheme.name, weights, self.scheme.activations))

    def labels(self) -> set[tuple[str, str]]:
        fused = self.op.attributes.get(FUSE_GROUP)
        found = {("weight", self.key), ("name", self.scheme.name)}
        return found | {("group", fused.data)} if isinstance(fused, StringAttr) else found


@dataclass(frozen=True, eq=False)
class _Group:
    """Layers that get one format, and the candidates that fit all of them."""

    layers: list[_Layer]
    options: tuple[WeightScheme, ...]


def _refuse_solvers(candidates: Sequence[WeightScheme]) -> None:
    named = [(f"allocate.candidates.{index}", one) for index, one in enumerate(candidates)]
    if problems := [problem for where, one in named for problem in solver_problems(where, one)]:
        raise RecipeError("the recipe asks for what this version cannot do", problems)


def _grouped(layers: Sequence[_Layer], candidates: tuple[WeightScheme, ...]) -> list[_Group]:
    """Join layers that share a fuse group, a name or a weight, in the order of the program."""
    joined: list[tuple[set[tuple[str, str]], list[_Layer]]] = []
    for layer in layers:
        labels = layer.labels()
        same = [one for one in joined if one[0] & labels]
        joined = [one for one in joined if not one[0] & labels]
        members = [member for _, found in same for member in found]
        joined.append((labels.union(*(found for found, _ in same)), [*members, layer]))
    place = {layer.op: index for index, layer in enumerate(layers)}
    members = sorted((one for _, one in joined), key=lambda one: place[one[0].op])
    groups = [_Group(one, tuple(c for c in candidates if all(layer.takes(c) for layer in one))) for one in members]
    _refuse_unfit([one for one in groups if not one.options])
    return groups


def _refuse_unfit(groups: Sequence[_Group]) -> None:
    problems: list[Problem] = []
    for group in groups:
        others = f" and of {len(group.layers) - 1} layers fused with it" if len(group.layers) > 1 else ""
        for layer in group.layers:
            what = f"no candidate's group divides its {layer.shape[-1]} columns{others}"
            problems.append(Problem(layer.scheme.name, what))
    if problems:
        fix = "add a candidate with group: row, or give these layers weights by overrides"
        raise RecipeError(
            f"no candidate fits {len(problems)} layer{'s' if len(problems) > 1 else ''}", problems, fix=fix
        )


class _Budget:
    """The cost of every choice in bits or bytes, each stored weight once, and what the fixed layers leave for them."""

    def __init__(self, limit: Budget, fixed: Sequence[_Layer], groups: Sequence[_Group]) -> None:
        self._limit = limit
        self._in_bytes = self._limit.bytes is not None
        free = [layer for group in groups for layer in group.layers]
        self._weights = sum(math.prod(shape) for shape in _stored([*fixed, *free]).values())
        self._fixed = {layer.scheme.name: self._cost([layer], layer.scheme.weights) for layer in fixed}
        self._taken = sum(self._cost([one], one.scheme.weights) for one in {one.key: one for one in fixed}.values())
        self.costs = [[self._cost(group.layers, one) for one in group.options] for group in groups]
        self.room = self._total() - self._taken

    def _cost(self, layers: Sequence[_Layer], weights: WeightScheme) -> int:
        bits = [storage_bits(weights.qtype(), shape) for shape in _stored(layers).values()]
        return sum((one + 7) // 8 for one in bits) if self._in_bytes else sum(bits)

    def _total(self) -> int:
        if self._limit.bytes is not None:
            return self._limit.bytes
        # as the decimal that was written, not as the nearest float
        return math.floor(Fraction(str(self._limit.bits_per_weight)) * self._weights)

    def refuse_unmet(self) -> None:
        """Refuse a budget below the cheapest choice of all."""
        least = least_cost(self.costs) + self._taken
        if least <= self._total():
            return
        if self._in_bytes:
            asked, possible = f"{self._limit.bytes} bytes", f"{least} bytes"
        else:
            rounded = math.ceil(Fraction(least * 10000, self._weights)) / 10000
            asked, possible = f"{self._limit.bits_per_weight:g} bits per weight", f"{rounded:g} bits per weight"
        unit = "bytes" if self._in_bytes else "bits"
        problems = [Problem(name, f"takes {cost} {unit} by an override") for name, cost in self._fixed.items()]
        fix = "raise the budget, or give candidates of fewer bits"
        raise RecipeError(
            f"allocate.budget: {asked} cannot be met, {possible} is the least possible", problems, fix=fix
        )


def _stored(layers: Sequence[_Layer]) -> dict[str, tuple[int, ...]]:
    return {layer.key: layer.shape for layer in layers}


def _summary(groups: Sequence[_Group], chosen: Sequence[int]) -> str:
    counts: dict[str, int] = {}
    for group, place in zip(groups, chosen, strict=True):
        text = str(group.options[place].qtype())
        counts[text] = counts.get(text, 0) + len(group.layers)
    return "allocated " + ", ".join(f"{text} to {count} layers" for text, count in sorted(counts.items()))


def allocated_recipe(recipe: Recipe, module: ModuleOp) -> Recipe:
    """Return a recipe that gives by overrides what was allocated to the layers of a module, and allocates nothing.

    A recipe that allocates no weights is returned as it is.
    """
    if recipe.allocate is None or recipe.allocate.budget is None:
        return recipe
    layers = [one for one in module.walk() if isinstance(one, LinearOp | ConvOp | ContractOp)]
    names = list(dict.fromkeys(map(layer_name, layers)))
    chosen = {layer_name(one): weights for one in layers if (weights := allocated_weights(one)) is not None}
    found = [
        Override(match=pattern_of(name, names), weights=weights)
        for name, weights in chosen.items()
        if weights != recipe.weights
    ]
    return recipe.model_copy(
        update={"allocate": recipe.allocate.without_weights(), "overrides": (*recipe.overrides, *found)}
    )

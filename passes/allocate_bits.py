"""Choose the format of every layer's weights from candidates, by what each costs and what it harms, within a budget.

    linear(x, w, b)  ->  linear(x, w, b) {allocated = "{format: uint3, group: 32}"}

Only the attribute is set; `assign-formats` follows it. Each layer gets exactly one candidate; layers of one fuse group,
of one name and of one stored weight get the same. The harm of a candidate is measured on samples (`sensitivity`), the
cost is its bits with scales and zero points, or what the target predicts for it (`bit_budget`), and an integer program
finds the least harm that the budget allows, harms of several layers being added. Layers that an override gives weights
keep them and count against the budget. A candidate whose group does not divide the columns of a layer is no choice for
it, nor one that the target predicts nothing for where its predictions are the budget. `allocated_recipe` writes the
result as overrides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from qcc.errors import Problem, RecipeError
from qcc.ir.context import QccContext, calibration_of, store_of
from qcc.ir.nn import ConvOp, LinearOp
from qcc.ir.quant import ContractOp
from qcc.passes.bit_budget import BitBudget, Group, Layer, Measure, computed, measure_of
from qcc.passes.layer_schemes import allocate_weights, allocated_weights, layer_name, pattern_of, solver_problems
from qcc.passes.solvers.allocation import allocate
from qcc.recipes.load import load_recipe
from qcc.recipes.model import Override, Recipe, WeightScheme


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
        layers = [Layer.of(recipe, one) for one in op.walk() if isinstance(one, LinearOp)]
        layers = [one for one in layers if not one.scheme.reason]
        free = [one for one in layers if not one.fixed]
        if not free:
            return
        measure = measure_of(allocation.budget, layers, ctx)
        groups = _grouped(free, allocation.candidates, measure)
        budget = BitBudget(measure, [one for one in layers if one.fixed], groups)
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


def _refuse_solvers(candidates: Sequence[WeightScheme]) -> None:
    named = [(f"allocate.candidates.{index}", one) for index, one in enumerate(candidates)]
    if problems := [problem for where, one in named for problem in solver_problems(where, one)]:
        raise RecipeError("the recipe asks for what this version cannot do", problems)


def _grouped(layers: Sequence[Layer], candidates: tuple[WeightScheme, ...], measure: Measure) -> list[Group]:
    """Join layers that share a fuse group, a name or a weight, in the order of the program."""
    joined: list[tuple[set[tuple[str, str]], list[Layer]]] = []
    for layer in layers:
        labels = layer.labels()
        same = [one for one in joined if one[0] & labels]
        joined = [one for one in joined if not one[0] & labels]
        members = [member for _, found in same for member in found]
        joined.append((labels.union(*(found for found, _ in same)), [*members, layer]))
    place = {layer.op: index for index, layer in enumerate(layers)}
    members = sorted((one for _, one in joined), key=lambda one: place[one[0].op])
    dividing = [Group(one, tuple(c for c in candidates if all(layer.takes(c) for layer in one))) for one in members]
    _refuse_unfit([one for one in dividing if not one.options])
    return computed(dividing, measure)


def _refuse_unfit(groups: Sequence[Group]) -> None:
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


def _summary(groups: Sequence[Group], chosen: Sequence[int]) -> str:
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

"""What a choice of formats costs: bits or bytes that are stored, or what the target predicts that layers take.

Costs are integers, so that a budget is met exactly: bits, bytes, or thousandths of what is predicted, rounded up.
Stored weights count once however many layers read them, predictions for each layer that computes with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from xdsl.context import Context
from xdsl.dialects.builtin import StringAttr

from qcc.errors import Problem, RecipeError
from qcc.ir.base import FUSE_GROUP
from qcc.ir.context import QccContext
from qcc.ir.nn import LinearOp
from qcc.ir.plans import ContractCost
from qcc.ir.program import WeightOp
from qcc.ir.types import TensorType, tensor, type_of
from qcc.numerics.qtype_bits import storage_bits
from qcc.passes.layer_schemes import ALLOCATED, LayerScheme, matches, misfits, scheme_of
from qcc.passes.solvers.allocation import least_cost
from qcc.recipes.model import Budget, Recipe, WeightScheme

_PARTS = 1000
"""Parts of an instruction, look-up table or block that predictions are rounded up to."""

_NAMES = {
    "latency": "of the latency predicted for the recipe's own weights",
    "lut": "look-up tables",
    "dsp": "DSP blocks",
    "bram18": "memory blocks of 18 kbit",
}


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear layer, what the recipe says of it, and whether an override gives its weights."""

    op: LinearOp
    scheme: LayerScheme
    fixed: bool

    @staticmethod
    def of(recipe: Recipe, op: LinearOp) -> Layer:
        """Read what a recipe says of a layer, whatever was allocated before."""
        op.attributes.pop(ALLOCATED, None)
        scheme = scheme_of(recipe, op)
        fixed = any(one.weights is not None and matches(one, scheme.name) for one in recipe.overrides)
        return Layer(op, scheme, fixed)

    @property
    def key(self) -> str:
        """The name of its weight in the store."""
        weight = self.op.weight.owner
        assert isinstance(weight, WeightOp)  # others are left in float
        return weight.key.data

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of its weight."""
        return type_of(self.op.weight).static_shape or ()

    def takes(self, weights: WeightScheme) -> bool:
        """Say whether the groups of a format divide its columns."""
        return "weights" not in misfits(self.op, LayerScheme(self.scheme.name, weights, self.scheme.activations))

    def labels(self) -> set[tuple[str, str]]:
        """Return what it shares with layers that must get the same format."""
        fused = self.op.attributes.get(FUSE_GROUP)
        found = {("weight", self.key), ("name", self.scheme.name)}
        return found | {("group", fused.data)} if isinstance(fused, StringAttr) else found


@dataclass(frozen=True, eq=False)
class Group:
    """Layers that get one format, and the candidates that fit all of them."""

    layers: list[Layer]
    options: tuple[WeightScheme, ...]


class Measure(Protocol):
    """What weights cost in the unit of a budget."""

    @property
    def total(self) -> int:
        """What the budget allows for all layers."""
        ...

    @property
    def asked(self) -> str:
        """The budget in words."""
        ...

    def cost(self, layers: Sequence[Layer], weights: WeightScheme) -> int:
        """Return what layers cost with these weights."""
        ...

    def refusal(self, layer: Layer, weights: WeightScheme) -> str:
        """Say why a layer cannot have these weights; empty if it can."""
        ...

    def text(self, cost: int) -> str:
        """Name a cost of all layers."""
        ...

    def share_text(self, cost: int) -> str:
        """Name a cost of one layer."""
        ...


@dataclass(frozen=True)
class _Stored:
    """Bits or bytes, each stored weight once."""

    limit: Budget
    weights: int

    @property
    def total(self) -> int:
        if self.limit.bytes is not None:
            return self.limit.bytes
        # as the decimal that was written, not as the nearest float
        return math.floor(Fraction(str(self.limit.bits_per_weight)) * self.weights)

    @property
    def asked(self) -> str:
        name, most = self.limit.limit
        return f"{most:g} {name.replace('_', ' ')}" if name == "bits_per_weight" else f"{most} bytes"

    def cost(self, layers: Sequence[Layer], weights: WeightScheme) -> int:
        shapes = {layer.key: layer.shape for layer in layers}
        bits = [storage_bits(weights.qtype(), shape) for shape in shapes.values()]
        return sum((one + 7) // 8 for one in bits) if self.limit.bytes is not None else sum(bits)

    def refusal(self, layer: Layer, weights: WeightScheme) -> str:
        return ""

    def text(self, cost: int) -> str:
        if self.limit.bytes is not None:
            return f"{cost} bytes"
        return f"{math.ceil(Fraction(cost * 10000, self.weights)) / 10000:g} bits per weight"

    def share_text(self, cost: int) -> str:
        return f"{cost} {'bytes' if self.limit.bytes is not None else 'bits'}"


@dataclass(frozen=True)
class _Predicted:
    """What the target predicts, for every layer; `whole` is that of all layers in the recipe's own weights."""

    name: str
    limit: float | int
    of: ContractCost
    whole: int

    @property
    def total(self) -> int:
        if self.name == "latency":
            return math.floor(Fraction(str(self.limit)) * self.whole)
        return int(self.limit) * _PARTS

    @property
    def asked(self) -> str:
        return f"{self.limit:g} {_NAMES[self.name]}"

    def cost(self, layers: Sequence[Layer], weights: WeightScheme) -> int:
        return sum(_predicted(self.of, layer, weights) for layer in layers)

    def refusal(self, layer: Layer, weights: WeightScheme) -> str:
        found = self.of(layer.scheme.name, _input_of(layer), _weight_of(layer, weights))
        return found if isinstance(found, str) else ""

    def text(self, cost: int) -> str:
        if self.name == "latency":
            return f"{math.ceil(Fraction(cost * 10000, max(1, self.whole))) / 10000:g} {_NAMES[self.name]}"
        return f"{-(-cost // _PARTS)} {_NAMES[self.name]}"

    def share_text(self, cost: int) -> str:
        return self.text(cost)


def measure_of(limit: Budget, layers: Sequence[Layer], ctx: Context) -> Measure:
    """Return how the weights of layers are counted against a budget.

    Raises:
        RecipeError: if the target predicts no such thing, or nothing for the weights that the recipe gives some layers.
    """
    name, most = limit.limit
    if name in ("bits_per_weight", "bytes"):
        shapes = {layer.key: layer.shape for layer in layers}
        return _Stored(limit, sum(map(math.prod, shapes.values())))
    costs = ctx.costs if isinstance(ctx, QccContext) else {}
    if name not in costs:
        predicted = f"it predicts {', '.join(costs)}" if costs else "it predicts nothing"
        fix = f"{predicted}; bits_per_weight and bytes need no target"
        raise RecipeError("the budget cannot be counted", [Problem(f"allocate.budget.{name}", _UNKNOWN, fix)])
    measured = _Predicted(name, most, costs[name], 0)
    asked = [one for one in layers if one.fixed or name == "latency"]
    found = [(one, measured.refusal(one, one.scheme.weights)) for one in asked]
    if problems := [Problem(one.scheme.name, f"{name}: {why}") for one, why in found if why]:
        fix = "give these layers weights (or inputs) that the target computes"
        raise RecipeError("the budget cannot be counted", problems, fix=fix)
    whole = sum(measured.cost([one], one.scheme.weights) for one in asked)
    return _Predicted(name, most, costs[name], whole)


_UNKNOWN = "is nothing that the target predicts for a layer"


def computed(groups: Sequence[Group], measure: Measure) -> list[Group]:
    """Return groups with those options that can be counted for all their layers.

    Raises:
        RecipeError: listing the layers with no such option, and why.
    """
    found: list[Group] = []
    problems: list[Problem] = []
    for group in groups:
        whys = {one: [measure.refusal(layer, one) for layer in group.layers] for one in group.options}
        options = tuple(one for one in group.options if not any(whys[one]))
        found.append(Group(group.layers, options))
        if not options:
            what = "; ".join(dict.fromkeys(why for one in whys.values() for why in one if why))
            problems += [Problem(layer.scheme.name, what) for layer in group.layers]
    if problems:
        raise RecipeError(
            f"no candidate can be counted for {len(problems)} layers",
            problems,
            fix="add candidates that the target computes",
        )
    return found


class BitBudget:
    """The cost of every choice, and what the fixed layers leave for them."""

    def __init__(self, measure: Measure, fixed: Sequence[Layer], groups: Sequence[Group]) -> None:
        self._measure = measure
        self._fixed = {one.scheme.name: measure.cost([one], one.scheme.weights) for one in fixed}
        counted = fixed if isinstance(measure, _Predicted) else list({one.key: one for one in fixed}.values())
        self._taken = sum(measure.cost([one], one.scheme.weights) for one in counted)
        self.costs = [[measure.cost(group.layers, one) for one in group.options] for group in groups]
        self.room = measure.total - self._taken

    def refuse_unmet(self) -> None:
        """Refuse a budget below the cheapest choice of all.

        Raises:
            RecipeError: saying the least that is possible, and what overrides take of it.
        """
        least, measure = least_cost(self.costs) + self._taken, self._measure
        if least <= measure.total:
            return
        what = f"{measure.asked} cannot be met, {measure.text(least)} is the least possible"
        taken = [
            Problem(name, f"takes {measure.share_text(cost)} by an override") for name, cost in self._fixed.items()
        ]
        raise RecipeError(f"allocate.budget: {what}", taken, fix="raise the budget, or give candidates of fewer bits")


def _predicted(of: ContractCost, layer: Layer, weights: WeightScheme) -> int:
    found = of(layer.scheme.name, _input_of(layer), _weight_of(layer, weights))
    assert not isinstance(found, str)  # refused before
    return math.ceil(found * _PARTS)


def _input_of(layer: Layer) -> TensorType:
    kind, scheme = type_of(layer.op.input), layer.scheme.activations
    return kind if scheme.is_float else tensor(kind.shape, scheme.qtype())


def _weight_of(layer: Layer, weights: WeightScheme) -> TensorType:
    return tensor(layer.shape, weights.qtype())

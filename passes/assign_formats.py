"""Give every linear layer and embedding table the formats of a recipe.

    linear(x, w, b)     ->  contract(quantize(x) : A, quantize(w) : W, b)
    linear(x, w, b)     ->  contract(x, quantize(w) : W, b)                 weight-only
    embedding(t, ids)   ->  embedding(quantize(t) : E, ids)

Nothing about the function changes but the rounding that the formats name, so there is no legality condition beyond
shape: a group must divide the reduction axis. Convolutions come as linear layers over their windows (`lower-conv`),
where a scale per token is a scale per output position. Inputs read by several layers are quantized once per format. A
table tied to a linear layer takes the layer's format, so that tied weights stay tied.

A layer left in float carries the attribute `left_in_float` with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from qcc.errors import Problem, RecipeError
from qcc.ir.base import LAYER, LEFT_IN_FLOAT, LOW_RANK, OUTLIERS, SOLVER, location_of, set_location
from qcc.ir.nn import ConvOp, EmbeddingOp, LinearOp
from qcc.ir.program import WeightOp
from qcc.ir.quant import ContractOp, QuantizeOp
from qcc.ir.types import type_of
from qcc.numerics.integer_sums import sums_integers
from qcc.numerics.qtype import QType
from qcc.passes.fuse_groups import fuse_groups
from qcc.passes.layer_schemes import LayerScheme, matches, misfits, row_overrides, scheme_of, solver_problems
from qcc.recipes.load import load_recipe
from qcc.recipes.model import Recipe

_NOT_LOWERED = "the convolution is not lowered to a contraction: run lower-conv first"


@dataclass(frozen=True)
class AssignFormats(ModulePass):
    """The pass; `recipe` is a name, a path, or JSON text."""

    name: ClassVar[str] = "assign-formats"

    recipe: str = "w8a8"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module.

        Raises:
            RecipeError: listing every override that matches nothing and every layer a group does not divide.
            IllegalFold: listing the layers of one `fuse_group` that cannot have one root scale.
        """
        recipe = load_recipe(self.recipe)
        _refuse_unavailable(recipe)
        layers = [one for one in op.walk() if isinstance(one, LinearOp | ConvOp)]
        schemes = [scheme_of(recipe, one) for one in layers]
        linear: list[tuple[LinearOp, LayerScheme]] = []
        for layer, scheme in zip(layers, schemes, strict=True):
            if isinstance(layer, LinearOp) and not scheme.reason:
                linear.append((layer, scheme))
            else:
                layer.attributes[LEFT_IN_FLOAT] = StringAttr(scheme.reason or _NOT_LOWERED)
                layer.attributes[LAYER] = StringAttr(scheme.name)
        _refuse_misfits(recipe, [one.name for one in schemes], linear)
        quantizer = _Quantizer()
        for layer, scheme in linear:
            quantizer.rewrite_linear(layer, scheme)
        for table in [one for one in op.walk() if isinstance(one, EmbeddingOp)]:
            quantizer.rewrite_embedding(table, recipe)
        fuse_groups(op)


def _refuse_unavailable(recipe: Recipe) -> None:
    problems: list[Problem] = []
    schemes = [("weights", recipe.weights)]
    schemes += [(one.match, one.weights) for one in recipe.overrides if one.weights is not None]
    problems += [problem for where, scheme in schemes for problem in solver_problems(where, scheme)]
    if problems:
        raise RecipeError("the recipe asks for what this version cannot do", problems)


def _refuse_misfits(recipe: Recipe, names: list[str], linear: list[tuple[LinearOp, LayerScheme]]) -> None:
    problems = [
        Problem(f"overrides: {one.match}", "matches no layer", f"layers are named like '{names[0]}'" if names else "")
        for one in recipe.overrides
        if one.is_for_layers and not any(matches(one, name) for name in names)
    ]
    found = [(scheme, roles) for layer, scheme in linear if (roles := misfits(layer, scheme))]
    problems += [problem for _, roles in found for problem in roles.values()]
    fix = ""
    if found:
        fix = f"{_ways_out({role for _, roles in found for role in roles})}:\n{row_overrides(found, names)}"
    if problems:
        raise RecipeError(f"the recipe does not fit {len(problems)} places of the model", problems, fix=fix)


def _ways_out(roles: set[str]) -> str:
    """Say what to change, for the sections of the recipe that do not fit."""
    apart = bool(roles & {"outliers", "low_rank"})
    wanted = ["a group that divides the columns"] if roles & {"weights", "activations"} else []
    wanted += ["a smaller rank or another format"] if apart else []
    other = "one scale per row (float, where the format says its groups)" + (" and nothing apart" if apart else "")
    return f"use {' and '.join(wanted)}, or {other}"


class _Quantizer:
    """Rewrites one module; remembers what it has quantized already."""

    def __init__(self) -> None:
        self._weights: dict[str, QuantizeOp] = {}
        self._inputs: dict[tuple[SSAValue, QType], SSAValue] = {}

    def rewrite_linear(self, layer: LinearOp, scheme: LayerScheme) -> None:
        """Replace a linear layer by a contraction of quantized operands."""
        weight = layer.weight.owner
        assert isinstance(weight, WeightOp)
        quantized = QuantizeOp(layer.weight, scheme.weight_type)
        quantized.attributes.update(_solving(scheme))
        self._weights[weight.key.data] = quantized
        source = layer.input
        if not scheme.activations.is_float:
            source = self._quantized_input(layer.input, scheme.activations.qtype(), location_of(layer))
        taken = type_of(source).qtype
        integers = taken is not None and sums_integers(taken, scheme.weight_type)
        contract = ContractOp(
            source,
            quantized,
            layer.bias,
            scalar=type_of(layer.result).scalar,
            plan="group_after" if integers else "dequant_first",
        )
        contract.attributes.update(layer.attributes)
        contract.attributes[LAYER] = StringAttr(scheme.name)
        Rewriter.replace_op(layer, [quantized, contract], [contract.result])

    def _quantized_input(self, value: SSAValue, qtype: QType, location: str) -> SSAValue:
        key = (value, qtype)
        if key not in self._inputs:
            op = QuantizeOp(value, qtype)
            set_location(op, location)
            Rewriter.insert_op(op, _after(value))
            self._inputs[key] = op.result
        return self._inputs[key]

    def rewrite_embedding(self, table: EmbeddingOp, recipe: Recipe) -> None:
        """Quantize a table as the recipe says, or as the linear layer it is tied to."""
        weight = table.table.owner
        if not isinstance(weight, WeightOp):
            return
        tied = self._weights.get(weight.key.data)
        qtype = None if tied is None else type_of(tied.result).qtype
        if qtype is None and not recipe.embeddings.is_float:
            qtype = recipe.embeddings.qtype()
        if qtype is None:
            return
        quantized = QuantizeOp(table.table, qtype)
        if tied is not None:  # whichever of the two is solved first gives the codes of both
            quantized.attributes.update(tied.attributes)
        replacement = EmbeddingOp(quantized, table.ids, type_of(table.result).scalar)
        replacement.attributes.update(table.attributes)
        Rewriter.replace_op(table, [quantized, replacement], [replacement.result])


def _solving(scheme: LayerScheme) -> dict[str, StringAttr]:
    """Return the attributes that say how a weight is solved, where it is not as by default."""
    found: dict[str, str] = {}
    if scheme.weights.solver != "rtn":
        found[SOLVER] = scheme.weights.solver
    if scheme.outliers.fraction and scheme.outliers.by != "magnitude":
        found[OUTLIERS] = scheme.outliers.by
    if (factors := scheme.low_rank).rank and (factors.weighted or factors.method != "lorc"):
        found[LOW_RANK] = f"{factors.method}{' weighted' if factors.weighted else ''}"
    return {name: StringAttr(text) for name, text in found.items()}


def _after(value: SSAValue) -> InsertPoint:
    owner = value.owner
    return InsertPoint.after(owner) if isinstance(owner, Operation) else InsertPoint.at_start(owner)

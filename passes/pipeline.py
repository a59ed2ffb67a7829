"""The order of the passes, and the one way to run them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass
from xdsl.utils.exceptions import VerifyException

from qcc.errors import QccError
from qcc.passes.allocate_bits import AllocateBits, allocated_recipe
from qcc.passes.allocate_cache import AllocateCache, allocated_cache_recipe
from qcc.passes.annotate_groups import AnnotateGroups
from qcc.passes.assign_formats import AssignFormats
from qcc.passes.calibrate import Calibrate
from qcc.passes.canonicalize import Canonicalize
from qcc.passes.fold_constants import FoldConstants
from qcc.passes.footprint import Solving, solving_of
from qcc.passes.fuse_epilogue import FuseEpilogue
from qcc.passes.fuse_prologue import FusePrologue
from qcc.passes.lower_conv import LowerConv
from qcc.passes.lower_integer import LowerInteger
from qcc.passes.lower_transforms import LowerTransforms
from qcc.passes.prove_overflow import ProveOverflow
from qcc.passes.quantize_cache import QuantizeCache
from qcc.passes.quantize_values import QuantizeValues
from qcc.passes.raise_activation import RaiseActivation
from qcc.passes.raise_attention import RaiseAttention
from qcc.passes.raise_linear import RaiseLinear
from qcc.passes.raise_norm import RaiseNorm
from qcc.passes.raise_rope import RaiseRope
from qcc.passes.select_plans import SelectPlans
from qcc.passes.solve_weights import SolveWeights
from qcc.passes.transforms import transforming, transforming_codes
from qcc.recipes.model import Recipe

__all__ = [
    "Observer",
    "Solving",
    "fusing",
    "lowering",
    "pipeline",
    "planned_recipe",
    "planning",
    "raising",
    "run_passes",
    "solving",
    "solving_of",
    "targeting",
]

Observer = Callable[[int, ModulePass, ModuleOp], None]


def raising() -> list[ModulePass]:
    """Return the passes that bring an imported graph to canonical operations; the function stays the same."""
    return [
        Canonicalize(),
        RaiseLinear(),
        FoldConstants(),
        RaiseNorm(),
        RaiseActivation(),
        RaiseRope(),
        RaiseAttention(),
        Canonicalize(),
        AnnotateGroups(),
    ]


def planning(recipe: Recipe, *, integer_only: bool = False) -> list[ModulePass]:
    """Return the passes that give every layer its formats; weights change by transforms and by folding constants.

    For targets that are `integer_only` every other value gets a format as well.
    """
    text = recipe.model_dump_json()
    bits = [] if recipe.allocate is None else [AllocateBits(text), AllocateCache(text)]
    layers = [LowerConv(text), Canonicalize(), FoldConstants(), *bits, AssignFormats(text), QuantizeCache(text)]
    layers += transforming_codes(recipe)
    values = [QuantizeValues(text), Canonicalize(), FoldConstants()] if integer_only else []
    return [*raising(), *transforming(recipe), *layers, *values]


def planned_recipe(recipe: Recipe, module: ModuleOp) -> Recipe:
    """Return a recipe with every choice that planning made for this module written out."""
    return allocated_cache_recipe(allocated_recipe(recipe, module), module)


def solving(*, stand_ins: bool = False) -> list[ModulePass]:
    """Return the passes that choose static scales and the codes of the weights; both may read samples.

    With `stand_ins`, weights are rounded to nearest in the place of solving them.
    """
    return [Calibrate(), SolveWeights(stand_ins), Canonicalize()]


def lowering(*, integer_only: bool) -> list[ModulePass]:
    """Return the passes that leave no floats between inputs and outputs, for targets that are `integer_only`."""
    return [LowerInteger(), Canonicalize()] if integer_only else []


def pipeline(recipe: Recipe) -> list[ModulePass]:
    """Return the passes of a recipe that know no target, in order."""
    return [*planning(recipe), *solving()]


def fusing(epilogues: Sequence[str], prologues: Sequence[str]) -> list[ModulePass]:
    """Return the passes that gather kernels; the rules are what the target prints (`qcc.ir.fusion`)."""
    return [FuseEpilogue(tuple(epilogues)), FusePrologue(tuple(prologues))]


def targeting(
    epilogues: Sequence[str],
    prologues: Sequence[str],
    accumulator_bits: int,
    costs: Sequence[str],
    force: Sequence[str] = (),
    rows: int = 1,
    byte_cost: float = 0.0,
) -> list[ModulePass]:
    """Return the passes that shape a module for a target; what the target is like reaches them as plain data."""
    rotates = ("rotate",) if any("rotate" in rule for rule in prologues) else ()
    passes = [LowerTransforms(rotates), *fusing(epilogues, prologues), ProveOverflow(accumulator_bits)]
    return [*passes, SelectPlans(tuple(costs), tuple(force), rows, byte_cost)] if costs else passes


def run_passes(
    passes: Sequence[ModulePass], context: Context, module: ModuleOp, observe: Observer | None = None
) -> None:
    """Run passes in order and verify after each.

    Raises:
        QccError: if a pass leaves the module invalid, naming the pass; whatever a pass raises goes through.
    """
    for index, one in enumerate(passes):
        one.apply(context, module)
        try:
            module.verify()
        except VerifyException as error:
            raise QccError(f"pass '{one.name}' left an invalid module: {error}") from error
        if observe is not None:
            observe(index, one, module)

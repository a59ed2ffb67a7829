"""The transforms of a recipe, in the order that keeps each of them exact.

Norm weights go first, since a norm commutes with a rotation only without one; rotations go before scales, since a
diagonal does not commute with a rotation; what is stored is rounded once, at the end.
"""

from __future__ import annotations

from xdsl.passes import ModulePass

from qcc.passes.annotate_groups import AnnotateGroups
from qcc.passes.awq import Awq
from qcc.passes.canonicalize import Canonicalize
from qcc.passes.centre_streams import CentreStreams
from qcc.passes.diagonal import DiagonalScale
from qcc.passes.expand_k import ExpandK
from qcc.passes.fold_batch_norm import FoldBatchNorm
from qcc.passes.fold_norm import FoldNorm
from qcc.passes.permute import Permute
from qcc.passes.permute_inputs import PermuteInputs
from qcc.passes.qsm import Qsm
from qcc.passes.residual_channels import ResidualChannels
from qcc.passes.rotate_activations import RotateActivations
from qcc.passes.rotate_inputs import RotateInputs
from qcc.passes.rotate_keys import RotateKeys
from qcc.passes.rotate_streams import RotateStreams
from qcc.passes.rotate_values import RotateValues
from qcc.passes.round_folds import RoundFolds
from qcc.passes.smooth import Smooth
from qcc.passes.smooth_attention import SmoothAttention
from qcc.recipes.model import Recipe


def transforming(recipe: Recipe) -> list[ModulePass]:
    """Return the passes of a recipe's transforms, whatever their order in the recipe."""
    wanted: set[str] = set(recipe.transforms)
    text, illegal = recipe.model_dump_json(), recipe.illegal_folds
    passes: list[ModulePass] = []
    rotates = "rotate" in wanted
    if "fold_norm" in wanted or (rotates and recipe.rotate.r1):
        passes += _norms(recipe)
    if rotates:
        passes += _rotations(recipe)
    sorting = recipe.permute
    # scales change magnitudes, so inputs are sorted behind them
    spaces = [] if sorting.inputs else [("permute", Permute(sorting.by, illegal))]
    inputs = [("permute", PermuteInputs(sorting.by))] if sorting.inputs else []
    later: list[tuple[str, ModulePass]] = [
        *spaces,
        ("diagonal", DiagonalScale(text, illegal)),
        ("smooth", _smoothing(recipe, text)),
        ("awq", Awq(text, illegal)),
        ("smooth_attention", SmoothAttention(recipe.smooth_attention.alpha, illegal)),
        ("qsm", Qsm(text, recipe.qsm.clip, illegal)),
        *inputs,
        ("expand_k", ExpandK(recipe.expand_k.share, recipe.expand_k.multiple, recipe.expand_k.drop)),
    ]
    passes += [one for name, one in later if name in wanted]
    return [*passes, RoundFolds(), Canonicalize(), AnnotateGroups()] if passes else []


def transforming_codes(recipe: Recipe) -> list[ModulePass]:
    """Return the passes of those transforms that ask what a format loses, and so run once formats are assigned."""
    options = recipe.residual_channels
    one = ResidualChannels(options.threshold, options.share, options.multiple, recipe.illegal_folds)
    return [one] if "residual_channels" in recipe.transforms else []


def _norms(recipe: Recipe) -> list[ModulePass]:
    illegal = recipe.illegal_folds
    return [FoldBatchNorm(illegal), FoldNorm(illegal), CentreStreams(illegal)]


def _smoothing(recipe: Recipe, text: str) -> Smooth:
    alpha, illegal = recipe.smooth.alpha, recipe.illegal_folds
    return Smooth(illegal=illegal, search=True, recipe=text) if alpha == "search" else Smooth(alpha, illegal)


def _rotations(recipe: Recipe) -> list[ModulePass]:
    options, illegal = recipe.rotate, recipe.illegal_folds
    block = options.block or 0
    passes: list[tuple[bool, ModulePass]] = [
        (options.r1, RotateStreams(block, options.seed, illegal)),
        (options.r2, RotateValues(block, options.seed, illegal)),
        (options.r3, RotateKeys(block, illegal)),
        (options.r4, RotateActivations(block, illegal)),
        (options.inputs, RotateInputs(block)),
    ]
    return [one for asked, one in passes if asked]

"""Every pass by its name. Loading is lazy, so that listing passes imports none of them."""

from __future__ import annotations

from collections.abc import Callable

from xdsl.passes import ModulePass


def _allocate_bits() -> type[ModulePass]:
    from qcc.passes.allocate_bits import AllocateBits

    return AllocateBits


def _allocate_cache() -> type[ModulePass]:
    from qcc.passes.allocate_cache import AllocateCache

    return AllocateCache


def _annotate_groups() -> type[ModulePass]:
    from qcc.passes.annotate_groups import AnnotateGroups

    return AnnotateGroups


def _assign_formats() -> type[ModulePass]:
    from qcc.passes.assign_formats import AssignFormats

    return AssignFormats


def _awq() -> type[ModulePass]:
    from qcc.passes.awq import Awq

    return Awq


def _calibrate() -> type[ModulePass]:
    from qcc.passes.calibrate import Calibrate

    return Calibrate


def _canonicalize() -> type[ModulePass]:
    from qcc.passes.canonicalize import Canonicalize

    return Canonicalize


def _centre_streams() -> type[ModulePass]:
    from qcc.passes.centre_streams import CentreStreams

    return CentreStreams


def _diagonal() -> type[ModulePass]:
    from qcc.passes.diagonal import DiagonalScale

    return DiagonalScale


def _expand_k() -> type[ModulePass]:
    from qcc.passes.expand_k import ExpandK

    return ExpandK


def _fold_batch_norm() -> type[ModulePass]:
    from qcc.passes.fold_batch_norm import FoldBatchNorm

    return FoldBatchNorm


def _fold_constants() -> type[ModulePass]:
    from qcc.passes.fold_constants import FoldConstants

    return FoldConstants


def _fold_norm() -> type[ModulePass]:
    from qcc.passes.fold_norm import FoldNorm

    return FoldNorm


def _fuse_epilogue() -> type[ModulePass]:
    from qcc.passes.fuse_epilogue import FuseEpilogue

    return FuseEpilogue


def _fuse_prologue() -> type[ModulePass]:
    from qcc.passes.fuse_prologue import FusePrologue

    return FusePrologue


def _lower_conv() -> type[ModulePass]:
    from qcc.passes.lower_conv import LowerConv

    return LowerConv


def _lower_integer() -> type[ModulePass]:
    from qcc.passes.lower_integer import LowerInteger

    return LowerInteger


def _lower_transforms() -> type[ModulePass]:
    from qcc.passes.lower_transforms import LowerTransforms

    return LowerTransforms


def _permute() -> type[ModulePass]:
    from qcc.passes.permute import Permute

    return Permute


def _permute_inputs() -> type[ModulePass]:
    from qcc.passes.permute_inputs import PermuteInputs

    return PermuteInputs


def _prove_overflow() -> type[ModulePass]:
    from qcc.passes.prove_overflow import ProveOverflow

    return ProveOverflow


def _qsm() -> type[ModulePass]:
    from qcc.passes.qsm import Qsm

    return Qsm


def _quantize_cache() -> type[ModulePass]:
    from qcc.passes.quantize_cache import QuantizeCache

    return QuantizeCache


def _quantize_values() -> type[ModulePass]:
    from qcc.passes.quantize_values import QuantizeValues

    return QuantizeValues


def _raise_activation() -> type[ModulePass]:
    from qcc.passes.raise_activation import RaiseActivation

    return RaiseActivation


def _raise_attention() -> type[ModulePass]:
    from qcc.passes.raise_attention import RaiseAttention

    return RaiseAttention


def _raise_linear() -> type[ModulePass]:
    from qcc.passes.raise_linear import RaiseLinear

    return RaiseLinear


def _raise_norm() -> type[ModulePass]:
    from qcc.passes.raise_norm import RaiseNorm

    return RaiseNorm


def _raise_rope() -> type[ModulePass]:
    from qcc.passes.raise_rope import RaiseRope

    return RaiseRope


def _residual_channels() -> type[ModulePass]:
    from qcc.passes.residual_channels import ResidualChannels

    return ResidualChannels


def _rotate_activations() -> type[ModulePass]:
    from qcc.passes.rotate_activations import RotateActivations

    return RotateActivations


def _rotate_inputs() -> type[ModulePass]:
    from qcc.passes.rotate_inputs import RotateInputs

    return RotateInputs


def _rotate_keys() -> type[ModulePass]:
    from qcc.passes.rotate_keys import RotateKeys

    return RotateKeys


def _rotate_streams() -> type[ModulePass]:
    from qcc.passes.rotate_streams import RotateStreams

    return RotateStreams


def _rotate_values() -> type[ModulePass]:
    from qcc.passes.rotate_values import RotateValues

    return RotateValues


def _round_folds() -> type[ModulePass]:
    from qcc.passes.round_folds import RoundFolds

    return RoundFolds


def _select_plans() -> type[ModulePass]:
    from qcc.passes.select_plans import SelectPlans

    return SelectPlans


def _smooth() -> type[ModulePass]:
    from qcc.passes.smooth import Smooth

    return Smooth


def _smooth_attention() -> type[ModulePass]:
    from qcc.passes.smooth_attention import SmoothAttention

    return SmoothAttention


def _solve_weights() -> type[ModulePass]:
    from qcc.passes.solve_weights import SolveWeights

    return SolveWeights


PASSES: dict[str, Callable[[], type[ModulePass]]] = {
    "allocate-bits": _allocate_bits,
    "allocate-cache": _allocate_cache,
    "annotate-groups": _annotate_groups,
    "assign-formats": _assign_formats,
    "awq": _awq,
    "calibrate": _calibrate,
    "canonicalize": _canonicalize,
    "centre-streams": _centre_streams,
    "diagonal": _diagonal,
    "expand-k": _expand_k,
    "fold-batch-norm": _fold_batch_norm,
    "fold-constants": _fold_constants,
    "fold-norm": _fold_norm,
    "fuse-epilogue": _fuse_epilogue,
    "fuse-prologue": _fuse_prologue,
    "lower-conv": _lower_conv,
    "lower-integer": _lower_integer,
    "lower-transforms": _lower_transforms,
    "permute": _permute,
    "permute-inputs": _permute_inputs,
    "prove-overflow": _prove_overflow,
    "qsm": _qsm,
    "quantize-cache": _quantize_cache,
    "quantize-values": _quantize_values,
    "raise-activation": _raise_activation,
    "raise-attention": _raise_attention,
    "raise-linear": _raise_linear,
    "raise-norm": _raise_norm,
    "raise-rope": _raise_rope,
    "residual-channels": _residual_channels,
    "rotate-activations": _rotate_activations,
    "rotate-inputs": _rotate_inputs,
    "rotate-keys": _rotate_keys,
    "rotate-streams": _rotate_streams,
    "rotate-values": _rotate_values,
    "round-folds": _round_folds,
    "select-plans": _select_plans,
    "smooth": _smooth,
    "smooth-attention": _smooth_attention,
    "solve-weights": _solve_weights,
}
"""Name on the command line -> loader of the pass."""

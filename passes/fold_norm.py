"""Fold the weights and biases of norms into the layers that read them.

    linear(norm rms x weight g, w, b)             ->  linear(norm rms x, w * g, b)
    linear(norm rms_plus1 x weight g, w, b)       ->  linear(norm rms x, w * (1 + g), b)
    linear(norm layer x weight g bias h, w, b)    ->  linear(norm layer x, w * g, b + w @ h)

Legality, proved by `legality`: layers alone read the norm, directly or through operations that scale each channel as
it is; no other norm or layer writes the channels. A bias goes into linear layers only, through movements of elements.
Norms that no layer reads (norms of queries and keys) are left alone. Equal in real arithmetic, for weights of zero
too; computed in float64. Rotations need it first (QuaRot, arXiv 2404.00456, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NoReturn

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass

from qcc.errors import IllegalFold, Problem
from qcc.ir.base import QccOperation, location_of
from qcc.ir.context import store_of
from qcc.ir.elementwise import CastOp
from qcc.ir.nn import ConvOp, LinearOp
from qcc.ir.shape import ExpandOp, ReshapeOp, SliceOp, TransposeOp
from qcc.ir.transformer import NormKind, NormOp
from qcc.passes.settled import refuse_settled

if TYPE_CHECKING:
    from torch import Tensor

    from qcc.ir.store import WeightStore
    from qcc.passes.legality import Binding, Proof

_MOVES = (CastOp, ExpandOp, ReshapeOp, SliceOp, TransposeOp)


@dataclass(frozen=True)
class FoldNorm(ModulePass):
    """The pass; needs the weight store. `illegal` says whether what cannot be folded is refused or kept."""

    name: ClassVar[str] = "fold-norm"

    illegal: str = "refuse"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module and its store.

        Raises:
            IllegalFold: naming what is in the way of every norm that a layer reads and that cannot be folded;
                or what was settled before.
        """
        refuse_settled(op, self.name)
        from qcc.passes.legality import Refusals, keeps

        refusals = Refusals("folding the weights of norms", keep=keeps(self.illegal))
        folds: list[_Fold] = []
        for norm in [one for one in op.walk() if isinstance(one, NormOp)]:
            if (norm.weight is not None or norm.bias is not None) and layers_behind(norm.result):
                with refusals.collect(norm):
                    folds.append(_prove(store_of(ctx, self.name), norm))
        refusals.raise_any()
        for one in folds:
            _fold(op, store_of(ctx, self.name), one)


def layers_behind(value: SSAValue) -> list[LinearOp | ConvOp]:
    """Return the layers that read a value, directly or through movements of its elements."""
    found: list[LinearOp | ConvOp] = []
    for use in value.uses:
        if isinstance(use.operation, LinearOp | ConvOp) and use.index == 0:
            found.append(use.operation)
        elif isinstance(use.operation, _MOVES):
            found += layers_behind(use.operation.result)
    return found


@dataclass(frozen=True, eq=False)
class _Fold:
    """A norm whose weight (what it multiplies by) and bias can go into the layers of a proof."""

    norm: NormOp
    proof: Proof
    gamma: Tensor
    beta: Tensor | None


def _prove(store: WeightStore, norm: NormOp) -> _Fold:
    import torch

    from qcc.passes.fold_weights import affine_of
    from qcc.passes.legality import Kind, prove, space_on

    gamma, beta = affine_of(store, norm)
    proof = prove(Kind.DIAGONAL, space_on(norm.result, [-1]), "folding the weight of a norm")
    plus = 1.0 if norm.kind.data is NormKind.RMS_PLUS1 else 0.0
    gamma = torch.ones(proof.size, dtype=torch.float64) if gamma is None else gamma + plus
    _check(norm, proof, gamma, beta)
    return _Fold(norm, proof, gamma, beta)


def _fold(module: ModuleOp, store: WeightStore, fold: _Fold) -> None:
    import torch

    from qcc.passes.fold_weights import Diagonal, add_to_bias, replace_norm, rewrite_bindings

    norm, bindings, beta = fold.norm, fold.proof.bindings, fold.beta
    shifts = [] if beta is None else [(one, _shift(store, one, beta)) for one in bindings]
    rewrite_bindings(module, store, bindings, Diagonal(torch.ones_like(fold.gamma), fold.gamma), "norm")
    for binding, shift in shifts:
        if isinstance(binding.op, LinearOp):
            add_to_bias(module, store, binding.op, shift, "norm")
    kind = NormKind.LAYER if norm.kind.data is NormKind.LAYER else NormKind.RMS
    replace_norm(module, store, norm, kind.value, None, None, "norm")


def _check(norm: NormOp, proof: Proof, gamma: Tensor, beta: Tensor | None) -> None:
    """Refuse what the proof of a diagonal leaves open: who else writes the channels, signs, ties, and the bias."""
    import torch

    others: list[QccOperation] = [one for one in proof.affine if one is not norm]
    if others or proof.producers or proof.states or proof.inserted:
        names = [one.where for one in others] + [one.key for one in proof.producers] + list(proof.states)
        _refuse(norm, f"{', '.join(names)} writes the same channels", "keep the weight of this norm")
    if proof.positive and bool((gamma <= 0).any()):
        _refuse(proof.positive[0], f"a weight of {float(gamma.min()):.3g} does not go through it", "")
    classes = torch.from_numpy(proof.classes)
    for number in classes.unique():
        if len(gamma[classes == number].unique()) > 1:
            _refuse(norm, "channels that must be scaled alike have different weights", "")
    if beta is None:
        return
    for op in _between(proof):
        if not isinstance(op, (*_MOVES, LinearOp)):
            _refuse(op, "the bias of a norm does not go through it", "keep the norm as it is")


def _between(proof: Proof) -> list[Operation]:
    """Return the operations that read the channels."""
    return list(dict.fromkeys(use.operation for place in proof.places for use in place.value.uses))


def _shift(store: WeightStore, binding: Binding, beta: Tensor) -> Tensor:
    """Return what the bias of a norm adds to the result of a layer, f64[N]."""
    import torch

    atoms = torch.from_numpy(binding.place.atoms).flatten()
    entries = torch.where(atoms >= 0, beta[atoms % len(beta)], 0.0)
    return store.tensor(binding.key).double() @ entries


def _refuse(op: Operation, what: str, fix: str) -> NoReturn:
    raise IllegalFold(
        "the weight of a norm cannot be folded", [Problem(location_of(op) or op.name, f"{op.name}: {what}", fix)]
    )

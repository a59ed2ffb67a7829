"""Fold batch norms into the layers before them (Krishnamoorthi, arXiv 1806.08342).

    batch_norm(conv(x, w, b), mean, variance, gamma, beta)  ->  conv(x, w * g, (b - mean) * g + beta)
                                                                g = gamma / sqrt(variance + eps)

likewise linear [B, K]. Legality: the statistics are stored, nothing else reads the layer's result, and weight and bias
are stored. Equal in real arithmetic; computed in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NoReturn

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from qcc.errors import IllegalFold, Problem
from qcc.ir.context import store_of
from qcc.ir.nn import ConvOp, LinearOp
from qcc.ir.program import WeightOp
from qcc.ir.transformer import BatchNormOp
from qcc.ir.types import type_of
from qcc.passes.settled import refuse_settled

if TYPE_CHECKING:
    from torch import Tensor

    from qcc.ir.store import WeightStore


@dataclass(frozen=True)
class FoldBatchNorm(ModulePass):
    """The pass; needs the weight store. `illegal` says whether what cannot be folded is refused or kept."""

    name: ClassVar[str] = "fold-batch-norm"

    illegal: str = "refuse"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module and its store.

        Raises:
            IllegalFold: naming every batch norm that no layer can take;
                or what was settled before.
        """
        refuse_settled(op, self.name)
        from qcc.passes.legality import Refusals, keeps

        refusals = Refusals("folding batch norms", keep=keeps(self.illegal))
        folds: list[tuple[BatchNormOp, ConvOp | LinearOp]] = []
        for norm in [one for one in op.walk() if isinstance(one, BatchNormOp)]:
            with refusals.collect(norm):
                folds.append((norm, _layer_before(norm)))
        refusals.raise_any()
        for norm, layer in folds:
            _fold(op, store_of(ctx, self.name), norm, layer)


def _fold(module: ModuleOp, store: WeightStore, norm: BatchNormOp, layer: ConvOp | LinearOp) -> None:
    from qcc.passes.channels import whole
    from qcc.passes.fold_weights import Diagonal, add_to_bias, erase_weight, rewrite_bindings
    from qcc.passes.legality import Binding

    mean, variance = (_stored(store, one) for one in (norm.mean, norm.variance))
    scale = (variance + norm.eps.value.data) ** -0.5
    scale = scale if norm.weight is None else scale * _stored(store, norm.weight)
    shift = -mean * scale if norm.bias is None else _stored(store, norm.bias) - mean * scale
    rows = [Binding(layer, index, whole(layer.operands[index], (0,))) for index in range(1, len(layer.operands))]
    rewrite_bindings(module, store, rows, Diagonal(scale), "batch_norm")
    add_to_bias(module, store, layer, shift, "batch_norm")
    parameters = [one.owner for one in norm.operands[1:]]
    Rewriter.replace_op(norm, [], [layer.result])
    for owner in dict.fromkeys(parameters):
        if isinstance(owner, WeightOp) and not owner.result.uses:
            erase_weight(module, store, owner)


def _layer_before(norm: BatchNormOp) -> ConvOp | LinearOp:
    layer = norm.input.owner
    if not isinstance(layer, ConvOp | LinearOp) or (isinstance(layer, LinearOp) and type_of(norm.input).rank != 2):
        _refuse(norm, "no layer writes what it reads", "keep it, or put it behind a layer in the model")
    if not norm.input.has_one_use():
        _refuse(norm, "something else reads the layer's result too", "keep it")
    if not all(isinstance(one.owner, WeightOp) for one in layer.operands[1:]):
        _refuse(norm, "the layer's weight or bias is computed at run time", "keep it")
    if not all(isinstance(one.owner, WeightOp) for one in norm.operands[1:]):
        _refuse(norm, "its statistics are computed at run time", "export the model in eval mode")
    return layer


def _stored(store: WeightStore, value: SSAValue) -> Tensor:
    assert isinstance(value.owner, WeightOp)  # _layer_before has seen to it
    return store.tensor(value.owner.key.data).double()


def _refuse(norm: BatchNormOp, what: str, fix: str) -> NoReturn:
    raise IllegalFold("a batch norm cannot be folded", [Problem(norm.where, f"{norm.name}: {what}", fix)])

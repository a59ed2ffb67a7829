"""Bake the mean of LayerNorms into what writes the residual stream, which makes them RMSNorms.

    x = embedding(t, ids); x + linear(.., w, b)   ->   t, w and b without the mean of their output channels
    norm layer x weight g                         ->   norm rms x weight g

Legality, proved by `legality`: only LayerNorms, which ignore the mean, read the stream, and every value on it is
written by layers and tables. A LayerNorm with a bias stays one, since an RMSNorm has none; `fold-norm` removes it.
Equal in real arithmetic; computed in float64 (SliceGPT, arXiv 2401.15024, section 3.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from qcc.ir.context import store_of
from qcc.ir.transformer import NormKind
from qcc.passes.settled import refuse_settled


@dataclass(frozen=True)
class CentreStreams(ModulePass):
    """The pass; needs the weight store. `illegal` says whether what cannot be folded is refused or kept."""

    name: ClassVar[str] = "centre-streams"

    illegal: str = "refuse"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module and its store.

        Raises:
            IllegalFold: naming what is in the way of every stream that cannot be centred;
                or what was settled before.
        """
        refuse_settled(op, self.name)
        from qcc.passes.legality import Kind, Refusals, keeps, stream_norms, streams

        refusals = Refusals("baking the mean of LayerNorms", keep=keeps(self.illegal))
        plain = [one for one in stream_norms(op) if one.kind.data is NormKind.LAYER and one.bias is None]
        proofs = streams(Kind.CENTRING, refusals, plain)
        refusals.raise_any()
        if not proofs:
            return
        from qcc.passes.fold_weights import Centring, affine_of, fold, replace_norm

        store = store_of(ctx, self.name)
        for proof in proofs:
            fold(op, store, proof, Centring(), "centred")
            for norm in proof.centred:
                if norm.bias is None:
                    replace_norm(op, store, norm, "rms", affine_of(store, norm)[0], None, "centred")

"""Move the outliers of keys into the queries (SmoothAttention of QoQ, arXiv 2405.04532).

    attention(rope linear q, rope linear k, v)   ->   rows of q * s, rows of k / s        s[i] = max |k[i]|^alpha

Legality, proved by `legality`: scores are products over the channels of a head, so the scale cancels; a rotary
embedding turns pairs of channels, so both members of a pair get one scale; queries that share a key head get the
scale of that head. A cache of keys holds scaled keys from then on. The maxima come from calibration samples. Equal in
real arithmetic; computed in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from qcc.ir.context import chosen, store_of
from qcc.passes.legality import Kind, Proof, Refusals, keeps
from qcc.passes.settled import refuse_settled
from qcc.passes.sites import key_sites, prove_sites

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SmoothAttention(ModulePass):
    """The pass; needs the weight store and samples."""

    name: ClassVar[str] = "smooth-attention"

    alpha: float = 0.5
    illegal: str = "refuse"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module and its store.

        Raises:
            IllegalFold: naming what is in the way in every attention whose keys cannot be scaled;
                or what was settled before.
            QccError: if there are no samples.
        """
        refuse_settled(op, self.name)
        refusals = Refusals("smoothing the keys of attention", keep=keeps(self.illegal))
        proofs = prove_sites(Kind.DIAGONAL, key_sites(op), refusals)
        if not proofs:
            return
        from qcc.passes.scales import divide_channels

        every = chosen(ctx, self.name, len(proofs), lambda: self._choose(ctx, op, proofs))
        for proof, scales in zip(proofs, every, strict=True):
            divide_channels(op, store_of(ctx, self.name), proof, scales, "smooth_attention")

    def _choose(self, ctx: Context, op: ModuleOp, proofs: list[Proof]) -> Iterator[Tensor]:
        from qcc.passes.scales import bounded, observe_channels, over_classes

        statistics = observe_channels(ctx, op, f"transform {self.name}", [one.seed for one in proofs])
        for proof, found in zip(proofs, statistics, strict=True):
            yield over_classes(proof, bounded(found.amax.double() ** self.alpha))

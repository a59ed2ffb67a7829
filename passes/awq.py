"""Scale the channels that matter to the weights (AWQ, arXiv 2306.00978).

    linear(norm x weight g, w)                   ->  linear(norm x weight g / s, w * s)
    linear(attention(q, k, linear v), o)         ->  rows of v / s, columns of o * s
    linear(act * linear(x, u), d)                ->  rows of u / s, columns of d * s
    s[j] = mean |x[j]| ^ alpha, divided by the root of its largest times its smallest

alpha is searched in steps of 1/20 for each site: the least squared error of the outputs of all layers that read it,
their weights rounded in the recipe's format. Where no alpha beats 1 nothing changes, so weights then equal those of
rounding to nearest bit for bit. Legality, proved by `legality`: as for `smooth`; an activation between two layers
takes no scale, so inputs of layers that are plain activations are no sites. Equal in real arithmetic; computed in
float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from qcc.passes.legality import Kind, Proof, Refusals, keeps
from qcc.passes.settled import refuse_settled
from qcc.passes.sites import layer_sites, prove_sites

if TYPE_CHECKING:
    from torch import Tensor

    from qcc.calibrate.statistics import ChannelStatistics


@dataclass(frozen=True)
class Awq(ModulePass):
    """The pass; needs the weight store and samples. `recipe` (a name, a path, or JSON text) names the formats."""

    name: ClassVar[str] = "awq"

    recipe: str = "w4"
    illegal: str = "refuse"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module and its store.

        Raises:
            IllegalFold: naming what is in the way of every site that cannot be scaled;
                or what was settled before.
            QccError: if there are no samples.
        """
        refuse_settled(op, self.name)
        refusals = Refusals("scaling channels by activations", keep=keeps(self.illegal))
        proofs = prove_sites(Kind.DIAGONAL, layer_sites(op), refusals)
        if not proofs:
            return
        from qcc.passes.scale_search import scale_sites

        def magnitudes(found: ChannelStatistics) -> Tensor:
            return found.mean_abs

        scale_sites(ctx, op, self.name, self.recipe, proofs, magnitudes, _centred_powers, with_activations=False)


def _centred_powers(proof: Proof, magnitudes: Tensor) -> Callable[[float], Tensor]:
    def scales_of(alpha: float) -> Tensor:
        scales = magnitudes.clamp_min(1e-12) ** alpha
        return scales / (scales.max() * scales.min()).sqrt()

    return scales_of

"""Balance the channels between activations and weights, after rotations (the diagonal of OSTQuant, arXiv 2501.13987).

    the sites of `awq`;   s[j] = max |x[j]| ^ alpha / max |w[:, j]| ^ (1 - alpha)

alpha is searched in steps of 1/20 for each site: the least squared error of the outputs of the layers that read it,
with both their weights and their dynamic activations rounded in the recipe's formats. OSTQuant learns its diagonal;
here it is searched on calibration samples, in this family. It goes between a rotation and the weights, so it runs
after the rotations, which do not commute with it. Legality as for `awq`. Equal in real arithmetic; computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from qcc.ir.context import store_of
from qcc.passes.legality import Kind, Proof, Refusals, keeps
from qcc.passes.settled import refuse_settled
from qcc.passes.sites import layer_sites, prove_sites

if TYPE_CHECKING:
    from torch import Tensor

    from qcc.calibrate.statistics import ChannelStatistics


@dataclass(frozen=True)
class DiagonalScale(ModulePass):
    """The pass; needs the weight store and samples. `recipe` (a name, a path, or JSON text) names the formats."""

    name: ClassVar[str] = "diagonal"

    recipe: str = "w8a8"
    illegal: str = "refuse"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module and its store.

        Raises:
            IllegalFold: naming what is in the way of every site that cannot be scaled;
                or what was settled before.
            QccError: if there are no samples.
        """
        refuse_settled(op, self.name)
        refusals = Refusals("balancing channels", keep=keeps(self.illegal))
        proofs = prove_sites(Kind.DIAGONAL, layer_sites(op), refusals)
        if not proofs:
            return
        from qcc.passes.scale_search import scale_sites
        from qcc.passes.scales import column_amax, over_classes

        store = store_of(ctx, self.name)

        def amax(found: ChannelStatistics) -> Tensor:
            return found.amax

        def balanced(proof: Proof, activations: Tensor) -> Callable[[float], Tensor]:
            weights = over_classes(proof, column_amax(store, proof))
            return lambda alpha: activations**alpha / weights ** (1 - alpha)

        scale_sites(ctx, op, self.name, self.recipe, proofs, amax, balanced, with_activations=True)

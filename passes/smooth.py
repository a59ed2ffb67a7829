"""Move the outliers of a norm's channels into the layers that read it (SmoothQuant, arXiv 2211.10438).

    linear(norm x weight g bias h, w)   ->   linear(norm x weight g / s bias h / s, w * s)
    s[j] = max |norm[j]|^alpha / max |w[:, j]|^(1 - alpha)

over all layers that read the norm. With `search`, one alpha in steps of 1/20 is taken for all norms: that of least
squared error of the program's outputs on the samples, all weights rounded in the recipe's formats (SmoothQuant+,
arXiv 2312.03788). Legality, proved by `legality`: layers alone read the norm, so a norm that also
feeds a residual (post-norm) is refused. A norm without a weight gets one. The maxima of activations come from
calibration samples. Equal in real arithmetic; computed in float64.
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
from qcc.passes.sites import norm_sites, prove_sites

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Smooth(ModulePass):
    """The pass; needs the weight store and samples. `alpha` 0 looks at weights alone, 1 at activations alone.

    `recipe` (a name, a path, or JSON text) names the formats that a search rounds to.
    """

    name: ClassVar[str] = "smooth"

    alpha: float = 0.5
    illegal: str = "refuse"
    search: bool = False
    recipe: str = "w4"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module and its store.

        Raises:
            IllegalFold: naming what else reads each norm that feeds layers;
                or what was settled before.
            QccError: if there are no samples, or a search has no float output to compare.
        """
        refuse_settled(op, self.name)
        refusals = Refusals("smoothing the results of norms", keep=keeps(self.illegal))
        proofs = prove_sites(Kind.DIAGONAL, norm_sites(op), refusals)
        if not proofs:
            return
        from qcc.passes.scales import divide_channels

        store = store_of(ctx, self.name)
        every = chosen(ctx, self.name, len(proofs), lambda: self._choose(ctx, op, proofs))
        for proof, scales in zip(proofs, every, strict=True):
            divide_channels(op, store, proof, scales, "smooth")

    def _choose(self, ctx: Context, op: ModuleOp, proofs: list[Proof]) -> Iterator[Tensor]:
        from qcc.passes.scales import bounded, column_amax, observe_channels, over_classes
        from qcc.passes.smooth_search import best_alpha

        store, user = store_of(ctx, self.name), f"transform {self.name}"
        statistics = observe_channels(ctx, op, user, [one.seed for one in proofs])
        maxima = [(found.amax.double(), column_amax(store, one)) for one, found in zip(proofs, statistics, strict=True)]

        def scales_of(alpha: float) -> list[Tensor]:
            raw = [activations**alpha / weights ** (1 - alpha) for activations, weights in maxima]
            return [over_classes(proof, bounded(one)) for proof, one in zip(proofs, raw, strict=True)]

        alpha = best_alpha(ctx, op, user, self.recipe, proofs, scales_of) if self.search else self.alpha
        yield from scales_of(alpha)

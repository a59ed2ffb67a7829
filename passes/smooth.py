"""Move the outliers of a norm's channels into the layers that read it (SmoothQuant, arXiv 2211.10438).

    linear(norm x weight g bias h, w)   ->   linear(norm x weight g / s bias h / s, w * s)
    s[j] = max |norm[j]|^alpha / max |w[:, j]|^(1 - alpha)

over all layers that read the norm. Legality, proved by `legality`: layers alone read the norm, so a norm that also
feeds a residual (post-norm) is refused. A norm without a weight gets one. The maxima of activations come from
calibration samples. Equal in real arithmetic; computed in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from qcc.ir.context import store_of
from qcc.passes.legality import Kind, Refusals, keeps
from qcc.passes.sites import norm_sites, prove_sites


@dataclass(frozen=True)
class Smooth(ModulePass):
    """The pass; needs the weight store and samples. `alpha` 0 looks at weights alone, 1 at activations alone."""

    name: ClassVar[str] = "smooth"

    alpha: float = 0.5
    illegal: str = "refuse"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module and its store.

        Raises:
            IllegalFold: naming what else reads each norm that feeds layers.
            QccError: if there are no samples.
        """
        refusals = Refusals("smoothing the results of norms", keep=keeps(self.illegal))
        proofs = prove_sites(Kind.DIAGONAL, norm_sites(op), refusals)
        if not proofs:
            return
        from qcc.passes.scales import bounded, column_amax, divide_channels, observe_channels, over_classes

        store = store_of(ctx, self.name)
        statistics = observe_channels(ctx, op, f"transform {self.name}", [one.seed for one in proofs])
        for proof, found in zip(proofs, statistics, strict=True):
            activations, weights = found.amax.double(), column_amax(store, proof)
            scales = activations**self.alpha / weights ** (1 - self.alpha)
            divide_channels(op, store, proof, over_classes(proof, bounded(scales)), "smooth")

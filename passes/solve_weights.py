"""Choose the codes of the weights and put them in the store.

    quantize(weight "w") : W  ->  weight "w:W"

Round to nearest: each code is the one nearest to its weight under the scales of the format. One entry per name and
format, so tied weights stay tied. Float weights that nothing reads any more leave the store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from qcc.ir.context import store_of
from qcc.ir.program import StateOp, WeightOp
from qcc.ir.quant import QuantizeOp
from qcc.ir.types import type_of


@dataclass(frozen=True)
class SolveWeights(ModulePass):
    """The pass; needs the weight store."""

    name: ClassVar[str] = "solve-weights"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module and its store.

        Raises:
            QccError: if the weights are not beside the module, or are not finite.
        """
        from qcc.numerics.quantize import quantize  # torch stays out of the import of the pass

        store = store_of(ctx, "solve-weights")
        for node in [one for one in op.walk() if isinstance(one, QuantizeOp)]:
            weight = node.input.owner
            qtype = type_of(node.result).qtype
            if not isinstance(weight, WeightOp) or node.scales or node.zero is not None or qtype is None:
                continue
            key = f"{weight.key.data}:{qtype}"
            if key not in store:
                store[key] = quantize(store.tensor(weight.key.data), qtype, where=weight.key.data)
            Rewriter.replace_op(node, [solved := WeightOp(key, type_of(node.result))], [solved.result])
            if not weight.result.uses:
                Rewriter.erase_op(weight)
        used = {one.key.data for one in op.walk() if isinstance(one, WeightOp | StateOp)}
        for key in [key for key in store if key not in used]:
            del store[key]

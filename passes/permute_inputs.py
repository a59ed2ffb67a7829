"""Sort the channels that every linear layer reads by magnitude, at run time (COMET, arXiv 2410.12168, section 4.2).

    linear(x, w)   ->   linear(permute x order, w[:, order])     every other reader of x reads x

Outliers so come side by side, the largest first, and blocks of channels without any are narrow. Each value has an order
of its own, whatever stream it comes from. The magnitudes are the largest of calibration samples, or with `by=weights`
of the columns that read a channel. Legality: a sum does not depend on the order of its terms, so always legal for
stored weights, whatever else reads the value. Equal in real arithmetic: nothing is computed but the order of a sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from qcc.errors import RecipeError
from qcc.ir.base import location_of, set_location
from qcc.ir.context import store_of
from qcc.ir.nn import LinearOp
from qcc.ir.program import WeightOp
from qcc.ir.transform import PermuteOp
from qcc.ir.types import tensor, type_of
from qcc.passes.layer_columns import layers_by_input, read_instead, stored_weight
from qcc.passes.online import point_after
from qcc.passes.settled import refuse_settled

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PermuteInputs(ModulePass):
    """The pass; needs the weight store, and samples where `by` is `activations`."""

    name: ClassVar[str] = "permute-inputs"

    by: str = "activations"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module and its store.

        Raises:
            IllegalFold: naming what was settled before.
            RecipeError: if `by` is neither activations nor weights.
            QccError: if activations are asked for and there are no samples.
            ShapeError: if samples do not fit, or a value is not finite or was never seen.
        """
        refuse_settled(op, self.name, steps=True)
        if self.by not in ("activations", "weights"):
            raise RecipeError(f"channels cannot be sorted by '{self.by}'", fix="write activations or weights")
        groups = {value: layers for value, layers in layers_by_input(op).items() if _is_sortable(value)}
        if not groups:
            return
        store = store_of(ctx, self.name)
        for value, magnitudes in self._magnitudes(ctx, op, groups).items():
            order, layers = magnitudes.argsort(descending=True, stable=True), groups[value]
            key = store.fresh_key("input_order")
            store[key] = order
            numbers = WeightOp(key, tensor([len(order)], "i64"))
            made = PermuteOp(value, numbers, type_of(value).rank - 1)
            for one in (numbers, made):
                set_location(one, location_of(layers[0]))
            Rewriter.insert_op([numbers, made], point_after(value))
            for layer in layers:
                weight = stored_weight(store, layer)[:, order]
                read_instead(op, store, layer, made.result, weight, "sorted_input")

    def _magnitudes(
        self, ctx: Context, module: ModuleOp, groups: dict[SSAValue, list[LinearOp]]
    ) -> dict[SSAValue, Tensor]:
        """Return the largest magnitude of every channel of each value, [K]."""
        if self.by == "weights":
            import torch  # stays out of the import of the pass

            store = store_of(ctx, self.name)
            columns = {
                value: [stored_weight(store, one).abs().amax(0) for one in found] for value, found in groups.items()
            }
            return {value: torch.stack(found).amax(0) for value, found in columns.items()}
        from qcc.calibrate.statistics import ChannelStatistics
        from qcc.passes.scales import watch_values

        widths = {value: type_of(layers[0].weight).shape[1].constant or 0 for value, layers in groups.items()}
        statistics = {value: ChannelStatistics(width) for value, width in widths.items()}
        watch = {value: found.add for value, found in statistics.items()}
        watch_values(ctx, module, f"transform {self.name}", watch, statistics)
        return {value: found.amax for value, found in statistics.items()}


def _is_sortable(value: SSAValue) -> bool:
    """Say whether a value is not sorted already."""
    return not isinstance(value.owner, PermuteOp)

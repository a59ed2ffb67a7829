"""Split the channels whose columns are largest (dimension reconstruction of MergeQuant, arXiv 2503.07654).

    linear(x, w)   ->   linear(expand_k duplicate x, w')     channel j m times, its columns divided by m

for every value that linear layers read, so that no column of a quantized row is far above the others. Copies are
given out one by one to the channel whose largest column, divided by its copies, is the largest, until `share` of the
channels is reached and the width is a multiple of `multiple`. With `drop`, as many of the channels whose loss costs
least go instead (the diagonal of the Hessian times the squared norm of the column), so that the width stays.

Legality: a layer sums over its channels, so copies that share a column change nothing, whatever else reads the value:
always legal for stored weights. Equal in real arithmetic without `drop`, which changes the function.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from qcc.errors import Problem, RecipeError
from qcc.ir.base import location_of, set_location
from qcc.ir.context import chosen, store_of
from qcc.ir.nn import LinearOp
from qcc.ir.program import WeightOp
from qcc.ir.transform import ExpandKOp
from qcc.ir.types import tensor, type_of
from qcc.passes.layer_columns import layers_by_input, read_instead, stored_weight
from qcc.passes.online import point_after
from qcc.passes.settled import refuse_settled

if TYPE_CHECKING:
    from torch import Tensor

    from qcc.ir.store import WeightStore


@dataclass(frozen=True)
class ExpandK(ModulePass):
    """The pass; needs the weight store, and samples where channels are dropped."""

    name: ClassVar[str] = "expand-k"

    share: float = 0.05
    multiple: int = 8
    drop: bool = False

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module and its store.

        Raises:
            IllegalFold: naming what was settled before.
            RecipeError: if the share is no fraction, or the multiple no positive number.
            QccError: if channels are to be dropped and there are no samples.
        """
        refuse_settled(op, self.name, steps=True)
        if not 0 < self.share <= 1 or self.multiple < 1:
            what = f"share={self.share}, multiple={self.multiple}"
            raise RecipeError("channels cannot be split", [Problem("expand_k", what, "0 < share <= 1, multiple >= 1")])
        groups = layers_by_input(op)
        every = chosen(ctx, self.name, len(groups), lambda: self._choose(ctx, op, groups))
        for (value, layers), counts in zip(groups.items(), every, strict=True):
            _expand(op, store_of(ctx, self.name), value, layers, counts)

    def _choose(self, ctx: Context, op: ModuleOp, groups: dict[SSAValue, list[LinearOp]]) -> Iterator[Tensor]:
        """Give how often each channel of each value occurs, i64[K]."""
        store = store_of(ctx, self.name)
        importance = _importance(ctx, op, groups) if self.drop and groups else {}
        for value, layers in groups.items():
            yield self._counts(store, layers, importance.get(value))

    def _counts(self, store: WeightStore, layers: list[LinearOp], importance: Tensor | None) -> Tensor:
        import torch

        columns = torch.stack([stored_weight(store, one).abs().amax(0) for one in layers]).amax(0)
        width = len(columns)
        wanted = width + max(1, round(width * self.share))
        extra = -(-wanted // self.multiple) * self.multiple - width
        counts = copies_of(columns, extra)
        if importance is not None:
            norms = torch.stack([stored_weight(store, one).square().sum(0) for one in layers]).sum(0)
            cost = torch.where(counts > 1, torch.inf, importance * norms)
            counts[torch.argsort(cost, stable=True)[:extra]] = 0
        return counts


def _expand(module: ModuleOp, store: WeightStore, value: SSAValue, layers: list[LinearOp], counts: Tensor) -> None:
    import torch

    source = torch.repeat_interleave(torch.arange(len(counts)), counts)
    key = store.fresh_key("expansion")
    store[key] = source
    numbers = WeightOp(key, tensor([len(source)], "i64"))
    made = ExpandKOp("duplicate", value, numbers)
    for one in (numbers, made):
        set_location(one, location_of(layers[0]))
    Rewriter.insert_op([numbers, made], point_after(value))
    for layer in layers:
        weight = stored_weight(store, layer)[:, source] / counts[source]
        read_instead(module, store, layer, made.result, weight, "expanded")


def copies_of(columns: Tensor, extra: int) -> Tensor:
    """Return how often each channel occurs, i64[K]: once, and `extra` times more where columns / copies is largest."""
    import heapq

    import torch

    counts = [1] * len(columns)
    heap = [(-magnitude, index) for index, magnitude in enumerate(columns.tolist())]
    heapq.heapify(heap)
    for _ in range(extra):
        _, index = heap[0]
        counts[index] += 1
        heapq.heapreplace(heap, (-float(columns[index]) / counts[index], index))
    return torch.tensor(counts)


def _importance(ctx: Context, module: ModuleOp, groups: dict[SSAValue, list[LinearOp]]) -> dict[SSAValue, Tensor]:
    """Return the mean square of every channel: the diagonal of the Hessian, up to a factor."""
    from qcc.calibrate.statistics import ChannelStatistics
    from qcc.passes.scales import watch_values

    widths = {value: type_of(layers[0].weight).shape[1].constant or 0 for value, layers in groups.items()}
    statistics = {value: ChannelStatistics(width) for value, width in widths.items()}
    watch = {value: found.add for value, found in statistics.items()}
    watch_values(ctx, module, "transform expand_k with drop", watch, statistics)
    return {value: found.rms.double().square() for value, found in statistics.items()}

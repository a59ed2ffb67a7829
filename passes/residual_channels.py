"""Give the channels with outliers a second code: the code of what the first one loses (ARCQuant, arXiv 2601.07475).

    contract(quantize(x) : A, quantize(w) : W)
      ->   contract(quantize(expand_k residual (permute x) : A) : A, quantize([w w_S]) : W)

    [Q(x) Q((x - Q(x))_S)] [Q(w) Q(w)_S]^T   =   Q(x) Q(w)^T + Q((x - Q(x))_S) Q(w)_S^T

Channels are sorted by their largest magnitude on calibration samples; S are those above `threshold` times the largest
of all, at most `share` of them, up to the next `multiple`. One contraction in one format does both terms.

Legality: the codes of the first channels must be what they were. So the format is computed at run time, its blocks
divide the columns, S is whole blocks, and a scale over all channels is that of the largest magnitude, which no
residual exceeds. Without quantization nothing is lost and nothing is added, so the float program stays what it was:
layers whose input is not quantized are left alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, i64
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from qcc.errors import IllegalFold, Problem, RecipeError
from qcc.ir.base import RESIDUAL, set_location
from qcc.ir.context import chosen, store_of
from qcc.ir.program import WeightOp
from qcc.ir.quant import ContractOp, QuantizeOp
from qcc.ir.transform import ExpandKOp, PermuteOp
from qcc.ir.types import tensor, type_of
from qcc.numerics.qtype import QType
from qcc.numerics.stored_parts import parameter_parts
from qcc.passes.float_view import float_view
from qcc.passes.layer_columns import stored_beside
from qcc.passes.layer_schemes import layer_name
from qcc.passes.legality import NOT_FOLDED, Refusals, keeps
from qcc.passes.settled import refuse_settled

if TYPE_CHECKING:
    from torch import Tensor

    from qcc.ir.store import WeightStore

WHAT = "adding residual channels"
_FIX = "use a format computed at run time with blocks along the columns, such as nvfp4"


@dataclass(frozen=True)
class ResidualChannels(ModulePass):
    """The pass; needs the weight store and samples, and formats that are assigned and not solved yet."""

    name: ClassVar[str] = "residual-channels"

    threshold: float = 0.125
    share: float = 0.25
    multiple: int = 16
    illegal: str = "refuse"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module and its store.

        Raises:
            RecipeError: for numbers that make no sense.
            IllegalFold: listing the layers whose codes would change, or whose input is not read by layers alone;
                or what was settled before.
            QccError: if there are no samples.
            ShapeError: if samples do not fit, or a value is not finite or was never seen.
        """
        refuse_settled(op, self.name, steps=True, formats=True)
        if not (0 < self.threshold <= 1 and 0 < self.share <= 1 and self.multiple >= 1):
            what = f"threshold={self.threshold}, share={self.share}, multiple={self.multiple}"
            raise RecipeError(WHAT, [Problem("residual_channels", what, "0 < threshold, share <= 1, multiple >= 1")])
        inputs = [one for one in op.walk() if isinstance(one, QuantizeOp) and _readers(one)]
        inputs = _legal(inputs, keep=keeps(self.illegal))
        if not inputs:
            return
        store = store_of(ctx, self.name)
        every = chosen(ctx, self.name, len(inputs), lambda: self._choose(ctx, op, inputs))
        for one, columns in zip(inputs, every, strict=True):
            if len(columns) > _columns(one):
                _expand(op, store, one, columns)

    def _choose(self, ctx: Context, op: ModuleOp, inputs: list[QuantizeOp]) -> Iterator[Tensor]:
        """Give the channels of every input in order, the first once more where they get a residual, i64[K + S]."""
        import torch

        from qcc.calibrate.statistics import ChannelStatistics
        from qcc.passes.scales import watch_values

        view = float_view(op)
        values = [view.of(one.input) for one in inputs]
        found = {value: ChannelStatistics(_columns(one)) for value, one in zip(values, inputs, strict=True)}
        watch = {value: statistics.add for value, statistics in found.items()}
        watch_values(ctx, view.module, f"transform {self.name}", watch, found)
        for value, one in zip(values, inputs, strict=True):
            order, count = self._chosen(found[value].amax, _block(one))
            yield torch.cat((order, order[:count]))

    def _chosen(self, amax: Tensor, block: int) -> tuple[Tensor, int]:
        """Return the order of the channels, i64[K], and how many of the first get a residual."""
        order = amax.argsort(descending=True, stable=True)
        step = math.lcm(block, self.multiple)
        wanted = int((amax >= self.threshold * amax.max()).sum()) if float(amax.max()) > 0 else 0
        limit = max(step, int(self.share * len(amax)) // step * step)
        count = min(-(-wanted // step) * step, limit)
        return order, count if count <= len(amax) else 0


def _readers(op: QuantizeOp) -> list[ContractOp]:
    return [use.operation for use in op.result.uses if isinstance(use.operation, ContractOp) and use.index == 0]


def _columns(op: QuantizeOp) -> int:
    return type_of(op.input).shape[-1].constant or 0


def _qtype(op: QuantizeOp) -> QType:
    qtype = type_of(op.result).qtype
    assert qtype is not None  # the verifier holds this
    return qtype


def _block(op: QuantizeOp) -> int:
    """Return the least number of columns that is whole blocks of the input's format and of all weights."""
    types = [_qtype(op), *(type_of(one.weight).qtype for one in _readers(op))]
    return math.lcm(*(part.block[-1] for one in types if one for part in parameter_parts(one) if part.block[-1] > 0))


def _legal(inputs: Sequence[QuantizeOp], *, keep: bool) -> list[QuantizeOp]:
    """Return the inputs that may get residual channels; refuse if others are there, unless they keep their form."""
    refusals = Refusals(WHAT, keep=keep)
    for op in inputs:
        with refusals.collect(op):
            if found := _refusals(op):
                raise IllegalFold(WHAT, [Problem(_name(op), "; ".join(found), _FIX)])
    refusals.raise_any()
    return [one for one in inputs if NOT_FOLDED not in one.attributes]


def _refusals(op: QuantizeOp) -> list[str]:
    """Say why the codes of the first channels would not be what they were, or cannot be read twice."""
    qtype, uses = _qtype(op), list(op.result.uses)
    stored = [one.weight.owner for one in _readers(op)]
    to_solve = [one for one in stored if isinstance(one, QuantizeOp) and isinstance(one.input.owner, WeightOp)]
    found: list[str] = []
    if len(to_solve) < len(uses):
        found.append("something else than layers with weights that are still to be solved reads its codes")
    if op.parameters or qtype.when != "dynamic":
        found.append(f"'{qtype}' has scales that are chosen before the residual is known")
    blocks = [part.block[-1] for part in parameter_parts(qtype)]
    if qtype.sides or not any(one > 0 for one in blocks):
        found.append(f"'{qtype}' has no blocks along the columns, so a residual would share the scale of what it is of")
    elif _columns(op) % _block(op):
        found.append(f"{_columns(op)} columns are no whole blocks of {_block(op)}")
    wide = [part.level for part in parameter_parts(qtype) if part.level is not None and part.block[-1] < 0]
    if any(level.statistic not in ("amax", "constant") for level in wide):
        found.append(f"a scale of '{qtype}' over all channels would change with the residual")
    return found


def _name(op: QuantizeOp) -> str:
    names = [layer_name(one) for one in _readers(op)]
    return ", ".join(reversed(names)) or op.where


def _expand(module: ModuleOp, store: WeightStore, op: QuantizeOp, columns: Tensor) -> None:
    """Sort the channels, join the residual of the first, and let the layers read both."""
    import torch

    qtype, readers = _qtype(op), _readers(op)
    order, count = columns[: _columns(op)], len(columns) - _columns(op)
    numbers: list[WeightOp] = []
    for wish, value in (("channel_order", order), ("residual_source", torch.arange(count))):
        key = store.fresh_key(wish)
        store[key] = value
        numbers.append(WeightOp(key, tensor([len(value)], "i64")))
    sorted_ = PermuteOp(op.input, numbers[0], type_of(op.input).rank - 1)
    expanded = ExpandKOp("residual", sorted_, numbers[1], qtype)
    coded = QuantizeOp(expanded, qtype)
    made = [*numbers, sorted_, expanded, coded]
    for one in made:
        set_location(one, op.where)
    Rewriter.insert_op(made, InsertPoint.before(op))
    for reader in readers:
        _widen(module, store, reader, coded, columns, count)
    Rewriter.erase_op(op)


def _widen(
    module: ModuleOp, store: WeightStore, layer: ContractOp, value: QuantizeOp, columns: Tensor, count: int
) -> None:
    from qcc.passes.fold_weights import erase_weight

    old = layer.weight.owner
    assert isinstance(old, QuantizeOp)  # _refuse_illegal saw to it
    weight = old.input.owner
    assert isinstance(weight, WeightOp)
    stored = stored_beside(store, weight, store.tensor(weight.key.data)[:, columns], "residual")
    coded = QuantizeOp(stored, _qtype(old))
    coded.attributes.update(old.attributes)
    Rewriter.insert_op([stored, coded], InsertPoint.before(layer))
    layer.operands[0], layer.operands[1] = value.result, coded.result
    layer.attributes[RESIDUAL] = IntegerAttr(count, i64)
    if not old.result.uses:
        Rewriter.erase_op(old)
    if not weight.result.uses:
        erase_weight(module, store, weight)

"""Give static activations their scales and zero points, from what the values are on calibration samples.

    quantize(x) : A          ->  quantize(x) parameters weight "layer.input.scale0" : A
    quantize(x) : A static root, dynamic leaf  ->  the same, with the scales above the leaf

A format says what of its values its scales come from: the largest magnitude, a percentile, a mean, or the range of
least squared error. The values are those of the float program, all samples run once. Legality: the scales of a static
format span every axis but the last, since its tokens are known at run time only; everything else is refused, all
offenders at once. Nothing is done where no format is static.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from qcc.calibrate.ranges import StaticRange, static_problem
from qcc.errors import Problem, RecipeError, ShapeError
from qcc.ir.base import LAYER, location_of, set_location
from qcc.ir.context import calibration_of, store_of
from qcc.ir.parameters import given_parts, part_type
from qcc.ir.program import WeightOp
from qcc.ir.quant import QuantizeOp
from qcc.ir.store import WeightStore
from qcc.ir.types import type_of
from qcc.numerics.qtype import QType
from qcc.numerics.torch_dtypes import TORCH_DTYPES
from qcc.passes.float_view import float_view
from qcc.passes.scales import each


@dataclass(frozen=True)
class Calibrate(ModulePass):
    """The pass; needs the weight store and samples in the context."""

    name: ClassVar[str] = "calibrate"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module and put the parameters in its store.

        Raises:
            QccError: if there are static formats and no samples.
            RecipeError: listing the formats that cannot be static.
            ShapeError: listing the samples that do not fit, or the values that are not finite or were never seen.
        """
        waiting = [one for one in op.walk() if isinstance(one, QuantizeOp) and _waits(one)]
        if not waiting:
            return
        _refuse_illegal(waiting)
        calibration = calibration_of(ctx, "a static activation format", "use when: dynamic")
        store = store_of(ctx, "calibrate")
        view = float_view(op)
        ranges = {one: StaticRange(_qtype(one), _channels(one), type_of(one.input).rank) for one in waiting}
        watch: dict[SSAValue, list[Callable[[Tensor], None]]] = {}
        for one, found in ranges.items():
            watch.setdefault(view.of(one.input), []).append(found.add)
        calibration.observe(view.module, store, {value: each(calls) for value, calls in watch.items()})
        _refuse_unusable(ranges)
        for one, found in ranges.items():
            _give(one, found, store)


def _qtype(op: QuantizeOp) -> QType:
    qtype = type_of(op.result).qtype
    assert qtype is not None  # the verifier holds this
    return qtype


def _waits(op: QuantizeOp) -> bool:
    """Say whether an operation quantizes a computed value in a format that is static and has no parameters yet."""
    return not op.parameters and not isinstance(op.input.owner, WeightOp) and _qtype(op).when != "dynamic"


def _channels(op: QuantizeOp) -> int:
    channels = type_of(op.input).shape[-1].constant
    assert channels is not None  # _refuse_illegal saw to it
    return channels


def _refuse_illegal(waiting: list[QuantizeOp]) -> None:
    fix = "write granularity: tensor (or channel), or when: dynamic"
    problems: list[Problem] = []
    for op in waiting:
        kind = type_of(op.input)
        if kind.rank == 0 or kind.shape[-1].constant is None:
            problems.append(Problem(op.where, f"has a last axis of unknown length: {kind}", "use when: dynamic"))
        elif what := static_problem(_qtype(op), kind.rank):
            problems.append(Problem(op.where, f"'{_qtype(op)}' {what}", fix))
    if problems:
        raise RecipeError(f"{len(problems)} static formats cannot be calibrated", problems)


def _refuse_unusable(ranges: dict[QuantizeOp, StaticRange]) -> None:
    problems: list[Problem] = []
    for op, found in ranges.items():
        if found.channels.not_finite:
            what = f"{found.channels.not_finite} values are not finite on the calibration samples"
            problems.append(Problem(op.where, what, "look at the samples, or leave this layer in float"))
        elif not found.channels.count:
            problems.append(Problem(op.where, "no sample has values here", "give samples that are not empty"))
    if problems:
        raise ShapeError("static scales cannot be computed from these samples", problems)


def _give(op: QuantizeOp, found: StaticRange, store: WeightStore) -> None:
    """Replace an operation by one that reads its parameters from the store."""
    qtype, tensors = _qtype(op), found.parameters()
    weights: list[WeightOp] = []
    for part in given_parts(qtype):
        kind = part_type(type_of(op.input).shape, part)
        key = store.fresh_key(f"{_name(op)}.input.{part.name}")
        store[key] = tensors[part.name].to(TORCH_DTYPES[kind.scalar])
        weights.append(WeightOp(key, kind))
    given = QuantizeOp(op.input, qtype, weights)
    given.attributes.update(op.attributes)
    set_location(given, location_of(op))
    Rewriter.replace_op(op, [*weights, given], [given.result])


def _name(op: QuantizeOp) -> str:
    """Return the name of the layer that reads the value first, else the place it comes from."""
    for use in op.result.uses:
        name = use.operation.attributes.get(LAYER)
        if isinstance(name, StringAttr):
            return name.data
    return location_of(op).split(" ")[0] or "value"

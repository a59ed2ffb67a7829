"""What folds of scales share: statistics of the channels, conditions of the proof, and the rewrite."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

from qcc.calibrate.statistics import ChannelStatistics
from qcc.errors import Problem, ShapeError
from qcc.ir.base import QccOperation
from qcc.ir.context import calibration_of, store_of
from qcc.ir.program import StateOp, WeightOp
from qcc.ir.store import WeightStore
from qcc.ir.types import type_of
from qcc.numerics.torch_dtypes import TORCH_DTYPES
from qcc.passes.channels import OUTSIDE, Place
from qcc.passes.fold_weights import Diagonal, fold
from qcc.passes.legality import Proof

LARGEST = 2.0**20
"""The largest factor, and its inverse the smallest: a channel that is all but dead is not blown up."""


def observe_channels(ctx: Context, module: ModuleOp, user: str, seeds: Sequence[Place]) -> list[ChannelStatistics]:
    """Run the samples once and return the statistics of the channels of each seed, in order.

    Raises:
        QccError: if the compilation was given no samples.
        ShapeError: if samples do not fit, or a value is not finite or was never seen.
    """
    statistics = [ChannelStatistics(seed.atoms.size) for seed in seeds]
    watch: dict[SSAValue, list[Callable[[Tensor], None]]] = {}
    for seed, found in zip(seeds, statistics, strict=True):
        watch.setdefault(seed.value, []).append(_channels_last(seed, found.add))
    every = {value: each(calls) for value, calls in watch.items()}
    seen = {seed.value: found for seed, found in zip(seeds, statistics, strict=True)}
    watch_values(ctx, module, user, every, seen)
    return statistics


def watch_values(
    ctx: Context,
    module: ModuleOp,
    user: str,
    watch: Mapping[SSAValue, Callable[[Tensor], None]],
    statistics: Mapping[SSAValue, ChannelStatistics],
) -> None:
    """Run the samples once on the weights as the program declares them, whatever folds have left behind.

    Raises:
        QccError: if the compilation was given no samples.
        ShapeError: if samples do not fit, or one of `statistics` then tells that a value is not finite or never seen.
    """
    calibration = calibration_of(ctx, user, "leave the transform away")
    calibration.observe(module, as_declared(module, store_of(ctx, user)), watch)
    problems = [
        Problem(_where(value), f"{found.not_finite} values are not finite" if found.count else "no sample has values")
        for value, found in statistics.items()
        if found.not_finite or not found.count
    ]
    if problems:
        raise ShapeError(f"{user} cannot use these samples", problems)


def as_declared(module: ModuleOp, store: WeightStore) -> WeightStore:
    """Return the weights of a module in the types that it declares; tensors that have them already are shared."""
    kinds = {op.key.data: type_of(op.result) for op in module.walk() if isinstance(op, WeightOp | StateOp)}
    plain = {key: kind for key, kind in kinds.items() if kind.qtype is None}
    return WeightStore({
        key: store.tensor(key).to(TORCH_DTYPES[plain[key].scalar]) if key in plain else store[key]
        for key in store
    })  # fmt: skip


def _channels_last(seed: Place, add: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
    def see(value: Tensor) -> None:
        first = value.dim() - len(seed.axes)
        add(value.movedim(seed.axes, tuple(range(first, value.dim()))).flatten(first))

    return see


def each(calls: Sequence[Callable[[Tensor], None]]) -> Callable[[Tensor], None]:
    """Return what shows a value to several that watch it."""

    def see(value: Tensor) -> None:
        for call in calls:
            call(value)

    return see


def _where(value: SSAValue) -> str:
    owner = value.owner
    return owner.where if isinstance(owner, QccOperation) else "an input"


def column_amax(store: WeightStore, proof: Proof) -> Tensor:
    """Return f64[N]: the largest magnitude of the weights that read each channel, over all consumers and copies."""
    found = torch.zeros(proof.size, dtype=torch.float64)
    for one in proof.consumers:
        weight = store.tensor(one.key).double().abs().movedim(one.place.axes[0], -1)
        atoms = torch.from_numpy(one.place.atoms).flatten()
        inside = atoms != OUTSIDE
        columns = weight.flatten(0, -2).amax(0)[inside]
        found.scatter_reduce_(0, atoms[inside] % proof.size, columns, "amax")
    return found


def over_classes(proof: Proof, values: Tensor) -> Tensor:
    """Give channels that must get one factor the largest of their values, f64[N]."""
    classes = torch.from_numpy(proof.classes)
    largest = torch.full((int(classes.max()) + 1,), -torch.inf, dtype=torch.float64)
    return largest.scatter_reduce(0, classes, values.double(), "amax")[classes]


def bounded(scales: Tensor) -> Tensor:
    """Keep scales within `LARGEST` and its inverse; what is no positive number (a dead channel) becomes 1."""
    usable = torch.isfinite(scales) & (scales > 0)
    return torch.where(usable, scales.clamp(1 / LARGEST, LARGEST), 1.0)


def divide_channels(module: ModuleOp, store: WeightStore, proof: Proof, scales: Tensor, suffix: str) -> None:
    """Divide the channels of a space by positive scales f64[N]: what reads them is multiplied."""
    fold(module, store, proof, Diagonal(1 / scales), suffix)

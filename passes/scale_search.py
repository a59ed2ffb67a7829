"""Choose the scales of a site by the error that quantization leaves in the layers behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

from qcc.calibrate.statistics import ChannelStatistics, rows_of
from qcc.errors import ShapeError
from qcc.ir.context import chosen, store_of
from qcc.ir.nn import LinearOp
from qcc.ir.store import WeightStore
from qcc.numerics.qtype import QType
from qcc.numerics.quantize import fake_quantize
from qcc.passes.channels import OUTSIDE
from qcc.passes.layer_schemes import scheme_of
from qcc.passes.legality import Binding, Proof
from qcc.passes.scales import bounded, divide_channels, each, over_classes, watch_values
from qcc.recipes.load import load_recipe

STEPS = 20
"""Exponents tried: 0, 1/20, ..., 1, as AWQ does."""

DEFAULT = 0.5
"""The exponent where nothing is quantized, so that no error can choose."""


class RowSample:
    """At most `limit` rows of a value `[..., K]`, spread evenly over all that were added, float32."""

    def __init__(self, limit: int = 256) -> None:
        self._limit, self._stride, self._seen = limit, 1, 0
        self._rows: list[Tensor] = []

    def add(self, value: Tensor) -> None:
        """Add the rows of one value; every `stride`-th row of all stays, and the stride doubles when they are many."""
        rows = rows_of(value).float()
        first = -self._seen % self._stride
        self._rows += list(rows[first :: self._stride].clone())
        self._seen += len(rows)
        while len(self._rows) > self._limit:
            self._rows = self._rows[::2]
            self._stride *= 2

    @property
    def rows(self) -> Tensor:
        """The rows, f32[R, K]."""
        return torch.stack(self._rows)


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer behind a site: its stored columns, its formats (None for float), and what it was given."""

    binding: Binding
    weights: QType | None
    activations: QType | None
    sample: RowSample
    statistics: ChannelStatistics

    @property
    def channels(self) -> Tensor:
        """The channel of each column, i64[K]; `OUTSIDE` for a column that is none."""
        return torch.from_numpy(self.binding.place.atoms).flatten()

    def error(self, weight: Tensor, scales: Tensor, *, with_activations: bool) -> float:
        """Return the squared error of the layer's output on the sample when its channels are divided by scales."""
        size, channels = len(scales), self.channels
        columns = torch.where(channels == OUTSIDE, 1.0, scales[channels % size]).float()
        rows, weight = self.sample.rows, weight.float()
        wanted = rows @ weight.T
        scaled = weight * columns
        coded = scaled if self.weights is None else fake_quantize(scaled, self.weights)
        given = rows / columns
        if with_activations and self.activations is not None:
            given = fake_quantize(given, self.activations)
        return float((given @ coded.T - wanted).double().square().sum())


def readers_of_sites(
    ctx: Context, module: ModuleOp, user: str, recipe: str, proofs: Sequence[Proof]
) -> list[list[Reader]]:
    """Run the samples once and return the linear layers behind each site, with what they were given.

    Raises:
        QccError: if there are no samples.
        ShapeError: if samples do not fit, or a value is not finite or was never seen.
    """
    samples: dict[SSAValue, tuple[RowSample, ChannelStatistics]] = {}
    watch: dict[SSAValue, Callable[[Tensor], None]] = {}
    found: list[list[Reader]] = []
    for proof in proofs:
        readers: list[Reader] = []
        for one in proof.consumers:
            if not isinstance(one.op, LinearOp):
                continue
            value = one.op.input
            if value not in samples:
                samples[value] = RowSample(), ChannelStatistics(one.place.atoms.size)
                watch[value] = each([part.add for part in samples[value]])
            readers.append(Reader(one, *_formats(recipe, one.op), *samples[value]))
        found.append(readers)
    watch_values(ctx, module, user, watch, {value: statistics for value, (_, statistics) in samples.items()})
    return found


def _formats(recipe: str, layer: LinearOp) -> tuple[QType | None, QType | None]:
    scheme = scheme_of(load_recipe(recipe), layer)
    weights = None if scheme.reason else scheme.weights.qtype()
    activations = None if scheme.reason or scheme.activations.is_float else scheme.activations.qtype()
    return weights, activations if activations is None or activations.when == "dynamic" else None


def channel_maximum(
    proof: Proof, readers: Iterable[Reader], statistic: Callable[[ChannelStatistics], Tensor]
) -> Tensor:
    """Return f64[N]: the largest of a statistic over the columns of all readers that are one channel or tied to it."""
    found = torch.zeros(proof.size, dtype=torch.float64)
    for one in readers:
        inside = one.channels != OUTSIDE
        values = statistic(one.statistics).double()[inside]
        found.scatter_reduce_(0, one.channels[inside] % proof.size, values, "amax")
    return over_classes(proof, found)


def best_scales(
    ctx: Context,
    proof: Proof,
    readers: Sequence[Reader],
    scales_of: Callable[[float], Tensor],
    *,
    with_activations: bool,
) -> Tensor | None:
    """Return the scales f64[N] of least error over all readers, or None where nothing beats leaving them at 1.

    `scales_of` gives the scales of an exponent from 0 to 1.
    """
    quantized = [
        one for one in readers if one.weights is not None or (with_activations and one.activations is not None)
    ]
    if not quantized:
        return over_classes(proof, bounded(scales_of(DEFAULT)))
    store: WeightStore = store_of(ctx, "a search of scales")
    weights = [store.tensor(one.binding.key).double() for one in quantized]

    def error(scales: Tensor) -> float:
        pairs = zip(quantized, weights, strict=True)
        return sum(one.error(weight, scales, with_activations=with_activations) for one, weight in pairs)

    best, least = None, error(torch.ones(proof.size, dtype=torch.float64))
    for step in range(STEPS + 1):
        scales = over_classes(proof, bounded(scales_of(step / STEPS)))
        try:
            found = error(scales)
        except ShapeError:
            continue  # scaled so far apart, the weights have scales that their format cannot store
        if found < least:
            best, least = scales, found
    return best


def scale_sites(
    ctx: Context,
    module: ModuleOp,
    name: str,
    recipe: str,
    proofs: Sequence[Proof],
    statistic: Callable[[ChannelStatistics], Tensor],
    family: Callable[[Proof, Tensor], Callable[[float], Tensor]],
    *,
    with_activations: bool,
) -> None:
    """Search the exponent of every site and fold the scales that it gives, where any beats leaving them at 1.

    `family` gives the scales f64[N] of an exponent, from the statistic f64[N] of the channels of a site. `name` is the
    transform, after which untied weights are called.

    Raises:
        QccError: if there are no samples.
        ShapeError: if samples do not fit, or a value is not finite or was never seen.
    """

    def search() -> Iterator[Tensor]:
        sites = readers_of_sites(ctx, module, f"transform {name}", recipe, proofs)
        for proof, readers in zip(proofs, sites, strict=True):
            scales_of = family(proof, channel_maximum(proof, readers, statistic))
            found = best_scales(ctx, proof, readers, scales_of, with_activations=with_activations)
            yield torch.ones(0) if found is None else found

    for proof, scales in zip(proofs, chosen(ctx, name, len(proofs), search), strict=True):
        if len(scales):
            divide_channels(module, store_of(ctx, name), proof, scales, name)

"""Prepare rows for the fit of digit planes: centred, scaled, sorted, with prefix sums."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from qcc.numerics.tiling import tiles

# Edges of a long row's bins: as many samples of the row, and as many at equal distances.
SKETCH_EDGES = 1 << 14


@dataclass(frozen=True)
class Frame:
    """Say how rows map to magnitudes of at most 1, x = centre + scale·y, each `[b, 1]`.

    `low` and `high` are the extremes of y; a row that is not `finite` counts as zeros.
    """

    centre: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor
    finite: Tensor


@dataclass(frozen=True)
class SortedRows:
    """Hold rows in ascending order, as single elements or as bins of them.

    `points [b, m]` are the elements or the means of the bins, then infinities; `counts` and `sums [b, m + 1]` are
    prefix sums over them, `energy [b]` is the sum of squares, `low` and `high [b, 1]` are the extremes.
    """

    points: Tensor
    counts: Tensor
    sums: Tensor
    energy: Tensor
    low: Tensor
    high: Tensor

    def take(self, index: Tensor) -> SortedRows:
        """Give the rows of an index `[k]`."""
        return SortedRows(
            self.points[index],
            self.counts[index],
            self.sums[index],
            self.energy[index],
            self.low[index],
            self.high[index],
        )


def frame_of(x: Tensor, valid: Tensor | None, *, centred: bool) -> Frame:
    """Measure the rows of `x [b, g]`; one without valid elements counts as zeros."""
    least = x if valid is None else x.masked_fill(~valid, float("inf"))
    low = least.amin(1, keepdim=True).to(torch.float64)
    del least
    most = x if valid is None else x.masked_fill(~valid, float("-inf"))
    high = most.amax(1, keepdim=True).to(torch.float64)
    finite = low.isfinite() & high.isfinite()
    low, high = low.where(finite, 0.0), high.where(finite, 0.0)
    if valid is not None:
        finite = finite | ~valid.any(1, keepdim=True)
    centre = low / 2 + high / 2 if centred else torch.zeros_like(low)
    low, high = low - centre, high - centre
    scale = torch.maximum(low.abs(), high.abs())
    scale = scale.where(scale > 0, 1.0)
    return Frame(centre, scale, low / scale, high / scale, finite)


def sorted_rows(x: Tensor, valid: Tensor | None, frame: Frame) -> SortedRows:
    """Sort the valid elements of the rows of `x [b, g]`."""
    scaled = _scaled(x, frame)
    used = frame.finite.expand(x.shape) if valid is None else valid & frame.finite
    points = scaled.masked_fill_(~used, float("inf")).sort(dim=1).values
    number = used.sum(1, keepdim=True).to(torch.float64)
    counts = torch.arange(x.shape[1] + 1, dtype=torch.float64, device=x.device).minimum(number)
    elements = points.masked_fill(points.isinf(), 0.0)
    sums = functional.pad(elements.cumsum(1), (1, 0))
    return SortedRows(points, counts, sums, elements.square().sum(1), frame.low, frame.high)


def sketched_row(x: Tensor, valid: Tensor | None, frame: Frame) -> SortedRows:
    """Sum a row `[1, g]` over bins, for rows too long to sort beside themselves.

    The edges of the bins are a regular sample of the row and points at equal distances, so bins are narrow
    where elements are and no bin is wide.
    """
    sample = x[:, :: max(1, x.shape[1] // SKETCH_EDGES)]
    grid = torch.linspace(-1, 1, SKETCH_EDGES, dtype=torch.float64, device=x.device)
    edges = torch.cat([_scaled(sample, frame).flatten().nan_to_num(0.0).clamp(-1, 1), grid]).sort().values
    counts = edges.new_zeros(len(edges) + 1)
    sums, energy = torch.zeros_like(counts), edges.new_zeros(1)
    for _, columns in tiles(*x.shape):
        scaled = _scaled(x[:, columns], frame).flatten()
        if valid is not None:
            scaled = scaled[valid[0, columns]]
        if not bool(frame.finite):
            scaled = scaled[:0]
        bins = torch.searchsorted(edges, scaled)
        counts += torch.bincount(bins, minlength=len(counts))
        sums += torch.bincount(bins, weights=scaled, minlength=len(counts))
        energy += scaled.square().sum()
    means = torch.where(counts > 0, sums / counts.clamp(min=1), functional.pad(edges, (0, 1), value=1.0))
    points = means.cummax(0).values[None]
    totals = [functional.pad(part.cumsum(0), (1, 0))[None] for part in (counts, sums)]
    return SortedRows(points, totals[0], totals[1], energy, frame.low, frame.high)


def _scaled(x: Tensor, frame: Frame) -> Tensor:
    return (x.to(torch.float64) - frame.centre).div_(frame.scale)

"""Count values in bins of equal relative width, so that percentiles and clipping errors can be told afterwards."""

from __future__ import annotations

import torch
from torch import Tensor

from qcc.calibrate.statistics import rows_of

_MANTISSA = 7
_OCTAVES = 16
BINS = _OCTAVES << _MANTISSA
"""Bins a block and sign: 128 for each of 16 octaves, the highest of which holds the largest magnitude seen."""

RESOLUTION = 2.0**-_MANTISSA
"""A bin's upper edge is at most this share above its lower one."""

_PART = 1 << 20


class Histogram:
    """Magnitudes of each block of `group` channels, or values where `signed`; -1 makes one block of all channels.

    The bins of a block end at the octave of its largest magnitude, and magnitudes below 2^-15 of that octave share
    the lowest bin. As the octave rises bins move down; the counts after all rows depend on no order. Memory is 16 KB
    a block and sign, whatever is added.
    """

    def __init__(self, channels: int, group: int = -1, *, signed: bool = False) -> None:
        group = channels if group == -1 else group
        self._block_of = torch.arange(channels) // max(group, 1)
        self.blocks = int(self._block_of[-1]) + 1 if channels else 0
        self._base = torch.zeros(self.blocks, dtype=torch.int64)
        self.counts = torch.zeros(1 + signed, self.blocks, BINS, dtype=torch.int64)

    def add(self, value: Tensor) -> None:
        """Count the entries of a value `[..., K]` in float32; those that are not finite are left out."""
        rows = rows_of(value).to(torch.float32)
        for part in rows.split(max(1, _PART // max(rows.shape[1], 1))):
            if part.numel():
                self._add(part)

    def _add(self, rows: Tensor) -> None:
        keys = (rows.abs().contiguous().view(torch.int32) >> (23 - _MANTISSA)).to(torch.int64)
        finite = torch.isfinite(rows)
        top = torch.zeros(self.blocks, dtype=torch.int64)
        top.scatter_reduce_(0, self._block_of, keys.masked_fill(~finite, 0).amax(0), "amax")
        self._rise((((top >> _MANTISSA) - _OCTAVES + 1) << _MANTISSA).clamp(min=0))
        bins = (keys - self._base[self._block_of]).clamp(min=0) + self._block_of * BINS
        if len(self.counts) == 2:
            bins += (rows < 0).to(torch.int64) * (self.blocks * BINS)
        self.counts += torch.bincount(bins[finite], minlength=self.counts.numel()).view_as(self.counts)

    def _rise(self, base: Tensor) -> None:
        """Move the bins of every block so that they start no lower than at `base`."""
        by = (base - self._base).clamp(min=0)
        if not bool(by.any()):
            return
        self._base += by
        source = torch.arange(BINS) + by[:, None]
        inside = source < BINS
        moved = self.counts.gather(2, source.clamp(max=BINS - 1).expand_as(self.counts)) * inside
        below = (self.counts * (torch.arange(BINS) < by[:, None])).sum(2)
        moved[:, :, 0] += below
        self.counts = moved

    def edges(self) -> Tensor:
        """Return the edges of all bins, `[blocks, BINS + 1]`: bin i holds magnitudes from edge i up to edge i + 1."""
        keys = self._base[:, None] + torch.arange(BINS + 1)
        edges = (keys << (23 - _MANTISSA)).to(torch.int32).view(torch.float32)
        edges.clamp_(max=torch.finfo(torch.float32).max)
        edges[:, 0] = 0.0
        return edges

    def values(self) -> tuple[Tensor, Tensor]:
        """Return what the bins stand for and how often, both `[blocks, n]`, in ascending order of the values.

        A bin stands for its middle, the lowest one for zero.
        """
        edges = self.edges()
        middles = (edges[:, 1:] / 2 + edges[:, :-1] / 2).contiguous()
        middles[:, 0] = 0.0
        if len(self.counts) == 1:
            return middles, self.counts[0]
        return torch.cat([-middles.flip(1), middles], 1), torch.cat([self.counts[1].flip(1), self.counts[0]], 1)

    def percentile(self, percent: float, *, negated: bool = False) -> Tensor:
        """Return `[blocks]` the value that `percent` per cent of the entries, or of their negatives, do not exceed.

        It is the upper edge of the bin where that is reached: at most `RESOLUTION` above the exact one, as long as
        this is not among the magnitudes that share the lowest bin.
        """
        edges, planes = self.edges(), list(self.counts)
        if len(planes) == 1:
            counts, upper = planes[0], edges[:, 1:]
        else:
            positive, negative = planes[::-1] if negated else planes
            counts = torch.cat([negative.flip(1), positive], 1)
            upper = torch.cat([-edges[:, :-1].flip(1), edges[:, 1:]], 1)
        total = counts.sum(1, keepdim=True)
        wanted = (total.double() * (percent / 100)).ceil().clamp(min=1)
        reached = (counts.cumsum(1) < wanted).sum(1, keepdim=True).clamp(max=counts.shape[1] - 1)
        return torch.where(total > 0, upper.gather(1, reached), 0.0).squeeze(1)

"""Sums over samples: the noise of a layer, and what values are like."""

from __future__ import annotations

import math

import torch

from qcc.report.model import Histogram, Values

BINS = 128
CHUNK = 1 << 22
"""Elements that are widened to float64 at once."""

LOST_DB = -999.0
"""Stands for noise without any signal, or without bound: JSON has no infinity."""


class Noise:
    """Signal and noise of values against what they should be, summed over samples."""

    def __init__(self) -> None:
        self.signal = self.noise = 0.0
        self.count = 0

    def add(self, exact: torch.Tensor, found: torch.Tensor) -> None:
        """Add values of one sample; both have one shape."""
        left, right = exact.reshape(-1), found.reshape(-1)
        for start in range(0, left.numel(), CHUNK):
            one, other = left[start : start + CHUNK].double(), right[start : start + CHUNK].double()
            self.signal += float(one.square().sum())
            self.noise += float((one - other).square().sum())
        self.count += left.numel()

    @property
    def sqnr_db(self) -> float | None:
        """The ratio in decibels; None where there is no error, `LOST_DB` where nothing is left of the signal."""
        if not self.count or self.noise == 0.0:
            return None
        if not math.isfinite(self.noise) or not 0.0 < self.signal < math.inf:
            return LOST_DB
        return round(10 * math.log10(self.signal / self.noise), 2)

    @property
    def mse(self) -> float:
        """The mean squared error."""
        return float(f"{self.noise / self.count:.6g}") if self.count and math.isfinite(self.noise) else 0.0


class Tally:
    """What the values of a tensor are like, over samples. The range of the bins doubles as larger values come."""

    def __init__(self) -> None:
        self._edge = 0.0
        self._counts = torch.zeros(BINS, dtype=torch.int64)
        self._squares = 0.0
        self._finite = 0
        self._channels: torch.Tensor | None = None
        self._clipped = 0
        self._range: tuple[float, float] | None = None
        self._noise = Noise()

    def add(self, value: torch.Tensor) -> None:
        """Add the values of one sample, `[..., K]` of any float dtype; what is not finite is left out."""
        if not value.numel():
            return
        rows = value.detach().reshape(-1, value.shape[-1] if value.dim() else 1).float().nan_to_num(0.0, 0.0, 0.0)
        peaks = rows.abs().amax(0)
        self._channels = peaks if self._channels is None else torch.maximum(self._channels, peaks)
        flat = rows.reshape(-1)
        self._widen(float(peaks.max()))
        self._squares += float(flat.double().square().sum())
        self._finite += flat.numel()
        edge = self._edge or 1.0
        self._counts += torch.histc(flat, BINS, -edge, edge).to(torch.int64)

    def add_codes(self, exact: torch.Tensor, decoded: torch.Tensor) -> None:
        """Add what a format makes of values: its range, what is outside it, and the noise."""
        if not exact.numel():
            return
        low, high = float(decoded.min()), float(decoded.max())
        known = self._range or (low, high)
        self._range = (min(known[0], low), max(known[1], high))
        self._clipped += int(((exact > high) | (exact < low)).sum())
        self._noise.add(exact, decoded)

    def _widen(self, peak: float) -> None:
        if self._edge == 0.0 and peak > 0:
            self._edge = 2.0 ** math.ceil(math.log2(peak))
            # what came before was zero, and its bin stays in the middle
        while self._edge and peak > self._edge:
            halves = self._counts.reshape(-1, 2).sum(1)
            self._counts = torch.cat([halves.new_zeros(BINS // 4), halves, halves.new_zeros(BINS // 4)])
            self._edge *= 2

    def values(self) -> Values:
        """Return what was found."""
        rms = math.sqrt(self._squares / self._finite) if self._finite else 0.0
        channels = torch.zeros(1) if self._channels is None else self._channels
        peak, median = float(channels.max()), float(channels.median())
        return Values(
            histogram=self._histogram(peak),
            peak=_short(peak),
            rms=_short(rms),
            outliers=_short(peak / rms) if rms else 0.0,
            channel_outliers=_short(peak / median) if median else 0.0,
            clip_low=None if self._range is None else _short(self._range[0]),
            clip_high=None if self._range is None else _short(self._range[1]),
            clipped=_short(self._clipped / self._noise.count) if self._noise.count else 0.0,
            sqnr_db=self._noise.sqnr_db if self._range is not None else None,
        )

    def _histogram(self, peak: float) -> Histogram:
        """Cut the bins to those that values reach, symmetric about zero."""
        edge = self._edge or 1.0
        width = 2 * edge / BINS
        half = min(BINS // 2, math.floor(peak / width) + 1)  # a value on an edge is in the bin above
        counts = self._counts[BINS // 2 - half : BINS // 2 + half]
        return Histogram(low=-half * width, high=half * width, counts=tuple(int(one) for one in counts))


def _short(value: float) -> float:
    """Round to 5 digits: what a report shows, and no more bytes than that."""
    return float(f"{value:.5g}")

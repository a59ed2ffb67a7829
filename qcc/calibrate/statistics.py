"""Add up statistics of a value `[..., K]` over many samples: by channel, and the products of channels.

Sums are in float64, so that they depend little on how samples are cut.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_SAFE_EXPONENT = 40
"""Magnitudes from 2^-40 to 2^40 are multiplied in float32 as they are: their squares neither overflow nor vanish."""


_ROWS = 256
"""Rows of a matrix of products that are computed at once: temporaries stay small beside the matrix."""


def rows_of(value: Tensor) -> Tensor:
    """Return a value `[..., K]` as rows `[R, K]` of float32 or float64."""
    rows = value.detach().reshape(-1, value.shape[-1])
    return rows if rows.dtype == torch.float64 else rows.to(torch.float32)


class ChannelStatistics:
    """Extremes and means of every channel, the entries of the last axis, over all rows that were added.

    Every result is `[K]`; sums are float64, extremes have the dtype of the values. Before any row is added there are
    none: `count` is 0 and the results are those of no rows (extremes -inf and inf, means NaN).
    """

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.count = 0
        self.not_finite = 0
        self.low = torch.full((channels,), math.inf)
        self.high = torch.full((channels,), -math.inf)
        self._sum = torch.zeros(channels, dtype=torch.float64)
        self._sum_abs = torch.zeros(channels, dtype=torch.float64)
        self._sum_squares = torch.zeros(channels, dtype=torch.float64)

    def add(self, value: Tensor) -> None:
        """Add the rows of a value `[..., K]`; entries that are not finite are counted and left out of everything."""
        rows = rows_of(value)
        if not len(rows):
            return
        finite = torch.isfinite(rows)
        if not bool(finite.all()):
            self.not_finite += int((~finite).sum())
            rows = rows.masked_fill(~finite, 0.0)
        self.count += len(rows)
        self.low = torch.minimum(self.low, rows.amin(0))
        self.high = torch.maximum(self.high, rows.amax(0))
        wide = rows.double()
        self._sum += wide.sum(0)
        self._sum_abs += wide.abs().sum(0)
        self._sum_squares += wide.square().sum(0)

    @property
    def amax(self) -> Tensor:
        """The largest magnitude."""
        return torch.maximum(self.high, -self.low)

    @property
    def mean(self) -> Tensor:
        """The mean value."""
        return self._sum / self._rows

    @property
    def mean_abs(self) -> Tensor:
        """The mean magnitude."""
        return self._sum_abs / self._rows

    @property
    def rms(self) -> Tensor:
        """The root of the mean square."""
        return (self._sum_squares / self._rows).sqrt()

    @property
    def sums(self) -> tuple[Tensor, Tensor]:
        """The sums of magnitudes and of squares, from which means over several channels are made."""
        return self._sum_abs, self._sum_squares

    @property
    def _rows(self) -> float:
        return self.count or math.nan


class Hessian:
    """The sum over rows x of x xᵀ, `[K, K]` float64: twice this is the Hessian of |(W - Ŵ) x|² in each row of W.

    Products are taken in float32 on rows scaled by a power of two, and added in float64.
    """

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.count = 0
        self.not_finite = 0
        self.matrix = torch.zeros(channels, channels, dtype=torch.float64)

    def joined(self, other: Hessian) -> Hessian:
        """Return the sum over the rows of both."""
        found = Hessian(self.channels)
        found.count, found.not_finite = self.count + other.count, self.not_finite + other.not_finite
        torch.add(self.matrix, other.matrix, out=found.matrix)
        return found

    def add(self, value: Tensor) -> None:
        """Add the rows of a value `[..., K]`; rows that are not finite throughout are counted and left out."""
        rows = rows_of(value)
        finite = torch.isfinite(rows).all(1)
        if not bool(finite.all()):
            self.not_finite += int((~finite).sum())
            rows = rows[finite]
        peak = float(rows.abs().max()) if rows.numel() else 0.0
        self.count += len(rows)
        if peak == 0.0:
            return
        exponent = math.frexp(peak)[1]
        shift = 0 if abs(exponent) <= _SAFE_EXPONENT else -exponent
        scaled = torch.ldexp(rows, torch.tensor(shift)) if shift else rows
        for start in range(0, self.channels, _ROWS):
            part = slice(start, start + _ROWS)
            self.matrix[part].add_(scaled[:, part].T @ scaled, alpha=4.0**-shift)

"""Choose the largest of very many values exactly, with ties to the lowest index.

The threshold is found by counting the digits of keys that sort as the values do, 16 bits a pass, so that
no sorted copy of a matrix is ever made.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qcc.numerics.side_values import chunks

_DIGIT = 16
_STATES = 1 << _DIGIT


def largest_mask(values: Tensor, count: int, *, magnitude: bool = False) -> Tensor:
    """Mark the `count` largest values (largest magnitudes, if asked): bool of the shape of `values`.

    Ties go to the lowest index in row-major order; -0 equals 0. The order of NaN is not defined: refuse
    it before. `count` is cut to the number of values.
    """
    flat = values.reshape(-1)
    chosen = torch.zeros(flat.shape, dtype=torch.bool, device=flat.device)
    if count >= flat.numel():
        return ~chosen.reshape(values.shape)
    if count > 0:
        threshold, ties = _threshold(flat, count, magnitude)
        for part in chunks(flat.numel()):
            keys = _sort_keys(flat[part], magnitude)
            torch.gt(keys, threshold, out=chosen[part])
            if ties > 0:
                equal = (keys == threshold).nonzero()[:ties, 0]
                chosen[part][equal] = True
                ties -= equal.numel()
    return chosen.reshape(values.shape)


def _threshold(flat: Tensor, count: int, magnitude: bool) -> tuple[int, int]:
    """Give the key of the `count`-th largest value, and how many values equal to it are among the largest."""
    width = 64 if _ordered_dtype(flat.dtype) == torch.float64 else 32
    prefix = 0
    for shift in range(width - _DIGIT, -1, -_DIGIT):
        first = shift == width - _DIGIT
        histogram = torch.zeros(_STATES, dtype=torch.int64, device=flat.device)
        for part in chunks(flat.numel()):
            keys = _sort_keys(flat[part], magnitude)
            if first:
                digits = (keys >> shift) + _STATES // 2
            else:
                digits = (keys[(keys >> (shift + _DIGIT)) == prefix] >> shift) & (_STATES - 1)
            histogram += torch.bincount(digits, minlength=_STATES)
        at_least = histogram.flip(0).cumsum(0)
        below_top = int(torch.searchsorted(at_least, count))
        digit = _STATES - 1 - below_top
        if below_top:
            count -= int(at_least[below_top - 1])
        prefix = digit - _STATES // 2 if first else (prefix << _DIGIT) | digit
    return prefix, count


def _ordered_dtype(dtype: torch.dtype) -> torch.dtype:
    """Give a float dtype that holds values of `dtype` in order: float32, or float64 for float64 and integers."""
    return torch.float32 if dtype.is_floating_point and dtype != torch.float64 else torch.float64


def _sort_keys(values: Tensor, magnitude: bool) -> Tensor:
    """Give signed integers that compare as the values do."""
    real = values.to(_ordered_dtype(values.dtype))
    wide = real.dtype == torch.float64
    kind, sign, ones = (torch.int64, 63, 2**63 - 1) if wide else (torch.int32, 31, 2**31 - 1)
    if magnitude:
        return real.view(kind) & ones
    # The sum turns -0 into 0, which the bits would tell apart.
    bits = (real + 0.0).view(kind)
    return bits ^ ((bits >> sign) & ones)

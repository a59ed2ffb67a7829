"""Fit free coefficients of digit planes to the rows of a matrix by alternating least squares.

A row is one-dimensional data, so the elements nearest to one value of its codebook are an interval of its
sorted elements, and sums over intervals are differences of prefix sums: after one sort, a round costs as much
as the codebook is long, and not as much as the row is. All arithmetic is float64, on rows that are centred
(where there is an offset) and scaled to a magnitude of 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from qcc.numerics.plane_digits import digit_matrix, valid_codes
from qcc.numerics.plane_rows import Frame, SortedRows, frame_of, sketched_row, sorted_rows
from qcc.numerics.qtype_parts import Digits
from qcc.numerics.tiling import TILE_ELEMENTS

ITERATIONS = 24
# Rows that gain less than this share of their error in a round are done.
PROGRESS = 1e-4
# Gains below this share of the row's energy are rounding: an exact start stays as it is.
RESOLUTION = 1e-14
# Pull towards the coefficients of the round before, relative to the number of elements. The normal equations
# of planes that no element uses, or that all use together, are singular without it.
RIDGE = 1e-9

# Where to start from: the ratio of neighbouring coefficients, and the range that the codebook spans as a
# multiple of the standard deviation (0: all of the row). The first one is the uniform grid. Ratios below it
# crowd the values in the middle as the elements of a row are, and end in better optima.
STARTS: dict[Digits, tuple[tuple[float, float], ...]] = {
    "01": ((2.0, 0.0), (1.5, 0.0), (1.6, 2.0)),
    "pm1": ((2.0, 0.0), (1.5, 0.0), (1.6, 2.0)),
    "-101": ((3.0, 0.0), (2.0, 0.0), (1.5, 0.0), (1.5, 2.5)),
}


@dataclass(frozen=True)
class _Book:
    """Hold the digits of all valid codes `[states, n]`, with a column of ones for an offset, and their products."""

    digits: Tensor
    products: Tensor


@dataclass(frozen=True)
class _Cells:
    """Hold what falls to every value of the codebooks, `[b, states]`: its count and its sum, and the error `[b]`."""

    counts: Tensor
    sums: Tensor
    error: Tensor


def fit_planes(
    x: Tensor,
    valid: Tensor | None,
    count: int,
    digits: Digits,
    *,
    offset: bool,
    iterations: int = ITERATIONS,
) -> tuple[Tensor, Tensor | None]:
    """Find coefficients `[B, count]` and offsets `[B]`, in the dtype of `x`, that fit every row of `x [B, g]`.

    Minimises sum over the `valid` elements of (x - sum_j coefficient_j·digit_j - offset)² by turns of nearest
    assignment and least squares, from several starts, and keeps the best: the error never grows with the
    iterations, and never exceeds that of the uniform grid over the range of the row (the smallest to the
    largest element with an offset, plus and minus the largest magnitude without).

    Planes come in ascending order of |coefficient|, and coefficients are not negative (but for the digits `01`
    without an offset). Coefficients of a row that is not finite are NaN, those of a row without valid elements
    0; those that the dtype of `x` cannot hold are clamped to its range. Rows of more than 2^20 elements are
    fitted on sums over about 2^15 bins.

    Sources: ELUTQ (hierarchical linear quantization), PTQTP (trit planes).

    Raises:
        ShapeError: planes whose codes do not fit a byte.
    """
    matrix = digit_matrix(count, digits, torch.float64, x.device)[valid_codes(count, digits, x.device)]
    if offset:
        matrix = functional.pad(matrix, (0, 1), value=1.0)
    book = _Book(matrix, (matrix[:, :, None] * matrix[:, None, :]).flatten(1))
    found = x.new_zeros(x.shape[0], matrix.shape[1])
    for rows in _row_slices(x, matrix.shape[0]):
        mask = None if valid is None else valid[rows]
        frame = frame_of(x[rows], mask, centred=offset)
        held = (sorted_rows if x.shape[1] <= TILE_ELEMENTS else sketched_row)(x[rows], mask, frame)
        starts = [_start(held, count, digits, offset, ratio, deviations) for ratio, deviations in STARTS[digits]]
        best = _canonical(_best_descent(held, book, starts, iterations), count, digits, offset)
        found[rows] = _restored(best, frame, offset, x.dtype)
    return found[:, :count], found[:, count] if offset else None


def _row_slices(x: Tensor, states: int) -> Iterator[slice]:
    """Cut rows so that a row's elements, or the cells of its codebook, fill a tile."""
    step = max(1, TILE_ELEMENTS // max(x.shape[1], states, 1))
    for first in range(0, x.shape[0] if x.shape[1] else 0, step):
        yield slice(first, min(first + step, x.shape[0]))


def _start(held: SortedRows, count: int, digits: Digits, offset: bool, ratio: float, deviations: float) -> Tensor:
    """Give coefficients in a geometric progression that span the range of every row, `[b, n]`."""
    low, high = held.low, held.high
    if deviations:
        number = held.counts[:, -1:].clamp(min=1)
        mean = held.sums[:, -1:] / number
        reach = deviations * (held.energy[:, None] / number - mean.square()).clamp(min=0).sqrt()
        low, high = torch.maximum(low, mean - reach), torch.minimum(high, mean + reach)
    weights = ratio ** torch.arange(count, dtype=low.dtype, device=low.device)
    weights = weights / weights.sum()
    if digits == "01":
        if offset:
            return torch.cat([weights * (high - low), low], dim=1)
        return _signed(weights, low.clamp(max=0), high.clamp(min=0))
    if offset:
        return torch.cat([weights * (high - low) / 2, (low + high) / 2], dim=1)
    return weights * torch.maximum(low.abs(), high.abs())


def _signed(weights: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Give every coefficient a sign, largest first, so that sums of them cover low <= 0 <= high."""
    below, above, columns = -low, high, list[Tensor]()
    for weight in weights.flip(0):
        part = weight * (high - low)
        up = above >= below
        columns.append(torch.where(up, part, -part))
        above, below = torch.where(up, above - part, above), torch.where(up, below, below - part)
    return torch.cat(columns[::-1], dim=1)


def _best_descent(held: SortedRows, book: _Book, starts: list[Tensor], iterations: int) -> Tensor:
    """Give the best coefficients of each row `[b, n]` that any start leads to; of equal ones, the first start's."""
    best, error = _descend(held, book, starts[0], iterations)
    for start in starts[1:]:
        other, rival = _descend(held, book, start, iterations)
        wins = error - rival > RESOLUTION * held.energy
        best, error = torch.where(wins[:, None], other, best), torch.where(wins, rival, error)
    return best


def _descend(held: SortedRows, book: _Book, start: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Alternate from one start; gives the best coefficients `[b, n]` of each row and their error `[b]`."""
    best, trial = start.clone(), start
    error = torch.full_like(held.energy, float("inf"))
    active = torch.arange(len(start), device=start.device)
    for turn in range(iterations + 1):
        cells = _cells(held, book, trial)
        before = error[active]
        gain = before - cells.error
        better = gain > RESOLUTION * held.energy
        error[active] = torch.where(better, cells.error, before)
        best[active] = torch.where(better[:, None], trial, best[active])
        if turn == iterations:
            break
        moving = (better & (gain > PROGRESS * before)) | before.isinf()
        if not bool(moving.all()):
            keep = moving.nonzero().flatten()
            if len(keep) == 0:
                break
            active, trial, held = active[keep], trial[keep], held.take(keep)
            cells = _Cells(cells.counts[keep], cells.sums[keep], cells.error[keep])
        trial = _least_squares(cells, book, trial, held.counts[:, -1])
    return best, error


def _cells(held: SortedRows, book: _Book, coefficients: Tensor) -> _Cells:
    """Assign every element to the nearest value of its row's codebook."""
    values, order = (coefficients @ book.digits.T).sort(dim=1)
    middles = (values[:, 1:] + values[:, :-1]) / 2
    ends = torch.searchsorted(held.points, middles)
    counts = _between(held.counts, ends)
    sums = _between(held.sums, ends)
    error = held.energy - 2 * (sums * values).sum(1) + (counts * values.square()).sum(1)
    in_code_order = (
        torch.zeros_like(values).scatter_(1, order, counts),
        torch.zeros_like(values).scatter_(1, order, sums),
    )
    return _Cells(*in_code_order, error)


def _between(prefix: Tensor, ends: Tensor) -> Tensor:
    """Take differences of prefix sums between consecutive ends, from the first element to the last."""
    return torch.diff(prefix.gather(1, ends), dim=1, prepend=prefix[:, :1], append=prefix[:, -1:])


def _least_squares(cells: _Cells, book: _Book, before: Tensor, number: Tensor) -> Tensor:
    """Solve for the coefficients given the assignment; a row without elements keeps what it has."""
    size = before.shape[1]
    ridge = RIDGE * number.clamp(min=1)[:, None]
    gram = (cells.counts @ book.products).unflatten(1, (size, size))
    gram = gram + torch.diag_embed(ridge.expand(-1, size))
    right = cells.sums @ book.digits + ridge * before
    return torch.linalg.solve_ex(gram, right.unsqueeze(2))[0].squeeze(2)


def _canonical(found: Tensor, count: int, digits: Digits, offset: bool) -> Tensor:
    """Give the same codebook by coefficients that are not negative and ascend."""
    planes, rest = found[:, :count], found[:, count:]
    if digits == "01" and offset:
        rest = rest + planes.clamp(max=0).sum(1, keepdim=True)
    if digits != "01" or offset:
        planes = planes.abs()
    order = planes.abs().argsort(dim=1, stable=True)
    return torch.cat([planes.gather(1, order), rest], dim=1)


def _restored(found: Tensor, frame: Frame, offset: bool, dtype: torch.dtype) -> Tensor:
    """Undo scaling and centring, within the range of `dtype`."""
    found = found * frame.scale
    if offset:
        found = torch.cat([found[:, :-1], found[:, -1:] + frame.centre], dim=1)
    limit = torch.finfo(dtype).max
    found = found.clamp(-limit, limit).masked_fill(~frame.finite, float("nan"))
    return found.to(dtype)

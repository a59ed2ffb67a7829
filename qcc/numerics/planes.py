"""Encode and decode digit planes with free coefficients (ELUTQ's HLQ, PTQTP's trit planes, bipolar planes).

A row of elements shares its coefficients: value = offset + sum_j coefficient_j · digit_j. The code of an
element holds its digits as `qcc.numerics.plane_digits` says. Everything is torch on the device of the
tensors, in tiles, so that the memory on top of a large matrix stays small.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qcc.errors import Problem, ShapeError
from qcc.numerics.plane_digits import check_planes, digit_matrix, valid_codes
from qcc.numerics.plane_fit import ITERATIONS, fit_planes
from qcc.numerics.qtype_parts import DIGIT_STATES, Digits
from qcc.numerics.tiling import tiles


@dataclass(frozen=True, eq=False)
class PlaneSolution:
    """Codes uint8 `[B, g]`, coefficients `[B, count]`, lowest plane first, and offsets `[B]` or None."""

    codes: Tensor
    coefficients: Tensor
    offset: Tensor | None


def solve_planes(
    x: Tensor,
    valid: Tensor | None,
    count: int,
    digits: Digits,
    *,
    offset: bool,
    iterations: int = ITERATIONS,
) -> PlaneSolution:
    """Find codes and coefficients for every row of `x [B, g]`, float32 or float64.

    Coefficients come from `fit_planes` (in the dtype of `x`; elements that are not `valid`, bool `[B, g]`, have
    no say), codes from `assign_planes`; the code of an element that is not valid is 0.

    Raises:
        ShapeError: `x` is no matrix of floats, `valid` does not fit it, or the codes do not fit a byte.
    """
    _check_matrix(x, valid)
    check_planes(count, digits)
    coefficients, offsets = fit_planes(x, valid, count, digits, offset=offset, iterations=iterations)
    codes = assign_planes(x, coefficients, offsets, digits)
    if valid is not None:
        codes.mul_(valid)
    return PlaneSolution(codes, coefficients, offsets)


def assign_planes(x: Tensor, coefficients: Tensor, offset: Tensor | None, digits: Digits) -> Tensor:
    """Give the code nearest to every element of `x [B, g]` under the coefficients of its row, as uint8.

    Nearest is decided on the exact real values as long as these fit float64, as sums of float16 coefficients
    do; ties go to the lower code. NaN, and every element of a row whose coefficients are not finite, get code 0.

    Raises:
        ShapeError: coefficients or offset do not fit `x`, or the codes do not fit a byte.
    """
    _check_matrix(x, None)
    _check_parameters(x, coefficients, offset, digits)
    codes = torch.empty(x.shape, dtype=torch.uint8, device=x.device)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    states = int(DIGIT_STATES[digits] ** coefficients.shape[1])
    for rows, columns in tiles(*x.shape, width=states):
        part = x[rows, columns].to(dtype).contiguous()
        ends, order = _thresholds(coefficients[rows], None if offset is None else offset[rows], digits, dtype)
        nearest = order.gather(1, torch.searchsorted(ends, part))
        codes[rows, columns] = nearest.masked_fill_(part.isnan(), 0)
    return codes


def plane_values(codes: Tensor, coefficients: Tensor, offset: Tensor | None, digits: Digits) -> Tensor:
    """Decode uint8 codes `[B, g]`: the offset (or 0) plus coefficient·digit, lowest plane first.

    Computed in float64 for float64 coefficients, else in float32, one rounding an operation. Codes that stand
    for nothing (a ternary field of 3) give NaN.

    Raises:
        ShapeError: codes are no uint8 matrix, have bits above the planes, or coefficients or offset do not fit.
    """
    if codes.dtype != torch.uint8 or codes.ndim != 2:
        raise ShapeError(f"cannot decode {codes.dtype} codes of shape {tuple(codes.shape)}", fix="pass uint8 [B, g]")
    _check_parameters(codes, coefficients, offset, digits)
    dtype = torch.float64 if coefficients.dtype == torch.float64 else torch.float32
    count = coefficients.shape[1]
    matrix = digit_matrix(count, digits, dtype, codes.device)
    if codes.numel() and int(codes.max()) >= len(matrix):
        raise ShapeError(f"the code {int(codes.max())} has bits above {count} planes of the digits {digits}")
    values = torch.empty(codes.shape, dtype=dtype, device=codes.device)
    for rows, columns in tiles(*codes.shape, width=len(matrix)):
        weights = coefficients[rows].to(dtype)
        table = weights.new_zeros(len(weights), 1) if offset is None else offset[rows, None].to(dtype)
        for plane in range(count):
            table = table + weights[:, plane : plane + 1] * matrix[:, plane]
        values[rows, columns] = table.expand(-1, len(matrix)).gather(1, codes[rows, columns].to(torch.int64))
    return values


def _thresholds(
    coefficients: Tensor, offset: Tensor | None, digits: Digits, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Give, for every row, ends `[b, states - 1]` and codes uint8 `[b, states]` in the order of their values.

    An element x takes the code at the number of ends below x. Ends are midpoints moved down to the next number of
    `dtype`, so that comparing with them there decides as the exact midpoint does; where the tie belongs to the
    upper value, below the midpoint.
    """
    count = coefficients.shape[1]
    valid = valid_codes(count, digits, coefficients.device)
    matrix = digit_matrix(count, digits, torch.float64, coefficients.device)[valid]
    values = coefficients.to(torch.float64) @ matrix.T
    if offset is not None:
        values = values + offset[:, None].to(torch.float64)
    broken = ~values.isfinite().all(1, keepdim=True)
    values, order = values.masked_fill(broken, 0.0).sort(dim=1, stable=True)
    # Of equal values only the first, which has the lowest code, is ever taken.
    place = torch.arange(len(valid), device=values.device).expand_as(order)
    first = place.masked_fill(torch.diff(values, dim=1, prepend=values[:, :1]) == 0, 0).cummax(1).values
    codes = valid[order].gather(1, first)
    middles = values[:, 1:] / 2 + values[:, :-1] / 2
    upper = codes[:, 1:] < codes[:, :-1]
    below = values.new_full((), float("-inf"))
    middles = torch.where(upper, middles.nextafter(below), middles)
    ends = middles.to(dtype)
    ends = torch.where(ends.to(torch.float64) > middles, ends.nextafter(below.to(dtype)), ends)
    return ends, codes.to(torch.uint8)


def _check_matrix(x: Tensor, valid: Tensor | None) -> None:
    found: list[Problem] = []
    if x.ndim != 2 or not x.is_floating_point():
        found.append(Problem("x", f"is {x.dtype} of shape {tuple(x.shape)}", "pass a float matrix, a row a block"))
    if valid is not None and (valid.dtype != torch.bool or valid.shape != x.shape):
        found.append(Problem("valid", f"is {valid.dtype} of shape {tuple(valid.shape)}", f"pass bool {tuple(x.shape)}"))
    if found:
        raise ShapeError("cannot solve for digit planes", found)


def _check_parameters(rows: Tensor, coefficients: Tensor, offset: Tensor | None, digits: Digits) -> None:
    found: list[Problem] = []
    if coefficients.ndim != 2 or len(coefficients) != len(rows) or not coefficients.is_floating_point():
        what = f"are {coefficients.dtype} of shape {tuple(coefficients.shape)}"
        found.append(Problem("coefficients", what, f"pass floats [{len(rows)}, planes]"))
    if offset is not None and (tuple(offset.shape) != (len(rows),) or not offset.is_floating_point()):
        what = f"is {offset.dtype} of shape {tuple(offset.shape)}"
        found.append(Problem("offset", what, f"pass floats [{len(rows)}]"))
    if found:
        raise ShapeError("the coefficients of digit planes do not fit", found)
    check_planes(coefficients.shape[1], digits)

"""Linear algebra on the Hessian of a layer: made safe to invert, inverted, and used to measure a loss."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from qcc.errors import IllegalFold, Problem, ShapeError

DAMPING = 0.01
"""Share of the mean of the diagonal that is added to it (GPTQ, arXiv 2210.17323, takes 1 %)."""

_TRIES = 6
_ROWS = 128
"""Rows of a matrix that are computed at once: temporaries stay small beside it."""


def check_inputs(weight: Tensor, hessian: Tensor, where: str = "") -> None:
    """Refuse a Hessian that is not of the inputs of a weight `[N, K]`: of another width, or not that of any inputs.

    Raises:
        IllegalFold: naming the weight.
    """
    columns, found = weight.shape[1], tuple(hessian.shape)
    what = f"its Hessian is {list(found)}, and it has {columns} columns" if found != (columns, columns) else ""
    if not what and bool((hessian.diag() < 0).any()):
        what = "its Hessian has a negative diagonal, as no sum of squares of inputs has"
    if what:
        fix = "take the Hessian of what this layer reads, behind every transform (the sum of x^T x of its inputs)"
        raise IllegalFold("a weight cannot be solved for other inputs", [Problem(where, what, fix)])


def conditioned(hessian: Tensor, where: str = "", order: Tensor | None = None) -> Tensor:
    """Return a Hessian symmetric, divided by the mean of its diagonal; of no input at all the identity.

    `order` puts rows and columns in another order. Memory: the result, float64.

    Raises:
        ShapeError: values that are not finite.
    """
    if len(hessian) and not all(map(math.isfinite, torch.aminmax(hessian))):
        what = "its inputs on the calibration samples are not finite, or too large to multiply"
        raise ShapeError("a Hessian cannot be used", [Problem(where, what, "look at the samples")])
    mean = hessian.diag().double().mean() if len(hessian) else hessian.sum()
    if not bool(mean > 0):
        return torch.eye(len(hessian), dtype=torch.float64)
    wide = torch.empty(hessian.shape, dtype=torch.float64)
    for start in range(0, len(hessian), _ROWS):
        part = slice(start, start + _ROWS)
        rows, columns = hessian[part], hessian.T[part]
        if order is not None:
            rows, columns = hessian[order[part]][:, order], hessian.T[order[part]][:, order]
        torch.add(rows.double(), columns.double(), out=wide[part])
    return wide.mul_(0.5 / mean)


def inverse_factor(make: Callable[[], Tensor], damping: float = DAMPING) -> Tensor:
    """Return the upper triangular U with UᵀU = (H + damping·I)⁻¹, float64, for a conditioned H.

    `make` gives H in memory that is overwritten. Of an H that rounding left indefinite the damping is raised until it
    can be factored. Memory: one matrix of the size of H, besides H.

    Raises:
        ShapeError: an H that is far from positive semidefinite.
    """
    for _ in range(_TRIES):
        matrix = make()
        matrix.diagonal().add_(damping)
        failed = torch.empty((), dtype=torch.int32)
        # of wide layers each matrix is half a gigabyte: every step takes the place of the one before
        torch.linalg.cholesky_ex(matrix, out=(matrix, failed))
        if not int(failed):
            torch.cholesky_inverse(matrix, out=matrix)
            torch.linalg.cholesky_ex(matrix, upper=True, out=(matrix, failed))
            if not int(failed):
                return matrix
        del matrix
        damping *= 10
    raise ShapeError("a Hessian is not positive semidefinite: it is no sum of squares")


def output_loss(lost: Tensor, hessian: Tensor) -> float:
    """Return tr(D H Dᵀ) for what a weight lost, D `[N, K]`: the summed squared error of the layer's outputs."""
    wide = lost.double()
    return float(((wide @ hessian) * wide).sum())

"""Linear algebra on the Hessian of a layer: made safe to invert, inverted, and used to measure a loss."""

from __future__ import annotations

import torch
from torch import Tensor

from qcc.errors import Problem, ShapeError

DAMPING = 0.01
"""Share of the mean of the diagonal that is added to it (GPTQ, arXiv 2210.17323, takes 1 %)."""

_TRIES = 6


def conditioned(hessian: Tensor, where: str = "") -> Tensor:
    """Return a Hessian symmetric, divided by the mean of its diagonal; of no input at all the identity.

    Raises:
        ShapeError: values that are not finite.
    """
    if not bool(torch.isfinite(hessian).all()):
        what = "its inputs on the calibration samples are not finite, or too large to multiply"
        raise ShapeError("a Hessian cannot be used", [Problem(where, what, "look at the samples")])
    mean = hessian.diag().double().mean() if len(hessian) else hessian.sum()
    if not bool(mean > 0):
        return torch.eye(len(hessian), dtype=torch.float64)
    wide = hessian.double()
    return (wide + wide.T).mul_(0.5 / mean)


def inverse_factor(hessian: Tensor, damping: float = DAMPING) -> Tensor:
    """Return the upper triangular U with UᵀU = (H + damping·I)⁻¹, float64, for a conditioned H.

    Of an H that rounding left indefinite the damping is raised until it can be factored.

    Raises:
        ShapeError: an H that is far from positive semidefinite.
    """
    for _ in range(_TRIES):
        damped = hessian.clone()
        damped.diagonal().add_(damping)
        lower, failed = torch.linalg.cholesky_ex(damped)
        del damped  # of wide layers each of these is half a gigabyte
        if not int(failed):
            inverse = torch.cholesky_inverse(lower)
            del lower
            upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
            if not int(failed):
                return upper
        damping *= 10
    raise ShapeError("a Hessian is not positive semidefinite: it is no sum of squares")


def output_loss(lost: Tensor, hessian: Tensor) -> float:
    """Return tr(D H Dᵀ) for what a weight lost, D `[N, K]`: the summed squared error of the layer's outputs."""
    wide = lost.double()
    return float(((wide @ hessian) * wide).sum())

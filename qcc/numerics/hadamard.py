"""Build Hadamard matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from qcc.errors import ShapeError


def hadamard(size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Give the Hadamard matrix of Sylvester's construction: `[size, size]`, entries +1 and -1.

    It is symmetric and its product with itself is `size` times the identity, so that dividing by
    `sqrt(size)` makes it orthogonal (Sylvester, Phil. Mag. 34, 1867).

    Raises:
        ShapeError: a size that is no power of two.
    """
    if size < 1 or size & (size - 1):
        raise ShapeError(f"no Hadamard matrix of size {size}", fix="use a power of two")
    matrix = torch.ones(1, 1, dtype=dtype)
    while matrix.shape[0] < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)), 0)
    return matrix

"""Build Hadamard matrices."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qcc.errors import ShapeError
from qcc.numerics.hadamard_sizes import construction_of, field_of, largest_block


def hadamard(size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Give a Hadamard matrix: `[size, size]`, entries +1 and -1.

    Its product with its transpose is `size` times the identity, so that dividing by `sqrt(size)` makes it orthogonal.
    Powers of two are Sylvester's and symmetric (Phil. Mag. 34, 1867); other sizes, such as 12, 20 and 28 times powers
    of two, come from Paley's matrices (J. Math. Phys. 12, 1933) and need not be.

    Raises:
        ShapeError: a size for which no construction is known here.
    """
    match construction_of(size):
        case "unit":
            return torch.ones(1, 1, dtype=dtype)
        case "doubled":
            half = hadamard(size // 2, dtype)
            return torch.cat((torch.cat((half, half), 1), torch.cat((half, -half), 1)), 0)
        case "paley_one":
            return _paley_one(size - 1).to(dtype)
        case "paley_two":
            return _paley_two(size // 2 - 1).to(dtype)
        case None:
            block = largest_block(size) if size > 0 else 1
            fix = f"use blocks of {block}, the largest that divide it" if block > 1 else "use a power of two"
            raise ShapeError(f"no Hadamard matrix of size {size} is known here", fix=fix)


def random_hadamard(size: int, seed: int, block: int | None = None) -> Tensor:
    """Give an orthogonal matrix f64[size / block, block, block]: Hadamard blocks behind random signs.

    Without `block`, the largest that has a matrix and divides `size`; signs as in QuIP# (arXiv 2402.04396).

    Raises:
        ShapeError: for a block that does not divide the size, or has no Hadamard matrix.
    """
    matrix = block_hadamard(size, block)
    signs = torch.randint(0, 2, (*matrix.shape[:2], 1), generator=torch.Generator().manual_seed(seed))
    return (2.0 * signs.double() - 1.0) * matrix


def block_hadamard(size: int, block: int | None = None) -> Tensor:
    """Give the orthogonal matrix f64[size / block, block, block] of which every block is one Hadamard matrix.

    Without `block`, the largest that has a matrix and divides `size`.

    Raises:
        ShapeError: for a block that does not divide the size, or has no Hadamard matrix.
    """
    block = largest_block(size) if block is None else block
    if block < 1 or size % block:
        raise ShapeError(f"blocks of {block} do not divide {size} channels", fix=f"use {largest_block(size)}")
    return (hadamard(block) / math.sqrt(block)).repeat(size // block, 1, 1)


def _paley_one(order: int) -> Tensor:
    """I + S for the skew matrix S that borders the characters of a field of order 3 modulo 4."""
    skew = _bordered(order)
    skew[1:, 0] = -1
    return skew + torch.eye(order + 1)


def _paley_two(order: int) -> Tensor:
    """C x [[1, 1], [1, -1]] + I x [[1, -1], [-1, -1]] for the symmetric C of a field of order 1 modulo 4."""
    outer = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    inner = torch.tensor([[1.0, -1.0], [-1.0, -1.0]])
    return torch.kron(_bordered(order), outer) + torch.kron(torch.eye(order + 1), inner)


def _bordered(order: int) -> Tensor:
    """The characters chi(a_i - a_j) of a field, bordered by ones above and at the left of a zero corner."""
    matrix = torch.ones(order + 1, order + 1)
    matrix[0, 0] = 0
    matrix[1:, 1:] = _characters(order)
    return matrix


def _characters(order: int) -> Tensor:
    """Tell squares (1) from other elements (-1) and zero (0), for all differences of elements of a field."""
    field = field_of(order)
    assert field is not None  # construction_of has asked
    prime, degree = field
    numbers = torch.arange(order)
    first, second = numbers % prime, numbers // prime  # the element first + second * root
    residues = torch.unique(torch.arange(1, prime) ** 2 % prime)
    missing = next(one for one in range(prime) if one and one not in residues.tolist())
    squares = (first**2 + missing * second**2) % prime + prime * (2 * first * second % prime)
    character = torch.full((order,), -1.0)
    character[squares] = 1.0
    character[0] = 0.0
    gap = (first[:, None] - first) % prime + prime * ((second[:, None] - second) % prime)
    return character[gap] if degree == 2 else character[(numbers[:, None] - numbers) % prime]

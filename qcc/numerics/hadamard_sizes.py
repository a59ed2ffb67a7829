"""Which sizes have a Hadamard matrix that qcc can build, and how; needs no torch."""

from __future__ import annotations

from functools import cache
from typing import Literal

Construction = Literal["unit", "doubled", "paley_one", "paley_two"]


@cache
def construction_of(size: int) -> Construction | None:
    """Say how a Hadamard matrix of a size is built, or None where none is known here.

    `doubled` is Sylvester's step from half the size; `paley_one` and `paley_two` take the quadratic characters of a
    field with `size - 1` or `size / 2 - 1` elements (Paley, J. Math. Phys. 12, 1933). Powers of two are all doubled.
    """
    if size == 1:
        return "unit"
    if size < 1 or size % 2 or (size > 2 and size % 4):
        return None
    if construction_of(size // 2) is not None:
        return "doubled"
    if size % 4:
        return None
    if field_of(size - 1) is not None:
        return "paley_one"
    if (size // 2 - 1) % 4 == 1 and field_of(size // 2 - 1) is not None:
        return "paley_two"
    return None


def has_hadamard(size: int) -> bool:
    """Say whether qcc can build a Hadamard matrix of a size."""
    return construction_of(size) is not None


@cache
def largest_block(size: int) -> int:
    """Return the largest divisor of a size that has a Hadamard matrix: 128 for 13696, which is 128 times 107."""
    return next(block for block in range(size, 0, -1) if size % block == 0 and has_hadamard(block))


def field_of(order: int) -> tuple[int, int] | None:
    """Return (p, k) where a field of p**k elements has this order, p an odd prime and k 1 or 2; else None."""
    if order < 3 or order % 2 == 0:
        return None
    if _is_prime(order):
        return order, 1
    root = round(order**0.5)
    return (root, 2) if root * root == order and _is_prime(root) else None


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))

"""Which integers the codes of a format stand for, and how far sums of their products reach.

Interval arithmetic on exact integers: nothing here is an estimate. Codes q of a format with an integer zero point z are
the integers q - z, on a mid-rise grid the odd integers 2 q + 1 - 2 z under half the scale. Under a protective range the
codes of the leaf are rebuilt as integers of 8 bits, leaf * q + z, before the products (QoQ, arXiv 2405.04532).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcc.ir.types import TensorType
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import IntDecode, expand_block, is_integer_dtype

if TYPE_CHECKING:
    from torch import Tensor

    from qcc.numerics.tensor import QuantizedTensor


@dataclass(frozen=True)
class Interval:
    """Integers from `low` to `high`, both included."""

    low: int
    high: int

    def product(self, other: Interval) -> Interval:
        """Return where the product of one of these and one of those lies."""
        ends = [a * b for a in (self.low, self.high) for b in (other.low, other.high)]
        return Interval(min(ends), max(ends))

    def times(self, count: int) -> Interval:
        """Return where a sum of at most `count` of these lies."""
        return Interval(min(count * self.low, 0), max(count * self.high, 0))

    def join(self, other: Interval) -> Interval:
        """Return the smallest interval that holds both."""
        return Interval(min(self.low, other.low), max(self.high, other.high))

    @property
    def bits(self) -> int:
        """Width of the smallest two's complement integer that holds every one."""
        return 1 + max((-self.low - 1).bit_length() if self.low < 0 else 0, self.high.bit_length())

    @property
    def magnitude(self) -> int:
        """The largest absolute value."""
        return max(abs(self.low), abs(self.high))

    def __str__(self) -> str:
        return f"{self.low}..{self.high}"


@dataclass(frozen=True)
class Integers:
    """What is multiplied and summed for a format: integers in `interval`, scaled by level `level` and those above."""

    interval: Interval
    level: int
    rebuilt: bool = False


def integers_of(qtype: QType) -> Integers | None:
    """Return the integers of a format, or None where a product needs its real values."""
    decode, zero = qtype.decode, qtype.zero
    if not isinstance(decode, IntDecode) or qtype.sides:
        return None
    step, odd = (2, 1) if qtype.grid == "mid_rise" else (1, 0)
    codes = Interval(step * decode.minimum + odd, step * decode.maximum + odd)
    if zero is None or zero.kind == "post":
        return Integers(codes, 0)
    if zero.levels or not is_integer_dtype(zero.dtype):
        return None
    if zero.kind == "pre":
        offset = _dtype_interval(zero.dtype)
        return Integers(Interval(codes.low - step * offset.high, codes.high - step * offset.low), 0)
    if zero.kind == "scaled":
        bound = _rebuilt_bound(qtype, decode)
        return None if bound is None else Integers(Interval(-bound, bound), len(qtype.levels) - 1, rebuilt=True)
    return None


def _dtype_interval(name: str) -> Interval:
    bits = int(name[1:])
    return Interval(0, 2**bits - 1) if name[0] == "u" else Interval(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _rebuilt_bound(qtype: QType, decode: IntDecode) -> int | None:
    """Return how large rebuilt integers get: within half a step of leaf scale of the protective range."""
    protective = qtype.levels[-1].protective
    if protective is None:
        return None
    states = decode.maximum - decode.minimum
    return protective + round(2 * protective / states) // 2


def shared_columns(inputs: TensorType, weights: TensorType) -> int | None:
    """Return over how many columns of K the integers of both sides are summed before a scale, None if symbolic."""
    columns = weights.shape[-1].constant
    if columns is None:
        return None
    left, right = (_scale_block(kind, columns) for kind in (inputs, weights))
    return min(left, right, columns) if max(left, right) >= columns else math.gcd(left, right)


def _scale_block(kind: TensorType, columns: int) -> int:
    form = None if kind.qtype is None else integers_of(kind.qtype)
    if kind.qtype is None or form is None or not kind.qtype.levels:
        return columns
    block = expand_block(kind.qtype.levels[form.level].block, 2)[1]
    return columns if block == -1 else min(block, columns)


def stored_integers(weight: QuantizedTensor) -> Tensor:
    """Return the integers [N, K] that the codes of a weight stand for; the format has some (`integers_of`)."""
    import torch

    from qcc.numerics.blocks import spread_blocks

    qtype, shape = weight.qtype, weight.shape
    leaf = qtype.levels[0].block if qtype.levels else (-1, -1)

    def spread(grid: Tensor) -> Tensor:
        return spread_blocks(grid.to(torch.int64), leaf, tuple(shape)).expand(tuple(shape))

    step, odd = (2, 1) if qtype.grid == "mid_rise" else (1, 0)
    codes = weight.codes.to(torch.int64) * step + odd
    if weight.zero is None or qtype.zero is None or qtype.zero.kind == "post":
        return codes
    if qtype.zero.kind == "scaled":
        return codes * spread(weight.scales[0]) + spread(weight.zero)
    return codes - step * spread(weight.zero)


def reach_of_sums(inputs: Interval, weights: Tensor, group: int) -> Interval:
    """Return exactly how far the sums over groups of K reach for any inputs: per row, the worst ones are taken.

    `weights` are integers [N, K]. Partial sums lie inside as well, since 0 is counted among the products.
    """
    low = (weights * inputs.low).minimum(weights * inputs.high).clamp(max=0)
    high = (weights * inputs.low).maximum(weights * inputs.high).clamp(min=0)
    starts = range(0, weights.shape[1], group)
    return Interval(
        min((int(low[:, k : k + group].sum(1).min()) for k in starts), default=0),
        max((int(high[:, k : k + group].sum(1).max()) for k in starts), default=0),
    )

"""Add two thin factors to a quantized matrix, chosen to take up what quantization lost.

LoRC (ZeroQuant-FP, arXiv 2307.09782) decomposes the error once and stores the factors in int8. LQ-LoRA
(arXiv 2311.12023) alternates between quantizing what the factors leave and decomposing what the codes leave,
also under the diagonal of the Fisher information.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from qcc.errors import Problem, ShapeError
from qcc.numerics.qtype_parts import LowRank, dtype_bits, is_integer_dtype
from qcc.numerics.side_values import (
    accumulator,
    chunks,
    require_finite,
    require_score,
    rows_of,
    side_dtype,
    store_values,
)

# Up to this size of the shorter axis a full decomposition is cheap, and exact.
EXACT_SIZE = 512
OVERSAMPLING = 16
POWER_ITERATIONS = 6
SEED = 0


@dataclass(frozen=True, eq=False)
class LowRankFactors:
    """Hold `up` [N, R] and `down` [R, K]; their product is added to a tensor of N rows.

    Floats are the factors themselves. Integer factors (int8, LoRC) are symmetric with one scale a rank:
    column r of `up` is `up[:, r]·up_scale[r]`, row r of `down` is `down[r]·down_scale[r]`; both scales are
    float32 [R], the codes are held as int8, and `bits` is how wide they are stored.

    Raises:
        ShapeError: sizes that do not meet, or scales that are missing or too many.
    """

    up: Tensor
    down: Tensor
    up_scale: Tensor | None = None
    down_scale: Tensor | None = None
    bits: int = 8

    def __post_init__(self) -> None:
        found: list[Problem] = []
        if self.up.ndim != 2 or self.down.ndim != 2 or self.up.shape[1] != self.down.shape[0]:
            found.append(Problem("factors", f"{tuple(self.up.shape)} and {tuple(self.down.shape)} do not meet"))
        for name, factor, scale in (("up", self.up, self.up_scale), ("down", self.down, self.down_scale)):
            if (scale is None) != factor.is_floating_point():
                found.append(Problem(f"{name}_scale", "belongs to integer factors, and to no others"))
            elif scale is not None and tuple(scale.shape) != (self.up.shape[-1],):
                found.append(Problem(f"{name}_scale", f"has shape {tuple(scale.shape)}, not one scale a rank"))
        if found:
            raise ShapeError("these tensors are no low-rank factors", found)

    @property
    def rank(self) -> int:
        """Give the number of columns of `up`."""
        return self.up.shape[1]

    def decoded(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Give both factors as real numbers, float64 or float32 arithmetic rounded to `dtype`."""
        real = accumulator(dtype)
        up, down = self.up.to(real), self.down.to(real)
        if self.up_scale is not None and self.down_scale is not None:
            up, down = up * self.up_scale.to(real), down * self.down_scale.to(real)[:, None]
        # The order of a product's sums, and so its last bit, may hang on the layout in memory.
        return up.to(dtype).contiguous(), down.to(dtype).contiguous()

    def product(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Give `up @ down` [N, K], in float64 for float64, else in float32 and rounded once to `dtype`."""
        up, down = self.decoded(accumulator(dtype))
        return (up @ down).to(dtype)

    def add_to(self, x: Tensor) -> Tensor:
        """Give `x` [..., K] plus the product, each sum rounded once to the dtype of `x`.

        Raises:
            ShapeError: `x` of another number of rows or columns.
        """
        return self._added(x, 1)

    def taken_from(self, x: Tensor) -> Tensor:
        """Give `x` [..., K] less the product, each difference rounded once to the dtype of `x`.

        Raises:
            ShapeError: `x` of another number of rows or columns.
        """
        return self._added(x, -1)

    def _added(self, x: Tensor, factor: int) -> Tensor:
        out = x.clone(memory_format=torch.contiguous_format)
        rows, size = rows_of(out), (self.up.shape[0], self.down.shape[1])
        if tuple(rows.shape) != size:
            raise ShapeError(f"factors of a matrix of shape {size} do not fit a tensor of shape {tuple(x.shape)}")
        up, down = self.decoded(accumulator(x.dtype))
        for part in chunks(*rows.shape):
            rows[part] = torch.addmm(rows[part].to(up.dtype), up[part], down, alpha=factor).to(x.dtype)
        return out


@dataclass(frozen=True, eq=False)
class Decomposition:
    """Hold what `alternate` found.

    `base` is the tensor to quantize, `quantized` what the quantizer made of it, and
    `quantized + factors.product()` stands for the original. `errors` are (weighted) Frobenius norms of what is
    still missing: of plain quantization, then after every round that was kept.
    """

    factors: LowRankFactors
    base: Tensor
    quantized: Tensor
    errors: tuple[float, ...]


def low_rank(residual: Tensor, side: LowRank, weights: Tensor | None = None, where: str = "") -> LowRankFactors:
    """Give the best product of `side.rank` for `residual` [..., K] (N rows), stored in `side.dtype`.

    The truncated singular value decomposition, with the root of every singular value in each factor, the sign
    such that the largest component of a column of `up` is positive, and zeros where the rank exceeds the
    smaller axis. Matrices whose shorter axis exceeds 512 are decomposed by subspace iteration from a fixed
    start (Halko et al., arXiv 0909.4061), so the same matrix gives the same factors.

    `weights` are weights of squared errors, such as the diagonal of the Fisher information: one an element
    (the shape of `residual`) or one a column [K]. One a column is exact; one an element has no closed form
    and is taken as row mean times column mean of its root (LQ-LoRA). Rows and columns of weight 0 get nothing.

    Raises:
        UnsupportedOp: a stored dtype without a sign.
        ShapeError: no elements, values that are not finite, factors that overflow their dtype, weights of
            another shape, negative, or not finite.
    """
    matrix = rows_of(residual, where)
    require_finite(residual, "residuals", where)
    matrix = matrix.to(accumulator(residual.dtype))
    across = None if weights is None else _axis_weights(weights, residual, where)
    if across is not None:
        matrix = across[0][:, None] * matrix * across[1]
    left, values, right = _svd(matrix, min(side.rank, *matrix.shape))
    peaks = left.gather(0, left.abs().argmax(0, keepdim=True))
    signs = torch.where(peaks < 0, -1, 1).to(left.dtype)
    up, down = left * signs * values.sqrt(), (right * signs * values.sqrt()).T
    if across is not None:
        up, down = up * _inverse(across[0])[:, None], down * _inverse(across[1])
    missing = side.rank - values.numel()
    up = torch.nn.functional.pad(up, (0, missing))
    down = torch.nn.functional.pad(down, (0, 0, 0, missing))
    return _stored(up, down, side, where)


def alternate(
    x: Tensor,
    fake_quantize: Callable[[Tensor], Tensor],
    side: LowRank,
    iterations: int = 10,
    weights: Tensor | None = None,
    where: str = "",
) -> Decomposition:
    """Find factors and a tensor to quantize that together come close to `x` [..., K] (LQ-LoRA, arXiv 2311.12023).

    Each of at most `iterations` rounds quantizes what the factors leave of `x` and decomposes what that leaves;
    the first round starts from no factors and is the one-shot correction. It stops when the error, weighted by
    `weights` as in `low_rank`, no longer falls, and gives the best round. `fake_quantize` must give the same
    for the same tensor.

    Raises:
        UnsupportedOp, ShapeError: see `low_rank`; also fewer than one iteration.
    """
    if iterations < 1:
        raise ShapeError(f"{iterations} rounds of alternation for {where or 'a tensor'}", fix="ask for one or more")
    require_finite(x, "values", where)
    start: LowRankFactors | None = None
    errors: list[float] = []
    best: tuple[LowRankFactors | None, LowRankFactors] | None = None
    for _ in range(iterations):
        residual = x - fake_quantize(x if start is None else start.taken_from(x))
        if start is None:
            errors.append(_norm(residual, weights))
        factors = low_rank(residual, side, weights, where)
        error = _norm(factors.taken_from(residual), weights)
        if best is not None and error >= errors[-1]:
            break
        errors.append(error)
        best = (start, factors)
        start = factors
    assert best is not None
    before, factors = best
    # Made again rather than held through all rounds: two matrices less at the peak.
    base = x if before is None else before.taken_from(x)
    return Decomposition(factors, base, fake_quantize(base), tuple(errors))


def _svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Give the leading left vectors [N, R], singular values [R] and right vectors [K, R]."""
    if min(matrix.shape) <= EXACT_SIZE:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        return left[:, :rank], values[:rank], right[:rank].T
    width = min(rank + OVERSAMPLING, *matrix.shape)
    generator = torch.Generator().manual_seed(SEED)
    start = torch.randn(matrix.shape[1], width, generator=generator, dtype=matrix.dtype).to(matrix.device)
    basis = torch.linalg.qr(matrix @ start).Q
    for _ in range(POWER_ITERATIONS):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ basis).Q).Q
    left, values, right = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    return basis @ left[:, :rank], values[:rank], right[:rank].T


def _axis_weights(weights: Tensor, residual: Tensor, where: str) -> tuple[Tensor, Tensor]:
    """Give the roots of the weights as one factor a row and one a column."""
    require_score(weights, (tuple(residual.shape), (residual.shape[-1],)), where)
    low, high = float(weights.min()), float(weights.max())
    if low < 0 or not math.isfinite(high):
        name = where or "a tensor"
        raise ShapeError(f"the weights of {name} run from {low:g} to {high:g}", fix="give finite weights of 0 or more")
    roots = rows_of(weights).to(accumulator(residual.dtype)).sqrt()
    count = residual.numel() // residual.shape[-1]
    if weights.ndim == 1:
        return roots.new_ones(count), roots[0]
    return roots.mean(1), roots.mean(0)


def _inverse(weights: Tensor) -> Tensor:
    return torch.where(weights > 0, 1 / weights, 0)


def _norm(error: Tensor, weights: Tensor | None) -> float:
    rows, squares = rows_of(error), 0.0
    spread = None if weights is None else rows_of(weights)
    for part in chunks(*rows.shape):
        square = rows[part].to(torch.float64).square()
        if spread is not None:
            square = square * (spread[part] if len(spread) > 1 else spread).to(torch.float64)
        squares += float(square.sum())
    return math.sqrt(squares)


def _stored(up: Tensor, down: Tensor, side: LowRank, where: str) -> LowRankFactors:
    if not is_integer_dtype(side.dtype):
        names = (f"factors of rank {side.rank}", where)
        up, down = (store_values(factor.contiguous(), side.dtype, *names) for factor in (up, down))
        return LowRankFactors(up, down)
    if side.dtype[0] != "i" or dtype_bits(side.dtype) < 2:
        side_dtype(side.dtype, "low-rank factors", where)
    up_codes, up_scale = _integers(up.T, side.dtype)
    down_codes, down_scale = _integers(down, side.dtype)
    return LowRankFactors(
        up_codes.T.contiguous(), down_codes.contiguous(), up_scale, down_scale, dtype_bits(side.dtype)
    )


def _integers(vectors: Tensor, dtype: str) -> tuple[Tensor, Tensor]:
    """Quantize rows symmetrically: scale = max|v| / (2^(b-1) - 1) in float32, code = rne(v / scale)."""
    top = 2 ** (dtype_bits(dtype) - 1) - 1
    scale = (vectors.abs().amax(1) / top).to(torch.float32)
    steps = vectors / scale.to(vectors.dtype)[:, None]
    codes = torch.where(scale[:, None] > 0, steps, 0).round().clamp(-top, top)
    return codes.to(torch.int8), scale

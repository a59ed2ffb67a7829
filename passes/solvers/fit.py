"""Fit the scales (and real zero points) of a weight in closed form, for given codes, under the Hessian of its layer.

What codes stand for is linear in the parameters of their blocks: Ŵ = sum over terms t of θ_t·B_t, where B_t `[N, K]`
holds what one term contributes to an element (the integer, a digit of a plane, or 1 for a zero point that is added) and
θ_t is one number a block of columns. The least of (w - Bθ) H (w - Bθ)ᵀ solves, row by row, (BᵀHB) θ = BᵀH wᵀ.
decoupleQ, arXiv 2404.12759, alternates this with choosing integers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from qcc.numerics.blocks import block_extents, spread_blocks
from qcc.numerics.levels import Chain, round_level
from qcc.numerics.plane_digits import digit_matrix
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import IntDecode, PlanesDecode
from qcc.numerics.tensor import Parameters, stored_dtype

_RIDGE = 1e-8
_HOLD = 1e8
_TRIES = 4
_ELEMENTS = 1 << 22


def fit_parameters(weight: Tensor, qtype: QType, codes: Tensor, before: Parameters, hessian: Tensor) -> Parameters:
    """Return the parameters of least loss for given codes, rounded to their stored dtypes.

    `weight` and `codes` are `[N, K]`, `hessian` is conditioned. The format has one level of float scales over blocks
    of columns, or rows. Where a fit would turn a scale negative or zero, the block keeps what it had `before`.
    """
    extent, terms = max(1, block_extents(qtype.levels[0].block, tuple(weight.shape))[1]), _terms(qtype, codes, before)
    count, blocks, rows = len(terms), -(-weight.shape[1] // extent), len(weight)
    solution = torch.empty(rows, blocks * count, dtype=torch.float64)
    start, positive = _flat(qtype, before, rows), _is_scale(qtype, count).repeat(blocks)
    target = weight.double()
    if _shared_by_rows(qtype):
        gram, right = _normal(terms, target, hessian, extent)
        solution[:] = _least(gram.sum(0, keepdim=True), right.sum(0, keepdim=True), start[:1], positive)
    else:
        step = max(1, _ELEMENTS // max(1, (blocks * count) ** 2, weight.shape[1] * count))
        for first in range(0, rows, step):
            part = slice(first, first + step)
            gram, right = _normal([term[part] for term in terms], target[part], hessian, extent)
            solution[part] = _least(gram, right, start[part], positive)
    return _stored(qtype, solution.reshape(rows, blocks, count), before)


def _shared_by_rows(qtype: QType) -> bool:
    return qtype.levels[0].block[0] == -1


def _terms(qtype: QType, codes: Tensor, before: Parameters) -> list[Tensor]:
    """Return what each parameter of a block multiplies, `[N, K]` float64 each."""
    decode = qtype.decode
    if isinstance(decode, PlanesDecode):
        digits = digit_matrix(decode.count, decode.digits, torch.float64)[codes.long()]
        if decode.coefficients == "free":
            terms = [digits[..., plane] for plane in range(decode.count)]
        else:
            factors = torch.tensor([2.0**plane for plane in range(decode.count)], dtype=torch.float64)
            if decode.coefficients == "twos":
                factors[-1] = -factors[-1]
            terms = [digits @ factors]
    else:
        assert isinstance(decode, IntDecode)
        values = codes.double() + (0.5 if qtype.grid == "mid_rise" else 0.0)
        if qtype.zero is not None and qtype.zero.kind == "pre" and before.zero is not None:
            block, shape = qtype.levels[0].block, tuple(codes.shape)
            values = values - spread_blocks(before.zero.values[0].double(), block, shape)
        terms = [values]
    if qtype.zero is not None and qtype.zero.kind == "post":
        terms.append(torch.ones(codes.shape, dtype=torch.float64))
    return terms


def _normal(terms: list[Tensor], target: Tensor, hessian: Tensor, extent: int) -> tuple[Tensor, Tensor]:
    """Return BᵀHB `[R, P, P]` and BᵀHw `[R, P]`, with the P = blocks·terms parameters block by block."""
    rows, count, blocks = len(target), len(terms), -(-target.shape[1] // extent)
    gram = torch.empty(rows, blocks, count, blocks, count, dtype=torch.float64)
    right = torch.empty(rows, blocks, count, dtype=torch.float64)
    weighted = target @ hessian
    for left, term in enumerate(terms):
        right[:, :, left] = _sums(weighted * term, extent)
        for block in range(blocks):
            inside = slice(block * extent, (block + 1) * extent)
            spread = term[:, inside] @ hessian[inside]
            for other in range(count):
                gram[:, block, left, :, other] = _sums(spread * terms[other], extent)
    return gram.reshape(rows, blocks * count, blocks * count), right.reshape(rows, blocks * count)


def _sums(values: Tensor, extent: int) -> Tensor:
    """Add up blocks of columns, the last of which may be short: `[R, K]` to `[R, blocks]`."""
    missing = -values.shape[1] % extent
    whole = functional.pad(values, (0, missing)) if missing else values
    return whole.unflatten(1, (-1, extent)).sum(2)


def _least(gram: Tensor, right: Tensor, before: Tensor, positive: Tensor) -> Tensor:
    """Solve the normal equations; parameters without inputs, and scales that would not stay positive, stay as before.

    A scale that is held changes the least of the others, so these are solved again.
    """
    own = gram.diagonal(dim1=1, dim2=2)
    peak = own.amax(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    held = torch.zeros_like(right, dtype=torch.bool)
    solved = before
    for _ in range(_TRIES):
        ridge = torch.where(held, _HOLD * peak, _RIDGE * own + _RIDGE**2 * peak)
        found, failed = torch.linalg.solve_ex(gram + torch.diag_embed(ridge), right + ridge * before)
        usable = (failed == 0)[:, None] & torch.isfinite(found)
        solved = torch.where(usable & ~held, found, before)
        fallen = positive & (solved <= 0) & (before > 0) & ~held
        if not bool(fallen.any()):
            return solved
        held |= fallen
    return torch.where(positive & (solved <= 0), before, solved)


def _flat(qtype: QType, parameters: Parameters, rows: int) -> Tensor:
    """Return given parameters as `[N, P]`, in the order of the normal equations."""
    scales = parameters.scales.values[0].double()
    parts = scales if scales.dim() == 3 else scales[..., None]
    if qtype.zero is not None and qtype.zero.kind == "post" and parameters.zero is not None:
        parts = torch.cat([parts, parameters.zero.values[0].double()[..., None]], -1)
    return parts.flatten(1).expand(rows, -1)


def _is_scale(qtype: QType, count: int) -> Tensor:
    """Return which of a block's parameters must stay positive: its scale, but no coefficient of free planes."""
    return torch.tensor([not _has_free_planes(qtype) and term == 0 for term in range(count)])


def _has_free_planes(qtype: QType) -> bool:
    return isinstance(qtype.decode, PlanesDecode) and qtype.decode.coefficients == "free"


def _stored(qtype: QType, fitted: Tensor, before: Parameters) -> Parameters:
    """Round what was fitted, `[N, blocks, terms]`, to the grids and dtypes of the format; too large ones stay."""
    scales = before.scales.values[0]
    fitted, level, zero = fitted[: len(scales)], qtype.levels[0], before.zero
    old = _flat(qtype, before, len(scales)).reshape(fitted.shape)
    limit = torch.finfo(stored_dtype(level.dtype)).max
    chosen = torch.where((fitted.abs() <= limit).all(-1, keepdim=True), fitted, old).float()
    sizes = chosen[..., : scales.shape[-1]] if _has_free_planes(qtype) else chosen[..., 0]
    rounded = round_level(sizes, level, sizes, 1.0)
    if qtype.zero is not None and qtype.zero.kind == "post":
        zero = Chain((chosen[..., -1].to(stored_dtype(qtype.zero.dtype)),), (None,))
    return Parameters(Chain((rounded,), (None,)), zero)

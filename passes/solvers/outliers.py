"""Choose which elements or columns of a weight are kept apart from its codes.

By sensitivity, the loss of outputs that goes with an element: of a layer whose other weights make up for what one
loses, that is (w - ŵ)² / [H⁻¹]_jj (Hassibi and Stork's optimal brain surgeon, the measure of GPTQ). An element that
stretches the scale of its block costs the others of the block as well, so what counts is by how much the loss of the
block falls when it leaves: SpQR, arXiv 2306.03078, leaves each element out in turn. Only the smallest and the largest
of a block move its range, so of these two that is measured, and of all others their own loss taken.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from qcc.numerics.blocks import reduce_blocks, spread_blocks
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_bits import whole_share
from qcc.numerics.qtype_parts import Sparse
from qcc.numerics.quantize import dequantize, quantize
from qcc.numerics.selection import largest_mask
from qcc.numerics.side_values import require_finite
from qcc.passes.solvers.hessian import conditioned, inverse_factor

ROUNDS = 4
"""Outliers leave in as many portions; each time the scales of what is left are computed anew."""


def chosen_outliers(weight: Tensor, qtype: QType, side: Sparse, hessian: Tensor | None, where: str = "") -> Tensor:
    """Return which elements of a weight `[N, K]` leave it, bool `[N, K]`; whole columns where the side holds columns.

    `qtype` is the format of what stays, without sides. Without a Hessian those of the largest magnitude leave.

    Raises:
        ShapeError: weights or Hessian that are not finite.
    """
    require_finite(weight, "values", where)
    if hessian is None:
        return _largest(weight.abs(), side)
    factor = inverse_factor(lambda: conditioned(hessian, where))
    columns = 1 / factor.square().sum(0)  # 1 / [H⁻¹]_jj
    apart = torch.zeros_like(weight, dtype=torch.bool)
    for turn in range(ROUNDS):
        gains = _gains(weight.masked_fill(apart, 0), qtype, columns, where)
        if side.kind == "columns":
            gains = gains.sum(0).expand(gains.shape)
        part = replace(side, fraction=side.fraction * (turn + 1) / ROUNDS)
        apart = _largest(gains.masked_fill(apart, torch.inf), part)
    return apart


def _largest(score: Tensor, side: Sparse) -> Tensor:
    if side.kind != "columns":
        return largest_mask(score, whole_share(side.fraction, score.numel()))
    chosen = largest_mask(score.amax(0), whole_share(side.fraction, score.shape[1]))
    return chosen.expand(score.shape).contiguous()


def _gains(weight: Tensor, qtype: QType, columns: Tensor, where: str) -> Tensor:
    """Return by how much the loss falls for every element that would leave, float64 `[N, K]`."""
    losses = _losses(weight, qtype, columns, where)
    found = losses
    if not qtype.levels:
        return found
    block, shape = qtype.levels[0].block, tuple(weight.shape)
    before = reduce_blocks(losses, block, torch.sum)
    for sign in (1, -1):
        peaks = reduce_blocks(weight * sign, block, torch.amax, -torch.inf)
        leaving = weight * sign == spread_blocks(peaks, block, shape)
        after = _losses(weight.masked_fill(leaving, 0), qtype, columns, where).masked_fill(leaving, 0)
        gain = (before - reduce_blocks(after, block, torch.sum)) / reduce_blocks(leaving.double(), block, torch.sum)
        found = torch.where(leaving, torch.maximum(losses, spread_blocks(gain, block, shape)), found)
    return found


def _losses(weight: Tensor, qtype: QType, columns: Tensor, where: str) -> Tensor:
    wide = weight.double()
    return (wide - dequantize(quantize(weight, qtype, where=where), torch.float64)).square() * columns

"""GPTQ: round column by column, and let the columns that are still free make up for what each one lost.

With U the upper Cholesky factor of (H + λI)⁻¹ and columns in the order of falling H_jj:

    e_j = (w_j - ŵ_j) / U_jj        w_k <- w_k - e_j U_jk for k > j

Scales and zero points are fixed before, from the weights as they are, so groups stay those of the columns' own order
and no index of groups is stored. Frantar et al., arXiv 2210.17323; processing large |H_jj| first is "act-order" of its
code. With H = I no column makes up for another, and the codes are those of rounding to nearest, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qcc.numerics.parts import working_dtype
from qcc.numerics.qtype import QType
from qcc.numerics.quantize import compute_qparams
from qcc.numerics.sides import split_sides
from qcc.numerics.tensor import Parameters, QuantizedTensor, code_dtype
from qcc.passes.solvers.columns import ColumnCoder
from qcc.passes.solvers.hessian import check_inputs, conditioned, inverse_factor

_BLOCK = 128
"""Columns whose losses are gathered before they reach the columns behind: one matrix product a block."""


@dataclass(frozen=True, eq=False)
class Feedback:
    """The order of the columns and the factor that says how later ones make up for earlier ones, of one Hessian."""

    order: Tensor
    factor: Tensor

    @staticmethod
    def of(hessian: Tensor, where: str = "", *, act_order: bool = True) -> Feedback:
        """Make it from a Hessian `[K, K]`, which need not be conditioned."""
        order = torch.arange(len(hessian))
        if act_order:
            order = hessian.diag().argsort(descending=True, stable=True)
        return Feedback(order, inverse_factor(lambda: conditioned(hessian, where, order)))


def solve(weight: Tensor, qtype: QType, hessian: Tensor | None, where: str = "") -> QuantizedTensor:
    """Run `gptq`; without a Hessian, as for a layer that no sample reached, every input counts alike."""
    return gptq(weight, qtype, torch.eye(weight.shape[1]) if hessian is None else hessian, where)


def gptq(weight: Tensor, qtype: QType, hessian: Tensor, where: str = "", *, act_order: bool = True) -> QuantizedTensor:
    """Encode a weight `[N, K]` for the least loss of outputs under its Hessian `[K, K]`.

    Raises:
        ShapeError: weights or Hessian that are not finite; see also `quantize`.
        IllegalFold: a Hessian of other inputs.
    """
    check_inputs(weight, hessian, where)
    rest, sides = split_sides(weight, qtype.sides, where) if qtype.sides else (weight, ())
    parameters = compute_qparams(rest, qtype, where)
    feedback = Feedback.of(hessian, where, act_order=act_order)
    codes = round_with_feedback(rest, qtype, parameters, feedback)
    return QuantizedTensor(qtype, (weight.shape[0], weight.shape[1]), codes, parameters, sides)


def gptq_around(
    weight: Tensor, apart: Tensor, qtype: QType, hessian: Tensor, where: str = ""
) -> tuple[QuantizedTensor, Tensor]:
    """Encode what stays of a weight `[N, K]` around outliers, bool `[N, K]`, which make up for what others lost.

    The format has no sides. Returned with the codes is the weight with its outliers moved: they are not rounded to
    codes, so they lose nothing and take up all that reaches their columns (SpQR, arXiv 2306.03078).

    Raises:
        ShapeError: see `gptq`.
    """
    check_inputs(weight, hessian, where)
    parameters = compute_qparams(weight.masked_fill(apart, 0), qtype, where)
    moved, feedback = weight.clone(), Feedback.of(hessian, where)
    codes = round_with_feedback(weight, qtype, parameters, feedback, (apart, moved))
    return QuantizedTensor(qtype, (weight.shape[0], weight.shape[1]), codes, parameters), moved


def round_with_feedback(
    weight: Tensor,
    qtype: QType,
    parameters: Parameters,
    feedback: Feedback,
    outliers: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return the codes `[N, K]` of a weight under given parameters.

    `outliers` are elements that are kept as they are, bool `[N, K]`, and a matrix that takes their values once the
    columns before them are rounded; their codes are those of 0.
    """
    rows, columns = weight.shape
    coder, real = ColumnCoder(qtype, parameters, (rows, columns)), working_dtype(weight)
    codes = torch.empty((columns, rows), dtype=code_dtype(qtype.decode))
    rest = torch.empty((columns, rows), dtype=torch.float64)  # one column is one row in memory
    for start in range(0, columns, _BLOCK):
        part = feedback.order[start : start + _BLOCK]
        rest[start : start + _BLOCK] = weight[:, part].T
    places = feedback.order.tolist()
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        factor = feedback.factor[start:stop, start:stop]
        errors = torch.empty(stop - start, rows, dtype=torch.float64)
        block = rest[start:stop]
        for index in range(stop - start):
            column, place = block[index], places[start + index]
            if outliers is None:
                codes[place], value = coder.code(column.to(real), place)
            else:
                kept, moved = outliers[0][:, place], outliers[1]
                codes[place], value = coder.code(column.to(real).masked_fill(kept, 0), place)
                moved[kept, place] = column[kept].to(moved.dtype)
                value = torch.where(kept, column, value)
            errors[index] = (column - value) / factor[index, index]
            block[index + 1 :] -= factor[index, index + 1 :, None] * errors[index]
        rest[stop:].addmm_(feedback.factor[start:stop, stop:].T, errors, alpha=-1)
    return codes.T.contiguous()

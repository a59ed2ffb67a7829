"""Coordinate descent: go over the columns after GPTQ, and give each the codes that are best beside all the others.

With G = (W - Ŵ) H, what the outputs lose is, in each value of a row, a parabola whose least is at

    ŵ_j + G_j / H_jj        taken where the code nearest to it loses less than the code at hand

GPTQ lets a column make up for those before it; here it makes up for those behind it as well. Cyclic coordinate descent
is QuantEase's, arXiv 2309.01885, which keeps outliers as values that need no rounding: they take the least itself. The
loss falls with every change, so it never exceeds that of GPTQ. Formats that are linear in one level of float scales
have these (and real zero points) fitted by least squares, and the columns gone over again, in turns, as decoupleQ does
(see `fit`). With H = I no column has anything to make up for: codes are those of rounding to nearest, and only a fit
moves values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qcc.numerics.coding import decode
from qcc.numerics.parts import working_dtype
from qcc.numerics.qtype import QType
from qcc.numerics.sides import split_sides
from qcc.numerics.tensor import Parameters, QuantizedTensor
from qcc.passes.solvers.choice import Choice, choice_of, refitted
from qcc.passes.solvers.columns import ColumnCoder
from qcc.passes.solvers.gptq import gptq, gptq_around
from qcc.passes.solvers.hessian import conditioned
from qcc.passes.solvers.problems import not_linear

PASSES = 2
"""Times that all columns are gone over under the same parameters, at most."""
ROUNDS = 2
"""Fits of the parameters, at most."""
BLOCK = 64
"""Columns whose changes reach all other columns in one product."""
_PROGRESS = 1e-3
"""Share of the loss that a round has to gain for another one."""
_TIE = 1e-9
"""Two codes as near to a weight as this, in shares of a step, are alike: the one at hand stays."""


def solve(weight: Tensor, qtype: QType, hessian: Tensor | None, where: str = "") -> QuantizedTensor:
    """Encode a weight `[N, K]` under its Hessian `[K, K]`; without one every input counts alike.

    Raises:
        ShapeError: weights or Hessian that are not finite; see also `quantize`.
    """
    sums = torch.eye(weight.shape[1]) if hessian is None else hessian
    start = gptq(weight, qtype, sums, where)
    rest = split_sides(weight, qtype.sides, where)[0] if qtype.sides else weight
    whole = conditioned(sums, where)
    best = _descended(rest, qtype, choice_of(rest, qtype, start.codes, start.parameters, whole), whole)
    if not not_linear(qtype):
        best = _alternated(rest, qtype, best, whole)
    return QuantizedTensor(qtype, start.shape, best.codes, best.parameters, start.sides)


def descent_around(
    weight: Tensor, apart: Tensor, qtype: QType, hessian: Tensor, where: str = ""
) -> tuple[QuantizedTensor, Tensor]:
    """Encode what stays of a weight `[N, K]` around outliers, bool `[N, K]`; see `gptq_around`. Parameters stay.

    Raises:
        ShapeError: see `solve`.
    """
    start, moved = gptq_around(weight, apart, qtype, hessian, where)
    codes = descend(weight, qtype, start.codes, start.parameters, conditioned(hessian, where), (apart, moved))
    return QuantizedTensor(qtype, start.shape, codes, start.parameters), moved


def _alternated(weight: Tensor, qtype: QType, best: Choice, hessian: Tensor) -> Choice:
    for _ in range(ROUNDS):
        fitted = refitted(weight, qtype, best, hessian)
        trial = _descended(weight, qtype, fitted, hessian)
        before, best = best.loss, min(best, fitted, trial, key=lambda choice: choice.loss)
        if best.loss >= before * (1 - _PROGRESS):
            break
    return best


def _descended(weight: Tensor, qtype: QType, choice: Choice, hessian: Tensor) -> Choice:
    codes = descend(weight, qtype, choice.codes, choice.parameters, hessian)
    return choice_of(weight, qtype, codes, choice.parameters, hessian)


def descend(
    weight: Tensor,
    qtype: QType,
    codes: Tensor,
    parameters: Parameters,
    hessian: Tensor,
    outliers: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return codes `[N, K]` that lose no more than the given ones under a conditioned Hessian `[K, K]`.

    `outliers` are elements that are kept as they are, bool `[N, K]`, and the matrix of their values, which is changed;
    their codes are those of 0 before and behind.
    """
    (rows, columns), real = weight.shape, working_dtype(weight)
    coder, values = ColumnCoder(qtype, parameters, (rows, columns)), decode(codes, qtype, parameters, real).double()
    if outliers is not None:
        values = torch.where(outliers[0], outliers[1].double(), values)
    gradient = (weight.double() - values) @ hessian
    # one column is one row in memory
    state = _Columns(codes.T.contiguous(), values.T.contiguous(), gradient.T.contiguous(), real)
    blocks = hessian.diag().argsort(descending=True, stable=True).split(BLOCK)
    for _ in range(PASSES):
        changed = [state.improve(block, coder, hessian, outliers) for block in blocks]
        if not any(changed):
            break
    if outliers is not None:
        outliers[1].copy_(torch.where(outliers[0], state.values.T, outliers[1].double()))
    return state.codes.T.contiguous()


@dataclass(frozen=True, eq=False)
class _Columns:
    """Codes of a weight, what they stand for and G, `[K, N]` each; codes are chosen for values of `real`."""

    codes: Tensor
    values: Tensor
    gradient: Tensor
    real: torch.dtype

    def improve(
        self, block: Tensor, coder: ColumnCoder, hessian: Tensor, outliers: tuple[Tensor, Tensor] | None
    ) -> bool:
        """Give the columns of a block, one after another, their best codes beside all others; say whether any changed.

        Columns of the block see each change at once; the others see all of them when the block is done.
        """
        inner, pulls = hessian[block][:, block], self.gradient[block]
        steps = torch.zeros_like(pulls)
        for index, place in enumerate(block.tolist()):
            own = float(inner[index, index])
            if own <= 0:
                continue  # no input reaches the column
            step = self._step(place, pulls[index], own, coder, outliers)
            at = step.nonzero()[:, 0]
            if len(at):
                steps[index] = step
                pulls[:, at] -= inner[:, index, None] * step[at]
        changed = bool(steps.any())
        if changed:
            self.gradient.sub_(hessian[:, block] @ steps)
        return changed

    def _step(
        self, place: int, pull: Tensor, own: float, coder: ColumnCoder, outliers: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """Give a column its best codes under its row of G; return what its values moved by, f64[N]."""
        before = self.values[place].clone()
        least = before + pull / own
        if outliers is None:
            code, value = coder.code(least.to(self.real), place)
            value = value.double()
        else:
            kept = outliers[0][:, place]
            code, value = coder.code(least.to(self.real).masked_fill(kept, 0), place)
            value = torch.where(kept, least, value.double())
        step = value - before
        better = step * (step * own * (1 + _TIE) - 2 * pull) < 0
        self.codes[place] = torch.where(better, code, self.codes[place])
        self.values[place] = torch.where(better, value, before)
        return torch.where(better, step, 0.0)

"""decoupleQ: choose integers and parameters in turns, each for the least loss of outputs given the other.

    integers    by rounding with error feedback under the parameters at hand (see `gptq`)
    parameters  by least squares under the Hessian, for the integers at hand (see `fit`)

The best pair seen is kept, so the loss never exceeds that of GPTQ with the format's own scales. Guo et al., arXiv
2404.12759, for `Ŵ = s·q + z` with real z (a `post` zero point); the same turns serve every format that is linear in one
level of float scales: symmetric integers, integers with integer zero points (which stay), and digit planes with free
coefficients, which are then fitted under the Hessian rather than to the weights alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qcc.numerics.qtype import QType
from qcc.numerics.quantize import compute_qparams
from qcc.numerics.sides import split_sides
from qcc.numerics.tensor import Parameters, QuantizedTensor
from qcc.passes.solvers.choice import Choice, choice_of, refitted
from qcc.passes.solvers.gptq import Feedback, round_with_feedback
from qcc.passes.solvers.hessian import check_inputs, conditioned
from qcc.passes.solvers.rounding import searched_parameters, searched_type

ROUNDS = 8
_PROGRESS = 1e-3


def solve(weight: Tensor, qtype: QType, hessian: Tensor | None, where: str = "") -> QuantizedTensor:
    """Encode a weight `[N, K]` under its Hessian `[K, K]`; without one every input counts alike.

    Starts from the format's own scales and from searched ones (see `rounding.mse`), whichever loses less.

    Raises:
        ShapeError: weights or Hessian that are not finite; see also `quantize`.
        IllegalFold: a Hessian of other inputs.
    """
    rest, sides = split_sides(weight, qtype.sides, where) if qtype.sides else (weight, ())
    sums = torch.eye(weight.shape[1]) if hessian is None else hessian
    check_inputs(weight, sums, where)
    whole, feedback = conditioned(sums, where), Feedback.of(sums, where)
    best = _rounded(rest, qtype, compute_qparams(rest, qtype, where), whole, feedback)
    if (searched := searched_type(qtype)) is not None:
        other = _rounded(rest, qtype, searched_parameters(rest, qtype, searched, where), whole, feedback)
        best = min(best, other, key=lambda choice: choice.loss)
    best = _alternated(rest, qtype, best, whole, feedback)
    return QuantizedTensor(qtype, (weight.shape[0], weight.shape[1]), best.codes, best.parameters, sides)


def _alternated(weight: Tensor, qtype: QType, best: Choice, hessian: Tensor, feedback: Feedback) -> Choice:
    trial = best
    for _ in range(ROUNDS):
        fitted = refitted(weight, qtype, trial, hessian)
        trial = _rounded(weight, qtype, fitted.parameters, hessian, feedback)
        before, best = best.loss, min(best, fitted, trial, key=lambda choice: choice.loss)
        if best.loss >= before * (1 - _PROGRESS):
            break
    return best


def _rounded(weight: Tensor, qtype: QType, parameters: Parameters, hessian: Tensor, feedback: Feedback) -> Choice:
    codes = round_with_feedback(weight, qtype, parameters, feedback)
    return choice_of(weight, qtype, codes, parameters, hessian)

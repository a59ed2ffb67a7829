"""Codes and parameters of a weight with what they lose: what solvers compare that go on from a first answer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from qcc.numerics.coding import decode
from qcc.numerics.parts import working_dtype
from qcc.numerics.qtype import QType
from qcc.numerics.tensor import Parameters
from qcc.passes.solvers.fit import fit_parameters
from qcc.passes.solvers.hessian import output_loss


@dataclass(frozen=True, eq=False)
class Choice:
    """Codes `[N, K]`, the parameters that they are read with, and tr(D H Dᵀ) of what is lost by both."""

    codes: Tensor
    parameters: Parameters
    loss: float


def choice_of(weight: Tensor, qtype: QType, codes: Tensor, parameters: Parameters, hessian: Tensor) -> Choice:
    """Measure codes and parameters of a weight `[N, K]` under its conditioned Hessian `[K, K]`."""
    values = decode(codes, qtype, parameters, working_dtype(weight))
    return Choice(codes, parameters, output_loss(weight.double() - values, hessian))


def refitted(weight: Tensor, qtype: QType, choice: Choice, hessian: Tensor) -> Choice:
    """Return a choice with the same codes and parameters fitted to them, which may lose more once they are stored."""
    parameters = fit_parameters(weight, qtype, choice.codes, choice.parameters, hessian)
    return choice_of(weight, qtype, choice.codes, parameters, hessian)

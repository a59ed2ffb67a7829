"""Every solver by the name that recipes use. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import LowRank, Sparse
from qcc.numerics.stored_parts import side_parts
from qcc.passes.solvers.problems import any_format, no_planes, not_apart, not_linear

if TYPE_CHECKING:
    from torch import Tensor

    from qcc.numerics.tensor import QuantizedTensor

Solve = Callable[["Tensor", QType, "Tensor | None", str], "QuantizedTensor"]
"""(weight [N, K], format, Hessian [K, K] where the solver reads samples, name in errors) -> codes and parameters."""

SolveAround = Callable[["Tensor", "Tensor", QType, "Tensor", str], "tuple[QuantizedTensor, Tensor]"]
"""(weight [N, K], which elements leave it, format of the rest, Hessian, name) -> codes, and the weight they are for."""


@dataclass(frozen=True)
class Solver:
    """How to get at a solver, whether it reads calibration samples, and what it cannot do with a format.

    `load_around` is for solvers that let outliers make up for what codes lost; `copies` of a weight in float64 are
    alive at once beside its codes in a solver that reads samples.
    """

    load: Callable[[], Solve]
    reads_samples: bool
    problem: Callable[[QType], str]
    load_around: Callable[[], SolveAround] | None = None
    copies: int = 1


@dataclass(frozen=True)
class SplitChoice:
    """How outliers are chosen and factors found, as recipes say it; see `qcc.recipes.model`."""

    outliers: Literal["magnitude", "sensitivity"] = "magnitude"
    low_rank: Literal["svd", "lorc", "alternating"] = "lorc"
    weighted: bool = False

    @property
    def reads_samples(self) -> bool:
        """Whether the choice needs the Hessian of the layer."""
        return self.outliers == "sensitivity" or self.weighted


def inner_type(qtype: QType) -> QType:
    """Return a format without outliers and low-rank factors: that of the codes alone."""
    return replace(qtype, sides=tuple(side for side in qtype.sides if not isinstance(side, Sparse | LowRank)))


def is_split(qtype: QType) -> bool:
    """Say whether a weight of a format is codes and outliers, low-rank factors or both, and nothing else."""
    return inner_type(qtype) != qtype and not side_parts(inner_type(qtype))


def _rtn() -> Solve:
    from qcc.passes.solvers.rounding import rtn

    return rtn


def _mse() -> Solve:
    from qcc.passes.solvers.rounding import mse

    return mse


def _gptq() -> Solve:
    from qcc.passes.solvers.gptq import solve

    return solve


def _gptq_around() -> SolveAround:
    from qcc.passes.solvers.gptq import gptq_around

    return gptq_around


def _decoupleq() -> Solve:
    from qcc.passes.solvers.decoupleq import solve

    return solve


def _descent() -> Solve:
    from qcc.passes.solvers.descent import solve

    return solve


def _descent_around() -> SolveAround:
    from qcc.passes.solvers.descent import descent_around

    return descent_around


SOLVERS: dict[str, Solver] = {
    "rtn": Solver(_rtn, reads_samples=False, problem=any_format),
    "mse": Solver(_mse, reads_samples=False, problem=any_format),
    "gptq": Solver(_gptq, reads_samples=True, problem=not_apart, load_around=_gptq_around),
    "descent": Solver(_descent, reads_samples=True, problem=not_apart, load_around=_descent_around, copies=4),
    "decoupleq": Solver(_decoupleq, reads_samples=True, problem=not_linear),
    # planes with free coefficients are fitted by alternation wherever they are encoded
    "hlq": Solver(_rtn, reads_samples=False, problem=no_planes("01")),
    "tritplanes": Solver(_rtn, reads_samples=False, problem=no_planes("-101")),
}
"""Name in a recipe -> solver."""

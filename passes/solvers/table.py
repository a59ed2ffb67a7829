"""Every solver by the name that recipes use. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import IntDecode, LowRank, PlanesDecode, Sparse
from qcc.numerics.stored_parts import side_parts

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

    `load_around` is for solvers that let outliers make up for what codes lost.
    """

    load: Callable[[], Solve]
    reads_samples: bool
    problem: Callable[[QType], str]
    load_around: Callable[[], SolveAround] | None = None


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


def _any(qtype: QType) -> str:
    return ""


def _columns_apart(qtype: QType) -> str:
    if qtype.layout == "ovp":
        return "codes columns in pairs, and this solver codes one after another"
    if found := [str(side) for side in side_parts(qtype) if not isinstance(side, Sparse | LowRank)]:
        return f"has side tensors ({', '.join(found)}), which this solver does not know"
    return ""


def _linear(qtype: QType) -> str:
    if reason := _columns_apart(qtype):
        return reason
    decode = qtype.decode
    integers = isinstance(decode, IntDecode) and (qtype.zero is None or qtype.zero.kind in ("pre", "post"))
    planes = isinstance(decode, PlanesDecode)
    fitted = len(qtype.levels) == 1 and qtype.levels[0].dtype in ("f32", "f16", "bf16")
    plain = qtype.zero is None or not qtype.zero.levels
    if not (integers or planes) or not fitted or not plain:
        return "is not linear in one level of float scales: write integers or digit planes with f16 or f32 scales"
    return ""


def _planes(digits: str) -> Callable[[QType], str]:
    def problem(qtype: QType) -> str:
        decode = qtype.decode
        if isinstance(decode, PlanesDecode) and decode.digits == digits and decode.coefficients == "free":
            return ""
        return f"has no digit planes {digits} with free coefficients: write planes(k, {digits}, free) | (1,128) f16"

    return problem


SOLVERS: dict[str, Solver] = {
    "rtn": Solver(_rtn, reads_samples=False, problem=_any),
    "mse": Solver(_mse, reads_samples=False, problem=_any),
    "gptq": Solver(_gptq, reads_samples=True, problem=_columns_apart, load_around=_gptq_around),
    "decoupleq": Solver(_decoupleq, reads_samples=True, problem=_linear),
    # planes with free coefficients are fitted by alternation wherever they are encoded
    "hlq": Solver(_rtn, reads_samples=False, problem=_planes("01")),
    "tritplanes": Solver(_rtn, reads_samples=False, problem=_planes("-101")),
}
"""Name in a recipe -> solver."""

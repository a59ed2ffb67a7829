"""Split a weight into codes, outliers and a product of thin factors: W ≈ codes + sparse + L·R.

Which elements leave is decided first; a solver then chooses codes around them; the factors come before, after or in
turns with both. Each outlier is stored as what the codes at its place leave of it, so a format without an exact zero
loses nothing by it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qcc.numerics.lowrank import LowRankFactors, alternate, low_rank
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import LowRank, Sparse
from qcc.numerics.quantize import dequantize
from qcc.numerics.sides import SideTensor
from qcc.numerics.sparse import SparseTensor, split_outliers
from qcc.numerics.tensor import QuantizedTensor
from qcc.passes.solvers.hessian import conditioned
from qcc.passes.solvers.outliers import chosen_outliers
from qcc.passes.solvers.table import Solver, SplitChoice, inner_type


def solve_split(
    weight: Tensor, qtype: QType, hessian: Tensor | None, where: str, solver: Solver, choice: SplitChoice
) -> QuantizedTensor:
    """Encode a weight `[N, K]` whose format has outliers, low-rank factors or both.

    Raises:
        ShapeError, UnsupportedOp: what the solver raises; also outliers or factors that overflow their dtype.
    """
    problem = _Problem(weight, qtype, hessian, where, solver, choice)
    parts, factors = problem.parts(weight), None
    if problem.low_rank is not None:
        parts, factors = problem.with_factors(problem.low_rank, parts)
    sides = tuple(_stored(side, parts, factors) for side in qtype.sides)
    return QuantizedTensor(qtype, parts.inner.shape, parts.inner.codes, parts.inner.parameters, sides)


@dataclass(frozen=True, eq=False)
class _Parts:
    """A matrix as codes and outliers."""

    inner: QuantizedTensor
    sparse: SparseTensor | None

    def value(self, dtype: torch.dtype) -> Tensor:
        values = dequantize(self.inner, dtype)
        return values if self.sparse is None else self.sparse.add_to(values)


class _Problem:
    """One weight, what its format wants, and which elements leave it."""

    def __init__(
        self, weight: Tensor, qtype: QType, hessian: Tensor | None, where: str, solver: Solver, choice: SplitChoice
    ) -> None:
        self._weight, self._inner, self._hessian, self._where = weight, inner_type(qtype), hessian, where
        self._solver, self._choice = solver, choice
        self._sparse = next((side for side in qtype.sides if isinstance(side, Sparse)), None)
        self.low_rank = next((side for side in qtype.sides if isinstance(side, LowRank)), None)
        self._apart: Tensor | None = None
        if self._sparse is not None:
            used = hessian if choice.outliers == "sensitivity" else None
            self._apart = chosen_outliers(weight, self._inner, self._sparse, used, where)

    def parts(self, matrix: Tensor) -> _Parts:
        """Give codes for a matrix of the shape of the weight, around the outliers."""
        if self._sparse is None or self._apart is None:
            return _Parts(self._solver.load()(matrix, self._inner, self._hessian, self._where), None)
        if self._solver.load_around is not None and self._hessian is not None:
            around = self._solver.load_around()
            inner, whole = around(matrix, self._apart, self._inner, self._hessian, self._where)
        else:
            rest = matrix.masked_fill(self._apart, 0)
            inner, whole = self._solver.load()(rest, self._inner, self._hessian, self._where), matrix
        left = (whole - dequantize(inner, whole.dtype)).masked_fill(~self._apart, 0)
        score = self._apart.any(0) if self._sparse.kind == "columns" else self._apart
        return _Parts(inner, split_outliers(left, self._sparse, score.to(torch.float32), self._where)[1])

    def with_factors(self, side: LowRank, plain: _Parts) -> tuple[_Parts, LowRankFactors]:
        """Give codes, outliers and factors together."""
        weight, weights = self._weight, self._column_weights()
        if self._choice.low_rank == "svd":
            factors = low_rank(weight, side, weights, self._where)
            return self.parts(factors.taken_from(weight)), factors
        if self._choice.low_rank == "lorc":
            return plain, low_rank(weight - plain.value(weight.dtype), side, weights, self._where)

        def quantized(matrix: Tensor) -> Tensor:
            parts = plain if matrix is weight else self.parts(matrix)
            return parts.value(matrix.dtype)

        found = alternate(weight, quantized, side, weights=weights, where=self._where)
        return (plain if found.base is weight else self.parts(found.base)), found.factors

    def _column_weights(self) -> Tensor | None:
        """Give the weights of squared errors by column: how much the samples use it."""
        if not self._choice.weighted or self._hessian is None:
            return None
        return conditioned(self._hessian, self._where).diag().to(self._weight.dtype)


def _stored(side: object, parts: _Parts, factors: LowRankFactors | None) -> SideTensor | None:
    return parts.sparse if isinstance(side, Sparse) else factors if isinstance(side, LowRank) else None

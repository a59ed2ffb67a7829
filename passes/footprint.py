"""What solving the weights of a planned module takes: bytes and work, weight by weight. Numbers only; nothing is run.

A solver that reads samples holds, for a weight `[N, K]`, the Hessian of its inputs and, one after the other,

    the inverse factor in the making      a matrix [K, K] and a copy of it that the factorization makes
    the rounding under it                 the factor [K, K], copies of the weight as float64, its codes

all `[K, K]` in float64. Every other solver reads a weight part by part and holds its codes.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.dialects.builtin import ModuleOp, StringAttr

from qcc.ir.base import SOLVER
from qcc.ir.program import WeightOp
from qcc.ir.quant import QuantizeOp
from qcc.ir.types import type_of
from qcc.numerics.elements import ELEMENT_BYTES
from qcc.passes.solvers.table import SOLVERS

_WIDE = 8
_ROWS = 256
"""Rows of products that are made at once, in float32."""
_SEARCH = 200
"""Work of finding the scales of one element and coding it, in multiply-adds."""


@dataclass(frozen=True)
class Solving:
    """One weight that waits for its codes: the most bytes that are alive while it is solved, and work in MACs."""

    name: str
    shape: tuple[int, ...]
    solver: str
    reads_samples: bool
    bytes: int
    held: int
    work: int


def solving_of(module: ModuleOp) -> list[Solving]:
    """List the weights of a planned module that wait for their codes; `held` are the bytes of the unpacked result."""
    found: list[Solving] = []
    for op in module.walk():
        if isinstance(op, QuantizeOp) and isinstance(op.input.owner, WeightOp) and not op.parameters:
            kind, name = type_of(op.input), op.attributes.get(SOLVER)
            solver = name.data if isinstance(name, StringAttr) else "rtn"
            found.append(_solving(op.input.owner.key.data, kind.static_shape or (), ELEMENT_BYTES[kind.scalar], solver))
    return found


def _solving(name: str, shape: tuple[int, ...], stored: int, solver: str) -> Solving:
    columns = shape[-1] if shape else 1
    elements = 1
    for size in shape:
        elements *= size
    reads = solver in SOLVERS and SOLVERS[solver].reads_samples
    held = elements + elements // 8
    if not reads:
        return Solving(name, shape, solver, False, elements * (stored + 1) + 2 * held, held, elements * _SEARCH)
    square = columns * columns * _WIDE
    making = 3 * square + 4 * columns * min(columns, _ROWS)
    rounding = 2 * square + elements * (_WIDE * SOLVERS[solver].copies + 2)
    after = square + elements * (4 + stored) + 2 * held
    work = elements * columns + 4 * columns**3 // 3 + elements * _SEARCH
    return Solving(name, shape, solver, True, elements * stored + max(making, rounding, after), held, work)

"""Prove how wide the integer sums of every contraction get; nothing is computed differently.

    kernel "up" { contract(q : int8, w : int4 by groups of 128) }   ->   kernel "up" accumulator 32 { .. }

Between two scales a contraction sums K products of integers, K the columns that share a scale on both sides. With x in
[a, b] and w in [c, d] the sum of up to K products, and every partial sum, lies in K times the interval of the products.
Where that is more than 32 bits and the weights are at hand, each row's own integers are taken instead: the sum over k
of max(a w_k, b w_k) is reached by some input, so the bound is exact. The smallest of 32 and 64 bits that holds the
interval is noted on the kernel. Floats and bias join after the sum and need no proof.

What does not fit the accumulators of the target (`accumulator_bits`) is an error. So are weights that are rebuilt as
integers of 8 bits from codes under a protective range and may leave them: QoQ's range of 119 keeps them, 120 does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from qcc.errors import IllegalFold, Problem
from qcc.ir.base import integer
from qcc.ir.context import QccContext
from qcc.ir.integer import IntegerContractOp, IntegerMatmulOp
from qcc.ir.kernel import WIDTHS, contracts_of, kernel_of, origin_of
from qcc.ir.program import WeightOp
from qcc.ir.quant import ContractOp
from qcc.ir.types import type_of
from qcc.passes.code_ranges import Integers, Interval, integers_of, reach_of_sums, shared_columns, stored_integers
from qcc.passes.regions import place_of

REBUILT_BITS = 8
"""Bits of the integers that codes under a protective range are rebuilt as."""


@dataclass(frozen=True)
class ProveOverflow(ModulePass):
    """The pass; `accumulator_bits` are those of the target's widest integer sums."""

    name: ClassVar[str] = "prove-overflow"

    accumulator_bits: int = 64

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Note the width of every kernel's sums.

        Raises:
            IllegalFold: listing every contraction whose sums, or rebuilt weights, may not fit.
        """
        problems: list[Problem] = []
        for contract in contracts_of(op):
            x, w = (_integers(contract, side) for side in ("input", "weight"))
            columns = shared_columns(type_of(contract.input), type_of(contract.weight))
            if x is None or w is None or columns is None:
                continue
            found = _Proof(contract, x, w, columns, ctx)
            problems += found.problems(self.accumulator_bits)
            kernel = kernel_of(contract)
            width = next((bits for bits in WIDTHS if found.sums.bits <= bits), None)
            if kernel is not None and width is not None:
                kernel.properties["accumulator"] = integer(width)
        problems += _integer_problems(op, self.accumulator_bits)
        if problems:
            raise IllegalFold(f"{len(problems)} contractions may overflow", problems)


def _integer_problems(module: ModuleOp, limit: int) -> list[Problem]:
    """Note the width of sums of plain integers, which is that of their type (`lower-integer` proved it)."""
    problems: list[Problem] = []
    for op in module.walk():
        if not isinstance(op, IntegerContractOp | IntegerMatmulOp):
            continue
        bits, kernel = int(type_of(op.result).scalar[1:]), kernel_of(op)
        if bits > limit:
            what = f"its sums need more than {limit} bits, where the target sums {limit}"
            problems.append(Problem(place_of(op), what, "use fewer bits"))
        elif kernel is not None:
            kernel.properties["accumulator"] = integer(bits)
    return problems


def _integers(op: ContractOp, side: str) -> Integers | None:
    qtype = type_of(op.input if side == "input" else op.weight).qtype
    return None if qtype is None else integers_of(qtype)


class _Proof:
    """How far the integers of one contraction reach."""

    def __init__(self, op: ContractOp, x: Integers, w: Integers, columns: int, ctx: Context) -> None:
        self.op, self.columns, self.x = op, columns, x.interval
        self.w, self.rebuilt = w.interval, w.rebuilt
        self.sums = self.x.product(self.w).times(columns)
        weight = origin_of(op.weight).owner
        store = ctx.store if isinstance(ctx, QccContext) else None
        loose = self.sums.bits > min(WIDTHS) or (w.rebuilt and self.w.bits > REBUILT_BITS)
        if loose and store is not None and isinstance(weight, WeightOp) and weight.key.data in store:
            values = stored_integers(store.quantized(weight.key.data))
            if values.numel():
                self.w = Interval(int(values.min()), int(values.max()))
                self.sums = reach_of_sums(self.x, values, columns)

    def problems(self, limit: int) -> list[Problem]:
        """Return what does not fit accumulators of `limit` bits, and what does not fit rebuilt weights."""
        where, problems = place_of(self.op), list[Problem]()
        if self.rebuilt and self.w.bits > REBUILT_BITS:
            what = f"its weights are rebuilt as integers of {REBUILT_BITS} bits and may reach {self.w.magnitude}"
            problems.append(Problem(where, what, "use a smaller protective range, such as protect(119)"))
        if self.sums.bits > min(limit, max(WIDTHS)):
            most = (2 ** (min(limit, max(WIDTHS)) - 1) - 1) // max(1, self.x.product(self.w).magnitude)
            what = f"sums of {self.columns} products of {self.x} and {self.w} reach {self.sums}: {self.sums.bits} bits"
            fix = f"give one side groups of at most {most} columns, or fewer bits" if most else "use fewer bits"
            problems.append(Problem(where, f"{what}, where the target sums {limit}", fix))
        return problems

"""Compute with integers alone between the inputs and the outputs of a program.

    quantize(x), f, dequantize(quantize(..)), g, ..  ->  codes(quantize(x)), f', requant, g', .., dequantize(of_codes)

The program is that of `quantize-values` with its scales from `calibrate` and its weights from `solve-weights`. Every
float value becomes an integer tensor and a scale known at compile time; rounding to codes happens where the program has
a static `quantize`, by `requant` (at most 1/2 + 2**-9 steps off, halves up where `quantize` takes them to even). What
each operation becomes, and how far it may be from the real function, is said in the rooms: `lower_integer_contraction`,
`lower_integer_elementwise`, `lower_integer_rows`.

Integers never leave 64 bits: every one has an interval, from the formats and the weights themselves, and what does not
fit is refused. Refused are also all operations without an integer form, all at once; operations on integers and truth
values stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation
from xdsl.passes import ModulePass
from xdsl.transforms.dead_code_elimination import dce

from qcc.errors import Problem, UnsupportedOp
from qcc.ir.base import location_of
from qcc.ir.context import store_of
from qcc.ir.program import ProgramOp, StateOp, UpdateStateOp, WeightOp
from qcc.passes.regions import label_of

if TYPE_CHECKING:
    from qcc.passes.lower_integer_program import IntegerProgram


@dataclass(frozen=True)
class LowerInteger(ModulePass):
    """The pass; needs the weight store."""

    name: ClassVar[str] = "lower-integer"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module and its store.

        Raises:
            QccError: if the weights are not beside the module.
            UnsupportedOp: listing every operation that has no integer form.
        """
        from qcc.passes.lower_integer_program import IntegerProgram  # torch stays out of the import of the pass

        store = store_of(ctx, self.name)
        lowered = [IntegerProgram(one, store) for one in op.walk() if isinstance(one, ProgramOp)]
        problems = [problem for one in lowered for problem in _problems(one)]
        if problems:
            raise UnsupportedOp(f"{len(problems)} operations cannot be computed in integers", problems)
        for one in lowered:
            one.finish()
        dce(op)
        used = {one.key.data for one in op.walk() if isinstance(one, WeightOp | StateOp | UpdateStateOp)}
        for key in [key for key in store if key not in used]:
            del store[key]


def _problems(program: IntegerProgram) -> list[Problem]:
    """Return what was refused, and what still computes with floats."""
    return [Problem(_place(op), f"{op.name}: {what}", fix) for op, what, fix in program.refused]


def _place(op: Operation) -> str:
    label, place = label_of(op), location_of(op)
    return place if not label or place.startswith(label) else f"{label}, {place}" if place else label

"""A pass: defined here, run by the machinery of qcc-opt, and held to the interpreter.

Two multiplications by constants, as scaled attention and gains leave behind, become one. Run it with
`python examples/a_pass.py`; `docs/write-a-pass.md` says how a pass joins the compiler.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern

from qcc.interpreter import Interpreter
from qcc.ir.context import QccContext
from qcc.ir.elementwise import BinaryOp
from qcc.ir.program import ConstantOp
from qcc.ir.store import WeightStore
from qcc.ir.types import type_of
from qcc.opt import OptMain
from qcc.passes.rewriting import replace, rewrite

PROGRAM = """
qcc.program @scaled("x" %x : !qcc.tensor<[s, 8], f64>) -> ["y"] symbols [#qcc.symbol<s in [1, inf]>] {
  %third = qcc.constant 0.33 : f64 : !qcc.tensor<[], f64>
  %gain = qcc.constant 1.7 : f64 : !qcc.tensor<[], f64>
  %a = qcc.binary mul %x, %third : (!qcc.tensor<[s, 8], f64>, !qcc.tensor<[], f64>) -> !qcc.tensor<[s, 8], f64>
  %b = qcc.binary mul %a, %gain : (!qcc.tensor<[s, 8], f64>, !qcc.tensor<[], f64>) -> !qcc.tensor<[s, 8], f64>
  %y = qcc.unary tanh %b : (!qcc.tensor<[s, 8], f64>) -> !qcc.tensor<[s, 8], f64>
  qcc.return %y : !qcc.tensor<[s, 8], f64>
}
"""


# ---- the pass: thirty lines -------------------------------------------------------------------------


class MergeScales(RewritePattern):
    """mul(mul(x, c), d)  ->  mul(x, c * d)      c, d constants; equal in real arithmetic"""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: BinaryOp, rewriter: PatternRewriter, /) -> None:
        """Guard first, rewrite last."""
        inner, outer_scale = op.lhs.owner, op.rhs.owner
        if not isinstance(inner, BinaryOp) or not isinstance(outer_scale, ConstantOp):
            return
        inner_scale = inner.rhs.owner
        if not isinstance(inner_scale, ConstantOp) or not _multiplies(op) or not _multiplies(inner):
            return
        merged = ConstantOp(_number(inner_scale) * _number(outer_scale), type_of(op.rhs))
        replace(rewriter, op, [merged, BinaryOp("mul", inner.lhs, merged)])


def _multiplies(op: BinaryOp) -> bool:
    return op.function.data.value == "mul" and not type_of(op.rhs).shape


def _number(op: ConstantOp) -> float:
    return float(op.number)


@dataclass(frozen=True)
class MergeScalesPass(ModulePass):
    """The pass; its fields would be its options."""

    name: ClassVar[str] = "merge-scales"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite a module."""
        rewrite(op, [MergeScales()])


# ---- running it -------------------------------------------------------------------------------------


class Opt(OptMain):
    """The machinery of qcc-opt, with one pass more: parsing, verifying after every pass, printing, dumps."""

    def register_all_passes(self) -> None:
        """Register qcc's passes, then this one."""
        super().register_all_passes()
        self.register_pass(MergeScalesPass.name, lambda: MergeScalesPass)


def optimized(text: str) -> str:
    """Run `merge-scales` on the text of a module, as `qcc-opt FILE -p merge-scales -o OUT` does."""
    with tempfile.TemporaryDirectory() as scratch:
        before, after = Path(scratch, "before.mlir"), Path(scratch, "after.mlir")
        before.write_text(text, "utf-8")
        Opt(args=[str(before), "-p", "merge-scales", "-o", str(after)]).run()
        return after.read_text("utf-8")


def interpret(text: str, x: torch.Tensor) -> torch.Tensor:
    """Execute the text of a module."""
    module = Parser(QccContext(), text).parse_module()
    return Interpreter(module, WeightStore()).run({"x": x})["y"]


def main() -> None:
    """Run the pass, print what it made, and compare it with what was there."""
    after = optimized(PROGRAM)
    print(after)
    x = torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    difference = float((interpret(PROGRAM, x) - interpret(after, x)).abs().max())
    print(f"multiplications: {PROGRAM.count('binary mul')} before, {after.count('binary mul')} after")
    print(f"largest difference in the interpreter: {difference:.1e}")
    if difference > 1e-14:
        raise SystemExit("the pass changes the function")


if __name__ == "__main__":
    main()

"""How patterns change a module: every new operation keeps the place in the user's model it stands for."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation
from xdsl.pattern_rewriter import (
    GreedyRewritePatternApplier,
    PatternRewriter,
    PatternRewriteWalker,
    RewritePattern,
)
from xdsl.transforms.dead_code_elimination import dce

from qcc.ir.base import location_of, set_location


def replace(rewriter: PatternRewriter, op: Operation, made: Sequence[Operation]) -> None:
    """Put operations in the place of one; the last takes over its result, and all take over its location."""
    for one in made:
        if not location_of(one):
            set_location(one, location_of(op))
    rewriter.replace(op, list(made), new_results=[made[-1].results[0]])


def rewrite(module: ModuleOp, patterns: Sequence[RewritePattern], *, recursive: bool = True) -> None:
    """Apply patterns until none fits any more, then drop what nothing reads."""
    walker = PatternRewriteWalker(GreedyRewritePatternApplier(list(patterns)), apply_recursively=recursive)
    walker.rewrite_module(module)
    dce(module)

"""Rotate the residual streams (R1 of QuaRot, arXiv 2404.00456, and SpinQuant, arXiv 2405.16406).

    x = embedding(t, ids)        ->  embedding(t Q, ids)
    x + linear(.., w, b)         ->  x + linear(.., Q^T w, b Q)
    linear(norm rms x, w, b)     ->  linear(norm rms x, w Q, b)

Q is a random Hadamard matrix, block-diagonal where the width has none. Legality, proved by `legality`: only
RMS norms without weights read the stream (`fold-norm`, `centre-streams` come before), and everything that writes or
reads it can be rewritten; a table that is also the head is untied. Equal in real arithmetic; computed in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from qcc.ir.context import store_of
from qcc.passes.settled import refuse_settled


@dataclass(frozen=True)
class RotateStreams(ModulePass):
    """The pass; needs the weight store. `block` 0 takes the largest block that has a Hadamard matrix."""

    name: ClassVar[str] = "rotate-streams"

    block: int = 0
    seed: int = 0
    illegal: str = "refuse"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module and its store.

        Raises:
            IllegalFold: naming what is in the way of every stream that cannot be rotated;
                or what was settled before.
            ShapeError: for a block that does not divide a stream's width.
        """
        refuse_settled(op, self.name)
        from qcc.passes.legality import Kind, Refusals, keeps, stream_norms, streams

        refusals = Refusals("rotating the residual stream", keep=keeps(self.illegal))
        proofs = streams(Kind.ROTATION, refusals, stream_norms(op))
        refusals.raise_any()
        if not proofs:
            return
        from qcc.numerics.hadamard import random_hadamard
        from qcc.numerics.hadamard_sizes import largest_block
        from qcc.passes.fold_weights import Rotation, fold
        from qcc.passes.online import check_block

        store = store_of(ctx, self.name)
        for number, proof in enumerate(proofs):
            block = self.block or largest_block(proof.cell_size)
            check_block(proof.cell_size, block)
            matrix = random_hadamard(proof.size, self.seed + number, block)
            fold(op, store, proof, Rotation(matrix), "rotated")

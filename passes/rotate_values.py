"""Rotate the values of attention, head by head (R2 of SpinQuant, arXiv 2405.16406).

    v = linear(x, w, b); linear(attention(q, k, v), o)   ->   w and b rotated by R in each key head,
                                                              o by R in each query head that reads it

R is a random Hadamard matrix of the head's size, block-diagonal where that has none. Legality, proved by `legality`:
attention mixes positions of one channel, never channels, so it commutes with a rotation inside a head; grouped query
heads get the rotation of their key head. A cache of values is rotated with them. Equal in real arithmetic; computed
in float64.
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
class RotateValues(ModulePass):
    """The pass; needs the weight store. `block` 0 takes the largest block that has a Hadamard matrix."""

    name: ClassVar[str] = "rotate-values"

    block: int = 0
    seed: int = 0
    illegal: str = "refuse"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module and its store.

        Raises:
            IllegalFold: naming what is in the way in every attention whose values cannot be rotated;
                or what was settled before.
            ShapeError: for a block that does not divide a head.
        """
        refuse_settled(op, self.name)
        from qcc.numerics.hadamard import random_hadamard
        from qcc.passes.fold_weights import Rotation, fold
        from qcc.passes.legality import Kind, Refusals, keeps
        from qcc.passes.sites import prove_sites, value_sites

        refusals = Refusals("rotating the values of attention", keep=keeps(self.illegal))
        proofs = prove_sites(Kind.ROTATION, value_sites(op), refusals)
        for number, proof in enumerate(proofs):
            head = proof.cell_size
            matrix = random_hadamard(head, self.seed + number, self.block or None)
            fold(op, store_of(ctx, self.name), proof, Rotation(matrix.repeat(proof.size // head, 1, 1)), "rotated_head")

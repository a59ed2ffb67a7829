"""Rotate queries and keys after the rotary embedding (R3 of QuaRot, arXiv 2404.00456).

    attention(rope q, rope k, v)   ->   attention(rotate(rope q), rotate(rope k), v)
    attention(linear q, linear k, v)   ->   rows of the layers rotated, where no rotary embedding is between

The rotation is a Hadamard matrix of the head's size (block-diagonal where that has none) in every head. Legality,
proved by `legality`: scores are products of queries and keys over the channels of one head, so the same rotation on
both cancels; it does not commute with the rotary embedding, so it is computed behind it. A cache of keys holds
rotated keys from then on. Equal in real arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from qcc.ir.context import store_of
from qcc.ir.transformer import RopeOp
from qcc.numerics.hadamard_sizes import largest_block
from qcc.passes.settled import refuse_settled


@dataclass(frozen=True)
class RotateKeys(ModulePass):
    """The pass; needs the weight store where weights are rotated. `block` 0 takes the largest there is."""

    name: ClassVar[str] = "rotate-keys"

    block: int = 0
    illegal: str = "refuse"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module and its store.

        Raises:
            IllegalFold: naming what is in the way in every attention whose keys cannot be rotated;
                or what was settled before.
            ShapeError: for a block that does not divide a head, or has no Hadamard matrix.
        """
        refuse_settled(op, self.name)
        from qcc.passes.legality import Kind, Refusals, keeps
        from qcc.passes.online import insert_rotations
        from qcc.passes.sites import key_sites, prove_sites

        refusals = Refusals("rotating queries and keys", keep=keeps(self.illegal))
        proofs = prove_sites(Kind.ROTATION, key_sites(op), refusals, cuts=(RopeOp,))
        for proof in proofs:
            block = self.block or largest_block(proof.cell_size)
            insert_rotations(proof, block)
            if proof.bindings or proof.states:
                from qcc.numerics.hadamard import block_hadamard
                from qcc.passes.fold_weights import Rotation, fold

                fold(op, store_of(ctx, self.name), proof, Rotation(block_hadamard(proof.cell_size, block)), "rotated")

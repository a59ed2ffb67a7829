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
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass

from qcc.ir.context import store_of
from qcc.ir.transformer import AttentionOp, RopeOp
from qcc.numerics.hadamard_sizes import largest_block


@dataclass(frozen=True)
class RotateKeys(ModulePass):
    """The pass; needs the weight store where weights are rotated. `block` 0 takes the largest there is."""

    name: ClassVar[str] = "rotate-keys"

    block: int = 0
    illegal: str = "refuse"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module and its store.

        Raises:
            IllegalFold: naming what is in the way in every attention whose keys cannot be rotated.
            ShapeError: for a block that does not divide a head, or has no Hadamard matrix.
        """
        from qcc.passes.legality import Kind, Proof, Refusals, keeps, prove, space_on
        from qcc.passes.online import insert_rotations

        refusals = Refusals("rotating queries and keys", keep=keeps(self.illegal))
        proofs: list[Proof] = []
        known: set[SSAValue] = set()
        for node in [one for one in op.walk() if isinstance(one, AttentionOp)]:
            if node.key not in known:
                with refusals.collect(node):
                    seed = space_on(node.key, [1, 3])
                    proofs.append(prove(Kind.ROTATION, seed, refusals.what, cuts=(RopeOp,)))
                    known |= {place.value for place in proofs[-1].places}
        refusals.raise_any()
        for proof in proofs:
            block = self.block or largest_block(proof.cell_size)
            insert_rotations(proof, block)
            if proof.bindings or proof.states:
                from qcc.numerics.hadamard import block_hadamard
                from qcc.passes.fold_weights import Rotation, fold

                fold(op, store_of(ctx, self.name), proof, Rotation(block_hadamard(proof.cell_size, block)), "rotated")

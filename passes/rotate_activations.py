"""Rotate what goes from an activation into a layer, at run time (R4 of QuaRot, arXiv 2404.00456).

    linear(silu(g) * u, w)   ->   linear(rotate(silu(g) * u), w H)

H is a Hadamard matrix as wide as the layer's input, block-diagonal where that has none. No weight can take H before
an activation, so the rotation is an operation; its inverse goes into the columns of the layers that read it.
Legality, proved by `legality`: only layers read the value. Equal in real arithmetic; computed in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass

from qcc.ir.context import store_of
from qcc.ir.elementwise import BinaryOp, UnaryFunction, UnaryOp
from qcc.ir.nn import LinearOp
from qcc.numerics.hadamard_sizes import largest_block
from qcc.passes.settled import refuse_settled

ACTIVATIONS = frozenset(UnaryFunction) - {UnaryFunction.NEG, UnaryFunction.ABS, UnaryFunction.NOT}


@dataclass(frozen=True)
class RotateActivations(ModulePass):
    """The pass; needs the weight store. `block` 0 takes the largest block that has a Hadamard matrix."""

    name: ClassVar[str] = "rotate-activations"

    block: int = 0
    illegal: str = "refuse"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module and its store.

        Raises:
            IllegalFold: naming what else reads the input of a layer that should be rotated;
                or what was settled before.
            ShapeError: for a block that does not divide a width, or has no Hadamard matrix.
        """
        refuse_settled(op, self.name)
        from qcc.passes.legality import Kind, Proof, Refusals, keeps, prove, space_on

        refusals = Refusals("rotating the inputs of layers", keep=keeps(self.illegal))
        proofs: list[Proof] = []
        layers = [one for one in op.walk() if isinstance(one, LinearOp)]
        for value in dict.fromkeys(one.input for one in layers):
            if comes_from_activation(value):
                with refusals.collect(next(one for one in layers if one.input is value)):
                    proofs.append(prove(Kind.ROTATION, space_on(value, [-1]), refusals.what, insert=True))
        refusals.raise_any()
        if not proofs:
            return
        from qcc.numerics.hadamard import block_hadamard
        from qcc.passes.fold_weights import Rotation, fold
        from qcc.passes.online import check_block, insert_rotations

        for proof in proofs:
            block = self.block or largest_block(proof.cell_size)
            check_block(proof.cell_size, block)
            fold(op, store_of(ctx, self.name), proof, Rotation(block_hadamard(proof.size, block)), "rotated_input")
            insert_rotations(proof, block)


def comes_from_activation(value: SSAValue) -> bool:
    """Say whether a value is an activation, or a product of one."""
    match value.owner:
        case UnaryOp(function=function):
            return function.data in ACTIVATIONS
        case BinaryOp(function=function, lhs=lhs, rhs=rhs) if function.data == "mul":
            return comes_from_activation(lhs) or comes_from_activation(rhs)
        case _:
            return False

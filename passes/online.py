"""Insert the transforms that a proof leaves to run time."""

from __future__ import annotations

import numpy as np
from xdsl.ir import Operation, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from qcc.errors import IllegalFold, Problem, ShapeError
from qcc.ir.base import location_of, set_location
from qcc.ir.transform import RotateOp
from qcc.ir.types import type_of
from qcc.numerics.hadamard_sizes import has_hadamard, largest_block
from qcc.passes.channels import OUTSIDE, Place
from qcc.passes.legality import Proof


def insert_rotations(proof: Proof, block: int) -> None:
    """Put a Hadamard rotation by blocks behind every value where the proof allows one; all readers read its result.

    Raises:
        ShapeError: for a block that does not divide the last axis, or has no Hadamard matrix.
        IllegalFold: if the channels of a block do not lie side by side.
    """
    for place in proof.inserted:
        _check(place, proof.size, block)
        axis = type_of(place.value).rank - 1
        size = type_of(place.value).shape[axis].constant
        kind = "hadamard" if size == block else "block_hadamard"
        insert_after(place, RotateOp(kind, place.value, axis, block=block))


def insert_after(place: Place, made: Operation) -> None:
    """Put an operation behind the value it reads; everything else that read the value reads its result."""
    value = place.value
    if isinstance(value.owner, Operation):
        set_location(made, location_of(value.owner))
    Rewriter.insert_op(made, point_after(value))
    for use in list(value.uses):
        if use.operation is not made:
            use.operation.operands[use.index] = made.results[0]


def point_after(value: SSAValue) -> InsertPoint:
    """Return the first place where a value may be read."""
    owner = value.owner
    return InsertPoint.after(owner) if isinstance(owner, Operation) else InsertPoint.at_start(owner)


def check_block(width: int, block: int) -> None:
    """Refuse blocks that cannot rotate a width.

    Raises:
        ShapeError: for a block that does not divide the width, or has no Hadamard matrix.
    """
    if not has_hadamard(block) or width % block:
        what = f"blocks of {block} do not divide {width} channels, or have no Hadamard matrix"
        raise ShapeError(what, fix=f"use blocks of {largest_block(width)}")


def _check(place: Place, size: int, block: int) -> None:
    check_block(place.atoms.shape[-1], block)
    runs = place.atoms.reshape(-1, block)
    owner = place.value.owner
    whole = place.axes[-1] == type_of(place.value).rank - 1 and not bool((runs == OUTSIDE).any())
    if not whole or bool((np.diff(runs, axis=1) != 1).any()) or bool((runs[:, 0] % size % block != 0).any()):
        where = location_of(owner) if isinstance(owner, Operation) else ""
        raise IllegalFold("a rotation cannot be inserted", [Problem(where, "its channels do not lie side by side")])

"""Rotate the inputs of all linear layers by blocks, at run time (MR-GPTQ, arXiv 2509.23202).

    linear(x, w)   ->   linear(rotate block_hadamard x, w H)     every other reader of x reads x

H is block-diagonal, one Hadamard matrix in every block of `block` channels: blocks as long as the groups of a
microscaling format mix what shares a scale and nothing else. What a rotation has just turned stays as it is, since
two by one symmetric matrix cancel. Legality: (x H)(w H)^T = x w^T, so always legal for stored weights, whatever
else reads the value. Equal in real arithmetic; computed in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from qcc.errors import Problem, ShapeError
from qcc.ir.base import location_of, set_location
from qcc.ir.context import store_of
from qcc.ir.nn import LinearOp
from qcc.ir.transform import RotateOp
from qcc.ir.types import type_of
from qcc.numerics.hadamard_sizes import has_hadamard, largest_block
from qcc.passes.layer_columns import layers_by_input, read_instead, stored_weight
from qcc.passes.layer_schemes import layer_name
from qcc.passes.online import point_after
from qcc.passes.settled import refuse_settled


@dataclass(frozen=True)
class RotateInputs(ModulePass):
    """The pass; needs the weight store. `block` 0 takes the largest block that has a Hadamard matrix."""

    name: ClassVar[str] = "rotate-inputs"

    block: int = 0

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module and its store.

        Raises:
            IllegalFold: naming what was settled before.
            ShapeError: listing the layers whose columns a block does not divide, or that it has no matrix.
        """
        refuse_settled(op, self.name)
        groups = layers_by_input(op)
        groups = {value: layers for value, layers in groups.items() if not isinstance(value.owner, RotateOp)}
        blocks = [self.block or largest_block(_columns(layers[0])) for layers in groups.values()]
        self._refuse_misfits([one for layers in groups.values() for one in layers])
        if not groups:
            return
        from qcc.numerics.hadamard import block_hadamard
        from qcc.passes.channels import Place
        from qcc.passes.fold_weights import Rotation, transform_tensor
        from qcc.passes.legality import space_on

        store = store_of(ctx, self.name)
        for (value, layers), block in zip(groups.items(), blocks, strict=True):
            size, axis = _columns(layers[0]), type_of(value).rank - 1
            made = RotateOp("hadamard" if size == block else "block_hadamard", value, axis, block=block)
            set_location(made, location_of(layers[0]))
            Rewriter.insert_op(made, point_after(value))
            turn = Rotation(block_hadamard(size, block))
            for layer in layers:
                columns: Place = space_on(layer.weight, [1])
                weight = transform_tensor(stored_weight(store, layer), columns, turn)
                read_instead(op, store, layer, made.result, weight, "rotated_input")

    def _refuse_misfits(self, layers: list[LinearOp]) -> None:
        """Refuse blocks that do not fit, for all layers at once."""
        if not self.block:
            return
        problems = [
            Problem(layer_name(one), f"{columns} columns are no whole blocks of {self.block}")
            for one in layers
            if (columns := _columns(one)) % self.block
        ]
        if not has_hadamard(self.block):
            problems = [Problem("block", f"there is no Hadamard matrix of {self.block} channels here")]
        if problems:
            sizes = [largest_block(_columns(one)) for one in layers]
            fix = f"use blocks of {min(sizes)}, or leave block away" if sizes else ""
            raise ShapeError("the inputs of layers cannot be rotated", problems, fix=fix)


def _columns(layer: LinearOp) -> int:
    columns = type_of(layer.weight).shape[1].constant
    assert columns is not None  # stored weights have a static shape
    return columns

"""Evaluate operations on weights once, at compile time.

    transpose(weight "w")  ->  weight "w/transpose"      likewise reshape, slice, cast and concat of weights
    add(weight "w", 1)     ->  weight "w/add"            arithmetic, with the option `arithmetic`

Legality: the operands are weights that nothing else reads, under their name anywhere in the module, and numbers; and
the result holds no more bytes than they do. So the store never grows, and a table of constants such as a mask, made
from shapes, stays a computation. Arithmetic is left alone by default: a pattern may still want to see it (1 + w).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter
from xdsl.transforms.dead_code_elimination import dce

from qcc.ir.base import location_of, set_location
from qcc.ir.context import store_of
from qcc.ir.elementwise import BinaryOp, CastOp
from qcc.ir.program import ConstantOp, StateOp, UpdateStateOp, WeightOp
from qcc.ir.shape import ConcatOp, ReshapeOp, SliceOp, TransposeOp
from qcc.ir.types import TensorType, type_of
from qcc.passes.canonicalize import merge_equal_operations

if TYPE_CHECKING:
    from torch import Tensor

    from qcc.ir.store import WeightStore

_BYTES = {"f64": 8, "i64": 8, "f32": 4, "i32": 4, "f16": 2, "bf16": 2, "i8": 1, "u8": 1, "i1": 1}


@dataclass(frozen=True)
class FoldConstants(ModulePass):
    """The pass; needs the weight store. `arithmetic` also folds add, sub, mul and div."""

    name: ClassVar[str] = "fold-constants"

    arithmetic: bool = False

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module and its store.

        Raises:
            QccError: if there is something to fold and the weights are not beside the module.
            CheckpointError: if a weight is not in the store.
        """
        merge_equal_operations(op)
        for node in list(op.walk()):
            if _is_movement(node) or (self.arithmetic and _is_arithmetic(node)):
                readers = _readers(op)
                if _is_foldable(node, readers):
                    _fold(node, store_of(ctx, self.name))
        dce(op)


def _is_movement(op: Operation) -> bool:
    return isinstance(op, TransposeOp | ReshapeOp | SliceOp | CastOp | ConcatOp)


def _is_arithmetic(op: Operation) -> bool:
    return isinstance(op, BinaryOp) and op.function.data in ("add", "sub", "mul", "div")


def _readers(module: ModuleOp) -> Counter[str]:
    """Count what reads each name of the store; state counts twice, for it is read again at every reset."""
    count: Counter[str] = Counter()
    for op in module.walk():
        if isinstance(op, WeightOp):
            count[op.key.data] += len({use.operation for use in op.result.uses})
        elif isinstance(op, StateOp | UpdateStateOp):
            count[op.key.data] += 2
    return count


def _is_foldable(op: Operation, readers: Counter[str]) -> bool:
    owners = [one.owner for one in op.operands]
    weights = {one for one in owners if isinstance(one, WeightOp)}
    if not weights or not all(isinstance(one, WeightOp | ConstantOp) for one in owners):
        return False
    kinds = [type_of(one.result) for one in weights]
    if any(kind.qtype is not None for kind in kinds) or any(readers[one.key.data] > 1 for one in weights):
        return False
    return 0 < _bytes(type_of(op.results[0])) <= sum(map(_bytes, kinds))


def _bytes(kind: TensorType) -> int:
    if kind.static_shape is None or kind.qtype is not None:
        return 0
    total = _BYTES[kind.scalar]
    for size in kind.static_shape:
        total *= size
    return total


def _fold(op: Operation, store: WeightStore) -> None:
    from qcc.passes.evaluation import evaluate

    operands: list[Tensor] = []
    dying: list[str] = []
    for one in op.operands:
        owner = one.owner
        if isinstance(owner, WeightOp):
            operands.append(store.tensor(owner.key.data))
            dying.append(owner.key.data)
        elif isinstance(owner, ConstantOp):
            operands.append(evaluate(owner, []))
    key = store.fresh_key(f"{dying[0]}/{op.name.removeprefix('qcc.')}")
    store[key] = evaluate(op, operands)
    for name in dying:
        if name in store:
            del store[name]
    made = WeightOp(key, type_of(op.results[0]))
    set_location(made, location_of(op))
    Rewriter.replace_op(op, [made], [made.result])

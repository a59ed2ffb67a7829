"""Write transforms that are left to run time as operations that every target has.

    rotate hadamard x                 ->   matmul(transpose(matmul(reshape x, H_q)), H_p), reshaped    n = p q
    rotate dense x, r                 ->   matmul(x, r)
    expand_k duplicate x, source      ->   index x[..., source]
    expand_k split x, source          ->   index x[..., source] * (1 / how often each occurs)
    expand_k residual x, source : A   ->   concat(x, index (x - dequantize(quantize(x) : A))[..., source])
    permute x, order                  ->   index x[.., order, ..]
    scale_axis x, factors             ->   x * factors

A Hadamard matrix of n = p q channels with a power of two p is the Kronecker product of those of p and q, so the
rotation costs p + q products a channel instead of n. On the last axis only for rotations and expansions; what has
another axis is left alone. Legal always: each is the definition of what it replaces.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from qcc.ir.base import location_of, set_location
from qcc.ir.context import store_of
from qcc.ir.elementwise import BinaryOp
from qcc.ir.gather import IndexOp
from qcc.ir.nn import MatmulOp
from qcc.ir.program import WeightOp
from qcc.ir.quant import DequantizeOp, QuantizeOp
from qcc.ir.shape import ConcatOp, ReshapeOp, TransposeOp
from qcc.ir.store import WeightStore
from qcc.ir.transform import ExpandKOp, ExpansionMode, PermuteOp, RotateOp, RotationKind, ScaleAxisOp
from qcc.ir.types import tensor, type_of
from qcc.numerics.hadamard_sizes import construction_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LowerTransforms(ModulePass):
    """The pass; needs the weight store where there is something to lower. `keep` are operations of the target's own."""

    name: ClassVar[str] = "lower-transforms"

    keep: tuple[str, ...] = ()

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module and put the matrices of rotations in its store."""
        kinds = (RotateOp, ExpandKOp, PermuteOp, ScaleAxisOp)
        for node in [one for one in op.walk() if isinstance(one, kinds)]:
            if node.name.removeprefix("qcc.") in self.keep:
                continue
            made = _lowered(node, store_of(ctx, self.name))
            for one in made:
                set_location(one, location_of(node))
            if made:
                Rewriter.replace_op(node, made, [made[-1].results[0]])


def _lowered(node: RotateOp | ExpandKOp | PermuteOp | ScaleAxisOp, store: WeightStore) -> list[Operation]:
    """Return the operations that take the place of one, the last with its result; none where it is left alone."""
    last = type_of(node.input).rank - 1
    match node:
        case PermuteOp():
            return [IndexOp(node.input, [node.order], node.axis.value.data)]
        case ScaleAxisOp():
            sizes = [1] * (last - node.axis.value.data)
            factors = ReshapeOp(node.factors, [*type_of(node.factors).shape, *sizes])
            return [factors, BinaryOp("mul", node.input, factors)]
        case ExpandKOp():
            return _expansion(node, store)
        case RotateOp() if node.axis.value.data == last:
            return _rotation(node, store)
        case _:
            return []


def _expansion(node: ExpandKOp, store: WeightStore) -> list[Operation]:
    last = type_of(node.input).rank - 1
    if node.format is not None:
        coded = QuantizeOp(node.input, node.format.data, node.parameters)
        decoded = DequantizeOp(coded, type_of(node.input).scalar)
        lost = BinaryOp("sub", node.input, decoded)
        picked = IndexOp(lost, [node.source], last)
        return [coded, decoded, lost, picked, ConcatOp([node.input, picked], last)]
    taken = IndexOp(node.input, [node.source], last)
    if node.mode.data is ExpansionMode.DUPLICATE:
        return [taken]
    source = node.source.owner
    if node.mode.data is not ExpansionMode.SPLIT or not isinstance(source, WeightOp):
        return []
    numbers = store.tensor(source.key.data)
    shares = 1 / numbers.bincount(minlength=1)[numbers].double()
    weight = _stored(store, "shares", shares, type_of(node.input).scalar)
    return [taken, weight, BinaryOp("mul", taken, weight)]


def _rotation(node: RotateOp, store: WeightStore) -> list[Operation]:
    shape = type_of(node.input).shape
    if node.block is None:
        matrix = node.matrix
        if matrix is None or node.kind.data is not RotationKind.DENSE:
            return []
        turned = TransposeOp(matrix, [1, 0]) if bool(node.inverse) else None
        right: SSAValue | Operation = matrix if turned is None else turned
        return [*([] if turned is None else [turned]), MatmulOp(node.input, right)]
    block = node.block.value.data
    blocks = shape[-1].exact_div(block)
    if blocks is None:
        return []
    wide = factor_of(block)
    narrow = block // wide
    scalar = type_of(node.input).scalar
    split = ReshapeOp(node.input, [*shape[:-1], blocks, wide, narrow])
    rank = len(shape) + 2
    swap = [*range(rank - 2), rank - 1, rank - 2]
    right = _hadamard(store, narrow, scalar, transposed=bool(node.inverse))
    left = _hadamard(store, wide, scalar, transposed=bool(node.inverse))
    inner = MatmulOp(split, right)
    moved = TransposeOp(inner, swap)
    outer = MatmulOp(moved, left)
    back = TransposeOp(outer, swap)
    return [split, right, inner, moved, left, outer, back, ReshapeOp(back, shape)]


def factor_of(block: int) -> int:
    """Return the power of two p near the root of n for which the matrix of n is that of p times that of n / p."""
    doublings = 0
    while construction_of(block >> doublings) == "doubled":
        doublings += 1
    return 1 << min(doublings, round(math.log2(block) / 2))


def _hadamard(store: WeightStore, size: int, scalar: str, *, transposed: bool) -> WeightOp:
    from qcc.numerics.hadamard import hadamard

    matrix = hadamard(size) / math.sqrt(size)
    name = f"hadamard.{size}.{scalar}{'.t' if transposed else ''}"
    return _stored(store, name, matrix.T.contiguous() if transposed else matrix, scalar, shared=True)


def _stored(store: WeightStore, wish: str, value: Tensor, scalar: str, *, shared: bool = False) -> WeightOp:
    from qcc.numerics.torch_dtypes import TORCH_DTYPES

    key = wish if shared else store.fresh_key(wish)
    if key not in store:
        store[key] = value.to(TORCH_DTYPES[scalar])
    return WeightOp(key, tensor(value.shape, scalar))

"""ATen's operators that pick and place elements at positions held by tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from xdsl.ir import SSAValue

from qcc.frontend.builder import Builder, inverse
from qcc.frontend.call import Call, Handler, Values
from qcc.frontend.refusal import Refusal
from qcc.ir.dims import Dim
from qcc.ir.gather import GatherOp, IndexOp, IndexUpdateOp
from qcc.ir.nn import EmbeddingOp
from qcc.ir.program import IotaOp
from qcc.ir.types import tensor, type_of

aten = torch.ops.aten


def embedding(b: Builder, call: Call) -> Values:
    """Rows of a table."""
    return b.add(EmbeddingOp(call.value("weight"), call.value("indices")))


def _indexed_axes(call: Call) -> tuple[list[int], list[SSAValue]]:
    """Return the axes that have an index tensor, and these tensors."""
    axes: list[int] = []
    tensors: list[SSAValue] = []
    for axis, one in enumerate(call.sequence("indices")):
        if one is None:
            continue
        if not isinstance(one, SSAValue):
            raise Refusal("an index that is no tensor")
        if type_of(one).scalar not in ("i64", "i32"):
            raise Refusal(
                "indexing by a mask, whose result's shape depends on data", "use torch.where or multiply by the mask"
            )
        axes.append(axis)
        tensors.append(one)
    return axes, tensors


def _gathered_first(axes: Sequence[int], rank: int) -> tuple[int, list[int]]:
    """Return the first indexed axis and the permutation that makes the indexed axes adjacent.

    Index arrays that are apart put their shape first (numpy's rule), adjacent ones leave it in place.
    """
    if list(axes) == list(range(axes[0], axes[0] + len(axes))):
        return axes[0], list(range(rank))
    return 0, [*axes, *(axis for axis in range(rank) if axis not in axes)]


def index(b: Builder, call: Call) -> Values:
    """`self[indices]` with None for whole axes."""
    value = call.value("self")
    axes, tensors = _indexed_axes(call)
    if not axes:
        return value
    first, order = _gathered_first(axes, type_of(value).rank)
    return b.add(IndexOp(b.transpose(value, order), tensors, first))


def index_put(b: Builder, call: Call) -> Values:
    """`self` with `self[indices] = values`; a mask with one value is a choice."""
    base, source = call.value("self"), b.cast(call.value("values"), call.result.scalar)
    if call.flag("accumulate"):
        raise Refusal("index_put that accumulates")
    indices = call.sequence("indices")
    only = indices[0] if len(indices) == 1 else None
    if isinstance(only, SSAValue) and type_of(only).scalar == "i1":
        if type_of(source).rank:
            raise Refusal("index_put of a tensor by a mask", "use torch.where")
        missing = type_of(base).rank - type_of(only).rank
        return b.where(b.reshape(only, (*type_of(only).shape, *[Dim.of(1)] * missing)), source, base)
    axes, tensors = _indexed_axes(call)
    if not axes:
        return b.expand(source, type_of(base).shape)
    first, order = _gathered_first(axes, type_of(base).rank)
    updated = b.add(IndexUpdateOp(b.transpose(base, order), tensors, source, first))
    return b.transpose(updated, inverse(order))


def index_select(b: Builder, call: Call) -> Values:
    """Slices along one axis at the positions of an index tensor of rank 1."""
    value, positions = call.value("self"), call.value("index")
    if not type_of(value).rank:
        return value
    flat = positions if type_of(positions).rank else b.reshape(positions, [1])
    return b.add(IndexOp(value, [flat], call.axis("dim", value)))


def index_copy(b: Builder, call: Call) -> Values:
    """`self` with the slices at `index` replaced by those of `source`."""
    base = call.value("self")
    source = b.cast(call.value("source"), type_of(base).scalar)
    return b.add(IndexUpdateOp(base, [call.value("index")], source, call.axis("dim", base)))


def index_fill(b: Builder, call: Call) -> Values:
    """`self` with the slices at `index` filled by one number."""
    base = call.value("self")
    fill = b.operand(call.raw("value"), type_of(base).scalar)
    return b.add(IndexUpdateOp(base, [call.value("index")], fill, call.axis("dim", base)))


def gather(b: Builder, call: Call) -> Values:
    """`self[i][index[i][j]]`; torch lets `index` be smaller than `self` on the other axes."""
    value, positions = call.value("self"), call.value("index")
    if not type_of(value).rank:
        return value
    axis, kind = call.axis("dim", value), type_of(positions)
    for other, size in enumerate(kind.shape):
        if other != axis:
            value = b.slice(value, other, 0, size)
    return b.add(GatherOp(value, positions, axis))


def one_hot(b: Builder, call: Call) -> Values:
    """`[...] -> [..., classes]`, one where the class is the position."""
    value, classes = call.value("self"), call.integer("num_classes")
    if classes < 1:
        raise Refusal("one_hot without the number of classes", "pass num_classes")
    positions = b.add(IotaOp(0, 1, tensor([classes], "i64")))
    column = b.reshape(value, (*type_of(value).shape, Dim.of(1)))
    return b.cast(b.binary("eq", b.cast(column, "i64"), positions), call.result.scalar)


TABLE: dict[object, Handler] = {
    aten.embedding.default: embedding,
    aten.index.Tensor: index,
    aten.index_put.default: index_put,
    aten.index_select.default: index_select,
    aten.index_copy.default: index_copy,
    aten.index_fill.int_Scalar: index_fill,
    aten.index_fill.int_Tensor: index_fill,
    aten.gather.default: gather,
    aten.one_hot.default: one_hot,
}

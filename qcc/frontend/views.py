"""Which nodes of a training graph share memory, and how a write to a view reaches its base."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping

import torch
from torch.fx import Graph, Node
from xdsl.ir import SSAValue

from qcc.frontend import aten_shape
from qcc.frontend.aten_table import IN_PLACE
from qcc.frontend.builder import Builder
from qcc.frontend.call import Call
from qcc.frontend.refusal import Refusal
from qcc.ir.dims import Dim
from qcc.ir.gather import SliceUpdateOp
from qcc.ir.types import type_of

aten = torch.ops.aten

Scatter = Callable[[Builder, Call, SSAValue], SSAValue]
"""From a view's call, with its base as it is, and the view's new value to the base's new value."""

_ALWAYS_VIEWS: dict[object, Scatter | None] = {
    aten.slice.Tensor: aten_shape.scatter_slice,
    aten.narrow.default: aten_shape.scatter_narrow,
    aten.select.int: aten_shape.scatter_select,
    aten.view.default: aten_shape.scatter_reshape,
    aten._unsafe_view.default: aten_shape.scatter_reshape,
    aten.view_as.default: aten_shape.scatter_reshape,
    aten.unflatten.int: aten_shape.scatter_reshape,
    aten.unsqueeze.default: aten_shape.scatter_reshape,
    aten.squeeze.default: aten_shape.scatter_reshape,
    aten.squeeze.dim: aten_shape.scatter_reshape,
    aten.squeeze.dims: aten_shape.scatter_reshape,
    aten.transpose.int: aten_shape.scatter_transpose,
    aten.permute.default: aten_shape.scatter_transpose,
    aten.t.default: aten_shape.scatter_transpose,
    aten.numpy_T.default: aten_shape.scatter_transpose,
    aten.mT.default: aten_shape.scatter_transpose,
    aten.swapaxes.default: aten_shape.scatter_transpose,
    aten.swapdims.default: aten_shape.scatter_transpose,
    aten.alias.default: aten_shape.scatter_same,
    aten.detach.default: aten_shape.scatter_same,
    aten.detach_.default: aten_shape.scatter_same,
    aten.lift_fresh.default: aten_shape.scatter_same,
    # elements of these lie in memory more than once, or in an order that no scatter here knows
    aten.expand.default: None,
    aten.expand_as.default: None,
    aten.broadcast_to.default: None,
    aten.movedim.int: None,
    aten.movedim.intlist: None,
}
_VIEWS_IF_SAME_TYPE = frozenset(
    {aten.to.dtype, aten.to.device, aten.to.dtype_layout, aten.to.other, aten.type_as.default}
)
_VIEWS_IF_STRIDES_ALLOW = frozenset(
    {aten.reshape.default, aten.reshape_as.default, aten.flatten.using_ints, aten.contiguous.default}
)
_VIEWS_AT_INFERENCE = frozenset({aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default})
_PIECES = frozenset(
    {aten.split.Tensor, aten.split.sizes, aten.split_with_sizes.default, aten.chunk.default, aten.unbind.int}
)


ALIASES: frozenset[object] = (
    frozenset(_ALWAYS_VIEWS) | _VIEWS_IF_SAME_TYPE | _VIEWS_IF_STRIDES_ALLOW | _VIEWS_AT_INFERENCE | _PIECES
)
"""Operators whose result may share memory with their first argument."""


def base_of(node: Node) -> Node | None:
    """Return the node whose memory a node shares, None if it has its own."""
    if node.target is operator.getitem:
        pieces = node.args[0]
        return base_of_pieces(pieces) if isinstance(pieces, Node) else None
    base = node.args[0] if node.args and isinstance(node.args[0], Node) else None
    if base is None or not (node.target in IN_PLACE or node.target in _ALWAYS_VIEWS or _may_view(node, base)):
        return None
    return base


def base_of_pieces(node: Node) -> Node | None:
    """Return the tensor that a node cuts into pieces."""
    base = node.args[0] if node.target in _PIECES else None
    return base if isinstance(base, Node) else None


def _may_view(node: Node, base: Node) -> bool:
    before, after = base.meta.get("val"), node.meta.get("val")
    if not isinstance(before, torch.Tensor) or not isinstance(after, torch.Tensor):
        return False
    if node.target in _VIEWS_IF_SAME_TYPE:
        return before.dtype == after.dtype and not node.kwargs.get("copy", False)
    if node.target in _VIEWS_AT_INFERENCE:
        return True
    if node.target is aten.contiguous.default:
        return before.is_contiguous()
    return node.target in _VIEWS_IF_STRIDES_ALLOW and _strides_allow(before, after)


def _strides_allow(before: torch.Tensor, after: torch.Tensor) -> bool:
    """Whether `before` can be viewed in the shape of `after` (decided at sizes that stand for the symbols)."""
    if before.is_contiguous():
        return True
    sizes: dict[str, int] = {}
    shape, strides, wanted = (
        [_sample(one, sizes) for one in many] for many in (before.shape, before.stride(), after.shape)
    )
    try:
        torch.empty_strided(shape, strides, device="meta").view(wanted)
    except RuntimeError:
        return False
    return True


def _sample(size: int | torch.SymInt, sizes: dict[str, int]) -> int:
    if isinstance(size, int):
        return size
    dim = Dim.of(str(size.node.expr))
    for name in sorted(dim.symbols):
        sizes.setdefault(name, 7 + 4 * len(sizes))
    return dim.evaluate(sizes)


def scatter(b: Builder, call: Call, new: SSAValue) -> SSAValue:
    """Return the base of a view after the view took the value `new`.

    Raises:
        Refusal: if the elements of the view cannot be traced to those of the base.
    """
    target = call.node.target
    if target in IN_PLACE or target in _VIEWS_IF_SAME_TYPE or target in _VIEWS_AT_INFERENCE:
        return new
    if target in _VIEWS_IF_STRIDES_ALLOW:
        return aten_shape.scatter_reshape(b, call, new)
    function = _ALWAYS_VIEWS[target]
    if function is None:
        raise Refusal(f"a write to the result of {target}", "write to a copy (clone()) of it")
    return function(b, call, new)


def scatter_piece(b: Builder, call: Call, index: int, new: SSAValue) -> SSAValue:
    """Return the tensor that `call` cuts after its piece `index` took the value `new`."""
    base = call.value("self")
    axis, sizes = aten_shape.pieces(call)
    shape = list(type_of(base).shape)
    shape[axis] = sizes[index]
    start = sum(sizes[:index], Dim.of(0))
    return b.add(SliceUpdateOp(base, b.reshape(new, shape), axis, start))


def written_roots(graph: Graph, same: Mapping[Node, Node]) -> frozenset[Node]:
    """Return the nodes whose own memory some operator overwrites; `same` maps tied placeholders to the first."""
    roots: set[Node] = set()
    for node in graph.nodes:
        if node.target in IN_PLACE:
            roots.add(root_of(node, same))
    return frozenset(roots)


def root_of(node: Node, same: Mapping[Node, Node]) -> Node:
    """Return the node that owns the memory of a node."""
    while (base := base_of(node)) is not None:
        node = base
    return same.get(node, node)

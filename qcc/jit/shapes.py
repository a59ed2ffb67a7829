"""Which sizes of a graph vary: decided at its first call, so that the calls after it need no graph of their own.

Dynamo takes every size of a first call for fixed, and makes a second graph where one changes. A backend sees the
graph when that has been decided. So the sizes that are likely to change are marked (as with
`torch._dynamo.maybe_mark_dynamic`) and Dynamo is asked to capture again. Sizes 0 and 1 it always takes for fixed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

import torch
from torch._dynamo import config, maybe_mark_dynamic
from torch._dynamo.exc import TensorifyScalarRestartAnalysis
from torch.fx import GraphModule, Node

from qcc.jit.weights import source_of

FEW_AXES = 3
"""Tensors with at most so many axes have a batch and a length in front: tokens, their vectors, masks over them."""

_WEAK = "_dynamo_weak_dynamic_indices"
_CALLERS = ("_dynamo_dynamic_indices", "_dynamo_static_indices", "_dynamo_unbacked_indices")
_ANY = "_has_dynamo_dim_marking"


class _Marks(threading.local):
    """The marks that were set for the capture that runs now: they are taken off once it is done."""

    def __init__(self) -> None:
        self.set: list[tuple[torch.Tensor, frozenset[int]]] = []


_marks = _Marks()


def let_sizes_vary(graph: GraphModule) -> None:
    """Have Dynamo capture a graph again if it took the batch or the length of an input for fixed.

    Does nothing under `torch.compile(..., dynamic=False)`, nor for what the model holds itself: parameters, buffers,
    and tensors in objects, such as a cache. Under `dynamic=True`, Dynamo takes sizes that happen to be equal for one
    size (a batch of 64 and 64 features): those are told apart.

    Raises:
        TensorifyScalarRestartAnalysis: to Dynamo, which then captures anew; not an error.
    """
    marked = _take_off()
    if not config.automatic_dynamic_shapes or marked:
        return
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder" and _is_argument(node)]
    for node, axes in _varying(inputs):
        tensor = node.meta["grapharg"].example
        if isinstance(tensor, torch.Tensor) and (new := axes - _marked_by_caller(tensor)):
            maybe_mark_dynamic(tensor, sorted(new))
            _marks.set.append((tensor, new))
    if _marks.set:
        raise TensorifyScalarRestartAnalysis(restart_reason="qcc: let the batch and the lengths vary")


def _is_argument(node: Node) -> bool:
    """Whether an input is a local tensor of the function, by itself or in a list or dict; not an object's."""
    value = node.meta.get("example_value")
    return isinstance(value, torch.Tensor) and value.ndim > 0 and "." not in source_of(node).replace("...", "")


def _varying(inputs: Iterable[Node]) -> list[tuple[Node, frozenset[int]]]:
    """Return the axes of inputs that should vary and do not: batch and length, and masks over such a length."""
    shapes = [(node, tuple(node.meta["example_value"].shape)) for node in inputs]
    few = {node: range(min(2, len(shape))) for node, shape in shapes if len(shape) <= FEW_AXES}
    lengths = {shape[axis] for node, shape in shapes for axis in few.get(node, ()) if isinstance(shape[axis], int)}
    found: list[tuple[Node, frozenset[int]]] = []
    for node, shape in shapes:
        many = (axis for axis, size in enumerate(shape) if not axis or size in lengths)
        axes = few.get(node, many)
        fixed = frozenset(axis for axis in axes if _is_fixed(shape, axis))
        if fixed:
            found.append((node, fixed))
    return found


def _is_fixed(shape: Sequence[int | torch.SymInt], axis: int) -> bool:
    """Whether a size is a number above 1, or symbolic and taken for that of another axis."""
    size = shape[axis]
    if isinstance(size, int):
        return size > 1
    return any(str(size) == str(other) for place, other in enumerate(shape) if place != axis)


def _marked_by_caller(tensor: torch.Tensor) -> frozenset[int]:
    return frozenset(axis for name in (_WEAK, *_CALLERS) for axis in getattr(tensor, name, ()))


def _take_off() -> bool:
    """Take off the marks of the capture before, as if they had never been; returns whether there were any."""
    marks, _marks.set = _marks.set, []
    for tensor, axes in marks:
        if left := set(getattr(tensor, _WEAK, ())) - axes:
            setattr(tensor, _WEAK, left)
            continue
        if hasattr(tensor, _WEAK):
            delattr(tensor, _WEAK)
        # Dynamo's quick test whether any of the marks is there
        if hasattr(tensor, _ANY) and not any(hasattr(tensor, name) for name in _CALLERS):
            delattr(tensor, _ANY)
    return bool(marks)

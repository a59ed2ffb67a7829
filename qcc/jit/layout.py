"""How results of groups lie in memory.

Code that was compiled for certain strides may follow a group of the target. A program gives dense tensors, so views
that torch would return with gaps come out dense; what follows is compiled for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import GraphModule, Interpreter, Node


def order_of(value: torch.Tensor) -> list[int] | None:
    """Return the axes from the slowest to the fastest in memory; None if that is their order."""
    strides, sizes = [_hint(one) for one in value.stride()], [_hint(one) for one in value.shape]
    if None in strides or None in sizes:
        return None
    order = sorted(range(len(sizes)), key=lambda axis: -cast(int, strides[axis]))
    moved = [axis for axis in order if sizes[axis] != 1]
    return None if moved == sorted(moved) else order


def _hint(size: Any) -> int | None:
    return size if isinstance(size, int) else cast(int | None, size.node.hint)


def laid_out(value: torch.Tensor, order: list[int] | None) -> torch.Tensor:
    """Return a dense tensor whose axes lie in the given order."""
    if order is None:
        return value.contiguous()
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return value.permute(order).contiguous().permute(inverse)


def results_of(group: GraphModule) -> list[torch.Tensor]:
    """Return the results of a group as the graph describes them."""
    return [node.meta["val"] for node in cast(Sequence[Node], group.graph.output_node().args[0])]


def note_layouts(module: GraphModule, prefix: str) -> None:
    """Let the inputs of all groups be described as they come, where groups named `prefix...` give dense tensors."""
    inputs = [node.meta["val"] for node in module.graph.nodes if node.op == "placeholder"]
    fakes = [one for one in inputs if isinstance(one, FakeTensor)]
    if fakes:
        with torch.no_grad(), fakes[0].fake_mode:
            _Describe(module, prefix).run(*inputs)


class _Describe(Interpreter):
    def __init__(self, module: GraphModule, prefix: str) -> None:
        super().__init__(module)
        self._prefix = prefix

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Give the results of a group."""
        group = cast(GraphModule, self.fetch_attr(target))
        for node, value in zip([one for one in group.graph.nodes if one.op == "placeholder"], args, strict=True):
            node.meta["val"] = value
        if not target.startswith(self._prefix):
            return super().call_module(target, args, kwargs)
        return tuple(laid_out(torch.empty_like(one), order_of(one)) for one in results_of(group))

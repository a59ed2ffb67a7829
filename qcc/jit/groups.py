"""Groups of operators, compiled and callable: a target's program, Inductor's code, or torch itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch.fx import GraphModule

from qcc.compiled import Compiled
from qcc.jit.layout import laid_out, order_of, results_of
from qcc.jit.partition import is_view
from qcc.jit.program import GroupProgram

log = logging.getLogger("qcc.dynamo")

Run = Callable[..., Sequence[Any]]


class TargetGroup:
    """A group that a target computes; called with all inputs of the group, weights and sizes among them."""

    def __init__(self, group: GraphModule, program: GroupProgram, compiled: Compiled) -> None:
        self.compiled = compiled
        inputs = [leaf.name for leaf in compiled.manifest.signature.inputs]
        wanted = set(compiled.input_names)
        pairs = zip(inputs, program.taken, strict=True)
        self._inputs = [(name, position) for name, position in pairs if name in wanted]
        self._outputs = [leaf.name for leaf in compiled.manifest.signature.outputs]
        self._orders = [order_of(one) for one in results_of(group)]

    def __call__(self, *arguments: Any) -> tuple[torch.Tensor, ...]:
        """Compute the group's results."""
        found = self.compiled.run({name: arguments[position] for name, position in self._inputs})
        values = [found[cast(str, name)] for name in self._outputs]
        return tuple(laid_out(value, order) for value, order in zip(values, self._orders, strict=True))


def moves_only(group: GraphModule) -> bool:
    """Say whether a group computes nothing: views and sizes, which are not worth compiling."""
    return all(is_view(node) for node in group.graph.nodes if node.op == "call_function")


def inductor_group(group: GraphModule) -> Run:
    """Compile a group with Inductor, for the sizes that its nodes carry; where Inductor fails, torch runs it."""
    from torch._inductor import standalone_compile

    examples = [node.meta["val"] for node in group.graph.nodes if node.op == "placeholder"]
    try:
        with torch.no_grad():
            return cast(Run, standalone_compile(group, examples, dynamic_shapes="from_graph"))
    except Exception as error:  # no C++ compiler, say; the operators are torch's own and run all the same
        reason = str(error).strip().partition("\n")[0]
        log.warning("Inductor cannot compile %d operations, torch runs them: %s", _count(group), reason)
        return group


def _count(group: GraphModule) -> int:
    return sum(node.op == "call_function" for node in group.graph.nodes)

"""Divide a graph of ATen operators between a target and Inductor.

A target gets the largest groups of operators that the front end takes and that hold a layer with weights; everything
else is gathered in groups as well. Sizes stay between the groups, as integers.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.partitioner import CapabilityBasedPartitioner
from torch.fx.passes.operator_support import OperatorSupportBase
from torch.fx.passes.utils.fuser_utils import fuse_by_partitions

from qcc.errors import Problem
from qcc.frontend.importer import refused_nodes

aten = torch.ops.aten

# operator -> position of its weight
_LAYERS: dict[object, int] = {
    aten.linear.default: 1,
    aten.mm.default: 1,
    aten.addmm.default: 2,
    aten.bmm.default: 1,
    aten.matmul.default: 1,
    aten.convolution.default: 1,
}
# a weight may come through these
_CARRIERS: frozenset[object] = frozenset(
    {
        aten.t.default,
        aten.transpose.int,
        aten.permute.default,
        aten.view.default,
        aten._unsafe_view.default,
        aten.expand.default,
        aten.unsqueeze.default,
        aten.clone.default,
        aten.alias.default,
        aten.detach.default,
        aten._to_copy.default,
        torch.ops.prims.convert_element_type.default,
    }
)
TARGET_PREFIX, REST_PREFIX = "qcc_", "rest_"


@dataclass(frozen=True)
class Division:
    """A graph whose calls are groups: modules `qcc_0`, ... for the target and `rest_0`, ... for others.

    `refused` says of operators why the front end does not take them; `layers` names, by group of the target, the
    placeholders of its layers' weights. `operations` counts those of the whole graph, `sizes` those of each group.
    """

    module: GraphModule
    refused: tuple[Problem, ...]
    operations: int
    layers: Mapping[str, tuple[str, ...]]
    sizes: Mapping[str, int]

    def groups(self, prefix: str) -> dict[str, GraphModule]:
        """Return the groups of one kind by name."""
        found = {name: one for name, one in self.module.named_children() if name.startswith(prefix)}
        return cast(dict[str, GraphModule], found)


def divide(graph: GraphModule, frozen: frozenset[str]) -> Division:
    """Divide a functional ATen graph; `frozen` are the placeholders that hold weights.

    The graph is changed: its nodes move into the modules of the groups.
    """
    problems = refused_nodes(graph)
    refused = _with_siblings(problems)
    operations = sum(_computes(node) for node in graph.graph.nodes)
    outside = refused | _returned_views(graph)
    parts = _groups(graph, lambda node: _computes(node) and node not in outside)
    weights = [tuple(found for node in part if (found := _weight_of(node, frozen))) for part in parts]
    chosen = [part for part, found in zip(parts, weights, strict=True) if found]
    fuse_by_partitions(graph, [dict.fromkeys(part) for part in chosen], TARGET_PREFIX, always_return_tuple=True)
    rest = _groups(graph, lambda node: _computes(node) and not _takes_group(node))
    fuse_by_partitions(graph, [dict.fromkeys(part) for part in rest], REST_PREFIX, always_return_tuple=True)
    graph.graph.lint()
    graph.recompile()
    layers = {f"{TARGET_PREFIX}{index}": found for index, found in enumerate(filter(None, weights))}
    sizes = {f"{TARGET_PREFIX}{index}": len(part) for index, part in enumerate(chosen)}
    sizes.update({f"{REST_PREFIX}{index}": len(part) for index, part in enumerate(rest)})
    return Division(graph, tuple(dict.fromkeys(problems.values())), operations, layers, sizes)


class _Chosen(OperatorSupportBase):
    def __init__(self, choose: Callable[[Node], bool]) -> None:
        self._choose = choose

    def is_node_supported(self, submodules: Mapping[str, torch.nn.Module], node: Node) -> bool:
        """Say whether a node was chosen."""
        return self._choose(node)


def _groups(graph: GraphModule, choose: Callable[[Node], bool]) -> list[list[Node]]:
    """Return the largest groups of chosen nodes that make no circle, each in the order of the graph."""
    partitioner = CapabilityBasedPartitioner(graph, _Chosen(choose), allows_single_node_partition=True)
    order = {node: index for index, node in enumerate(graph.graph.nodes)}
    found = [sorted(part.nodes, key=order.__getitem__) for part in partitioner.propose_partitions()]
    return sorted(found, key=lambda part: order[part[0]])


def _computes(node: Node) -> bool:
    """Say whether a node computes tensors: sizes stay outside of groups, as does what only checks."""
    value = node.meta.get("val")
    values: Iterable[Any] = value if isinstance(value, list | tuple) else [value]
    return node.op == "call_function" and any(isinstance(one, torch.Tensor) for one in values)


def _takes_group(node: Node) -> bool:
    """Say whether a node takes a result of a group, which must stay beside the call."""
    source = node.args[0] if node.target is operator.getitem and node.args else None
    return isinstance(source, Node) and source.op == "call_module"


def _with_siblings(problems: Mapping[Node, Problem]) -> set[Node]:
    """Return what cannot be taken: where one of several results cannot, the operator and its other results."""
    found = set(problems)
    for node in problems:
        source = node.args[0] if node.target is operator.getitem else node
        if isinstance(source, Node):
            found.add(source)
            found.update(user for user in source.users if user.target is operator.getitem)
    return found


def is_view(node: Node) -> bool:
    """Say whether a node gives another view of its first argument, or one of several results."""
    return node.target is operator.getitem or getattr(node.target, "is_view", False) is True


def _returned_views(graph: GraphModule) -> set[Node]:
    """Return the views that a graph ends with: whose memory a result shares, torch reads off its strides."""
    found: set[Node] = set()
    ends = cast(Iterable[Any], graph.graph.output_node().args[0])
    for node in ends:
        while isinstance(node, Node) and is_view(node):
            source = node.args[0]
            if node.target is operator.getitem:
                if not isinstance(source, Node) or not is_view(source):
                    break
                # all pieces of one tensor stay together
                found.update(source.users)
            found.add(node)
            node = source
    return found


def _weight_of(node: Node, frozen: frozenset[str]) -> str:
    """Return the placeholder of a layer's weight, empty if the node is no layer or its weight is computed."""
    position = _LAYERS.get(node.target)
    if position is None:
        return ""
    weight = node.args[position]
    while isinstance(weight, Node) and weight.target in _CARRIERS:
        weight = weight.args[0]
    return weight.name if isinstance(weight, Node) and weight.name in frozen else ""

"""Flat graphs: `torch.no_grad` and `torch.autocast` blocks are put in line, checks and dead nodes left out.

The element types of the nodes inside an autocast block are those that autocast gave, so the handlers cast as it did.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.fx import Graph, GraphModule, Node

_BLOCKS: dict[object, int] = {
    torch.ops.higher_order.wrap_with_set_grad_enabled: 1,
    torch.ops.higher_order.wrap_with_autocast: 4,
}
"""Operator of a block -> position of its subgraph among the arguments; the subgraph's inputs follow."""


def flatten(module: GraphModule, dropped: frozenset[object]) -> Graph:
    """Return a copy of a graph in which every block's body stands in the block's place.

    Nodes of the operators `dropped`, and what only they used, are left out. Writes to tensors are kept.
    """
    graph, known = Graph(), dict[Node, Any]()
    result = _copy(module, graph, known, top=True)
    graph.output(result)
    for node in graph.nodes:
        if node.target in dropped:
            graph.erase_node(node)
    graph.eliminate_dead_code()
    return graph


def _copy(module: GraphModule, graph: Graph, known: dict[Node, Any], *, top: bool) -> Any:
    blocks: dict[Node, Any] = {}
    for node in module.graph.nodes:
        if node.op == "output":
            return torch.fx.map_arg(node.args[0], lambda one: known[one])
        if node.op == "placeholder" and not top:
            continue
        if node.target in _BLOCKS:
            blocks[node] = _copy_block(module, node, graph, known)
        elif node.args and isinstance(node.args[0], Node) and node.args[0] in blocks:
            results = blocks[node.args[0]]
            known[node] = results[node.args[1]] if isinstance(results, tuple | list) else results
        elif node.op != "get_attr" or not isinstance(_attribute(module, node), torch.nn.Module):
            known[node] = graph.node_copy(node, lambda one: known[one])
    return ()


def _copy_block(module: GraphModule, node: Node, graph: Graph, known: dict[Node, Any]) -> Any:
    position = _BLOCKS[node.target]
    body = _attribute(module, cast(Node, node.args[position]))
    inputs = [one for one in body.graph.nodes if one.op == "placeholder"]
    outer = torch.fx.map_arg(node.args[position + 1 :], lambda one: known[one])
    inner = dict[Node, Any](zip(inputs, outer, strict=True))
    return _copy(body, graph, inner, top=False)


def _attribute(module: GraphModule, node: Node) -> Any:
    found: Any = module
    for part in str(node.target).split("."):
        found = getattr(found, part)
    return found

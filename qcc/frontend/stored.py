"""Weights and state of a program: emitted at its entry, state given its next value at its end."""

from __future__ import annotations

from collections.abc import Sequence

from torch.fx import Graph, Node
from xdsl.ir import SSAValue

from qcc.errors import Problem
from qcc.frontend.importer import Importer
from qcc.frontend.signature import Stored
from qcc.frontend.views import written_roots
from qcc.frontend.weights import Weights
from qcc.ir.program import StateOp, UpdateStateOp, WeightOp
from qcc.ir.types import tensor
from qcc.numerics.torch_dtypes import SCALAR_NAMES


def tied(placeholders: Sequence[Node], weights: Weights) -> dict[Node, Node]:
    """Map placeholders of a tied weight to the first of them."""
    first: dict[str, Node] = {}
    same: dict[Node, Node] = {}
    for node in placeholders:
        key = weights.keys.get(str(node.target))
        if key is not None and first.setdefault(key, node) is not node:
            same[node] = first[key]
    return same


def changing(
    graph: Graph, stored: Sequence[Stored], weights: Weights, same: dict[Node, Node], outputs: dict[str, str]
) -> dict[str, Node]:
    """Return key -> node whose last value the tensor takes, for every stored tensor that the program overwrites.

    `outputs` maps names of stored tensors to output nodes, as decomposed programs list them.
    """
    nodes = {node.name: node for node in graph.nodes}
    by_name = {one.name: weights.keys[one.placeholder] for one in stored if one.placeholder in weights.keys}
    found = {by_name[name]: nodes[node] for name, node in outputs.items()}
    for root in written_roots(graph, same):
        if root.op == "placeholder" and (key := weights.keys.get(str(root.target))) is not None:
            found.setdefault(key, root)
    return dict(sorted(found.items()))


def overlapping(weights: Weights, keys: Sequence[str]) -> list[Problem]:
    """Find overwritten tensors that share memory with another stored tensor that is not the same tensor."""
    problems: list[Problem] = []
    for one in keys:
        memory = weights.memory[one]
        others = [key for key, where in weights.memory.items() if where == memory and key != one]
        if others:
            what = f"is overwritten and is a part or a view of {', '.join(others)}"
            problems.append(Problem(one, what, "give each buffer its own memory (clone())"))
    return problems


def enter(importer: Importer, placeholders: Sequence[Node], weights: Weights, keys: Sequence[str]) -> None:
    """Emit one operation per stored tensor: its value when the program is entered."""
    entered: set[str] = set()
    for node in placeholders:
        key = weights.keys.get(str(node.target))
        if key is None or key in entered:
            continue
        entered.add(key)
        value = weights.store.tensor(key)
        kind = tensor(value.shape, SCALAR_NAMES[value.dtype])
        op = StateOp(key, kind) if key in keys else WeightOp(key, kind)
        importer.memory.define(node, importer.builder.add(op))


def leave(importer: Importer, last: dict[str, Node]) -> None:
    """Give every overwritten tensor its value for the next call."""
    for key, node in last.items():
        value = importer.memory.read(node)
        if isinstance(value, SSAValue):
            importer.builder.append(UpdateStateOp(key, value))

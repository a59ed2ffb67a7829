"""A group of operators as an exported program, with its weights in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from qcc.errors import Problem, UnsupportedOp


@dataclass(frozen=True)
class Frozen:
    """A weight or constant of the model: its name, its value, and whether it is a parameter."""

    name: str
    tensor: torch.Tensor
    parameter: bool


@dataclass(frozen=True)
class GroupProgram:
    """An exported program of a group; `taken` are the positions of its inputs among the group's."""

    program: ExportedProgram
    taken: tuple[int, ...]
    outputs: int


def group_program(group: GraphModule, frozen: Mapping[int, Frozen]) -> GroupProgram:
    """Make an exported program of a group; `frozen` are its constant inputs by position.

    Inputs are named `x0`, `x1`, ... by position among what is left.

    Raises:
        UnsupportedOp: if a size is given that no input has.
    """
    given = [node for node in group.graph.nodes if node.op == "placeholder"]
    tensors = [index for index, node in enumerate(given) if isinstance(node.meta["val"], torch.Tensor)]
    taken = tuple(index for index in tensors if index not in frozen)
    graph, known, inputs = Graph(), dict[Node, Node](), list[InputSpec]()
    for index in (*sorted(frozen), *taken):
        name = f"p{index}" if index in frozen else f"x{taken.index(index)}"
        known[given[index]] = _placeholder(graph, name, given[index])
        inputs.append(_input_spec(known[given[index]].name, frozen.get(index)))
    _enter_sizes(graph, known, [node for index, node in enumerate(given) if index not in tensors])
    for node in group.graph.nodes:
        if node.op not in ("placeholder", "output"):
            known[node] = graph.node_copy(node, known.__getitem__)
    results = [known[one] for one in cast(tuple[Node, ...], group.graph.output_node().args[0])]
    graph.output(tuple(results))
    outputs = [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(one.name), None) for one in results]
    return GroupProgram(_exported(graph, inputs, outputs, frozen, len(taken)), taken, len(results))


def _placeholder(graph: Graph, name: str, source: Node) -> Node:
    node = graph.placeholder(name)
    node.meta["val"] = source.meta["val"]
    return node


def _input_spec(name: str, frozen: Frozen | None) -> InputSpec:
    if frozen is None:
        return InputSpec(InputKind.USER_INPUT, TensorArgument(name), None)
    if frozen.parameter:
        return InputSpec(InputKind.PARAMETER, TensorArgument(name), frozen.name)
    return InputSpec(InputKind.BUFFER, TensorArgument(name), frozen.name, persistent=True)


def _enter_sizes(graph: Graph, known: dict[Node, Node], sizes: list[Node]) -> None:
    """Compute what was given as an integer from the shapes of the inputs: the program takes tensors only."""
    bound: dict[str, tuple[Node, int]] = {}
    for node in known.values():
        for axis, size in enumerate(node.meta["val"].shape):
            if isinstance(size, torch.SymInt):
                bound.setdefault(str(size.node.expr), (node, axis))
                for symbol in size.node.expr.free_symbols:
                    bound.setdefault(str(symbol), (node, axis))
    for given in sizes:
        value = given.meta["val"]
        symbols = [str(one) for one in value.node.expr.free_symbols] if isinstance(value, torch.SymInt) else []
        if missing := [one for one in symbols if one not in bound]:
            what = f"the size {value} is none of its inputs' ({', '.join(missing)})"
            raise UnsupportedOp("a group of operations cannot be compiled alone", [Problem(given.name, what)])
        if not symbols:
            raise UnsupportedOp("a group cannot be compiled", [Problem(given.name, f"is {value!r}, no size")])
        # the front end reads the size off the type; what stands here only has to have one
        node, axis = bound[symbols[0]]
        known[given] = graph.call_function(torch.ops.aten.sym_size.int, (node, axis))
        known[given].meta["val"] = value


def _exported(
    graph: Graph, inputs: list[InputSpec], outputs: list[OutputSpec], frozen: Mapping[int, Frozen], count: int
) -> ExportedProgram:
    in_spec = pytree.tree_flatten((tuple(range(count)), {}))[1]
    out_spec = pytree.tree_flatten(tuple(range(len(outputs))))[1]
    signature = ModuleCallSignature([], [], in_spec, out_spec)
    return ExportedProgram(
        root=torch.nn.Module(),
        graph=graph,
        graph_signature=ExportGraphSignature(inputs, outputs),
        state_dict={one.name: _as_stored(one) for one in frozen.values()},
        range_constraints=_ranges(graph),
        module_call_graph=[ModuleCallEntry("", signature)],
    )


def _as_stored(frozen: Frozen) -> torch.Tensor:
    return torch.nn.Parameter(frozen.tensor, requires_grad=False) if frozen.parameter else frozen.tensor


def _ranges(graph: Graph) -> dict[Any, Any]:
    """Return the ranges that torch assumed of the symbols in the inputs' shapes."""
    ranges: dict[Any, Any] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            for size in node.meta["val"].shape:
                if isinstance(size, torch.SymInt):
                    known = size.node.shape_env.var_to_range
                    ranges.update({symbol: known[symbol] for symbol in size.node.expr.free_symbols})
    return ranges

"""Walks a flat graph node by node and emits the program's operations."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import cast

import torch
from torch._ops import OpOverload
from torch.fx import Node
from xdsl.ir import Block, SSAValue

from qcc.errors import Problem
from qcc.frontend.aten_table import DROPPED, IN_PLACE, TABLE
from qcc.frontend.builder import Builder
from qcc.frontend.call import Call
from qcc.frontend.memory import Memory
from qcc.frontend.place import place_of
from qcc.frontend.refusal import Refusal
from qcc.frontend.symbols import Symbols
from qcc.frontend.views import scatter, scatter_piece
from qcc.ir.base import show
from qcc.ir.dims import UNBOUNDED, Dim
from qcc.ir.types import TensorType, tensor, type_of
from qcc.numerics.torch_dtypes import SCALAR_NAMES


class Importer:
    """Gives every node of a graph a value. What it cannot take is noted in `problems`, and it goes on."""

    def __init__(self, builder: Builder, same: dict[Node, Node]) -> None:
        self.builder = builder
        self.memory = Memory(same, self._compute, self._scatter)
        self.problems: list[Problem] = []
        self.refused: dict[Node, Problem] = {}

    def visit(self, node: Node) -> None:
        """Compute a node, or note why that is not possible."""
        place = self.builder.place = place_of(node)
        try:
            self._run(node)
        except Refusal as refusal:
            where = place or f"node {node.name}"
            self.refused[node] = Problem(where, f"{_label(node)}: {refusal.what}", refusal.fix)
            self._note(self.refused[node])
            self._stand_in(node)

    def _note(self, problem: Problem) -> None:
        if problem not in self.problems:
            self.problems.append(problem)

    def _stand_in(self, node: Node) -> None:
        """Let later nodes be looked at as if this one had worked."""
        try:
            kinds = self._kinds(node)
        except Refusal:
            kinds = ()
        values = [None if kind is None else self.builder.stand_in(kind) for kind in kinds]
        several = isinstance(node.meta.get("val"), list | tuple)
        self.memory.define(node, tuple(values) if several else next(iter(values), None))

    def _run(self, node: Node) -> None:
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt | int) and not isinstance(value, bool):
            self.memory.define(node, _plain(self.builder.symbols.dim(value)))
        elif node.target in DROPPED or isinstance(value, torch.SymBool | bool):
            self.memory.define(node, value if isinstance(value, bool) else None)
        elif isinstance(value, torch.SymFloat | float):
            self.memory.define(node, _constant_float(value))
        elif node.target in IN_PLACE:
            new = self._functional(node)
            self.memory.write(cast(Node, node.args[0]), new)
            self.memory.define(node, new)
        else:
            self.memory.define(node, self._compute(node))

    def _functional(self, node: Node) -> SSAValue:
        """Compute what an in-place operator leaves in its first argument."""
        call = self._call(node)
        value = TABLE[IN_PLACE[node.target]](self.builder, call)
        if not isinstance(value, SSAValue):
            raise Refusal("an in-place operator with several results")
        kind = call.result
        return self.builder.expand(self.builder.cast(value, kind.scalar), kind.shape)

    def _compute(self, node: Node) -> object:
        if node.target is operator.getitem:
            return self._item(node)
        if node.target in IN_PLACE:
            return self.memory.read(cast(Node, node.args[0]))
        handler = TABLE.get(node.target)
        if handler is None:
            raise Refusal("qcc does not have this operator", "rewrite this line with supported operators")
        call = self._call(node)
        values = handler(self.builder, call)
        several = values if isinstance(values, tuple) else (values,)
        for value, kind in zip(several, call.results, strict=True):
            _check(value, kind)
        return values

    def _item(self, node: Node) -> object:
        source, index = cast(Node, node.args[0]), cast(int, node.args[1])
        values = self.memory.read(source)
        if not isinstance(values, tuple):
            raise Refusal("an element of what is no tuple")
        value = cast(tuple[object, ...], values)[index]
        if value is None:
            raise Refusal(f"result {index} of {_label(source)} is not computed", "use its first result only")
        return value

    def _scatter(self, node: Node, new: SSAValue) -> SSAValue:
        if node.target is operator.getitem:
            return scatter_piece(self.builder, self._call(cast(Node, node.args[0])), cast(int, node.args[1]), new)
        return scatter(self.builder, self._call(node), new)

    def _call(self, node: Node) -> Call:
        if not isinstance(node.target, OpOverload):
            raise Refusal("qcc does not have this operator", "rewrite this line with supported operators")
        schema = node.target._schema  # pyright: ignore[reportPrivateUsage]  # there is no public way to it
        arguments: dict[str, object] = {}
        for position, parameter in enumerate(schema.arguments):
            if position < len(node.args):
                value: object = node.args[position]
            elif parameter.name in node.kwargs:
                value = node.kwargs[parameter.name]
            else:
                value = parameter.default_value if parameter.has_default_value() else None
            arguments[parameter.name] = self._argument(value)
        return Call(node, arguments, self._kinds(node))

    def _argument(self, value: object) -> object:
        if isinstance(value, Node):
            return self.memory.read(value)
        if isinstance(value, list | tuple):
            return [self._argument(one) for one in cast(Sequence[object], value)]
        return value

    def _kinds(self, node: Node) -> tuple[TensorType | None, ...]:
        value = node.meta.get("val")
        values = value if isinstance(value, list | tuple) else [value]
        return tuple(
            exported_type(self.builder.symbols, one) if isinstance(one, torch.Tensor) else None for one in values
        )


def exported_type(symbols: Symbols, value: torch.Tensor) -> TensorType:
    """Return the type of a tensor of the export.

    Raises:
        Refusal: if its element type is unknown, or its shape depends on data.
    """
    if value.dtype not in SCALAR_NAMES:
        raise Refusal(f"its result has elements of {value.dtype}, which qcc does not have")
    return tensor(symbols.shape(value), SCALAR_NAMES[value.dtype])


def _plain(dim: Dim) -> Dim | int:
    return dim if dim.constant is None else dim.constant


def _constant_float(value: torch.SymFloat | float) -> float:
    try:
        return float(str(value.node.expr) if isinstance(value, torch.SymFloat) else value)
    except ValueError as error:
        raise Refusal("a fraction that depends on shapes", "keep the sizes that it depends on static") from error


def _label(node: Node) -> str:
    return str(node.target) if node.op == "call_function" else f"{node.op} {node.target}"


def _check(value: SSAValue | None, kind: TensorType | None) -> None:
    """Refuse a value whose type is not the exported one: a guard against a wrong handler."""
    if value is None or kind is None:
        return
    found = type_of(value)
    if found.shape != kind.shape:
        raise Refusal(f"qcc derives the shape {show(found.shape)} where the export has {show(kind.shape)}")
    if found.element != kind.element:
        raise Refusal(f"qcc derives {found.scalar} elements where the export has {kind.scalar}")


def refused_nodes(graph: torch.fx.GraphModule) -> dict[Node, Problem]:
    """Say of every node of a functional graph that the front end does not take why; the graph is not changed.

    Sizes may be any that the placeholders mention.
    """
    symbols = Symbols({name: (1, UNBOUNDED) for name in _sizes(graph)})
    builder = Builder(Block(), symbols)
    importer = Importer(builder, {})
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            _stand_for(importer, node)
        elif node.op != "output":
            importer.visit(node)
    return importer.refused


def _sizes(graph: torch.fx.GraphModule) -> set[str]:
    values = [node.meta.get("val") for node in graph.graph.nodes if node.op == "placeholder"]
    sizes = [one for value in values for one in (value.shape if isinstance(value, torch.Tensor) else [value])]
    return {str(name) for one in sizes if isinstance(one, torch.SymInt) for name in one.node.expr.free_symbols}


def _stand_for(importer: Importer, node: Node) -> None:
    value = node.meta.get("val")
    if isinstance(value, torch.SymInt | int) and not isinstance(value, bool):
        importer.memory.define(node, _plain(importer.builder.symbols.dim(value)))
    elif not isinstance(value, torch.Tensor):
        importer.memory.define(node, value)
    else:
        try:
            importer.memory.define(node, importer.builder.stand_in(exported_type(importer.builder.symbols, value)))
        except Refusal:
            # whatever reads it is refused
            importer.memory.define(node, None)

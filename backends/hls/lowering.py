"""Turn an integer-only program into a graph of units.

Each operation is lowered by one function of the tables `lower_*.LOWERINGS`. A function that cannot take its operation
raises `Refusal`; all refusals are collected and raised as one error before anything is written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from xdsl.ir import Operation, SSAValue

from qcc.backends.hls.design import Graph, Port
from qcc.backends.hls.elements import RAW, TRUTH, Element
from qcc.backends.hls.order import Order, axes_order, row_major
from qcc.backends.hls.steps import Array, Step
from qcc.backends.hls.units import Unit
from qcc.backends.hls.units_flow import ConstantUnit, ReorderUnit, Walk
from qcc.errors import Problem, UnsupportedOp
from qcc.ir.base import LAYER, location_of
from qcc.ir.kernel import flat_operations, kernel_of, origin_of, uses_of
from qcc.ir.program import ProgramOp
from qcc.ir.store import WeightStore
from qcc.ir.types import INTEGER_RANGES, TensorType, type_of
from qcc.numerics.qtype import QType
from qcc.numerics.tensor import QuantizedTensor


class Refusal(Exception):
    """An operation that cannot be lowered: what is wrong with it, and the way out."""

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(what)
        self.what, self.fix = what, fix


FEWER_BITS = "use fewer bits: a smaller integer type at the inputs, narrower codes, or a layer cut into smaller ones"
"""The way out of sums that are too wide."""


def check_accumulator(sums: Element) -> None:
    """Refuse sums that 64 bits do not hold."""
    if sums.bits > 64:
        raise Refusal(f"needs an accumulator of {sums.bits} bits, and 64 is the limit", FEWER_BITS)


@dataclass(frozen=True)
class Flow:
    """A tensor in a stream: its logical shape, the order of travel, the range of its elements; `op` made it.

    `qtype` is set where the integers are codes of a quantized value, `scale` is its parameters then.
    """

    edge: str
    shape: tuple[int, ...]
    order: Order
    element: Element
    op: Operation | None = None
    qtype: QType | None = None
    scale: tuple[Array, ...] = ()

    @property
    def count(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True, eq=False)
class Known:
    """A tensor known beforehand: int64 or float values of its shape, or a quantized weight."""

    values: Array | QuantizedTensor


Value = Flow | Known
Table = Mapping[type[Operation], "Callable[[Lowering, Operation], None]"]


class Lowering:
    """The state of lowering one program: where every value is, and the graph so far."""

    def __init__(self, program: ProgramOp, store: WeightStore) -> None:
        self.program, self.store = program, store
        self.graph = Graph()
        self.values: dict[SSAValue, Value] = {}
        self.problems: list[Problem] = []
        self._inputs: dict[SSAValue, str] = dict(zip(program.body.block.args, program.input_names, strict=True))

    def run(self, table: Table) -> Graph:
        """Lower every operation that the outputs depend on.

        Raises:
            UnsupportedOp: listing every operation that was refused.
        """
        self.problems += [
            Problem(f"input '{name}'", f"has the dynamic shape {value.type}", "export the model with fixed sizes")
            for value, name in self._inputs.items()
            if type_of(value).static_shape is None
        ]
        if self.problems:
            raise UnsupportedOp("target hls takes programs of fixed sizes", self.problems)
        live = live_operations(self.program)
        for op in flat_operations(self.program.body.block):
            if op in live:
                self._lower(op, table)
        if not self.problems:
            self._finish()
        if self.problems:
            raise UnsupportedOp(f"target hls cannot take {len(self.problems)} operations", self.problems)
        return self.graph

    def _lower(self, op: Operation, table: Table) -> None:
        try:
            if (lower := table.get(type(op))) is None:
                raise Refusal("has no unit for FPGAs", "lower it to integers, or leave it to the host")
            dynamic = [str(one.type) for one in op.results if type_of(one).static_shape is None]
            if dynamic:
                raise Refusal(f"has the dynamic shape {dynamic[0]}", "export the model with fixed sizes")
            lower(self, op)
        except Refusal as refusal:
            self._note(op, refusal)
        except UnsupportedOp as error:
            self.problems += error.problems
            self._invent(op)

    def _note(self, op: Operation, refusal: Refusal) -> None:
        self.problems.append(Problem(f"{op.name} at {location_of(op) or name_of(op)}", refusal.what, refusal.fix))
        self._invent(op)

    def _invent(self, op: Operation) -> None:
        """Give a refused operation results of the right shape, so that later refusals are found as well."""
        for result in op.results:
            kind = type_of(result)
            shape = kind.static_shape or tuple(dim.constant or 1 for dim in kind.shape)
            element = Element(-128, 127) if kind.qtype is not None or kind.is_float else scalar_range(kind)
            edge = self.graph.edge("refused", element, int(np.prod(shape)))
            self.values[result] = Flow(edge.name, shape, row_major(int(np.prod(shape))), element, op)

    def _finish(self) -> None:
        """Make the outputs of the program."""
        names = self.program.output_names
        for name, value in zip(names, self.program.terminator.values, strict=True):
            kind, where = type_of(value), f"output '{name}'"
            try:
                found = self.plain(self.flow(value, self.program.terminator))
            except Refusal as refusal:
                self.problems.append(Problem(where, refusal.what, refusal.fix))
                continue
            if any(port.edge == found.edge for port in self.graph.inputs):
                self.problems.append(Problem(where, "is an input passed through", "leave it out of the outputs"))
            elif kind.qtype is not None or (kind.is_float and (kind.scalar != "f32" or not found.element.raw)):
                self.problems.append(Problem(where, f"is {kind}", "return float32 or integers"))
            self.graph.outputs.append(Port(name, kind.scalar if kind.qtype is None else "i8", found.shape, found.edge))

    # ---- values

    def value(self, value: SSAValue) -> Value:
        """Return where a value is, through the borders of kernels."""
        origin = origin_of(value)
        if origin not in self.values:
            self.values[origin] = self._input(origin)
        return self.values[origin]

    def _input(self, value: SSAValue) -> Flow:
        """Make the port of an input the first time it is read."""
        name, kind = self._inputs[value], type_of(value)
        assert kind.static_shape is not None, "refused before"
        if kind.is_float and kind.scalar != "f32":
            raise Refusal(f"reads input '{name}' of {kind.scalar}", "give it float32")
        element = RAW if kind.is_float else scalar_range(kind)
        count = int(np.prod(kind.static_shape, dtype=np.int64))
        edge = self.graph.edge(identifier(f"in_{name}"), element, count)
        self.graph.inputs.append(Port(name, kind.scalar, kind.static_shape, edge.name))
        return Flow(edge.name, kind.static_shape, row_major(count), element)

    def flow(self, value: SSAValue, op: Operation) -> Flow:
        """Return a value as a stream; what is known beforehand becomes a unit that gives it out."""
        found = self.value(value)
        if isinstance(found, Flow):
            return found
        numbers = self.numbers(value)
        truth = type_of(value).scalar == "i1"
        element = TRUTH if truth else Element(int(numbers.min()), int(numbers.max()))
        unit = ConstantUnit(numbers.ravel(), element)
        edge = self.emit("constant", op, unit, (), element, numbers.size)
        return Flow(edge, numbers.shape, row_major(numbers.size), element, op)

    def numbers(self, value: SSAValue) -> Array:
        """Return the integers of a value that is known beforehand."""
        found = self.value(value)
        if not isinstance(found, Known) or isinstance(found.values, QuantizedTensor):
            raise Refusal("reads a computed value where a constant is needed")
        if found.values.dtype.kind == "f":
            raise Refusal("reads a float constant", "the integer lowering has no rule for it")
        return found.values.astype(np.int64)

    def set(self, op: Operation, flow: Flow) -> None:
        """Note where the one result of an operation is."""
        self.values[op.results[0]] = flow

    # ---- units

    def emit(
        self, wish: str, op: Operation, unit: Unit, inputs: tuple[str, ...], element: Element | None, count: int
    ) -> str:
        """Add a unit with one output and return the output's stream."""
        name = identifier(f"{layer_of(op)}_{wish}" if layer_of(op) else wish)
        edge = self.graph.edge(name, element, count)
        self.graph.add(f"do_{name}", layer_of(op), unit, inputs, (edge.name,))
        return edge.name

    def continues(self, flow: Flow, op: Operation) -> bool:
        """Say whether a step can be computed by the unit before it: both stand in one kernel, and only it reads."""
        maker = flow.op
        if maker is None or kernel_of(op) is None or kernel_of(maker) is not kernel_of(op):
            return False
        return len(list(uses_of(maker.results[0]))) == 1

    def extend(self, flow: Flow, op: Operation, step: Step) -> Flow | None:
        """Let the unit before compute a step, if it can; returns the stream behind it."""
        if not self.continues(flow, op) or not self.graph.extend(flow.edge, step):
            return None
        element = self.graph.edges[flow.edge].element
        assert element is not None
        return Flow(flow.edge, flow.shape, flow.order, element, op)

    # ---- orders

    def plain(self, flow: Flow) -> Flow:
        """Bring a stream to row-major order."""
        return self.ordered(flow, row_major(flow.count))

    def ordered(self, flow: Flow, order: Order) -> Flow:
        """Bring a stream to an order, through a buffer if it travels in another."""
        if flow.order == order:
            return flow
        count = flow.count
        write, read, frames = shared_frames(flow.order, order)
        unit = ReorderUnit(frames, count // frames, walk_of(write), walk_of(read), flow.element)
        edge = self.graph.edge(f"{flow.edge}_r", flow.element, count)
        layer = next((one.layer for one in self.graph.nodes if flow.edge in one.outputs), "")
        self.graph.add(f"do_{edge.name}", layer, unit, (flow.edge,), (edge.name,))
        return Flow(edge.name, flow.shape, order, flow.element, None, flow.qtype, flow.scale)


def shared_frames(write: Order, read: Order) -> tuple[Order, Order, int]:
    """Take away the outermost loop that two orders share: its steps need a buffer one after the other."""
    if write.loops and read.loops:
        first, second = write.loops[0], read.loops[0]
        if first == second and first.extent * first.stride == write.count:
            return Order(write.loops[1:]), Order(read.loops[1:]), first.extent
    # a loop that both begin with may be longer in one of them
    for outer, inner in ((write, read), (read, write)):
        if not outer.loops or not inner.loops:
            continue
        top, other = inner.loops[0], outer.loops[0]
        if top.extent * top.stride == write.count and other.stride < top.stride:
            whole = other.extent * other.stride
            if whole == write.count and top.stride % other.stride == 0:
                rest = Order.of([type(other)(top.stride // other.stride, other.stride), *outer.loops[1:]])
                short = Order(inner.loops[1:])
                return (rest, short, top.extent) if outer is write else (short, rest, top.extent)
    return write, read, 1


def walk_of(order: Order) -> Walk:
    """Return the walk over a row-major buffer in an order."""
    extent = tuple(one.extent for one in order.loops) or (1,)
    stride = tuple(one.stride for one in order.loops) or (1,)
    return Walk(extent, stride, (0,) * len(extent), extent)


def live_operations(program: ProgramOp) -> set[Operation]:
    """Return the operations that the outputs depend on."""
    live: set[Operation] = set()
    todo = [origin_of(value) for value in program.terminator.values]
    while todo:
        owner = todo.pop().owner
        if isinstance(owner, Operation) and owner not in live:
            live.add(owner)
            todo += [origin_of(operand) for operand in owner.operands]
    return live


def scalar_range(kind: TensorType) -> Element:
    """Return the range of plain integers."""
    return Element(0, 1) if kind.scalar == "i1" else Element(*INTEGER_RANGES[kind.scalar])


def static_shape(value: SSAValue) -> tuple[int, ...]:
    """Return the shape of a value; refuses dynamic ones."""
    shape = type_of(value).static_shape
    if shape is None:
        raise Refusal(f"has the dynamic shape {type_of(value)}", "export the model with fixed sizes")
    return shape


def identifier(text: str) -> str:
    """Make a C++ identifier of any text."""
    word = re.sub(r"[^0-9a-zA-Z]+", "_", text).strip("_").lower() or "unit"
    return f"n{word}" if word[0].isdigit() else word


def layer_of(op: Operation) -> str:
    """Return the layer of the user's model that an operation belongs to, or an empty text."""
    if (given := op.attributes.get(LAYER)) is not None and hasattr(given, "data"):
        return str(given.data)  # pyright: ignore[reportAttributeAccessIssue] - a string attribute
    return location_of(op).partition(" (")[0]


def name_of(op: Operation) -> str:
    """Name an operation that carries no location by what it gives."""
    return ", ".join(str(one.type) for one in op.results) or op.name


def channels_last_of(flow: Flow) -> Order:
    """Return the order in which all channels of a position of an image travel together."""
    return axes_order(flow.shape, (0, *range(2, len(flow.shape)), 1))

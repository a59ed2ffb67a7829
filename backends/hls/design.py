"""A design: units joined by streams, before and after it is folded."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import cast

from qcc.backends.hls.elements import Element
from qcc.backends.hls.steps import Step
from qcc.backends.hls.units import Action, Fold, SteppedUnit, Unit
from qcc.backends.hls.units_embedding import EmbeddingUnit
from qcc.backends.hls.units_matvec import LoadUnit, Stored


@dataclass(frozen=True)
class Edge:
    """A stream: its name, what it carries, and how many elements a frame has. `words` are those of weights."""

    name: str
    element: Element | None
    count: int

    @property
    def is_words(self) -> bool:
        """Whether it carries packed weights."""
        return self.element is None


@dataclass(frozen=True)
class Node:
    """A unit in its place: a C identifier, the layer of the user's model, and the streams at its ports."""

    name: str
    layer: str
    unit: Unit
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Port:
    """An input or output of the program: its name, element type (`f32` or an integer's) and shape, and its stream.

    The numbers of an input that picks rows of a table lie in `0..below - 1`; 0 stands for no limit.
    """

    name: str
    scalar: str
    shape: tuple[int, ...]
    edge: str
    below: int = 0


@dataclass
class Graph:
    """A design in the making: nodes in an order in which they can run, streams by name, ports."""

    nodes: list[Node] = field(default_factory=list[Node])
    edges: dict[str, Edge] = field(default_factory=dict[str, Edge])
    inputs: list[Port] = field(default_factory=list[Port])
    outputs: list[Port] = field(default_factory=list[Port])

    def edge(self, wish: str, element: Element | None, count: int) -> Edge:
        """Add a stream under a fresh name."""
        name, number = wish, 1
        while name in self.edges:
            number += 1
            name = f"{wish}_{number}"
        self.edges[name] = Edge(name, element, count)
        return self.edges[name]

    def add(self, wish: str, layer: str, unit: Unit, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Node:
        """Add a node under a fresh name."""
        taken, name, number = {one.name for one in self.nodes}, wish, 1
        while name in taken:
            number += 1
            name = f"{wish}_{number}"
        node = Node(name, layer, unit, inputs, outputs)
        self.nodes.append(node)
        return node

    def extend(self, edge: str, step: Step) -> bool:
        """Let the unit that writes a stream apply one more step to it; False where that unit has no steps."""
        for node in self.nodes:
            if edge in node.outputs:
                if not isinstance(node.unit, SteppedUnit) or step.channels not in (1, node.unit.out_channels):
                    return False
                unit = node.unit.with_step(step)
                self._replace(node.unit, unit)
                self.edges[edge] = replace(self.edges[edge], element=unit.result)
                return True
        return False

    def _replace(self, before: Unit, after: Unit) -> None:
        for index, node in enumerate(self.nodes):
            if node.unit is before:
                self.nodes[index] = replace(node, unit=after)
            elif isinstance(node.unit, LoadUnit) and node.unit.reader is before:
                self.nodes[index] = replace(node, unit=LoadUnit(cast(Stored, after)))


@dataclass(frozen=True)
class Stream:
    """A stream of the folded design: tokens of `width` elements, and the depth of its FIFO (0 at a port).

    A depth is `needed` where the design stops with one place less. At a port a token is a beat of `width` bytes on a
    `bus`: "stream" or "memory".
    """

    name: str
    element: Element | None
    width: int
    tokens: int
    writer: str
    reader: str
    depth: int = 2
    needed: bool = False
    bus: str = ""

    @property
    def bits(self) -> int:
        """Bits of a token; `width` counts lanes of 64 bits where it carries weights."""
        if self.bus:
            return 8 * self.width
        return self.width * (64 if self.element is None else self.element.bits)

    @property
    def ctype(self) -> str:
        """The C++ type of a token."""
        if self.bus:
            return f"ap_axiu<{self.bits}, 0, 0, 0>" if self.bus == "stream" else f"ap_uint<{self.bits}>"
        if self.element is None:
            return f"qcc::lanes<{self.width}>"
        return f"qcc::vec<{self.element.ctype}, {self.width}>"

    @property
    def argument(self) -> str:
        """The parameter of a C++ function that reads or writes the port."""
        if self.bus == "memory":
            return f"{'const ' if self.reader else ''}{self.ctype} *{self.name}"
        return f"hls::stream<{self.ctype}> &{self.name}"


@dataclass(frozen=True)
class Built:
    """A folded node."""

    node: Node
    fold: Fold

    @property
    def cycles(self) -> int:
        """Cycles that a frame keeps it busy."""
        return self.node.unit.cycles(self.fold)

    @cached_property
    def actions(self) -> tuple[Action, ...]:
        """The reads and writes of a frame, in order; kept, since every run on paper goes through them."""
        return tuple(self.node.unit.trace(self.fold))


@dataclass(frozen=True)
class Design:
    """A folded design: one writer and one reader for every stream, equal widths at both ends."""

    nodes: tuple[Built, ...]
    streams: dict[str, Stream]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    @property
    def fifos(self) -> list[Stream]:
        """Streams between units, in order."""
        return [one for one in self.streams.values() if one.depth]

    @property
    def interval(self) -> int:
        """Cycles from one frame to the next: those of the busiest unit."""
        return max(one.cycles for one in self.nodes)

    @property
    def actions(self) -> int:
        """Reads and writes of a frame."""
        return sum(len(one.actions) for one in self.nodes)

    def stored(self) -> list[tuple[Built, Stored]]:
        """Return the units with a memory port, and whose words are behind it."""
        found: list[tuple[Built, Stored]] = []
        for one in self.nodes:
            if (words := stored_of(one.node.unit)) is not None:
                found.append((one, words))
        return found


def stored_of(unit: Unit) -> Stored | None:
    """Return whose words a unit reads over a memory port of its own; None where it has none."""
    match unit:
        case LoadUnit():
            return unit.reader
        case EmbeddingUnit() if unit.in_memory:
            return unit
        case _:
            return None

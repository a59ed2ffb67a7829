"""Where tensors enter and leave a design: beats of a bus to tokens, and back.

A beat is the largest power of two of bytes, up to 512 bits, that divides a token, so that a bus or a DMA engine carries
the tensor as it lies in memory: row-major, little-endian, nothing between its elements.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from qcc.backends.hls.design import Built, Design, Node, Port, Stream
from qcc.backends.hls.elements import Element
from qcc.backends.hls.units import Action, Context, Cost, Fold, action

Interface = Literal["stream", "memory"]
"""What the ports of a design are: AXI4-Stream with TLAST, or AXI4 masters that read and write buffers."""

BYTES = {"f32": 4, "i32": 4, "i64": 8, "i8": 1, "u8": 1, "i1": 1}
"""Bytes of an element in memory."""

NUMPY = {"f32": "<f4", "i32": "<i4", "i64": "<i8", "i8": "i1", "u8": "u1", "i1": "u1"}
"""Element types as numpy reads them from memory."""

MOST_BEAT = 64
"""Bytes of a beat at most."""


@dataclass(frozen=True)
class PortUnit:
    """`tokens` tokens of `fold.pe` elements, each `size` bytes in memory."""

    tokens: int
    x: Element
    size: int
    interface: Interface

    def beat(self, fold: Fold) -> int:
        """Return the bytes of a beat."""
        token = fold.pe * self.size
        return min(token & -token, MOST_BEAT)

    def beats(self, fold: Fold) -> int:
        """Return the beats of a token."""
        return fold.pe * self.size // self.beat(fold)

    def folds(self) -> list[Fold]:
        """Return nothing: the width is that of the unit inside."""
        return []

    def cycles(self, fold: Fold) -> int:
        """Return one cycle a beat."""
        return self.tokens * self.beats(fold)

    def cost(self, fold: Fold) -> Cost:
        """Estimate registers of a token, and what a memory port needs."""
        bits = 8 * self.size * fold.pe
        port = Cost(600, 900, 0, 2 * 8 * self.beat(fold) / 36) if self.interface == "memory" else Cost(20, 20)
        return port + Cost(20 + bits / 4, bits)

    def context(self, fold: Fold) -> Context:
        """Return sizes."""
        return {"u": self, "beats": self.beats(fold)}


@dataclass(frozen=True)
class EnterUnit(PortUnit):
    """Beats of an input to tokens."""

    template: ClassVar[str] = "enter"

    def widths(self, fold: Fold) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return a beat, and a token."""
        return (self.beat(fold),), (fold.pe,)

    def trace(self, fold: Fold) -> Iterator[Action]:
        """Iterate over the beats of a token, then the token."""
        for _ in range(self.tokens):
            for _ in range(self.beats(fold)):
                yield action(1, 0, False)
            yield action(0, 1, True)


@dataclass(frozen=True)
class LeaveUnit(PortUnit):
    """Tokens to beats of an output."""

    template: ClassVar[str] = "leave"

    def widths(self, fold: Fold) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return a token, and a beat."""
        return (fold.pe,), (self.beat(fold),)

    def trace(self, fold: Fold) -> Iterator[Action]:
        """Iterate over a token, then its beats."""
        for _ in range(self.tokens):
            yield action(1, 0, False)
            for index in range(self.beats(fold)):
                yield action(1 if index else 0, 1, True)


def with_ports(design: Design, interface: Interface) -> Design:
    """Put what turns beats into tokens, and back, around a design."""
    streams = dict(design.streams)
    nodes = list(design.nodes)
    for port in design.inputs:
        inner = streams[port.edge]
        name = f"{port.edge}_t"
        enter = _built(EnterUnit, f"enter_{port.edge}", port, inner, interface, ((port.edge,), (name,)))
        nodes = [_renamed(one, port.edge, name) for one in nodes]
        streams[name] = replace(inner, name=name, writer=enter.node.name, depth=2)
        streams[port.edge] = _outer(port.edge, enter, "", enter.node.name)
        nodes.insert(0, enter)
    outputs: list[Port] = []
    for port in design.outputs:
        inner, name = streams[port.edge], f"{port.edge}_o"
        leave = _built(LeaveUnit, f"leave_{port.edge}", port, inner, interface, ((port.edge,), (name,)))
        streams[port.edge] = replace(inner, reader=leave.node.name, depth=2)
        streams[name] = _outer(name, leave, leave.node.name, "")
        nodes.append(leave)
        outputs.append(replace(port, edge=name))
    return replace(design, nodes=tuple(nodes), streams=streams, outputs=tuple(outputs))


def _built(
    kind: type[EnterUnit | LeaveUnit], name: str, port: Port, inner: Stream, interface: Interface,
    sides: tuple[tuple[str, ...], tuple[str, ...]],
) -> Built:  # fmt: skip
    assert inner.element is not None, "ports carry no words of weights"
    unit = kind(inner.tokens, inner.element, BYTES[port.scalar], interface)
    return Built(Node(name, "", unit, *sides), Fold(inner.width, inner.width))


def _outer(name: str, built: Built, writer: str, reader: str) -> Stream:
    """Return the stream of beats at a port."""
    unit, fold = built.node.unit, built.fold
    assert isinstance(unit, PortUnit)
    return Stream(name, Element(0, 255), unit.beat(fold), unit.cycles(fold), writer, reader, 0, bus=unit.interface)


def _renamed(built: Built, before: str, after: str) -> Built:
    inputs = tuple(after if one == before else one for one in built.node.inputs)
    return replace(built, node=replace(built.node, inputs=inputs))

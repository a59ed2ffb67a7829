"""Small graphs of HLS units, made by hand."""

from __future__ import annotations

from random import Random

from qcc.backends.hls.design import Graph, Port
from qcc.backends.hls.elements import RAW, Element
from qcc.backends.hls.steps import Steps
from qcc.backends.hls.units import Unit, divisors
from qcc.backends.hls.units_flow import ReorderUnit, Walk
from qcc.backends.hls.units_rows import JoinUnit, MapUnit

EIGHT = Element(-128, 127)


def skip_graph(count: int, buffered: int, buffers: int = 1) -> Graph:
    """A tensor that goes through buffers beside a skip, and meets itself again."""
    graph = Graph()
    first = graph.edge("in_x", RAW, count)
    graph.inputs.append(Port("x", "f32", (count,), first.name))
    x, y = (graph.edge(name, EIGHT, count) for name in ("x", "y"))
    graph.add("enter", "enter", MapUnit(1, count, EIGHT, steps=Steps(EIGHT)), (first.name,), (x.name,))
    walk, before = Walk((buffered,), (1,), (0,), (buffered,)), x
    for _ in range(buffers):
        kept = graph.edge("kept", EIGHT, count)
        unit = ReorderUnit(count // buffered, buffered, walk, walk, EIGHT)
        graph.add("buffer", "buffer", unit, (before.name,), (kept.name,))
        before = kept
    graph.add(
        "meet", "meet", JoinUnit(count, "add", EIGHT, EIGHT, steps=Steps(EIGHT)), (before.name, x.name), (y.name,)
    )
    graph.outputs.append(Port("y", "i8", (count,), y.name))
    return graph


def drawn_graph(seed: int, count: int) -> Graph:
    """Buffers and sums of a tensor in some order: skips beside each other, one within the other, and crossing."""
    random, graph = Random(seed), Graph()
    first, x = graph.edge("in_x", RAW, count), graph.edge("x", EIGHT, count)
    graph.inputs.append(Port("x", "f32", (count,), first.name))
    graph.add("enter", "enter", MapUnit(1, count, EIGHT, steps=Steps(EIGHT)), (first.name,), (x.name,))
    made, unread = [x.name], {x.name: None}

    def add(kind: str, unit: Unit, *inputs: str) -> None:
        edge = graph.edge("v", EIGHT, count).name
        graph.add(kind, kind, unit, inputs, (edge,))
        for one in inputs:
            unread.pop(one, None)
        made.append(edge)
        unread[edge] = None

    meet = JoinUnit(count, "add", EIGHT, EIGHT, steps=Steps(EIGHT))
    for _ in range(random.randint(3, 8)):
        if random.random() < 0.5:
            size = random.choice(divisors(count))
            walk = Walk((size,), (1,), (0,), (size,))
            add("buffer", ReorderUnit(count // size, size, walk, walk, EIGHT), random.choice(made[-2:]))
        else:
            add("meet", meet, random.choice(made), random.choice(made[-2:]))
    while len(unread) > 1:
        add("meet", meet, *list(unread)[:2])
    graph.outputs.append(Port("y", "i8", (count,), made[-1]))
    return graph

"""Choose how wide every unit is built, and join units of different widths.

A unit gets the cheapest folding that keeps up with the interval asked for; every folding divides its unit, so no cycle
and no product is wasted on filling. A tensor that several units read is copied; where widths differ, tokens are joined
to their least common multiple and cut again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from math import lcm

from qcc.backends.hls.cost_parts import fifo_cost
from qcc.backends.hls.design import Built, Design, Edge, Graph, Node, Stream
from qcc.backends.hls.units import Cost, Fold, divisors
from qcc.backends.hls.units_flow import DuplicateUnit, GearboxUnit
from qcc.backends.hls.units_matvec import LoadUnit, MatvecUnit
from qcc.errors import Problem, QccError, UnsupportedOp

FULLNESS = 0.6
"""Share of a part that is filled where no frame rate is asked for."""


@dataclass(frozen=True)
class Choice:
    """One folding of a unit with its cycles and weight in look-up tables."""

    fold: Fold
    cycles: int
    cost: Cost

    @property
    def weight(self) -> float:
        """One number to compare costs by: a DSP block counts as 100 look-up tables, a memory block as 300."""
        return self.cost.lut + 0.5 * self.cost.ff + 100 * self.cost.dsp + 300 * self.cost.bram18


Choices = Mapping[str, tuple[Choice, ...]]


def all_choices(graph: Graph, forced: Mapping[str, Fold]) -> dict[str, tuple[Choice, ...]]:
    """Return the foldings of every unit that is folded by itself, cheap ones first.

    Raises:
        QccError: listing every forced folding that divides no layer it names.
    """
    choices: dict[str, tuple[Choice, ...]] = {}
    problems: list[Problem] = []
    used: set[str] = set()
    for node in graph.nodes:
        if isinstance(node.unit, LoadUnit):
            continue
        folds = node.unit.folds()
        if isinstance(node.unit, MatvecUnit):
            names = (node.layer, node.name)
            asked = {key: fold for key, fold in forced.items() if any(fnmatchcase(name, key) for name in names)}
            used |= set(asked)
            for fold in asked.values():
                problems += [] if fold in folds else [_misfit(node, node.unit, fold)]
                folds = [fold] if fold in folds else folds
        found = [Choice(fold, node.unit.cycles(fold), node.unit.cost(fold)) for fold in folds]
        choices[node.name] = tuple(sorted(found, key=lambda one: one.weight))
    layers = ", ".join(one.layer for one in graph.nodes if isinstance(one.unit, MatvecUnit)) or "none"
    problems += [Problem(f"folding {key}", "names no layer", f"layers: {layers}") for key in forced if key not in used]
    if problems:
        raise QccError("some foldings cannot be taken", problems)
    return choices


def _misfit(node: Node, unit: MatvecUnit, fold: Fold) -> Problem:
    pe, simd = divisors(unit.n), divisors(unit.k)
    what = f"{fold} (PE x SIMD) does not divide {unit.n} outputs and {unit.k} inputs"
    if fold.pe in pe and fold.simd in simd:
        what = f"{fold} (PE x SIMD) is wider than one word of weights may be"
    return Problem(node.layer, what, f"PE of {', '.join(map(str, pe))}; SIMD of {', '.join(map(str, simd))}")


def fold_within(graph: Graph, choices: Choices, interval: int) -> dict[str, Fold] | None:
    """Return the cheapest foldings that keep up with an interval, or None if some unit cannot."""
    folds: dict[str, Fold] = {}
    widths: dict[str, int] = {}
    for node in graph.nodes:
        if isinstance(node.unit, LoadUnit):
            continue
        fitting = [one for one in choices[node.name] if one.cycles <= interval]
        if not fitting:
            return None
        # a unit as wide as what it reads needs no gearbox: worth a little more
        best = min(fitting, key=lambda one, at=node: one.weight * (1 + 0.1 * _mismatches(at, one.fold, widths)))
        folds[node.name] = best.fold
        for edge, width in zip(node.outputs, node.unit.widths(best.fold)[1], strict=True):
            widths[edge] = width
    for node in graph.nodes:
        if isinstance(node.unit, LoadUnit):
            reader = next(one for one in graph.nodes if one.unit is node.unit.reader)
            folds[node.name] = folds[reader.name]
    return folds


def _mismatches(node: Node, fold: Fold, widths: Mapping[str, int]) -> int:
    pairs = zip(node.inputs, node.unit.widths(fold)[0], strict=True)
    return sum(edge in widths and widths[edge] != width for edge, width in pairs)


def intervals(choices: Choices) -> list[int]:
    """Return every interval at which some unit changes its folding, rising."""
    return sorted({one.cycles for found in choices.values() for one in found})


def shortest_interval(choices: Choices) -> int:
    """Return the interval that all units keep up with at their widest."""
    return max(min(one.cycles for one in found) for found in choices.values())


def fastest(graph: Graph, choices: Choices, holds: Mapping[str, float]) -> dict[str, Fold]:
    """Return the foldings of the smallest interval whose estimate stays within `holds` (resource -> most)."""
    found: dict[str, Fold] | None = None
    candidates = intervals(choices)
    low, high = 0, len(candidates) - 1
    while low <= high:
        middle = (low + high) // 2
        folds = fold_within(graph, choices, candidates[middle])
        if folds is not None and _within(cost_of_folds(graph, folds), holds):
            found, high = folds, middle - 1
        else:
            low = middle + 1
    return found or slowest(choices, graph)


def slowest(choices: Choices, graph: Graph) -> dict[str, Fold]:
    """Return the cheapest foldings whatever their interval."""
    folds = fold_within(graph, choices, max(intervals(choices)))
    assert folds is not None, "every unit keeps up with the longest interval there is"
    return folds


def cost_of_folds(graph: Graph, folds: Mapping[str, Fold]) -> Cost:
    """Return the estimate of all units, FIFOs left out."""
    total = Cost()
    for node in graph.nodes:
        total = total + node.unit.cost(folds[node.name])
    return total


def _within(cost: Cost, holds: Mapping[str, float]) -> bool:
    return all(getattr(cost, name) <= most for name, most in holds.items())


@dataclass
class _Joining:
    """A design in the making: streams are added as units are joined."""

    graph: Graph
    nodes: list[Built] = field(default_factory=list[Built])
    streams: dict[str, Stream] = field(default_factory=dict[str, Stream])
    taken: set[str] = field(default_factory=set[str])
    words: dict[str, int] = field(default_factory=dict[str, int])

    def fresh(self, wish: str) -> str:
        """Return a stream's or unit's name that is not taken."""
        name, number = wish, 1
        while name in self.taken:
            number += 1
            name = f"{wish}_{number}"
        self.taken.add(name)
        return name

    def stream(self, name: str, edge: Edge, width: int, writer: str, reader: str, *, port: bool = False) -> None:
        """Add a stream."""
        # words of weights are counted in words, and are as wide as their lanes
        tokens = edge.count if edge.is_words else edge.count // width
        self.streams[name] = Stream(name, edge.element, width, tokens, writer, reader, 0 if port else 2)

    def add(self, wish: str, node: Node, fold: Fold) -> Built:
        """Add a unit that joining needs."""
        built = Built(replace(node, name=self.fresh(wish)), fold)
        self.nodes.append(built)
        return built


def join(graph: Graph, folds: Mapping[str, Fold]) -> Design:
    """Return the design of folded units, with copies and width changes where they are needed."""
    work = _Joining(graph, taken={*graph.edges, *(one.name for one in graph.nodes)})
    work.words = {one.name: one.unit.cycles(folds[one.name]) for one in graph.nodes if isinstance(one.unit, LoadUnit)}
    widths = _widths(graph, folds)
    readers = _readers(graph)
    ends: dict[tuple[str, int], str] = {}
    ports = {port.edge for port in graph.inputs}
    for name in [port.edge for port in graph.inputs]:
        _fan_out(work, name, readers, widths, "", ends, is_port=True)
    for node in graph.nodes:
        fold = folds[node.name]
        inputs = tuple(ends[node.name, index] for index in range(len(node.inputs)))
        work.nodes.append(Built(replace(node, inputs=inputs), fold))
        for edge in node.outputs:
            _fan_out(work, edge, readers, widths, node.name, ends, is_port=edge in ports)
    outputs = [replace(port, edge=ends["", index]) for index, port in enumerate(graph.outputs)]
    return Design(tuple(work.nodes), work.streams, tuple(graph.inputs), tuple(outputs))


def _widths(graph: Graph, folds: Mapping[str, Fold]) -> dict[tuple[str, int], int]:
    """Return the width of every input of every node, and under index -1 - i that of its outputs."""
    widths: dict[tuple[str, int], int] = {}
    for node in graph.nodes:
        inputs, outputs = node.unit.widths(folds[node.name])
        for index, width in enumerate(inputs):
            widths[node.name, index] = width
        for index, width in enumerate(outputs):
            widths[node.name, -1 - index] = width
            edge = graph.edges[node.outputs[index]]
            if edge.is_words:
                assert isinstance(node.unit, LoadUnit)
                fold = folds[node.name]
                widths[node.name, -1 - index] = node.unit.reader.word_lanes(fold)
    return widths


def _readers(graph: Graph) -> dict[str, list[tuple[str, int]]]:
    """Return who reads every stream: a node and the number of its input, or "" and the number of an output."""
    found: dict[str, list[tuple[str, int]]] = {name: [] for name in graph.edges}
    for node in graph.nodes:
        for index, edge in enumerate(node.inputs):
            found[edge].append((node.name, index))
    for index, port in enumerate(graph.outputs):
        found[port.edge].append(("", index))
    return found


def _fan_out(
    work: _Joining,
    name: str,
    readers: Mapping[str, list[tuple[str, int]]],
    widths: Mapping[tuple[str, int], int],
    writer: str,
    ends: dict[tuple[str, int], str],
    *,
    is_port: bool,
) -> None:
    """Bring a stream to everyone who reads it, at the width that each takes."""
    edge, wanting = work.graph.edges[name], readers[name]
    if edge.is_words:
        reader = wanting[0]
        lanes = widths[writer, -1]
        work.stream(name, replace(edge, count=work.words[writer]), lanes, writer, reader[0])
        ends[reader] = name
        return
    width = widths[wanting[0]] if is_port else _width_out(work.graph, name, writer, widths)
    at, current = writer, name
    for reader in wanting[:-1]:
        unit = DuplicateUnit(edge.count, edge.element)  # pyright: ignore[reportArgumentType] - words have one reader
        copies = (work.fresh(f"{name}_a"), work.fresh(f"{name}_b"))
        made = work.add(f"copy_{name}", Node("", "", unit, (current,), copies), Fold(width, width))
        work.stream(current, edge, width, at, made.node.name, port=is_port and current == name)
        at = made.node.name
        _gear(work, edge, copies[0], width, widths, at, reader, ends, port=False)
        current = copies[1]
    _gear(work, edge, current, width, widths, at, wanting[-1], ends, port=is_port and current == name)


def _width_out(graph: Graph, name: str, writer: str, widths: Mapping[tuple[str, int], int]) -> int:
    node = next(one for one in graph.nodes if one.name == writer)
    return widths[writer, -1 - node.outputs.index(name)]


def _gear(
    work: _Joining,
    edge: Edge,
    name: str,
    width: int,
    widths: Mapping[tuple[str, int], int],
    writer: str,
    reader: tuple[str, int],
    ends: dict[tuple[str, int], str],
    *,
    port: bool,
) -> None:
    """Bring one stream to one reader; an output of the program takes any width."""
    wanted = widths.get(reader, width) if reader[0] else width
    at, current = writer, name
    common = lcm(width, wanted)
    for target in [one for one in dict.fromkeys((common, wanted)) if one != width or common != width]:
        if target == width:
            continue
        unit = GearboxUnit(edge.count, edge.element, width, target)  # pyright: ignore[reportArgumentType]
        after = work.fresh(f"{edge.name}_x{target}")
        made = work.add(f"gear_{edge.name}", Node("", "", unit, (current,), (after,)), Fold(target, width))
        work.stream(current, edge, width, at, made.node.name, port=port and current == name)
        at, current, width = made.node.name, after, target
    is_output = not reader[0]
    work.stream(current, edge, width, at, reader[0], port=is_output or (port and current == name))
    ends[reader] = current


def total_cost(design: Design) -> Cost:
    """Return the estimate of a design, FIFOs included."""
    total = Cost()
    for built in design.nodes:
        total = total + built.node.unit.cost(built.fold)
    for stream in design.fifos:
        lut, blocks = fifo_cost(stream.depth, stream.bits)
        total = total + Cost(lut, lut / 2, 0, blocks)
    return total


def refuse_interval(choices: Choices, graph: Graph, interval: int) -> UnsupportedOp:
    """Make the refusal of an interval that units cannot keep up with, naming them all."""
    problems: list[Problem] = []
    for node in graph.nodes:
        least = min((one.cycles for one in choices.get(node.name, ())), default=0)
        if least > interval:
            what = f"needs {least} cycles a frame at its widest, {interval} are asked for"
            problems.append(Problem(node.layer or node.name, what, "ask for fewer frames a second, or a faster clock"))
    return UnsupportedOp("the frame rate cannot be reached", problems)

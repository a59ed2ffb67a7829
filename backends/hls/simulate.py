"""Run a design on paper: which token moves when, and how deep FIFOs must be.

Units are Kahn processes whose reads and writes are known beforehand, so whether a design stops depends on the depths of
its FIFOs alone. Depths start at two and grow only when every unit waits: in the circle of units that wait for each
other, one full FIFO gets one more place (T. Parks, "Bounded scheduling of process networks", 1995). Where two FIFOs
share a circle one may be given more than it needs in the end, so afterwards each is tried one place smaller.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

from qcc.backends.hls.design import Built, Design
from qcc.backends.hls.units import Action

LATENCY = 4
"""Cycles from a token in to a token out of a pipelined loop; assumed, since pipelines are the vendor's tool's."""

MOST_ACTIONS = 1_000_000
"""Reads and writes beyond which one frame is run instead of several, since that takes seconds."""


@dataclass(slots=True)
class Fifo:
    """Times at which its tokens were written and read; `depth` is None at ports. `waiter` is who waits for it."""

    depth: int | None
    writer: int
    reader: int
    written: list[int] = field(default_factory=list[int])
    read: list[int] = field(default_factory=list[int])
    waiter: int = -1

    def full(self) -> bool:
        """Whether there is no place."""
        return self.depth is not None and len(self.written) - len(self.read) >= self.depth


@dataclass(slots=True)
class Process:
    """A unit at work: what it still has to do, its FIFOs by port and their names, the action that it waits with."""

    actions: Iterator[Action]
    fifos: list[Fifo]
    names: list[str]
    time: int = 0
    pending: Action | None = None
    done: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a run found: depths in the end, whether it came to its end, and the cycle of each frame's last output."""

    depths: dict[str, int]
    finished: bool
    ends: tuple[int, ...]


class Run:
    """One run of a design over some frames."""

    def __init__(self, design: Design, depths: Mapping[str, int], frames: int) -> None:
        self.frames = frames
        place = {one.node.name: index for index, one in enumerate(design.nodes)}
        self.fifos = {
            one.name: Fifo(
                depths[one.name] if one.depth else None, place.get(one.writer, -1), place.get(one.reader, -1)
            )
            for one in design.streams.values()
        }
        for port in design.inputs:
            stream = design.streams[port.edge]
            self.fifos[port.edge].written = [0] * (stream.tokens * frames)
        self.processes = [self._process(one) for one in design.nodes]
        self.ready = deque(range(len(self.processes)))
        self.outputs = [design.streams[port.edge] for port in design.outputs]

    def _process(self, built: Built) -> Process:
        traces = (built.node.unit.trace(built.fold) for _ in range(self.frames))
        names = [*built.node.inputs, *built.node.outputs]
        return Process(chain.from_iterable(traces), [self.fifos[name] for name in names], names)

    def advance(self, index: int) -> None:
        """Run one process until it waits or ends; who waited for its tokens or places becomes ready."""
        process, following = self.processes[index], self.processes[index].actions
        fifos = process.fifos
        action, time = process.pending or next(following, None), process.time
        while action is not None:
            delay, port, writes = action
            fifo = fifos[port]
            written, read = fifo.written, fifo.read
            if writes:
                count, depth = len(written), fifo.depth
                if depth is not None and count - len(read) >= depth:
                    break
                # a token takes its place when it leaves the pipeline, which stands still until there is one
                leaves = time + delay + LATENCY
                if depth is not None and count >= depth and read[count - depth] >= leaves:
                    leaves = read[count - depth] + 1
                written.append(leaves)
                time = leaves - LATENCY
            else:
                count = len(read)
                if count >= len(written):
                    break
                time += delay
                if written[count] >= time:
                    time = written[count] + 1
                read.append(time)
            if fifo.waiter >= 0:
                self.ready.append(fifo.waiter)
                fifo.waiter = -1
            action = next(following, None)
        else:
            process.done = True
        process.pending, process.time = action, time
        if action is not None:
            fifos[action.port].waiter = index

    def waits_for(self, index: int) -> tuple[str, int] | None:
        """Return the FIFO that blocks a process and the process at its other end."""
        process = self.processes[index]
        if process.done or process.pending is None:
            return None
        name, fifo = process.names[process.pending.port], process.fifos[process.pending.port]
        return name, (fifo.reader if process.pending.writes else fifo.writer)

    def settle(self) -> None:
        """Run until every process waits or has ended."""
        while self.ready:
            self.advance(self.ready.popleft())

    def deepen(self, name: str) -> None:
        """Give a FIFO one more place."""
        fifo = self.fifos[name]
        assert fifo.depth is not None, "ports have no bound"
        fifo.depth += 1
        if fifo.waiter >= 0:
            self.ready.append(fifo.waiter)
            fifo.waiter = -1

    def finished(self) -> bool:
        """Say whether every process has ended."""
        return all(one.done for one in self.processes)

    def full_in_circle(self) -> list[str]:
        """Return the full FIFOs of a circle of processes that wait for each other."""
        for start in range(len(self.processes)):
            seen: list[int] = []
            at, names = start, []
            while at >= 0 and at not in seen:
                found = self.waits_for(at)
                if found is None:
                    break
                seen.append(at)
                names.append(found[0])
                at = found[1]
            else:
                if at >= 0:
                    circle = names[seen.index(at) :]
                    return [name for name in circle if self.fifos[name].full()]
        return []

    def ends(self) -> tuple[int, ...]:
        """Return the cycle in which the last output of every frame leaves."""
        frames: list[int] = []
        for frame in range(self.frames):
            last = [self.fifos[one.name].written[one.tokens * (frame + 1) - 1] for one in self.outputs]
            frames.append(max(last, default=0))
        return tuple(frames)


def run(design: Design, depths: Mapping[str, int], frames: int, *, grow: bool) -> Outcome:
    """Run a design; with `grow`, FIFOs get deeper where they must."""
    current = dict(depths)
    work = Run(design, current, frames)
    while True:
        work.settle()
        if work.finished():
            return Outcome(current, True, work.ends())
        full = work.full_in_circle() if grow else []
        if not full:
            return Outcome(current, False, ())
        # one FIFO that is deep already, then narrow elements in wide tokens: the fewest bits of memory
        name = min(full, key=lambda one: (current[one] == depths[one], *_bits(design, one)))
        current[name] += 1
        work.deepen(name)


def _bits(design: Design, name: str) -> tuple[float, int]:
    stream = design.streams[name]
    return stream.bits / stream.width, -stream.width


def least_depths(design: Design) -> dict[str, int]:
    """Return depths at which the design runs, none less than it has, and none that had to grow greater than needed."""
    start = {one.name: one.depth for one in design.fifos}
    depths = run(design, start, 1, grow=True).depths
    for name in [one for one, depth in depths.items() if depth > start[one]]:
        while depths[name] > start[name] and run(design, {**depths, name: depths[name] - 1}, 1, grow=False).finished:
            depths[name] -= 1
    # a frame leaves every FIFO empty, so where one frame runs through, one after another does too
    return depths


def with_depths(design: Design, depths: Mapping[str, int]) -> Design:
    """Return the design with given depths; those greater than before are needed, lest the design stops."""
    streams = {
        name: replace(one, depth=depth, needed=depth > one.depth)
        for name, one in design.streams.items()
        for depth in [depths.get(name, one.depth)]
    }
    return replace(design, streams=streams)


def actions(design: Design) -> int:
    """Return the reads and writes of a frame."""
    return 2 * sum(one.tokens for one in design.streams.values())

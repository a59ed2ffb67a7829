"""Run a design on paper: which token moves when, and how deep FIFOs must be.

Units are Kahn processes whose reads and writes are known beforehand, so whether a design stops depends on the depths of
its FIFOs alone. Depths start at two and grow only when every unit waits: in the circle of units that wait for each
other, one full FIFO gets one more place (T. Parks, "Bounded scheduling of process networks", 1995). Whatever else is
deep, the units of a circle wait for each other as long as the full FIFOs in it are no deeper: so the circle in which a
FIFO got its last place proves that it needs it, unless another full FIFO of that circle grew later. Where one did, a
FIFO may have been given more than it needs in the end, and each is tried one place smaller.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import NamedTuple

from qcc.backends.hls.design import Built, Design

LATENCY = 4
"""Cycles from a token in to a token out of a pipelined loop; assumed, since pipelines are the vendor's tool's."""

UNBOUNDED = sys.maxsize
"""The depth of what has no bound: ports."""


@dataclass(slots=True)
class Fifo:
    """Times at which its tokens were written and read. `waiter` is who waits for it, -1 for nobody.

    `held` is the depth that it had when a write first waited for a place to become free, in cycles.
    """

    name: str
    depth: int
    writer: int
    reader: int
    written: list[int] = field(default_factory=list[int])
    read: list[int] = field(default_factory=list[int])
    waiter: int = -1
    held: int = UNBOUNDED

    def full(self) -> bool:
        """Whether there is no place."""
        return len(self.written) - len(self.read) >= self.depth

    def forget(self) -> None:
        """Keep of the frames before, which left it empty, only when the places of the next tokens became free."""
        kept = min(self.depth, len(self.read))
        del self.read[: len(self.read) - kept]
        # of what was read long ago only the number counts
        self.written[:] = self.read


class Bound(NamedTuple):
    """An action of a process, with the FIFO at its port and that FIFO's times."""

    delay: int
    writes: bool
    fifo: Fifo
    written: list[int]
    read: list[int]


@dataclass(slots=True)
class Process:
    """A unit at work: what it still has to do in this frame, and the action that it waits with."""

    built: Built
    fifos: list[Fifo]
    following: Iterator[Bound]
    time: int = 0
    pending: Bound | None = None


@dataclass(frozen=True)
class Outcome:
    """What a run found: whether it came to its end, and the cycle of each frame's last output."""

    finished: bool
    ends: tuple[int, ...]


class Run:
    """Frames that go through a design one after another; `frame` lets the next one enter."""

    def __init__(self, design: Design, depths: Mapping[str, int]) -> None:
        self.design = design
        place = {one.node.name: index for index, one in enumerate(design.nodes)}
        self.fifos = {
            one.name: Fifo(
                one.name,
                depths[one.name] if one.depth else UNBOUNDED,
                place.get(one.writer, -1),
                place.get(one.reader, -1),
            )
            for one in design.streams.values()
        }
        self.processes = [
            Process(one, [self.fifos[name] for name in (*one.node.inputs, *one.node.outputs)], iter(()))
            for one in design.nodes
        ]
        self.ready: deque[int] = deque()
        self.circle = 0

    def frame(self) -> None:
        """Let the next frame enter: every process has the actions of one more frame before it."""
        for fifo in self.fifos.values():
            fifo.forget()
        for port in self.design.inputs:
            stream = self.design.streams[port.edge]
            self.fifos[port.edge].read.clear()
            self.fifos[port.edge].written[:] = [0] * stream.tokens
        for process in self.processes:
            bound = {
                one: Bound(one.delay, one.writes, fifo, fifo.written, fifo.read)
                for one in set(process.built.actions)
                for fifo in [process.fifos[one.port]]
            }
            process.following, process.pending = map(bound.__getitem__, process.built.actions), None
        self.ready.extend(range(len(self.processes)))
        self.settle()

    def advance(self, index: int) -> None:
        """Run one process until it waits or ends; who waited for its tokens or places becomes ready."""
        process, ready = self.processes[index], self.ready
        time, waiting = process.time, process.pending
        process.pending = None
        for one in process.following if waiting is None else chain((waiting,), process.following):
            delay, writes, fifo, written, read = one
            if writes:
                count, depth = len(written), fifo.depth
                # a token takes its place when it leaves the pipeline, which stands still until there is one
                leaves = time + delay + LATENCY
                if count >= depth:
                    if count - len(read) >= depth:
                        process.pending, fifo.waiter = one, index
                        break
                    if read[count - depth] >= leaves:
                        leaves = read[count - depth] + 1
                        if depth < fifo.held:
                            fifo.held = depth
                written.append(leaves)
                time = leaves - LATENCY
            else:
                count = len(read)
                if count >= len(written):
                    process.pending, fifo.waiter = one, index
                    break
                time += delay
                if written[count] >= time:
                    time = written[count] + 1
                read.append(time)
            if fifo.waiter >= 0:
                ready.append(fifo.waiter)
                fifo.waiter = -1
        process.time = time

    def settle(self) -> None:
        """Run until every process waits or has ended."""
        ready, advance = self.ready, self.advance
        while ready:
            advance(ready.popleft())

    def deepen(self, name: str) -> None:
        """Give a FIFO one more place."""
        fifo = self.fifos[name]
        assert fifo.depth < UNBOUNDED, "ports have no bound"
        fifo.depth += 1
        if fifo.waiter >= 0:
            self.ready.append(fifo.waiter)
            fifo.waiter = -1

    @property
    def finished(self) -> bool:
        """Whether the frame has left and every process has ended."""
        return all(one.pending is None for one in self.processes)

    def full_in_circle(self) -> list[Fifo]:
        """Return the full FIFOs of a circle of processes that wait for each other."""
        # where a place more did not help, the same circle waits again
        for start in chain((self.circle,), range(len(self.processes))):
            seen: dict[int, Fifo] = {}
            at = start
            while at >= 0 and at not in seen:
                waits = self.processes[at].pending
                if waits is None:
                    break
                seen[at] = waits.fifo
                at = waits.fifo.reader if waits.writes else waits.fifo.writer
            else:
                if at >= 0:
                    self.circle = at
                    circle = list(seen)
                    return [seen[one] for one in circle[circle.index(at) :] if seen[one].full()]
        return []

    @property
    def end(self) -> int:
        """The cycle in which the last output of the frame left."""
        return max((self.fifos[port.edge].written[-1] for port in self.design.outputs), default=0)


@dataclass(frozen=True)
class Sized:
    """Depths at which a design runs, and the run of one frame that found them."""

    depths: dict[str, int]
    work: Run

    @property
    def on_time(self) -> bool:
        """Whether the times are those of a run with these depths: no write waited where a FIFO was to be deeper."""
        return all(fifo.held >= fifo.depth for fifo in self.work.fifos.values())


def run(design: Design, depths: Mapping[str, int], frames: int) -> Outcome:
    """Run frames through a design of given depths."""
    work = Run(design, depths)
    ends: list[int] = []
    for _ in range(frames):
        work.frame()
        if not work.finished:
            return Outcome(False, ())
        ends.append(work.end)
    return Outcome(True, tuple(ends))


def _grown(design: Design, start: Mapping[str, int]) -> tuple[Sized, dict[str, Mapping[str, int]]]:
    """Run a frame with FIFOs that get deeper where they must; also returns the circle of each one's last place."""
    bits = {one.name: (one.bits / one.width, -one.width) for one in design.fifos}
    work, circles = Run(design, start), dict[str, Mapping[str, int]]()
    work.frame()
    while not work.finished:
        full = {one.name: one.depth for one in work.full_in_circle()}
        assert full, "in a design without feedback, some FIFO of a circle is full"
        # one FIFO that is deep already, then narrow elements in wide tokens: the fewest bits of memory
        name = min(full, key=lambda one: (one not in circles, *bits[one]))
        circles[name] = full
        work.deepen(name)
        work.settle()
    return Sized({name: work.fifos[name].depth for name in start}, work), circles


def least_depths(design: Design) -> Sized:
    """Return depths at which the design runs, none less than it has, and none that had to grow greater than needed."""
    start = {one.name: one.depth for one in design.fifos}
    sized, circles = _grown(design, start)
    depths = dict(sized.depths)

    def proved(name: str) -> bool:
        return all(depths[other] <= depth for other, depth in circles[name].items() if other != name)

    for name in circles:
        while not proved(name) and depths[name] > start[name]:
            if not run(design, {**depths, name: depths[name] - 1}, 1).finished:
                break
            depths[name] -= 1
    if depths != sized.depths:
        work = Run(design, depths)
        work.frame()
        return Sized(depths, work)
    # a frame leaves every FIFO empty, so where one frame runs through, one after another does too
    return sized


def with_depths(design: Design, depths: Mapping[str, int]) -> Design:
    """Return the design with given depths; those greater than before are needed, lest the design stops."""
    streams = {
        name: replace(one, depth=depth, needed=depth > one.depth)
        for name, one in design.streams.items()
        for depth in [depths.get(name, one.depth)]
    }
    return replace(design, streams=streams)

"""Predicted cycles of a design: by running frames through it on paper, or from the schedule of one frame.

Times in such a run are sums and maxima of other times, and never grow when another time shrinks. So if the schedule of
one frame, moved by T cycles, is a schedule that the frame behind it could keep, the frames really leave no later than
that: on average one every T cycles (F. Baccelli et al., "Synchronization and Linearity", 1992, on max-plus systems).
`period` returns the least such T of a run of one frame; it is a bound from above, and the cycles of the busiest unit
are one from below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from qcc.backends.hls.design import Built, Design
from qcc.backends.hls.simulate import LATENCY, MOST_ACTIONS, Fifo, Process, Run, actions, run

FRAMES = 4
"""Frames that are run for the interval of a small design."""


@dataclass(frozen=True)
class Timing:
    """Predicted cycles: from the first input to the last output of a frame, and from one frame to the next.

    Where `bound` is set, frames take that interval at most.
    """

    latency: int
    interval: int
    bound: bool = False


def predict(design: Design, most: int = MOST_ACTIONS) -> Timing:
    """Predict cycles by running frames through a design; beyond `most` reads and writes, from the schedule of one."""
    depths = {one.name: one.depth for one in design.fifos}
    work = Run(design, depths, 1)
    work.settle()
    latency, most_apart = work.ends()[0], period(design, work)
    if actions(design) * FRAMES > most:
        return Timing(latency, most_apart, bound=True)
    ends = run(design, depths, FRAMES, grow=False).ends
    # frames of few tokens leave in bunches, for which the bound is closer than the widest gap
    return Timing(latency, min(most_apart, max(after - before for before, after in pairwise(ends))))


def period(design: Design, work: Run) -> int:
    """Return the cycles by which a frame's schedule must be moved for the next; `work` has run one frame to its end."""
    least = design.interval
    for built, process in zip(design.nodes, work.processes, strict=True):
        least = max(least, _busy(built, process, work))
    for fifo in work.fifos.values():
        least = max(least, _room(fifo.depth, fifo.written, fifo.read))
    return least


def _busy(built: Built, process: Process, work: Run) -> int:
    """Return the cycles from a process's first action in a frame to the first it can do in the next."""
    action = next(built.node.unit.trace(built.fold), None)
    if action is None:
        return 0
    fifo: Fifo = process.fifos[action.port]
    began = fifo.written[0] - LATENCY if action.writes else fifo.read[0]
    return process.time + action.delay - began


def _room(depth: int | None, written: Sequence[int], read: Sequence[int]) -> int:
    """Return the cycles after which the places of a FIFO that a frame fills are free again for the next."""
    if depth is None:
        return 0
    count, least = len(written), 0
    for index in range(min(depth, count)):
        # the token whose place this one takes: some frames back where the FIFO holds several
        frames = -(-(depth - index) // count)
        freed = read[index - depth + frames * count] + 1
        least = max(least, -(-(freed - written[index]) // frames))
    return least

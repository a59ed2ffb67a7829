"""Predicted cycles of a design, by running frames through it on paper.

Times in such a run are sums and maxima of other times: shift what a frame finds by T cycles and all its times shift by
T; let it find something later and no time gets earlier. So where every time that a frame leaves behind is at most T
cycles later than the frame before left it, that holds of all frames to come, and so does "at least" (F. Baccelli et
al., "Synchronization and Linearity", 1992, on max-plus systems). Each frame that is run brings both bounds closer, and
as frames come to follow a steady pattern of one or some frames, the bounds meet: then the interval is exact.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil

import numpy as np
from numpy.typing import NDArray

from qcc.backends.hls.design import Built, Design
from qcc.backends.hls.simulate import LATENCY, UNBOUNDED, Process, Run

MOST_ACTIONS = 3_000_000
"""Reads and writes that are run at most for an interval, which takes a second or two."""

MOST_FRAMES = 32
"""Frames that are run at most."""

LONGEST_PATTERN = 12
"""The longest pattern of frames that is looked for; skips that hold several frames give patterns of several."""


@dataclass(frozen=True)
class Timing:
    """Predicted cycles: from the first input to the last output of a frame, and from one frame to the next.

    Frames follow each other after `interval` cycles on average at most, and after `least` at least.
    """

    latency: int
    interval: int
    least: int

    @property
    def bound(self) -> bool:
        """Whether the interval is not known exactly."""
        return self.least < self.interval


@dataclass
class Forecast:
    """A design with bounds of its interval; `work` has run frames through it, one to begin with."""

    design: Design
    work: Run
    latency: int = 0
    frames: int = 1
    lower: Fraction = Fraction(0)
    upper: Fraction = Fraction(0)
    left: deque[NDArray[np.float64]] = field(default_factory=lambda: deque(maxlen=LONGEST_PATTERN + 1))

    def __post_init__(self) -> None:
        self.latency = self.work.end
        # whatever the depths, a frame takes no less than the busiest unit
        self.lower, self.upper = Fraction(self.design.interval), Fraction(period(self.design, self.work))
        self.left.append(_left_behind(self.work))

    @property
    def timing(self) -> Timing:
        """What is known so far."""
        return Timing(self.latency, ceil(self.upper), ceil(self.lower))

    def narrow(self, goal: int | None = None, most: int = MOST_ACTIONS) -> Timing:
        """Run frames until the interval is exact, or known to reach or to miss a goal, or for `most` actions."""
        frames = min(MOST_FRAMES, most // max(self.design.actions, 1))
        while self.timing.bound and self.frames < frames:
            if goal is not None and (self.upper <= goal or self.lower > goal):
                break
            self.step()
        return self.timing

    def step(self) -> None:
        """Run one more frame."""
        self.work.frame()
        self.frames += 1
        found = _left_behind(self.work)
        for frames, before in enumerate(reversed(self.left), 1):
            # where a FIFO has places that no earlier frame came to, -inf stands: nothing is known from above
            apart = found[np.isfinite(found)] - before[np.isfinite(found)]
            if np.isfinite(apart.max()):
                self.upper = min(self.upper, Fraction(int(apart.max()), frames))
            self.lower = max(self.lower, Fraction(int(apart.min()), frames))
        self.left.append(found)


def forecast(design: Design) -> Forecast:
    """Run one frame through a design, for first bounds of its interval."""
    work = Run(design, {one.name: one.depth for one in design.fifos})
    work.frame()
    return Forecast(design, work)


def _left_behind(work: Run) -> NDArray[np.float64]:
    """Return all times that the next frame depends on: when processes ended, when places of FIFOs became free."""
    # units that only fill tables before the first frame have no actions
    parts: list[list[float]] = [[one.time for one in work.processes if one.built.actions]]
    for fifo in work.fifos.values():
        if fifo.depth < UNBOUNDED:
            last = fifo.read[-fifo.depth :]
            parts.append([-np.inf] * (fifo.depth - len(last)) + last)
    return np.array([time for part in parts for time in part])


def period(design: Design, work: Run) -> int:
    """Return the cycles by which the first frame's schedule must be moved for the next; `work` has run that frame.

    A schedule that the next frame could keep: it leaves no later, so this is a bound of the interval from above.
    """
    least = design.interval
    for built, process in zip(design.nodes, work.processes, strict=True):
        least = max(least, _busy(built, process))
    for fifo in work.fifos.values():
        least = max(least, _room(fifo.depth, fifo.written, fifo.read))
    return least


def _busy(built: Built, process: Process) -> int:
    """Return the cycles from a process's first action in a frame to the first it can do in the next."""
    if not built.actions:
        return 0
    action = built.actions[0]
    fifo = process.fifos[action.port]
    began = fifo.written[0] - LATENCY if action.writes else fifo.read[0]
    return process.time + action.delay - began


def _room(depth: int, written: Sequence[int], read: Sequence[int]) -> int:
    """Return the cycles after which the places of a FIFO that a frame fills are free again for the next."""
    if depth == UNBOUNDED:
        return 0
    count, least = len(written), 0
    for index in range(min(depth, count)):
        # the token whose place this one takes: some frames back where the FIFO holds several
        frames = -(-(depth - index) // count)
        freed = read[index - depth + frames * count] + 1
        least = max(least, -(-(freed - written[index]) // frames))
    return least

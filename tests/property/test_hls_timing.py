"""Predicted cycles beside longer runs on paper: never fewer on average, and not many more."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.backends.hls.design import Design
from qcc.backends.hls.folding import all_choices, fold_within, intervals, join
from qcc.backends.hls.rates import deepened, roomier
from qcc.backends.hls.simulate import least_depths, run, with_depths
from qcc.backends.hls.timing import Timing, predict
from tests.hls_graphs import skip_graph

LONG = 12
"""Frames of the longer runs."""


def measured(design: Design) -> float:
    """Return the mean interval of a longer run."""
    ends = run(design, {one.name: one.depth for one in design.fifos}, LONG, grow=False).ends
    return (ends[-1] - ends[0]) / (LONG - 1)


def designs(frames: int, buffered: int, buffers: int = 1) -> list[Design]:
    """Return a narrow and a wide design of a skip beside a buffer, each with its least depths, and with more."""
    graph = skip_graph(frames * buffered, buffered, buffers)
    choices = all_choices(graph, {})
    made: list[Design] = []
    for interval in (intervals(choices)[0], intervals(choices)[-1]):
        folds = fold_within(graph, choices, interval)
        if folds is not None:
            plain = join(graph, folds)
            sized = with_depths(plain, least_depths(plain))
            deep = deepened(plain)
            deep = with_depths(deep, least_depths(deep))
            made += [sized, deep, roomier(deep, 1)]
    return made


def bounded(design: Design) -> Timing:
    """Predict as for a design too large to run several frames of."""
    return predict(design, most=0)


@given(st.integers(1, 6), st.integers(1, 30), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_predicted_intervals_hold_in_longer_runs(frames: int, buffered: int, buffers: int) -> None:
    for design in designs(frames, buffered, buffers):
        real, exact, bound = measured(design), predict(design), bounded(design)
        assert (exact.bound, bound.bound) == (False, True)
        assert exact.latency == bound.latency
        assert design.interval <= real <= exact.interval <= 1.05 * real + 8
        assert real <= bound.interval <= bound.latency


def test_a_large_design_is_not_said_to_be_as_quick_as_its_busiest_unit() -> None:
    """With a skip of one frame, branch and skip take turns: the frame takes far longer than any unit alone."""
    plain = designs(1, 200, 3)[-3]
    real = measured(plain)
    assert real > 1.5 * plain.interval
    assert bounded(plain).interval >= real


def test_skips_that_hold_more_let_frames_overlap() -> None:
    _, before, after = designs(1, 64, 3)[-3:]
    assert any(one.needed for one in before.fifos)
    assert not any(one.needed for one in after.fifos)
    assert measured(after) < 0.8 * measured(before)
    assert predict(after).latency <= predict(before).latency

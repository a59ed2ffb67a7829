"""Predicted cycles beside longer runs on paper: never fewer on average, and not many more."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.backends.hls.design import Design
from qcc.backends.hls.folding import all_choices, fold_within, intervals, join, slowest
from qcc.backends.hls.rates import deepened, roomier
from qcc.backends.hls.simulate import least_depths, run, with_depths
from qcc.backends.hls.timing import Forecast, Timing, forecast
from tests.hls_graphs import drawn_graph, skip_graph

LONG = 84
"""Frames of the longer runs, after as many others: a multiple of nearly every pattern there is."""


def measured(design: Design) -> Fraction:
    """Return the mean interval of the later half of a longer run."""
    ends = run(design, {one.name: one.depth for one in design.fifos}, 2 * LONG).ends
    return Fraction(ends[-1] - ends[-1 - LONG], LONG)


def designs(frames: int, buffered: int, buffers: int = 1) -> list[Design]:
    """Return a narrow and a wide design of a skip beside a buffer, each with its least depths, and with more."""
    graph = skip_graph(frames * buffered, buffered, buffers)
    choices = all_choices(graph, {})
    made: list[Design] = []
    for interval in (intervals(choices)[0], intervals(choices)[-1]):
        folds = fold_within(graph, choices, interval)
        if folds is not None:
            plain = join(graph, folds)
            sized = with_depths(plain, least_depths(plain).depths)
            deep = deepened(plain)
            deep = with_depths(deep, least_depths(deep).depths)
            made += [sized, deep, roomier(deep, 1)]
    return made


def predict(design: Design) -> Timing:
    """Run frames until the interval is exact."""
    return forecast(design).narrow()


def bounded(design: Design) -> Timing:
    """Predict as for a design too large to run several frames of."""
    return forecast(design).narrow(most=0)


@given(st.integers(1, 6), st.integers(1, 30), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_predicted_intervals_are_those_of_longer_runs(frames: int, buffered: int, buffers: int) -> None:
    for design in designs(frames, buffered, buffers):
        real, found, first = measured(design), predict(design), bounded(design)
        assert not found.bound
        assert design.interval <= found.interval == ceil(real)
        assert found.latency == first.latency
        assert design.interval == first.least <= real <= first.interval <= first.latency


@given(st.integers(0, 10**6), st.sampled_from([6, 12]))
@settings(max_examples=60, deadline=None)
def test_intervals_of_skips_that_cross_hold_in_longer_runs(seed: int, count: int) -> None:
    graph = drawn_graph(seed, count)
    plain = join(graph, slowest(all_choices(graph, {}), graph))
    sized = with_depths(plain, least_depths(plain).depths)
    for design in (sized, roomier(sized, 2)):
        real, found = measured(design), forecast(design)
        found.narrow()
        assert abs(real - found.upper) < 1
        if LONG % found.upper.denominator == 0:
            assert found.lower <= real <= found.upper
        assert not found.timing.bound


@given(st.integers(1, 4), st.integers(1, 20), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_every_frame_brings_the_bounds_closer(frames: int, buffered: int, buffers: int) -> None:
    for design in designs(frames, buffered, buffers):
        real, found = measured(design), forecast(design)
        for _ in range(5):
            before = (found.lower, found.upper)
            assert found.lower <= real <= found.upper
            found.step()
            assert before[0] <= found.lower <= found.upper <= before[1]


@given(st.integers(1, 4), st.integers(1, 20), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_the_run_that_sized_a_design_is_its_first_frame(frames: int, buffered: int, buffers: int) -> None:
    graph = skip_graph(frames * buffered, buffered, buffers)
    plain = join(graph, slowest(all_choices(graph, {}), graph))
    for design in (plain, deepened(plain)):
        found = least_depths(design)
        sized = with_depths(design, found.depths)
        if found.on_time:
            assert Forecast(sized, found.work).narrow() == forecast(sized).narrow()


def test_a_goal_ends_a_forecast_early() -> None:
    design = designs(4, 20, 3)[0]
    exact = predict(design).interval
    for goal in (exact - 1, exact):
        found = forecast(design)
        assert (found.narrow(goal).interval <= goal) == (goal == exact)
        assert found.frames <= forecast_frames(design)


def forecast_frames(design: Design) -> int:
    found = forecast(design)
    found.narrow()
    return found.frames


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

"""What long work tells: line by line in a log, no oftener than every few seconds, and nothing when it is quiet."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from xdsl.dialects.builtin import StringAttr

from qcc import console
from qcc.calibrate.run import SampleRun
from qcc.ir.base import SOLVER
from qcc.ir.context import QccContext
from qcc.passes import solve_weights
from qcc.progress import Progress, note, share_of
from tests.property.test_calibrating import samples
from tests.property.test_solving_on_samples import planned


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(console.time, "monotonic", found)
    monkeypatch.setattr(solve_weights.time, "perf_counter", found)
    return found


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=text, force_terminal=False, soft_wrap=True))
    return text


def test_a_log_gets_a_line_in_a_while(clock: Clock, log: io.StringIO) -> None:
    with console.progress(quiet=False) as say:
        assert isinstance(say, Progress)
        for second in range(0, 35):
            clock.now = 100.0 + second
            say(f"second {second}")
            share_of(say)(second / 35)
        note(say, "a note")
    assert log.getvalue().splitlines() == ["second 10", "second 20", "second 30", "a note"]


def test_quiet_work_leaves_notes_alone(clock: Clock, log: io.StringIO) -> None:
    with console.progress(quiet=True) as say:
        clock.now += 100
        say("something")
        note(say, "a note")
    assert log.getvalue() == "a note\n"


def test_the_time_that_is_left_goes_by_the_work_that_is_left(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of 12 columns each, of which the first took 30 s: the second will take as long."""
    module, store = planned(0, {"format": "uint3 | (1,4) f16 | pre u3", "solver": "gptq"})
    said: list[str] = []
    shares: list[float | None] = []
    solve = solve_weights._solve  # pyright: ignore[reportPrivateUsage]

    def slow(*arguments: object) -> object:
        clock.now += 30
        return solve(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(solve_weights, "_solve", slow)
    context = QccContext(store, SampleRun(samples(2, 30, 0)), said.append, share=shares.append)
    assert StringAttr("gptq") in [op.attributes.get(SOLVER) for op in module.walk()]
    solve_weights.SolveWeights().apply(context, module)
    assert said == ["solving first.weight, 1 of 2", "solving second.weight, 2 of 2, about 30 s left"]
    assert shares == [0.0, 0.5, None]

"""Sizes are read as people write them, and what does not fit is refused before it starts."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import qcc
from qcc import memory
from qcc.errors import QccError
from qcc.memory import (
    Estimate,
    Step,
    available_bytes,
    estimate_measure,
    estimate_run,
    parse_bytes,
    peak_bytes,
    refuse_beyond,
    resident_bytes,
)


@pytest.mark.parametrize(
    ("text", "count"),
    [("6GB", 6 * 10**9), ("1.5 gib", 3 << 29), ("512MB", 512 * 10**6), ("4096", 4096), ("2 kB", 2000), ("7b", 7)],
)
def test_sizes_are_read(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "six", "6 XB", "-1GB", "0", "1e3GB", "GB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(QccError, match="no size of memory"):
        parse_bytes(text)


def test_the_system_says_what_there_is() -> None:
    held = resident_bytes()
    # the system counts pages in batches, so one reading may be ahead of the other by some
    assert peak_bytes() >= held - (1 << 20)
    free = available_bytes()
    assert free is not None
    assert free > resident_bytes()


def test_memory_that_is_touched_is_resident() -> None:
    """In a process of its own: one that ran other tests has freed memory to give out again."""
    text = """
import torch
from qcc.memory import resident_bytes
before = resident_bytes()
block = torch.ones(1 << 24)
assert resident_bytes() - before > 0.9 * block.numel() * 4, resident_bytes() - before
"""
    subprocess.run([sys.executable, "-c", text], check=True)


def test_a_control_group_with_a_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    free = available_bytes()
    assert free is not None
    monkeypatch.setattr(memory, "_group_rooms", lambda: [12345])
    assert available_bytes() == pytest.approx(12345 + resident_bytes(), abs=1 << 24)


def test_what_does_not_fit_is_refused_with_its_parts() -> None:
    estimate = Estimate(10**9, 2 * 10**9, Step("solving layers.3.down", 4 * 10**9))
    refuse_beyond(estimate, 7 * 10**9, "this compilation")
    with pytest.raises(QccError, match=r"7\.0 GB at the peak .* limit is 6\.9 GB") as caught:
        refuse_beyond(estimate, 69 * 10**8, "this compilation")
    assert [one.where for one in caught.value.problems] == ["held already", "held to the end", "solving layers.3.down"]
    assert "--memory-limit" in caught.value.fix


def test_a_compilation_beyond_the_limit_is_refused_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = torch.nn.Linear(64, 32), torch.zeros(2, 64)

    def solved(*_: object) -> object:
        raise AssertionError("weights were solved")

    monkeypatch.setattr("qcc.passes.solve_weights._solve", solved)
    with pytest.raises(QccError, match=r"this compilation would take about .* the memory limit is 1 MB"):
        qcc.compile(layer, (x,), recipe="w4", memory_limit="1MB")


def test_values_that_a_call_holds_grow_with_its_sizes() -> None:
    layers = torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 8)
    compiled = qcc.compile(
        torch.nn.Sequential(*layers),
        (torch.zeros(2, 64),),
        dynamic_shapes=({0: torch.export.Dim("rows")},),
        recipe="w8",
    )
    (rows,) = compiled.program.symbol_ranges
    small, large = (estimate_run(compiled.program, {rows: count}, 1000).step.bytes for count in (10, 1000))
    assert large == 100 * small
    assert large >= 1000 * (64 + 256) * 4
    assert estimate_run(compiled.program, {rows: 1}, 1000).held == 1000


def test_measuring_holds_what_layers_read_and_give() -> None:
    layers = torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 8)
    compiled = qcc.compile(torch.nn.Sequential(*layers), (torch.zeros(50, 64),), recipe="w8")
    found = estimate_measure(compiled.module, [{"input": torch.zeros(50, 64)}])
    assert found.held == 50 * (64 + 256 + 256 + 8) * 4
    assert found.step.bytes >= 2 * 9 * 64 * 256

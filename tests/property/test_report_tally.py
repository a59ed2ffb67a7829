"""Sums over samples do not depend on how the values come, and count every value once."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.numerics.quantize import signal_to_quantization_noise_db
from qcc.report.tally import LOST_DB, Noise, Tally


@settings(max_examples=60, deadline=None)
@given(
    scales=st.lists(st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 7.5, 1e4, 1e30]), min_size=1, max_size=5),
    rows=st.integers(0, 9), columns=st.integers(1, 33), seed=st.integers(0, 999),
)  # fmt: skip
def test_every_value_is_counted_once(scales: list[float], rows: int, columns: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(rows, columns, generator=generator) * scale for scale in scales]
    tally = Tally()
    for part in parts:
        tally.add(part)
    found, values = tally.values(), torch.cat(parts)
    assert sum(found.histogram.counts) == values.numel()
    if values.numel():
        peak = float(values.abs().max())
        assert found.peak == pytest.approx(peak, rel=1e-4)
        assert found.histogram.high >= peak * (1 - 1e-6)
        assert found.histogram.low == -found.histogram.high
        assert found.rms == pytest.approx(float(values.double().square().mean().sqrt()), rel=1e-4)


@settings(max_examples=60, deadline=None)
@given(order=st.permutations([0.01, 1.0, 3.0, 900.0]), seed=st.integers(0, 99))
def test_the_order_of_samples_changes_no_bin(order: list[float], seed: int) -> None:
    def counted(scales: list[float]) -> tuple[int, ...]:
        tally = Tally()
        for scale in scales:
            tally.add(torch.full((3, 5), scale))
            tally.add(torch.full((2, 5), -scale))
        return tally.values().histogram.counts

    # a bin that doubles keeps its values: those exactly on an edge stay on one side
    first, second = counted(order), counted(sorted(order, reverse=True))
    assert sum(first) == sum(second) == 4 * 25
    assert first[-1] == second[-1] == 15


@settings(max_examples=60, deadline=None)
@given(parts=st.integers(1, 4), size=st.integers(1, 50), noise=st.sampled_from([0.0, 1e-6, 0.1, 10.0]))
def test_noise_of_parts_is_noise_of_the_whole(parts: int, size: int, noise: float) -> None:
    generator = torch.Generator().manual_seed(size)
    exact = torch.randn(parts, size, generator=generator)
    found = exact + noise * torch.randn(parts, size, generator=generator)
    total = Noise()
    for one, other in zip(exact, found, strict=True):
        total.add(one, other)
    whole = signal_to_quantization_noise_db(exact, found)
    assert total.sqnr_db == (None if math.isinf(whole) else pytest.approx(whole, abs=0.01))


def test_hard_values() -> None:
    noise = Noise()
    noise.add(torch.zeros(3), torch.ones(3))
    assert noise.sqnr_db == LOST_DB
    noise = Noise()
    noise.add(torch.ones(2), torch.tensor([1.0, float("nan")]))
    assert noise.sqnr_db == LOST_DB
    assert Noise().sqnr_db is None
    tally = Tally()
    tally.add(torch.tensor([[float("nan"), float("inf"), -2.0]]))
    assert tally.values().peak == 2.0
    assert Tally().values().peak == 0.0
    scalar = Tally()
    scalar.add(torch.tensor(3.0))
    assert sum(scalar.values().histogram.counts) == 1


def test_clipping_is_the_share_outside_of_what_codes_reach() -> None:
    tally = Tally()
    exact = torch.tensor([[-4.0, -1.0, 0.5, 8.0]])
    tally.add(exact)
    tally.add_codes(exact, exact.clamp(-2, 2))
    found = tally.values()
    assert (found.clip_low, found.clip_high, found.clipped) == (-2.0, 2.0, 0.5)

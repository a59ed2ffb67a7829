"""What calibration adds up equals what it would be on all rows at once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.calibrate.histogram import BINS, RESOLUTION, Histogram
from qcc.calibrate.ranges import StaticRange, static_problem
from qcc.calibrate.statistics import ChannelStatistics, Hessian
from qcc.numerics.named_tensors import named_parameters
from qcc.numerics.parts import Parts
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import compute_qparams, dequantize, quantize
from qcc.numerics.statistics import percentile


def parts_of(rows: int, columns: int, seed: int, size: float = 1.0) -> list[torch.Tensor]:
    """Rows cut in three values of different rank, the last one empty or not."""
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randn(rows, columns, generator=generator) ** 3 * size
    first = rows // 3
    return [whole[:first], whole[first : 2 * first][None], whole[2 * first :]]


def joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([one.reshape(-1, one.shape[-1]) for one in parts])


SIZES = st.sampled_from([1.0, 1e-38, 1e-20, 1e12, 1e30])


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 30), columns=st.integers(1, 9), seed=st.integers(0, 999), size=SIZES)
def test_channel_statistics_are_those_of_all_rows(rows: int, columns: int, seed: int, size: float) -> None:
    parts = parts_of(rows, columns, seed, size)
    x, found = joined(parts), ChannelStatistics(columns)
    for part in parts:
        found.add(part)
    assert found.count == rows
    assert torch.equal(found.low, x.amin(0))
    assert torch.equal(found.high, x.amax(0))
    assert torch.equal(found.amax, x.abs().amax(0))
    wide = x.double()
    for value, wanted in (
        (found.mean, wide.mean(0)),
        (found.mean_abs, wide.abs().mean(0)),
        (found.rms, wide.square().mean(0).sqrt()),
    ):
        torch.testing.assert_close(value, wanted, rtol=1e-12, atol=0, equal_nan=True)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 30), columns=st.integers(1, 9), seed=st.integers(0, 999), size=SIZES)
def test_hessians_are_products_of_channels(rows: int, columns: int, seed: int, size: float) -> None:
    parts = parts_of(rows, columns, seed, size)
    x, found = joined(parts).double(), Hessian(columns)
    for part in parts:
        found.add(part)
    wanted = x.T @ x
    assert bool(torch.isfinite(found.matrix).all())
    lost = (found.matrix - wanted).abs().max()
    assert float(lost) <= 1e-5 * float(wanted.diag().max())
    torch.testing.assert_close(found.matrix, found.matrix.T, rtol=0, atol=1e-5 * float(wanted.diag().max()))


def test_values_that_are_not_finite_are_counted_and_left_out() -> None:
    value = torch.tensor([[1.0, float("nan")], [2.0, -3.0], [float("inf"), 1.0]])
    channels, hessian, histogram = ChannelStatistics(2), Hessian(2), Histogram(2)
    for one in (channels, hessian, histogram):
        one.add(value)
    assert (channels.not_finite, hessian.not_finite) == (2, 2)
    assert torch.equal(channels.amax, torch.tensor([2.0, 3.0]))
    assert torch.equal(hessian.matrix, torch.tensor([[4.0, -6.0], [-6.0, 9.0]]).double())
    assert int(histogram.counts.sum()) == 4


@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(1, 60), columns=st.integers(1, 7), group=st.sampled_from([-1, 1, 3]), signed=st.booleans(),
    percent=st.sampled_from([0.1, 50.0, 90.0, 99.9, 100.0]), seed=st.integers(0, 999), size=SIZES,
)  # fmt: skip
def test_percentiles_are_exact_up_to_a_bin(
    rows: int, columns: int, group: int, signed: bool, percent: float, seed: int, size: float
) -> None:
    parts = parts_of(rows, columns, seed, size)
    x, found = joined(parts), Histogram(columns, group, signed=signed)
    for part in reversed(parts):  # the largest values come in any order
        found.add(part)
    for negated in (False, True) if signed else (False,):
        block = (-1, group)
        exact = percentile(Parts.whole(x), block, percent, of_magnitudes=not signed, negated=negated)[0]
        value = found.percentile(percent, negated=negated)
        width = (exact.abs() * RESOLUTION).clamp(min=2.0**-126 * RESOLUTION)  # denormal numbers are evenly spaced
        floor = found.edges()[:, 1]  # what shares the lowest bin
        assert bool((value >= exact).all())
        assert bool((value <= torch.maximum(exact + width * 1.001, floor)).all())


def test_histograms_count_the_same_in_any_order() -> None:
    rows = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) * torch.logspace(-8, 8, 200)[:, None]
    up, down = Histogram(3, 1, signed=True), Histogram(3, 1, signed=True)
    for row in rows:
        up.add(row)
    for row in rows.flip(0):
        down.add(row)
    assert torch.equal(up.counts, down.counts)
    assert torch.equal(up.edges(), down.edges())
    assert up.counts.shape == (2, 3, BINS)
    assert int(up.counts.sum()) == 600


FORMATS = [
    "int8n | tensor f32",
    "int4 | tensor f16",
    "uint8 | tensor f32 | pre u8",
    "uint8 | tensor f32 | post f32",
    "int8 | tensor pow2 ceil",
    "int8 | tensor e8m0 floor",
    "int8n | (-1,1) f32",
    "int8n | (-1,3) f32",
    "uint8 | (-1,3) f16 | pre u8",
    "int8 | tensor f32 signed_amax",
    "int4 | tensor f32 rms(2)",
    "int4 | tensor f32 mean_abs(3)",
    "int4 | tensor f32 mean_abs",
    "fp4_3 | tensor f32",
    "fp2_1 | (-1,3) e4m3, tensor f32",
    "fixed<8,3>",
]


@settings(max_examples=100, deadline=None)
@given(
    text=st.sampled_from(FORMATS), rows=st.integers(1, 20), columns=st.integers(1, 9), rank=st.integers(1, 4),
    seed=st.integers(0, 999), size=st.sampled_from([1.0, 1e-3, 100.0]),
)  # fmt: skip
def test_static_parameters_are_those_of_all_rows_at_once(
    text: str, rows: int, columns: int, rank: int, seed: int, size: float
) -> None:
    from qcc.numerics.presets import format_of

    qtype = format_of(text)
    parts = parts_of(rows, columns, seed, size)
    found = StaticRange(qtype, columns, rank)
    for part in parts:
        found.add(part)
    x = joined(parts)
    wanted = named_parameters(qtype, compute_qparams(x, qtype))
    assert static_problem(qtype, rank) == ""
    for name, value in found.parameters().items():
        assert value.shape == (*(1,) * (rank - 1), wanted[name].shape[-1])
        assert value.dtype == wanted[name].dtype
        if "rms" in text or "mean_abs" in text:  # sums are added in another order
            torch.testing.assert_close(value.float().flatten(), wanted[name].float().flatten(), rtol=1e-6, atol=0)
        else:
            assert torch.equal(value.float().flatten(), wanted[name].float().flatten())


@settings(max_examples=25, deadline=None)
@given(
    text=st.sampled_from(["int4 | tensor f32 mse", "uint3 | tensor f32 mse | pre u3", "int4n | (-1,4) f32 mse",
                          "int8 | tensor pow2 mse", "fp2_1 | tensor f32 mse"]),
    rows=st.integers(20, 200), seed=st.integers(0, 999),
)  # fmt: skip
def test_the_searched_range_loses_hardly_more_than_the_exact_search(text: str, rows: int, seed: int) -> None:
    qtype, parts = parse_qtype(text), parts_of(rows, 8, seed)
    found, x = StaticRange(qtype, 8, 2), joined(parts)
    for part in parts:
        found.add(part)
    from qcc.numerics.named_tensors import parameters_from

    def lost(parameters: object) -> float:
        decoded = dequantize(quantize(x, qtype, parameters))  # type: ignore[arg-type]
        return float((x - decoded).double().square().sum())

    assert lost(parameters_from(qtype, found.parameters())) <= 1.02 * lost(compute_qparams(x, qtype)) + 1e-12


@pytest.mark.parametrize("percent", [90.0, 99.0, 100.0])
def test_percentiles_clip_what_lies_beyond(percent: float) -> None:
    qtype = parse_qtype(f"int8n | tensor f32 percentile({percent})")
    x = torch.linspace(-1, 1, 2001)[:, None]
    found = StaticRange(qtype, 1, 2)
    found.add(x)
    scale = float(found.parameters()["scale0"]) * 127
    assert percent / 100 - 0.002 <= scale <= percent / 100 * (1 + RESOLUTION) + 0.002
    assert scale <= 1.0


def test_zeros_give_zero_scales() -> None:
    for text in FORMATS:
        if "<" in text or "pow2" in text or "e8m0" in text:
            continue
        qtype = parse_qtype(text)
        found = StaticRange(qtype, 6, 2)
        found.add(torch.zeros(4, 6))
        assert float(found.parameters()["scale0"].float().abs().max()) == 0.0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("int8n | token f32", "scale for every token"),
        ("int8n | (1,4) f32", "scale for every token"),
        ("fp2_1 | (1,16) e4m3, tensor f32", "scale for every token"),
        ("planes(2, 01, free) | tensor f16 | post f16", "fits its coefficients"),
        ("table(-1, 0, 1; -2, 0, 2) by u1 tensor | tensor f32", "chooses a decode"),
        ("int8 | tensor f32 | sparse(csr, f16, 0.01)", "side tensors"),
    ],
)
def test_formats_that_cannot_be_static_say_why(text: str, reason: str) -> None:
    assert reason in static_problem(parse_qtype(text), 3)


def test_a_local_format_needs_its_root_only() -> None:
    qtype = parse_qtype("fp2_1 | (1,16) e4m3, tensor f32 | dynamic_local")
    assert static_problem(qtype, 3) == ""
    found, x = StaticRange(qtype, 32, 3), torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    found.add(x)
    wanted = compute_qparams(x, replace(qtype, when="static")).scales.values[1]
    assert list(found.parameters()) == ["scale1"]
    torch.testing.assert_close(found.parameters()["scale1"], wanted, rtol=1e-7, atol=0)

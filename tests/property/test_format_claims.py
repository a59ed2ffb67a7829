"""What papers claim about formats against one another: orderings, exactness, ranges that never overflow."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcc.numerics.blocks import reduce_blocks, total
from qcc.numerics.codebook import code_values
from qcc.numerics.presets import PRESETS, format_of
from qcc.numerics.qtype_bits import bits_per_weight
from qcc.numerics.qtype_parts import FloatDecode, TableDecode
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import dequantize, fake_quantize, quantize
from tests.format_samples import measure, samples

SEEDS = range(1, 11)
seeds = st.integers(0, 2**31)


def random_rows(seed: int, shape: tuple[int, ...], tails: bool) -> Tensor:
    """Draw Gaussian rows, with heavy tails by a division as in Student's t, and one row each of zeros and outliers."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    if tails:
        x = x / torch.randn(shape, generator=generator).abs().clamp(min=0.05)
    if shape[0] > 2:
        x[0] = 0
        x[1, 0] = 500
    return x


def block_errors(x: Tensor, text: str, block: tuple[int, int]) -> Tensor:
    error = (fake_quantize(x, text).double() - x.double()).square()
    return reduce_blocks(error, block, total)


# ---- "INT v.s. FP" (arXiv 2510.25602) --------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_integers_and_floats_in_the_order_of_the_paper(seed: int) -> None:
    assert all(i > f for i, f in zip(measure("mxint8", seed), measure("mxfp8_e4m3", seed), strict=True))
    integer, small_float = measure("nvint4", seed), measure("nvfp4", seed)
    assert integer.gaussian > small_float.gaussian
    assert integer.rotated > small_float.rotated
    assert integer.student < small_float.student


# ---- QoQ: the protective range (arXiv 2405.04532) --------------------------------------------------


def overflows(x: Tensor, bound: int) -> int:
    """Count the int8 intermediates s·q + z that leave -128..127."""
    quantized = quantize(x, parse_qtype(f"uint4 | (1,128) i8, row f16 protect({bound}) | scaled i8"))
    assert quantized.zero is not None
    leaf, zero = (one.int().repeat_interleave(128, 1) for one in (quantized.scales[0], quantized.zero))
    integers = leaf * quantized.codes.int() + zero
    return int(((integers > 127) | (integers < -128)).sum())


@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_protective_range_is_119(seed: int, uniform: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (512, 1024)
    x = torch.rand(shape, generator=generator) * 2 - 1 if uniform else torch.randn(shape, generator=generator)
    assert overflows(x, 119) == 0
    assert overflows(x, 120) > 0
    assert overflows(x, 127) > 0


def test_119_is_the_largest_by_arithmetic() -> None:
    """An int8 group reaches from -p to p at most, so its scale is round(2p/15) and errs by half of that."""
    safe = [p for p in range(1, 128) if p + round(2 * p / 15) / 2 <= 127]
    assert max(safe) == 119
    assert PRESETS["qoq-g128"].count("protect(119)") == 1


# ---- ZeroQuant-FP (arXiv 2307.09782): FP4 under powers of two is FP8 --------------------------------


@pytest.mark.parametrize(("wide", "low", "high"), [("fp4_3", -8, 6), ("fp5_2(ieee)", -15, 13)])
def test_small_floats_times_powers_of_two_are_wide_floats(wide: str, low: int, high: int) -> None:
    def values(name: str) -> set[float]:
        decode = parse_qtype(name).decode
        assert isinstance(decode, FloatDecode)
        return {value for value in code_values(decode) if math.isfinite(value)}

    def holds(exponent: int) -> bool:
        return {value * 2.0**exponent for value in values("fp2_1")} <= values(wide)

    assert len(values("fp2_1")) == 15
    assert [exponent for exponent in range(-40, 40) if holds(exponent)] == list(range(low, high + 1))


# ---- Choices and free coefficients never lose ------------------------------------------------------


@settings(max_examples=40)
@given(
    st.sampled_from(["bitmod3-g128", "bitmod4-g128"]),
    st.sampled_from([(3, 16), (4, 70), (1, 128)]),
    st.booleans(),
    seeds,
)
def test_the_best_of_four_tables_never_loses_to_one(name: str, shape: tuple[int, int], tails: bool, seed: int) -> None:
    decode = format_of(name).decode
    assert isinstance(decode, TableDecode)
    x = random_rows(seed, shape, tails)
    chosen = block_errors(
        x, f"{TableDecode(decode.tables, decode.name)} by u2 (1,16) | (1,16) f16 | half_down", (1, 16)
    )
    for table in decode.tables:
        single = block_errors(x, f"{TableDecode((table,))} | (1,16) f16 | half_down", (1, 16))
        # errors are compared in float32 when a table is chosen
        assert bool((chosen <= single * (1 + 1e-5)).all())


@settings(max_examples=40)
@given(st.integers(2, 4), st.sampled_from([(3, 16), (4, 70), (1, 128)]), st.booleans(), seeds)
def test_free_planes_never_lose_to_the_uniform_grid(bits: int, shape: tuple[int, int], tails: bool, seed: int) -> None:
    x = random_rows(seed, shape, tails)
    free = block_errors(x, f"planes({bits}, 01, free) | (1,32) f32 | post f32", (1, 32))
    uniform = block_errors(x, f"uint{bits} | (1,32) f32 | post f32", (1, 32))
    # coefficients and values are rounded to float32
    slack = 1e-6 * reduce_blocks(x.double().square(), (1, 32), total)
    assert bool((free <= uniform * (1 + 1e-5) + 1e-3 * uniform.sqrt() * slack.sqrt() + slack).all())


# ---- Figures of single papers ----------------------------------------------------------------------


def test_five_levels_gain_over_four() -> None:
    """ABQ-LLM (arXiv 2408.08554): the fifth level makes 2-bit weights symmetric."""
    five, four = measure("uint3[0,4] | (1,128) f16 | pre u3"), measure("uint2 | (1,128) f16 | pre u2")
    assert five.gaussian - four.gaussian == pytest.approx(2.5, abs=0.1)
    assert min(a - b for a, b in zip(five, four, strict=True)) > 1


def test_bipolar_planes_need_a_searched_scale() -> None:
    """Digits of -1 and +1 have no zero, so a scale at the largest magnitude drowns everything else."""
    searched, largest = (measure(f"planes(2, pm1, pow2) mid_rise | (1,128) f16{how}") for how in (" mse", ""))
    assert searched.gaussian > largest.gaussian + 3
    assert searched.student > largest.student + 8
    assert measure("bipolar<2>").gaussian > largest.gaussian + 3


def test_ternary_weights_of_a_gaussian() -> None:
    """BitNet b1.58 (arXiv 2402.17764): clip(round(x / mean|x|), -1, 1)·mean|x|."""
    x = samples().gaussian
    mean = x.abs().mean()
    torch.testing.assert_close(fake_quantize(x, "ternary"), (x / mean).round().clamp(-1, 1) * mean)
    assert measure("ternary").gaussian == pytest.approx(5.78, abs=0.02)


@pytest.mark.parametrize(
    ("bits", "factor", "error"), [(1, 0.798, 0.364), (2, 1.494, 0.119), (3, 2.051, 0.0374), (4, 2.514, 0.0115)]
)
def test_root_mean_square_scales_of_quest(bits: int, factor: float, error: float) -> None:
    """QuEST (arXiv 2502.05003): half-integer grids whose scale is a factor of the root mean square."""
    reached = 10 ** (-measure(f"int{bits} mid_rise | tensor f32 rms({factor})").gaussian / 10)
    # the few elements of a sample that are clipped are worth 1 % of the error
    assert reached == pytest.approx(error, rel=0.02)
    for other in (0.9 * factor, 1.1 * factor):
        assert 10 ** (-measure(f"int{bits} mid_rise | tensor f32 rms({other})").gaussian / 10) > reached


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        (PRESETS["spqr3-g16"], 3.625),
        (PRESETS["spqr3-g16"].replace("uint3", "uint4"), 4.625),
        (f"{PRESETS['spqr3-g16']} | sparse(csr, f16, 0.01)", 3.945),
    ],
)
def test_bits_of_spqr(text: str, bits: float) -> None:
    """SpQR (arXiv 2306.03078): b + (b_s + b_z) / g + 2·(16 + 16) / (g·G) + 32·outliers."""
    assert bits_per_weight(parse_qtype(text)) == pytest.approx(bits, abs=1e-9)
    if "sparse" not in text:
        x = random_rows(5, (64, 256), tails=False)
        assert torch.isfinite(dequantize(quantize(x, parse_qtype(text)))).all()

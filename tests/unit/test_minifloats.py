"""Small floats against ml_dtypes, against torch's casts, and against a slow reference in exact fractions."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from qcc.numerics.codebook import code_values
from qcc.numerics.levels import FLOAT_DTYPES, power_of_two
from qcc.numerics.minifloat import float_values, nan_code
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import FLOAT_VARIANTS, FloatDecode, FloatVariant
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import dequantize, quantize
from qcc.numerics.tensor import Parameters, QuantizedTensor

ML_DTYPES = {
    "float8_e4m3fn": "fp4_3",
    "float8_e5m2": "fp5_2(ieee)",
    "float8_e4m3fnuz": "fp4_3(fnuz)",
    "float8_e5m2fnuz": "fp5_2(fnuz)",
    "float8_e4m3b11fnuz": "fp4_3(fnuz, bias=11)",
    "float8_e3m4": "fp3_4(ieee)",
    "float8_e4m3": "fp4_3(ieee)",
    "float6_e2m3fn": "fp2_3",
    "float6_e3m2fn": "fp3_2",
    "float4_e2m1fn": "fp2_1",
}
# torch 2.13 saturates its casts to e4m3fn, infinities too, and no others.
TORCH_DTYPES = {
    torch.float8_e4m3fn: "fp4_3 | dynamic",
    torch.float8_e5m2: "fp5_2(ieee) | dynamic nonsaturating",
    torch.float8_e4m3fnuz: "fp4_3(fnuz) | dynamic nonsaturating",
    torch.float8_e5m2fnuz: "fp5_2(fnuz) | dynamic nonsaturating",
}
# NaN has no code in formats of less than 8 bits; casting it warns.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")
SOURCES = (np.float16, ml_dtypes.bfloat16)
EVERY_WORD = np.arange(2**16, dtype=np.uint16)


def as_cast(decode: str) -> QType:
    """Give the type whose encoding is a plain cast: no scale, and what is out of range becomes infinity or NaN."""
    return parse_qtype(f"{decode} | dynamic nonsaturating")


def encoded(values: NDArray[np.float32], qtype: QType) -> NDArray[np.float32]:
    return dequantize(quantize(torch.from_numpy(values), qtype)).numpy()


def same(found: NDArray[np.floating], wanted: NDArray[np.floating]) -> bool:
    """Compare values: any NaN is NaN, and the sign of a zero does not count."""
    return bool(((found == wanted) | (np.isnan(found) & np.isnan(wanted))).all())


@pytest.mark.parametrize(("name", "text"), ML_DTYPES.items())
def test_every_code_decodes_as_in_ml_dtypes(name: str, text: str) -> None:
    qtype = as_cast(text)
    codes = np.arange(2**qtype.decode.bits, dtype=np.uint8)
    wanted = codes.view(getattr(ml_dtypes, name)).astype(np.float32)
    held = QuantizedTensor(qtype, codes.shape, torch.from_numpy(codes), Parameters.of(()))
    assert np.array_equal(dequantize(held).numpy(), wanted, equal_nan=True)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("name", "text"), ML_DTYPES.items())
def test_every_word_of_16_bits_is_cast_as_in_ml_dtypes(name: str, text: str, source: type[np.generic]) -> None:
    words = EVERY_WORD.view(source)
    wanted = words.astype(getattr(ml_dtypes, name)).astype(np.float32)
    assert same(encoded(words.astype(np.float32), as_cast(text)), wanted)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("name", "text"), ML_DTYPES.items())
def test_saturation_clamps_before_the_cast(name: str, text: str, source: type[np.generic]) -> None:
    dtype = getattr(ml_dtypes, name)
    words = EVERY_WORD.view(source).astype(np.float32)
    top = np.float32(ml_dtypes.finfo(dtype).max)
    wanted = np.clip(words, -top, top).astype(dtype).astype(np.float32)
    assert same(encoded(words, parse_qtype(f"{text} | dynamic")), wanted)


@pytest.mark.parametrize("source", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_every_word_of_16_bits_is_cast_as_in_torch(dtype: torch.dtype, source: torch.dtype) -> None:
    words = torch.from_numpy(EVERY_WORD.view(np.int16)).view(source).float()
    wanted = words.to(dtype).float().numpy()
    assert same(encoded(words.numpy(), parse_qtype(TORCH_DTYPES[dtype])), wanted)


def test_every_e8m0_scale_is_the_power_of_two_of_ml_dtypes() -> None:
    codes = np.arange(256, dtype=np.uint8)
    wanted = codes.view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    for name in ("e8m0", "pow2"):
        found = torch.from_numpy(codes).view(FLOAT_DTYPES[name]).float().numpy()
        assert np.array_equal(found, wanted, equal_nan=True)


@pytest.mark.parametrize("source", SOURCES)
def test_scales_are_rounded_to_e8m0_as_in_ml_dtypes_and_torch(source: type[np.generic]) -> None:
    """Two conventions differ at the ends of the range, where neither library rounds to the nearest power.

    Below 2^-126 both take every number above 2^-127 to 2^-126, even those nearer to 2^-127; from 1.5·2^127 on they
    give NaN, where a scale of qcc saturates; and ml_dtypes has no code for a zero, for which qcc and torch take 2^-127.
    """
    words = EVERY_WORD.view(source).astype(np.float32)
    words = words[~(words < 0)]
    regular = np.isnan(words) | ((words >= 2.0**-126) & (words < 1.5 * 2.0**127)) | np.isinf(words)
    found = power_of_two(torch.from_numpy(words), "rne").float().numpy()
    in_torch = torch.from_numpy(words).to(torch.float8_e8m0fnu).float().numpy()
    assert same(found[regular], words[regular].astype(ml_dtypes.float8_e8m0fnu).astype(np.float32))
    assert same(found[regular | (words == 0)], in_torch[regular | (words == 0)])
    assert (found[words <= 1.4 * 2.0**-127] == 2.0**-127).all()
    assert (found[np.isfinite(words) & (words >= 1.5 * 2.0**127)] == 2.0**127).all()


def every_float() -> list[FloatDecode]:
    """List all formats of 3 to 8 bits in all variants."""
    return [
        FloatDecode(exponent, mantissa, None, variant)
        for exponent, variant in itertools.product(range(1, 8), FLOAT_VARIANTS)
        for mantissa in range(max(0, 2 - exponent), 8 - exponent)
    ]


def size_of_fields(decode: FloatDecode, code: int) -> Fraction:
    """Give the value that the fields of a code without its sign spell, as if no code were special."""
    steps, half = 2**decode.mantissa_bits, 2 ** (decode.exponent_bits - 1)
    exponent, mantissa = divmod(code, steps)
    bias = half if decode.variant == "fnuz" else half - 1
    return (Fraction(mantissa, steps) + (exponent > 0)) * Fraction(2) ** (max(exponent, 1) - bias)


def magnitudes(decode: FloatDecode) -> list[Fraction]:
    """Give the finite values of ascending codes without their sign; the codes above stand for infinity or NaN."""
    special = {"ieee": 2**decode.mantissa_bits, "ocp_fn": int(decode.bits == 8), "fnuz": 0, "finite": 0}
    count = 2 ** (decode.bits - 1) - special[decode.variant]
    return [size_of_fields(decode, code) for code in range(count)]


def nearest_code(value: Fraction, sizes: list[Fraction]) -> int:
    """Find the nearest value, of two equally near the one with the even code."""
    above = bisect_left(sizes, value)
    codes = [code for code in (above - 1, above) if 0 <= code < len(sizes)]
    return min(codes, key=lambda code: (abs(sizes[code] - value), code % 2))


def probes(sizes: list[Fraction]) -> NDArray[np.float32]:
    """Give all values, all midpoints, the float32 neighbours of both, and some float16 numbers."""
    ends = [*sizes, 2 * sizes[-1] - sizes[-2], 4 * sizes[-1]]
    middles = [(low + high) / 2 for low, high in itertools.pairwise(ends)]
    exact = np.array([float(point) for point in (*sizes, *middles)], np.float32)
    around = [np.nextafter(exact, np.float32(limit)) for limit in (0, np.inf)]
    sampled = EVERY_WORD[::509].view(np.float16).astype(np.float32)
    points = np.concatenate([exact, *around, sampled[np.isfinite(sampled)]])
    return np.concatenate([points, -points])


@pytest.mark.parametrize("decode", every_float(), ids=str)
def test_codes_are_the_nearest_in_exact_arithmetic(decode: FloatDecode) -> None:
    sizes = magnitudes(decode)
    points = probes(sizes)
    codes = quantize(torch.from_numpy(points), QType(decode)).codes.tolist()
    sign = 2 ** (decode.bits - 1)
    for point, code in zip(points.tolist(), codes, strict=True):
        wanted = nearest_code(abs(Fraction(point)), sizes)
        assert code == (wanted if point >= 0 or wanted == 0 else wanted + sign), point


@pytest.mark.parametrize("decode", every_float(), ids=str)
def test_a_cast_leaves_the_range_halfway_to_the_next_value(decode: FloatDecode) -> None:
    sizes, values = magnitudes(decode), float_values(decode)
    tie = np.float32(float((sizes[-1] + size_of_fields(decode, len(sizes))) / 2))
    points = [np.nextafter(tie, np.float32(0)), tie, np.nextafter(tie, np.float32(np.inf)), np.float32(np.inf)]
    qtype = QType(decode, when="dynamic", overflow="nonsaturating")
    found = [values[code] for code in quantize(torch.tensor([*points, *(-np.array(points))]), qtype).codes.tolist()]
    has_specials = len(sizes) < 2 ** (decode.bits - 1) or decode.variant == "fnuz"
    gone = [False, len(sizes) % 2 == 0, True, True]
    special = np.inf if decode.variant == "ieee" else np.nan
    wanted = [special if has_specials and one else float(sizes[-1]) for one in gone]
    assert np.array_equal(found, [*wanted, *(-value for value in wanted)], equal_nan=True)


@pytest.mark.parametrize("decode", every_float(), ids=str)
def test_every_code_has_the_value_of_its_fields(decode: FloatDecode) -> None:
    values, half, sizes = float_values(decode), 2 ** (decode.bits - 1), magnitudes(decode)
    assert [Fraction(value) for value in values[: len(sizes)]] == sizes
    negative = values[half + (decode.variant == "fnuz") : half + len(sizes)]
    assert [-Fraction(value) for value in negative] == sizes[decode.variant == "fnuz" :]
    rest = [*values[len(sizes) : half], *values[half + len(sizes) :]]
    assert not np.isfinite(rest).any()
    assert np.isnan(values[half]) == (decode.variant == "fnuz")


@pytest.mark.parametrize("variant", FLOAT_VARIANTS)
def test_nan_survives_where_the_format_has_it(variant: FloatVariant) -> None:
    for decode in (FloatDecode(4, 3, None, variant), FloatDecode(2, 1, None, variant)):
        found = dequantize(quantize(torch.tensor([float("nan"), 1.0]), QType(decode, when="dynamic")))
        assert found[1] == 1
        assert bool(found[0].isnan()) == (nan_code(decode) is not None)
        if nan_code(decode) is None:
            assert found[0] == 0


def llm_fp4(x: Tensor, exponent_bits: int, mantissa_bits: int, bias: float) -> Tensor:
    """Round to a float with a real bias by its formula (LLM-FP4, arXiv 2310.16836)."""
    largest = (2 - 2.0**-mantissa_bits) * 2 ** (2**exponent_bits - 1 - bias)
    clipped = x.clamp(-largest, largest)
    binade = torch.floor(torch.log2(clipped.abs()) + bias).clamp(min=1)
    step = torch.exp2(binade - mantissa_bits - bias)
    return (clipped / step).round() * step


@pytest.mark.parametrize("bias", [-3.25, 0.1, 1.375, 2.7182818, 20.5])
@pytest.mark.parametrize(("exponent_bits", "mantissa_bits"), [(2, 1), (3, 0), (1, 2), (3, 4), (4, 3)])
def test_a_real_bias_is_the_formula_of_llm_fp4(exponent_bits: int, mantissa_bits: int, bias: float) -> None:
    x = torch.randn(4000, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 4 * 2**-bias
    qtype = QType(FloatDecode(exponent_bits, mantissa_bits, bias, "finite"))
    found = dequantize(quantize(x, qtype), torch.float64)
    torch.testing.assert_close(found, llm_fp4(x, exponent_bits, mantissa_bits, bias), rtol=1e-14, atol=0)


@pytest.mark.parametrize("bias", [0.3, 1.375, -2.6])
def test_a_real_bias_of_activations_folds_into_the_rows_of_the_weight(bias: float) -> None:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(7, 33, generator=generator, dtype=torch.float64)
    weight = torch.randn(33, 5, generator=generator, dtype=torch.float64)
    biased, whole = FloatDecode(2, 1, bias, "finite"), FloatDecode(2, 1, 0, "finite")
    quantized = quantize(x, QType(biased))
    elements = torch.tensor(code_values(whole), dtype=torch.float64)[quantized.codes.long()]
    folded = elements @ (2.0**-bias * weight)
    torch.testing.assert_close(dequantize(quantized, torch.float64) @ weight, folded, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("text", ["fp2_1", "fp4_3", "fp3_0(finite)", "int4 | tensor f32 constant(0.25)"])
def test_stochastic_rounding_is_unbiased(text: str) -> None:
    qtype = parse_qtype(f"{text} | stochastic")
    points = torch.linspace(-1.7, 1.7, 41)
    draws = 4000
    found = dequantize(quantize(points.repeat(draws, 1), qtype, seed=7), torch.float64)
    error = (found.mean(0) - points.double()).abs()
    assert bool((error <= 4 * found.std(0) / draws**0.5 + 1e-7).all())
    below, above = found.min(0).values, found.max(0).values
    assert bool(((below <= points.double() + 1e-7) & (points.double() - 1e-7 <= above)).all())
    assert bool((found.unique(dim=0).std(0) > 0).any())


def test_a_seed_fixes_stochastic_rounding() -> None:
    x, qtype = torch.randn(300, 40), parse_qtype("fp2_1 | (1,16) e4m3, tensor f32 | stochastic")
    first, second, other = (quantize(x, qtype, seed=seed).codes for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("exponent", range(-8, 7))
def test_every_e2m1_value_shifted_is_an_e4m3_value(exponent: int) -> None:
    values = torch.tensor(float_values(FloatDecode(2, 1))) * 2.0**exponent
    assert torch.equal(dequantize(quantize(values, parse_qtype("fp4_3"))), values)
    assert torch.equal(values.to(torch.float8_e4m3fn).float(), values)


@pytest.mark.parametrize("exponent", [-9, 7])
def test_an_e2m1_value_shifted_further_is_not(exponent: int) -> None:
    values = torch.tensor(float_values(FloatDecode(2, 1))) * 2.0**exponent
    assert not torch.equal(dequantize(quantize(values, parse_qtype("fp4_3"))), values)

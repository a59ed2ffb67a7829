"""Laws of quantization: half-step error, idempotence, given parameters, and what happens to odd values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcc.errors import ShapeError
from qcc.numerics.blocks import spread_blocks
from qcc.numerics.levels import chain_product
from qcc.numerics.presets import PRESETS, format_of
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import IntDecode, Level, Zero
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import compute_qparams, dequantize, fake_quantize, quantize, signal_to_quantization_noise_db
from qcc.numerics.tensor import Parameters, QuantizedTensor

BLOCKS = st.sampled_from([(1, 1), (1, 3), (1, 32), (1, -1), (-1, -1), (-1, 1), (2, 4), (-1, 8)])
SHAPES = st.sampled_from([(1, 1), (1, 37), (5, 64), (3, 33), (2, 3, 40), (7,), (2, 1, 2, 9)])
EXPONENTS = st.integers(-8, 8)


@st.composite
def formats(draw: st.DrawFn) -> QType:
    """Draw one-level integer formats: symmetric, with an integer zero, or with a real one."""
    block, scale = draw(BLOCKS), draw(st.sampled_from(["f32", "f16", "bf16"]))
    kind = draw(st.sampled_from(["symmetric", "signed pre", "pre", "real pre", "post"]))
    bits = draw(st.integers(2 if kind in ("symmetric", "signed pre") else 1, 8))
    levels = (Level(block, scale),)
    match kind:
        case "symmetric":
            return QType(IntDecode(bits, narrow=draw(st.booleans())), levels)
        case "signed pre":
            return QType(IntDecode(bits), levels, Zero("pre", f"i{bits}"))
        case "pre":
            return QType(IntDecode(bits, signed=False), levels, Zero("pre", f"u{bits}"))
        case "real pre":
            return QType(IntDecode(bits, signed=False), levels, Zero("pre", "f32"))
        case _:
            return QType(IntDecode(bits, signed=False), levels, Zero("post", "f32"))


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Draw tensors of odd shapes: Gaussian, shifted, with outliers, with zero rows, at several magnitudes."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x = torch.randn(draw(SHAPES), generator=generator)
    match draw(st.sampled_from(["plain", "shifted", "outlier", "zero row", "constant", "positive"])):
        case "shifted":
            x = x + 3
        case "outlier":
            x.view(-1)[0] = 200.0  # times 2^8 this still fits the f16 scale of one-bit codes
        case "zero row":
            x[0] = 0
        case "constant":
            x = torch.full_like(x, 0.37)
        case "positive":
            x = x.abs()
        case _:
            pass
    return x * 2.0 ** draw(EXPONENTS)


def steps(quantized: QuantizedTensor) -> Tensor:
    """Give the stored scale of every element."""
    scale = chain_product(quantized.parameters.scales, quantized.qtype.levels, quantized.shape, torch.float64)
    return spread_blocks(scale, quantized.qtype.levels[0].block, quantized.shape)


def shrink(quantized: QuantizedTensor) -> float:
    """Give the relative error of a stored scale: the largest codes may clip by that much of the range."""
    decode = quantized.qtype.decode
    assert isinstance(decode, IntDecode)
    unit = {"f32": 2.0**-24, "f16": 2.0**-11, "bf16": 2.0**-8}[quantized.qtype.levels[0].dtype]
    return unit * (decode.maximum - decode.minimum)


@settings(max_examples=100, deadline=None)
@given(tensors(), formats())
def test_error_is_at_most_half_a_step(x: Tensor, qtype: QType) -> None:
    quantized = quantize(x, qtype)
    error = (dequantize(quantized, torch.float64) - x.double()).abs()
    # An integer zero point moves the grid by up to half a step, so the ends may clip by as much again.
    half = 1.0 if qtype.zero and qtype.zero.dtype[0] in "iu" else 0.5
    # Scales below the normal range of f16 lose relative precision: their own rounding adds to the bound.
    tiny = 2.0**-25 * 256 if qtype.levels[0].dtype == "f16" else 0.0
    bound = steps(quantized) * (half + shrink(quantized)) + tiny + x.abs().max().double() * 2.0**-22
    assert bool((error <= bound).all())


@settings(max_examples=100, deadline=None)
@given(tensors(), formats())
def test_codes_are_in_range_and_of_the_right_kind(x: Tensor, qtype: QType) -> None:
    quantized = quantize(x, qtype)
    decode = qtype.decode
    assert isinstance(decode, IntDecode)
    assert quantized.codes.dtype == (torch.int8 if decode.signed else torch.uint8)
    assert decode.minimum <= int(quantized.codes.min())
    assert int(quantized.codes.max()) <= decode.maximum


@settings(max_examples=100, deadline=None)
@given(tensors(), formats())
def test_quantizing_what_was_decoded_gives_the_same_codes(x: Tensor, qtype: QType) -> None:
    first = quantize(x.double(), qtype)
    again = quantize(dequantize(first, torch.float64), qtype, first.parameters)
    dead = (steps(first) == 0).expand(first.shape)
    assert torch.equal(first.codes[~dead], again.codes[~dead])


@settings(max_examples=60, deadline=None)
@given(tensors(), formats())
def test_dynamic_equals_static_with_the_same_parameters(x: Tensor, qtype: QType) -> None:
    dynamic = QType(qtype.decode, qtype.levels, qtype.zero, "dynamic")
    first = quantize(x, dynamic)
    second = quantize(x, qtype, compute_qparams(x, qtype))
    assert torch.equal(first.codes, second.codes)
    assert torch.equal(dequantize(first), dequantize(second))


@settings(max_examples=60, deadline=None)
@given(tensors(), st.sampled_from([(1, 3), (1, 32), (1, -1)]), st.integers(2, 8))
def test_rows_do_not_see_one_another(x: Tensor, block: tuple[int, int], bits: int) -> None:
    qtype = QType(IntDecode(bits), (Level(block, "f16"),))
    rows = x.reshape(-1, x.shape[-1])
    whole = fake_quantize(x, qtype).reshape(rows.shape)
    assert torch.equal(whole, torch.stack([fake_quantize(row, qtype) for row in rows]))


@pytest.mark.parametrize("length", [1, 31, 32, 33, 95])
def test_a_short_last_group_has_statistics_of_its_own(length: int) -> None:
    x = torch.randn(3, length) + 5
    for text in ("int4 | (1,32) f16", "uint4 | (1,32) f16 | pre u4", "uint4 | (1,32) f16 | post f16"):
        qtype = parse_qtype(text)
        pieces = [fake_quantize(piece, qtype) for piece in x.split(32, dim=1)]
        assert torch.equal(fake_quantize(x, qtype), torch.cat(pieces, dim=1))


@pytest.mark.parametrize(("dtype", "name"), [(np.float16, "f16"), (np.float32, "f32")])
@pytest.mark.parametrize("bits", range(2, 9))
def test_the_formula_in_numpy(bits: int, dtype: type[np.floating], name: str) -> None:
    x = np.random.default_rng(bits).standard_normal((4, 96)).astype(np.float32)
    groups = x.reshape(4, 3, 32)
    top = np.float32(2 ** (bits - 1) - 1)
    scale = (np.abs(groups).max(-1) / top).astype(dtype)
    codes = np.clip(np.rint(groups / scale.astype(np.float32)[..., None]), -top - 1, top)
    quantized = quantize(torch.from_numpy(x), parse_qtype(f"int{bits} | (1,32) {name}"))
    np.testing.assert_array_equal(quantized.scales[0].numpy(), scale)
    np.testing.assert_array_equal(quantized.codes.numpy(), codes.reshape(4, 96))
    low, high = np.minimum(groups, 0).min(-1), np.maximum(groups, 0).max(-1)
    levels = np.float32(2**bits - 1)
    scale = ((high - low) / levels).astype(dtype)
    wide = scale.astype(np.float32)
    zero = np.clip(np.rint(-low / wide), 0, levels)
    codes = np.clip(np.rint(groups / wide[..., None]) + zero[..., None], 0, levels)
    quantized = quantize(torch.from_numpy(x), parse_qtype(f"uint{bits} | (1,32) {name} | pre u{bits}"))
    assert quantized.zero is not None
    np.testing.assert_array_equal(quantized.scales[0].numpy(), scale)
    np.testing.assert_array_equal(quantized.zero.numpy(), zero)
    np.testing.assert_array_equal(quantized.codes.numpy(), codes.reshape(4, 96))


@pytest.mark.parametrize(
    ("text", "decibel"),
    [
        ("int6 | (1,128) f16", 31.47),
        ("int4 | (1,128) f16", 18.55),
        ("int3 | (1,128) f16", 11.19),
        ("uint4 | (1,128) f16 | pre u4", 19.93),
        ("uint3 | (1,128) f16 | pre u3", 13.29),
        ("uint2 | (1,128) f16 | pre u2", 5.94),
        ("uint3[0,4] | (1,128) f16 | pre u3", 8.45),
        ("int2 mid_rise | (1,128) f16", 5.11),
        ("int4 | tensor f32", 14.81),
        # QuEST's clipping factors: mean squared errors .364, .119, .0374, .0115 of a unit Gaussian
        ("int1 mid_rise | (1,-1) f16 rms(0.798)", -10 * math.log10(0.364)),
        ("int2 mid_rise | (1,-1) f16 rms(1.494)", -10 * math.log10(0.119)),
        ("int3 mid_rise | (1,-1) f16 rms(2.051)", -10 * math.log10(0.0374)),
        ("int4 mid_rise | (1,-1) f16 rms(2.514)", -10 * math.log10(0.0115)),
    ],
)
def test_noise_of_a_gaussian_is_the_known_one(text: str, decibel: float) -> None:
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((256, 1024))).float()
    assert signal_to_quantization_noise_db(x, fake_quantize(x, text)) == pytest.approx(decibel, abs=0.15)


@pytest.mark.parametrize(
    "text",
    [
        "uint4 | (1,32) i8, row f16 protect(119) | scaled i8",
        "uint4 | (1,32) i8, row f16 protect(119) | pre u4",
        "int4 | (1,32) u8, row f16",
        "int4 | (1,32) u6 ceil, (1,96) f32",
        "int4 | (1,32) f16, tensor f32",
        "uint4 | (1,32) i8, (2,64) bf16 | pre u4",
    ],
)
@pytest.mark.parametrize("shape", [(6, 100), (1, 32), (2, 3, 64), (5, 31)])
def test_two_levels_cost_little_more_than_one(text: str, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    single = "uint4 | (1,32) f16 | pre u4" if text.startswith("u") else "int4 | (1,32) f16"
    reference = signal_to_quantization_noise_db(x, fake_quantize(x, single))
    quantized = quantize(x, parse_qtype(text))
    assert len(quantized.scales) == 2
    assert signal_to_quantization_noise_db(x, dequantize(quantized)) > reference - 1.2
    again = quantize(dequantize(quantized, torch.float64), quantized.qtype, quantized.parameters)
    assert torch.equal(again.codes, quantized.codes)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["scaled i8", "pre u4"]))
def test_the_protective_range_never_leaves_int8(seed: int, zero: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 64, generator=generator) + torch.randn(4, 1, generator=generator) * 3
    quantized = quantize(x, parse_qtype(f"uint4 | (1,32) i8, row f16 protect(119) | {zero}"))
    leaf = quantized.scales[0].int().repeat_interleave(32, 1)
    assert quantized.zero is not None
    offset = quantized.zero.int().repeat_interleave(32, 1)
    codes = quantized.codes.int()
    integers = leaf * codes + offset if zero == "scaled i8" else leaf * (codes - offset)
    assert int(integers.abs().max()) <= 127
    root = quantized.scales[1].double()
    torch.testing.assert_close(dequantize(quantized, torch.float64), root * integers, rtol=1e-12, atol=0)


@pytest.mark.parametrize("bound", [1, 7, 119, 120, 124, 127])
def test_a_scaled_zero_point_never_wraps(bound: int) -> None:
    x = torch.rand(64, 256, generator=torch.Generator().manual_seed(5)) * 2 - 1
    quantized = quantize(x, parse_qtype(f"uint4 | (1,16) i8, row f16 protect({bound}) | scaled i8"))
    leaf, zero = quantized.scales[0].int(), quantized.zero
    assert zero is not None
    assert int(zero.max()) <= 0
    assert bool((zero.int() % leaf == 0).all())
    step = (leaf.float() * quantized.scales[1].float()).repeat_interleave(16, 1)
    assert bool(((dequantize(quantized) - x).abs() <= 1.5 * step).all())


@pytest.mark.parametrize("text", ["int8 | row f32 | dynamic", "uint8 | row f32 | pre u8 | dynamic"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_dynamic_row_that_is_not_finite_decodes_to_nan(text: str, value: float) -> None:
    x = torch.randn(3, 8)
    x[1, 2] = value
    quantized = quantize(x, parse_qtype(text))
    decoded = dequantize(quantized)
    assert not quantized.codes[1].any()
    assert bool(decoded[1].isnan().all())
    assert bool(decoded[[0, 2]].isfinite().all())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_static_values_that_are_not_finite_are_named(value: float) -> None:
    x = torch.zeros(4, 4)
    x[2, 3] = value
    with pytest.raises(ShapeError, match=r"layer\.weight.*1 of 16 values.*\(2, 3\)"):
        quantize(x, parse_qtype("int8 | row f32"), where="layer.weight")


def test_a_scale_beyond_f16_is_refused_for_weights_and_kept_in_f32() -> None:
    x = torch.full((2, 4), 3e8)
    with pytest.raises(ShapeError, match=r"big.*overflow f16"):
        quantize(x, parse_qtype("int8 | row f16"), where="big")
    torch.testing.assert_close(fake_quantize(x, "int8 | row f32"), x)


@pytest.mark.parametrize(
    "text", ["int8 | row f32", "int4 | (1,3) f16", "uint4 | row f16 | pre u4", "uint4 | row f32 | post f32"]
)
@pytest.mark.parametrize("value", [0.0, 1e-45, -3e-45, 1e-39])
def test_zeros_and_denormals_give_finite_values(text: str, value: float) -> None:
    decoded = fake_quantize(torch.full((2, 5), value), text)
    assert bool(decoded.isfinite().all())
    assert float(decoded.abs().max()) <= max(abs(value) * 1.5, 2e-45)


def test_one_outlier_makes_its_group_coarse_and_no_other() -> None:
    x = torch.randn(1, 96, generator=torch.Generator().manual_seed(0))
    spiked = x.clone()
    spiked[0, 40] = 1e4
    plain, hit = (fake_quantize(one, "int4 | (1,32) f16") for one in (x, spiked))
    assert torch.equal(plain[:, :32], hit[:, :32])
    assert torch.equal(plain[:, 64:], hit[:, 64:])
    assert not hit[:, 41:64].any()


def test_one_bit_is_a_sign() -> None:
    x = torch.tensor([[-2.0, -0.1, 0.0, 0.5]])
    assert fake_quantize(x, "int1 mid_rise | row f32").tolist() == [[-2.0, -2.0, 2.0, 2.0]]


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [
        ("rne", [-2.0, -2.0, 0.0, 0.0, 2.0]),
        ("half_up", [-2.0, -1.0, 0.0, 1.0, 2.0]),
        ("half_down", [-3.0, -2.0, -1.0, 0.0, 1.0]),
        ("floor", [-3.0, -2.0, -1.0, 0.0, 1.0]),
    ],
)
def test_ties(rounding: str, expected: list[float]) -> None:
    x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5])
    text = f"int8 | tensor pow2 constant(1) | {rounding}".removesuffix(" | rne")
    assert fake_quantize(x, text).tolist() == expected
    single = torch.tensor([float(np.nextafter(np.float32(0.5), np.float32(0)))])
    assert fake_quantize(single, text).tolist() == [0.0]


def test_fixed_point_wraps_as_two_complement() -> None:
    x = torch.tensor([127.0, 128.0, 129.0, -129.0, 1000.0])
    wrapped = fake_quantize(x, "int8 | tensor pow2 constant(1) | wrap")
    assert wrapped.tolist() == [float((int(value) + 128) % 256 - 128) for value in x.tolist()]
    assert fake_quantize(x, "int8 | tensor pow2 constant(1)").tolist() == [127, 127, 127, -128, 127]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_of_the_input_is_kept(dtype: torch.dtype) -> None:
    x = torch.randn(4, 40).to(dtype)
    decoded = fake_quantize(x, "int8 | (1,32) f16")
    assert decoded.dtype == dtype
    if dtype != torch.float64:
        assert torch.equal(decoded, fake_quantize(x.float(), "int8 | (1,32) f16").to(dtype))


def test_values_that_do_not_fit_given_parameters_saturate() -> None:
    qtype = parse_qtype("uint8 | tensor f32 | pre u8")
    scale, zero = torch.full((1, 1), 0.5), torch.full((1, 1), 10, dtype=torch.uint8)
    x = torch.tensor([[-100.0, -5.0, 0.0, 0.24, 0.26, 1e9, float("inf"), float("nan")]])
    assert quantize(x, qtype, Parameters.of((scale,), zero)).codes.tolist() == [[0, 0, 10, 10, 11, 255, 255, 10]]


def test_parameters_of_a_wrong_shape_are_all_named() -> None:
    qtype = parse_qtype("uint4 | (1,32) f16, row f32 | pre u4")
    with pytest.raises(ShapeError) as caught:
        quantize(torch.randn(2, 64), qtype, Parameters.of((torch.ones(2, 3), torch.ones(1, 1))))
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4)])
def test_a_tensor_without_elements_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="no elements"):
        quantize(torch.zeros(shape), parse_qtype("int8 | row f32"))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_encode_and_decode(name: str) -> None:
    x = torch.randn(2, 256, generator=torch.Generator().manual_seed(0))
    quantized = quantize(x, format_of(name))
    assert signal_to_quantization_noise_db(x, dequantize(quantized)) > 4
    again = quantize(x, format_of(name), quantized.parameters)
    assert torch.equal(again.codes, quantized.codes)


def test_noise_ratio() -> None:
    x = torch.tensor([3.0, 4.0])
    assert signal_to_quantization_noise_db(x, x + torch.tensor([0.3, 0.4])) == pytest.approx(20, abs=1e-5)
    assert signal_to_quantization_noise_db(x, x) == math.inf
    assert math.isnan(signal_to_quantization_noise_db(x, x * math.nan))
    with pytest.raises(ShapeError, match="shapes"):
        signal_to_quantization_noise_db(x, x[:1])

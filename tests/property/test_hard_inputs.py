"""Odd values, shapes, dtypes and strides in every preset and family."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from qcc.errors import ShapeError
from qcc.numerics import parts
from qcc.numerics.levels import Chain
from qcc.numerics.presets import PRESETS, format_of
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import block_grid, expand_block
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import dequantize, fake_quantize, quantize, signal_to_quantization_noise_db
from qcc.numerics.tensor import Parameters, QuantizedTensor, zero_levels

FAMILY_MEMBERS = ("fixed<8,3>", "fp<4,3>", "bipolar<2>")
NAMES = (*PRESETS, *FAMILY_MEMBERS)
SELECTED = (
    "select(int4n 0.875, int8n 0.125) by u1 (1,32) | (1,32) f16",
    "select(uint2 0.75, uint4 0.25) by u1 (4,32) | (1,16) f16 | pre u4",
    "table(-4, -1, 0, 1, 2; -2, -1, 0, 1, 4) by u1 (4,32) | (1,16) f16",
    "table(-4, -1, 0, 1, 2; -2, -1, 0, 1, 4) by u1 (1,32) | (1,32) f16 mse",
    "table(-2, -1, 0, 1; -1, 0, 1, 2) by u1 (2,8)",
)
OTHERS = (
    *SELECTED,
    "int4 | (1,32) f16 mse",
    "fp2_1 | (1,16) e4m3 mse, tensor f32",
    "int8 | (1,32) f16 percentile(99)",
    "uint8 | tensor f32 percentile(99) | pre u8",
    "uint8 | (-1,4) f32 percentile(95) | post f32",
    "int3 mid_rise | (1,64) f16 rms(2)",
    "int4 | (-1,8) f16",
    "uint4 | tensor f32 | pre u4",
    "int4 | (1,32) u8, tensor f32 protect(100)",
    "int4 | (1,16) u4 offset(tensor), tensor f32",
)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stored(quantized: QuantizedTensor) -> list[Tensor]:
    """Give all tensors of a quantized one, codes first, those of 8-bit floats as bytes."""
    parameters = quantized.parameters
    chains = [parameters.scales] + ([parameters.zero] if parameters.zero is not None else [])
    found = [quantized.codes, *(one for chain in chains for one in (*chain.values, *chain.offsets) if one is not None)]
    found += [parameters.selector] if parameters.selector is not None else []
    return [one.view(torch.uint8) if one.dtype.itemsize == 1 else one for one in found]


def same(left: QuantizedTensor, right: QuantizedTensor) -> bool:
    pairs = list(zip(stored(left), stored(right), strict=True))
    return all(one.dtype == other.dtype and torch.equal(one, other) for one, other in pairs)


def dynamic(name: str) -> QType:
    return replace(format_of(name), when="dynamic")


def root_block(qtype: QType, rank: int) -> tuple[int, ...]:
    """Give the block of elements that can see one another, through any level or zero point."""
    blocks = [expand_block(level.block, rank) for level in (*qtype.levels, *zero_levels(qtype))]
    return tuple(-1 if -1 in along else math.lcm(*along) for along in zip(*blocks, strict=True))


def elements_of(block: tuple[int, ...], shape: tuple[int, ...], at: tuple[int, ...]) -> Tensor:
    """Tell which elements share a block with the one at `at`."""
    mask = torch.ones(shape, dtype=torch.bool)
    for axis, (extent, place) in enumerate(zip(block, at, strict=True)):
        if extent != -1:
            along = torch.arange(shape[axis]) // extent == place // extent
            mask &= along.reshape([-1 if index == axis else 1 for index in range(len(shape))])
    return mask


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_zeros_stay_zeros(name: str) -> None:
    decoded = fake_quantize(torch.zeros(4, 160), name)
    assert not decoded.any()


@pytest.mark.parametrize("name", NAMES)
def test_a_zero_block_among_others_stays_zero(name: str) -> None:
    x = gaussian(16, 512)
    x[:, 256:] = 0
    x[5] = 0
    decoded = fake_quantize(x, name)[:, 256:]
    if name == "spqr3-g16":
        # The zero point has three bits between the least and the largest of its 256 elements.
        assert float(decoded.abs().max()) < 0.5
    elif format_of(name).grid == "mid_rise":
        # The two codes nearest to zero are half a step away.
        assert not decoded[5].any()
    else:
        assert not decoded.any()


@pytest.mark.parametrize("name", NAMES)
def test_an_outlier_is_seen_below_its_root_only(name: str) -> None:
    qtype, x = format_of(name), gaussian(32, 512)
    spiked = x.clone()
    spiked[3, 70] = 3e4 if name != "fixed<8,3>" else 3.5
    plain, hit = fake_quantize(x, qtype), fake_quantize(spiked, qtype)
    away = ~elements_of(root_block(qtype, 2), (32, 512), (3, 70))
    assert torch.equal(plain[away], hit[away])
    assert bool(hit.isfinite().all())
    # A mean sees little of one element, and the four values of two bipolar planes have none near zero for the others.
    if name not in ("ternary", "bipolar<2>"):
        assert float(hit[3, 70]) == pytest.approx(float(spiked[3, 70]), rel=0.5)


@pytest.mark.parametrize("name", NAMES)
def test_denormals_decode_to_small_numbers(name: str) -> None:
    for value in (1e-45, -1e-45, 1e-40, -1e-38):
        x = gaussian(4, 160) * value if value == 1e-40 else torch.full((4, 160), value)
        decoded = fake_quantize(x, name)
        assert bool(decoded.isfinite().all())
        assert float(decoded.abs().max()) <= 2.1 * float(x.abs().max())


@pytest.mark.parametrize("name", [name for name in NAMES if name != "fixed<8,3>"])
@pytest.mark.parametrize("exponent", [100, -100])
def test_a_power_of_two_moves_into_scales_of_wide_range(name: str, exponent: int) -> None:
    qtype = parse_qtype(format_of(name).text.replace("f16", "f32"))
    x = gaussian(16, 512) * (1 + gaussian(16, 1, seed=1).abs())
    plain, moved = quantize(x, qtype), quantize(x * 2.0**exponent, qtype)
    assert torch.equal(dequantize(plain) * 2.0**exponent, dequantize(moved))
    assert torch.equal(plain.codes, moved.codes)


@pytest.mark.parametrize("name", [name for name in NAMES if "f16" in format_of(name).text])
def test_scales_beyond_float16_are_refused_by_name(name: str) -> None:
    with pytest.raises(ShapeError, match=r"layer\.3.*overflow"):
        quantize(gaussian(16, 512) * 1e12, format_of(name), where="layer.3")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_finite_is_refused_for_weights(name: str) -> None:
    qtype = replace(format_of(name), when="static")
    for value in (math.nan, math.inf, -math.inf):
        x = gaussian(4, 160)
        x[2, 37] = x[3, 0] = value
        with pytest.raises(ShapeError, match=r"layer\.3: 2 of 640 values are not finite; the first, .*, is at \(2"):
            quantize(x, qtype, where="layer.3")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_makes_its_block_nan_in_activations(name: str, value: float) -> None:
    qtype, x = dynamic(name), gaussian(32, 512)
    broken = x.clone()
    broken[3, 70] = value
    plain, hit = fake_quantize(x, qtype), fake_quantize(broken, qtype)
    away = ~elements_of(root_block(qtype, 2), (32, 512), (3, 70))
    assert torch.equal(plain[away], hit[away])
    leaf = hit[elements_of(qtype.levels[0].block, (32, 512), (3, 70))]
    if qtype.grid == "mid_rise":
        # No code stands for zero, so an infinite scale decodes to infinities.
        assert not leaf.isfinite().any()
    elif qtype.levels[0].statistic != "constant":
        assert bool(leaf.isnan().all())


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_the_sign_of_a_zero_does_not_matter(name: str) -> None:
    x = gaussian(4, 160)
    x[x.abs() < 0.4] = 0.0
    x[2] = 0.0
    assert same(quantize(x, format_of(name)), quantize(torch.where(x == 0, -0.0, x), format_of(name)))


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
@pytest.mark.parametrize("value", [0.37, -0.37])
def test_a_constant_tensor_comes_near_itself(name: str, value: float) -> None:
    x = torch.full((4, 160), value)
    # Formats without scales may be no nearer than half the distance of their values.
    atol = 0.0 if format_of(name).levels else 0.5
    torch.testing.assert_close(fake_quantize(x, name), x, rtol=0.26, atol=atol)


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_odd_shapes(name: str) -> None:
    for shape in ((1, 1), (3, 33), (7,), (2, 3, 40), (1, 5, 1, 9), (1, 700)):
        x = gaussian(*shape)
        quantized = quantize(x, format_of(name))
        decoded = dequantize(quantized)
        assert decoded.shape == quantized.codes.shape == x.shape
        assert signal_to_quantization_noise_db(x, decoded) > 3


@pytest.mark.parametrize("name", [name for name in NAMES if -1 not in root_block(format_of(name), 2)])
def test_a_short_last_block_is_a_block(name: str) -> None:
    qtype = format_of(name)
    for columns in (1, 5, 31, 100, 257, 500):
        x = gaussian(16, columns) + 0.3
        pieces = [fake_quantize(piece, qtype) for piece in x.split(root_block(qtype, 2)[1], dim=1)]
        assert torch.equal(fake_quantize(x, qtype), torch.cat(pieces, dim=1))


@pytest.mark.parametrize("name", ["nvfp4", "nvint4", "qoq-g128", "bitmod3-g128", "bitmod4-g128", "olive4"])
def test_zeros_after_the_end_do_not_show(name: str) -> None:
    for columns in (1, 5, 31, 100, 257):
        x = gaussian(4, columns)
        padded = torch.nn.functional.pad(x, (0, 300 - columns))
        assert torch.equal(fake_quantize(x, name), fake_quantize(padded, name)[:, :columns])


@pytest.mark.parametrize("name", NAMES)
def test_tensors_without_elements_are_refused(name: str) -> None:
    for shape in ((0,), (3, 0), (0, 4), ()):
        with pytest.raises(ShapeError, match=r"layer\.3.*(no elements|no axis)"):
            quantize(torch.zeros(shape), format_of(name), where="layer.3")


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_strides_do_not_matter(name: str) -> None:
    x = gaussian(96, 66)
    for view in (x.t(), x[:, ::2], x[::3, 1:], x[:1].expand(5, 66), x.reshape(2, 48, 66).transpose(0, 1)):
        assert same(quantize(view, format_of(name)), quantize(view.contiguous(), format_of(name)))


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_inputs_of_every_dtype_are_read_and_left_alone(name: str, dtype: torch.dtype) -> None:
    x = gaussian(20, 96).to(dtype)
    before, quantized = x.clone(), quantize(x, format_of(name))
    assert torch.equal(x, before)
    assert dequantize(quantized, dtype).dtype == dtype
    if dtype != torch.float64:
        assert same(quantized, quantize(x.float(), format_of(name)))
    else:
        near = signal_to_quantization_noise_db(x, fake_quantize(x.float(), name).double())
        assert signal_to_quantization_noise_db(x, dequantize(quantized, dtype)) == pytest.approx(near, abs=0.05)


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_parts_do_not_show(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [gaussian(*shape) for shape in ((37, 96), (2, 37, 48), (1, 1500), (1500,))]
    wholes = [quantize(x, format_of(name)) for x in tensors]
    values = [dequantize(whole) for whole in wholes]
    monkeypatch.setattr(parts, "PART_ELEMENTS", 512)
    assert all(same(quantize(x, format_of(name)), whole) for x, whole in zip(tensors, wholes, strict=True))
    assert all(torch.equal(dequantize(whole), value) for whole, value in zip(wholes, values, strict=True))


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_everything_is_made_on_the_device_of_the_tensor(name: str) -> None:
    """Under another default device, a tensor made without a device of its own meets the others and fails."""
    x = gaussian(5, 96)
    expected = quantize(x, format_of(name))
    with torch.device("meta"):
        found = quantize(x, format_of(name))
        assert same(found, expected)
        assert torch.equal(dequantize(found), dequantize(expected))


@pytest.mark.parametrize("name", ["int8-row", "mxfp8_e4m3", "fp<4,3>", "nf4-g64", "olive4"])
def test_given_scales_of_zero_give_the_code_of_zero(name: str) -> None:
    qtype = format_of(name)
    x = gaussian(2, 64)
    x[0, 3], x[1, 5] = math.nan, math.inf
    scales = [torch.zeros(block_grid(level.block, (2, 64))) for level in qtype.levels]
    quantized = quantize(x, qtype, Parameters(Chain(tuple(scales), (None,) * len(scales))))
    assert same(quantized, quantize(torch.zeros(2, 64), qtype, quantized.parameters))

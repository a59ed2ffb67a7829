"""Codes and scales against compressed-tensors and torchao: what is equal, and what they define otherwise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import fake_quantize as their_fake_quantize
from compressed_tensors.quantization.lifecycle.forward import quantize as their_quantize
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
from torch import Tensor
from torchao.prototype.mx_formats.config import ScaleCalculationMode
from torchao.prototype.mx_formats.constants import DTYPE_FP6_E2M3, DTYPE_FP6_E3M2
from torchao.prototype.mx_formats.kernels import unpack_uint4
from torchao.prototype.mx_formats.mx_tensor import to_mx
from torchao.prototype.mx_formats.nvfp4_tensor import nvfp4_quantize, per_tensor_amax_to_scale

from qcc.numerics.blocks import spread_blocks
from qcc.numerics.coding import element_values
from qcc.numerics.presets import format_of
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import dequantize, quantize, signal_to_quantization_noise_db
from qcc.numerics.tensor import Parameters, QuantizedTensor


def heavy_tailed(*shape: int, seed: int = 0) -> Tensor:
    """Draw Student's t of 3 degrees of freedom; rows differ in magnitude by up to 2^40."""
    generator = np.random.default_rng(seed)
    rows = 2.0 ** generator.integers(-20, 21, (shape[0], 1))
    return torch.from_numpy((generator.standard_t(3, shape) * rows).astype(np.float32))


def elements(quantized: QuantizedTensor) -> Tensor:
    """Give the values of codes before any scale."""
    return element_values(quantized.codes, quantized.qtype, torch.float32)


# compressed-tensors


@dataclass(frozen=True)
class Theirs:
    """What compressed-tensors makes of a tensor: scales, zero points, codes and values."""

    scale: Tensor
    zero: Tensor
    codes: Tensor
    values: Tensor

    def parameters(self, zero: torch.dtype | None) -> Parameters:
        """Give scales and zero points as qcc holds them."""
        return Parameters.of((self.scale,), None if zero is None else self.zero.to(zero))


def theirs(x: Tensor, args: QuantizationArgs, global_scale: Tensor | None = None) -> Theirs:
    """Quantize with the extremes of every group of the last axis, or of every row."""
    grouped = args.group_size is not None
    blocks = x.unflatten(-1, (-1, args.group_size)) if grouped else x
    low, high = blocks.amin(-1, keepdim=not grouped), blocks.amax(-1, keepdim=not grouped)
    scale, zero = calculate_qparams(low, high, args, global_scale=global_scale)
    codes = their_quantize(x, scale, zero, args, global_scale=global_scale)
    return Theirs(scale, zero, codes, their_fake_quantize(x, scale, zero, args, global_scale=global_scale))


def integers(bits: int, *, symmetric: bool, group: int | None = None) -> QuantizationArgs:
    strategy = "channel" if group is None else "group"
    return QuantizationArgs(num_bits=bits, type="int", strategy=strategy, group_size=group, symmetric=symmetric)


SYMMETRIC = [
    (integers(4, symmetric=True, group=128), "int4 | (1,128) f32"),
    (integers(8, symmetric=True, group=32), "int8 | (1,32) f32"),
    (integers(8, symmetric=True), "int8 | row f32"),
]
ASYMMETRIC = [
    (integers(4, symmetric=False, group=128), "int4 | (1,128) f32 | pre i4"),
    (integers(4, symmetric=False, group=32), "int4 | (1,32) f32 | pre i4"),
    (integers(8, symmetric=False), "int8 | row f32 | pre i8"),
]


@pytest.mark.parametrize(("args", "text"), SYMMETRIC)
def test_symmetric_integers_of_compressed_tensors_under_their_scales(args: QuantizationArgs, text: str) -> None:
    x = heavy_tailed(64, 512)
    wanted = theirs(x, args)
    quantized = quantize(x, parse_qtype(text), wanted.parameters(None))
    assert torch.equal(quantized.codes.float(), wanted.codes)
    assert torch.equal(dequantize(quantized), wanted.values)


@pytest.mark.parametrize(("args", "text"), SYMMETRIC)
def test_symmetric_scales_of_compressed_tensors_span_all_codes(args: QuantizationArgs, text: str) -> None:
    """They divide the largest magnitude by half the number of steps, 2^(b-1) - 1/2; qcc by the largest code.

    So theirs are 7.1 % smaller at 4 bits and 0.4 % at 8, and positive maxima clip by half a step.
    """
    x = heavy_tailed(64, 512)
    bits = args.num_bits
    ours = quantize(x, parse_qtype(text)).scales[0]
    expected = (2 ** (bits - 1) - 1) / (2 ** (bits - 1) - 0.5)
    torch.testing.assert_close(theirs(x, args).scale / ours, torch.full_like(ours, expected), rtol=3e-7, atol=0)


def test_what_the_narrower_scale_is_worth() -> None:
    """On heavy tails at 4 bits clipping half a step buys 0.4 dB; a searched scale buys more than that."""
    x = torch.from_numpy(np.random.default_rng(0).standard_t(3, (32, 1024)).astype(np.float32))
    clipped = signal_to_quantization_noise_db(x, theirs(x, SYMMETRIC[0][0]).values)
    ours, searched = (
        signal_to_quantization_noise_db(x, dequantize(quantize(x, parse_qtype(text))))
        for text in ("int4 | (1,128) f32", "int4 | (1,128) f32 mse")
    )
    assert clipped - ours == pytest.approx(0.41, abs=0.05)
    assert searched > clipped


@pytest.mark.parametrize(("args", "text"), ASYMMETRIC)
def test_asymmetric_integers_of_compressed_tensors(args: QuantizationArgs, text: str) -> None:
    """Only a value halfway between two codes may differ: they round after adding the zero point, qcc before."""
    x = heavy_tailed(64, 512) + 0.3
    wanted, qtype = theirs(x, args), parse_qtype(text)
    quantized = quantize(x, qtype)
    assert torch.equal(quantized.scales[0], wanted.scale)
    assert quantized.zero is not None
    assert torch.equal(quantized.zero, wanted.zero)
    spread = spread_blocks(wanted.scale, qtype.levels[0].block, tuple(x.shape))
    differ = quantized.codes.float() != wanted.codes
    to_boundary = ((x / spread).remainder(1) - 0.5).abs()
    assert bool((to_boundary[differ] <= 2.0**-17 * args.num_bits).all())
    assert float(differ.float().mean()) <= 1e-4
    assert torch.equal(dequantize(quantized)[~differ], wanted.values[~differ])


def test_float8_of_compressed_tensors() -> None:
    x = heavy_tailed(64, 512)
    wanted = theirs(x, QuantizationArgs(num_bits=8, type="float", strategy="channel", symmetric=True))
    quantized = quantize(x, parse_qtype("fp4_3 | row f32"))
    assert torch.equal(quantized.scales[0], wanted.scale)
    assert torch.equal(elements(quantized), wanted.codes)
    assert torch.equal(dequantize(quantized), wanted.values)


NVFP4 = QuantizationArgs(
    num_bits=4,
    type="float",
    strategy="tensor_group",
    group_size=16,
    symmetric=True,
    scale_dtype=torch.float8_e4m3fn,
)


def test_nvfp4_of_compressed_tensors() -> None:
    """Their global scale is 1 / root and divides the scales, so values differ by those two roundings, 2^-23."""
    x = torch.from_numpy(np.random.default_rng(1).standard_t(3, (256, 512)).astype(np.float32))
    global_scale = generate_gparam(x.min(), x.max())
    wanted, quantized = theirs(x, NVFP4, global_scale), quantize(x, format_of("nvfp4"))
    torch.testing.assert_close(quantized.scales[1], (1 / global_scale)[None], rtol=2.0**-23, atol=0)
    assert torch.equal(quantized.scales[0].float(), wanted.scale)
    assert torch.equal(elements(quantized), wanted.codes)
    torch.testing.assert_close(dequantize(quantized), wanted.values, rtol=2.0**-22, atol=0)


def test_nvfp4_of_compressed_tensors_gives_vanishing_blocks_an_eighth() -> None:
    """A scale that E4M3 rounds to zero becomes 1/8 of the root; qcc takes the least, 2^-9, and 0 for zeros alone."""
    x = torch.ones(1, 48)
    x[:, 16:32], x[:, 32:] = 2.0**-20, 0
    wanted, quantized = theirs(x, NVFP4, generate_gparam(x.min(), x.max())), quantize(x, format_of("nvfp4"))
    assert wanted.scale.tolist() == [[448, 0.125, 0.125]]
    assert quantized.scales[0].float().tolist() == [[448, 2.0**-9, 0]]


@pytest.mark.parametrize(("bits", "text", "share"), [(4, "fp2_1", 0.19), (6, "fp2_3", 0.05), (8, "fp4_3", 0.19)])
def test_mx_of_compressed_tensors_rounds_the_largest_magnitude_first(bits: int, text: str, share: float) -> None:
    """Codes are equal under their scales. Their exponents are those of the largest magnitude rounded to 1 mantissa bit.

    (To 3 bits for FP6; to 1 for E4M3 as well.) The OCP rule does not round: `share` of the blocks have a scale twice
    as large as under `floor`, none another.
    """
    x = heavy_tailed(64, 1024)
    args = QuantizationArgs(
        num_bits=bits, type="float", strategy="group", group_size=32, symmetric=True, scale_dtype=torch.uint8
    )
    wanted = theirs(x, args)
    qtype = parse_qtype(f"{text} | (1,32) e8m0 floor")
    ratio = wanted.scale / quantize(x, qtype).scales[0].float()
    assert set(ratio.unique().tolist()) == {1.0, 2.0}
    assert float((ratio == 2).float().mean()) == pytest.approx(share, abs=0.02)
    given = quantize(x, qtype, Parameters.of((wanted.scale.to(torch.float8_e8m0fnu),)))
    assert torch.equal(elements(given), wanted.codes)
    assert torch.equal(dequantize(given), wanted.values)


# torchao

MX_ELEMENTS = {
    "fp4_3": torch.float8_e4m3fn,
    "fp5_2(ieee)": torch.float8_e5m2,
    "fp2_3": DTYPE_FP6_E2M3,
    "fp3_2": DTYPE_FP6_E3M2,
    "fp2_1": torch.float4_e2m1fn_x2,
}
SAME_RULES = {"floor": ScaleCalculationMode.FLOOR, "ceil": ScaleCalculationMode.RCEIL}


def mx_of_torchao(x: Tensor, text: str, mode: ScaleCalculationMode) -> tuple[Tensor, Tensor]:
    """Give e8m0 scales and unsigned codes, with negative zeros as zeros."""
    scale, codes = to_mx(x.contiguous(), MX_ELEMENTS[text], 32, mode)
    if text == "fp2_1":
        codes = unpack_uint4(codes).reshape(x.shape)
    return scale, without_negative_zero(codes.view(torch.uint8), parse_qtype(text).decode.bits)


def without_negative_zero(codes: Tensor, bits: int) -> Tensor:
    return torch.where(codes == 2 ** (bits - 1), 0, codes)


@pytest.mark.parametrize("rule", SAME_RULES)
@pytest.mark.parametrize("text", MX_ELEMENTS)
def test_mx_of_torchao_bit_for_bit(text: str, rule: str) -> None:
    x = heavy_tailed(64, 512)
    x[3, 32:64] = 0
    x[5, :32] = torch.tensor([2.0**-100, *[0.0] * 31])
    scale, codes = mx_of_torchao(x, text, SAME_RULES[rule])
    quantized = quantize(x, parse_qtype(f"{text} | (1,32) e8m0 {rule}"))
    assert torch.equal(quantized.scales[0].view(torch.uint8), scale.view(torch.uint8))
    assert torch.equal(quantized.codes, codes)


@pytest.mark.parametrize("text", MX_ELEMENTS)
def test_mx_of_torchao_in_bfloat16_and_with_nan(text: str) -> None:
    x = heavy_tailed(16, 256).bfloat16()
    x[1, 40] = torch.nan
    scale, codes = mx_of_torchao(x, text, ScaleCalculationMode.FLOOR)
    quantized = quantize(x, parse_qtype(f"{text} | (1,32) e8m0 floor | dynamic"))
    assert torch.equal(quantized.scales[0].view(torch.uint8), scale.view(torch.uint8))
    clean = torch.isfinite(scale.float()).repeat_interleave(32, -1)
    assert torch.equal(quantized.codes[clean], codes[clean])
    assert bool(dequantize(quantized)[~clean].isnan().all())
    assert int((~clean).sum()) == 32


@pytest.mark.parametrize(
    ("text", "even", "ceil"),
    [
        ("fp4_3", 0.05, 0.81),
        ("fp5_2(ieee)", 0.10, 0.81),
        ("fp2_3", 0.05, 0.90),
        ("fp3_2", 0.10, 0.81),
        ("fp2_1", 0.19, 0.59),
    ],
)
def test_two_rules_of_torchao_are_not_rules_of_qcc(text: str, even: float, ceil: float) -> None:
    """EVEN rounds the largest magnitude to the mantissa of the elements before it takes the exponent.

    CEIL takes the exponent of the next power of two above it, whatever the largest element. Against the nearest rule
    of qcc they double the scale of these shares of the blocks: EVEN against `floor`, CEIL against `ceil`.
    """
    x = heavy_tailed(64, 2048)
    modes = {"floor": (ScaleCalculationMode.EVEN, even), "ceil": (ScaleCalculationMode.CEIL, ceil)}
    for rule, (mode, share) in modes.items():
        scale, codes = mx_of_torchao(x, text, mode)
        qtype = parse_qtype(f"{text} | (1,32) e8m0 {rule}")
        ratio = scale.float() / quantize(x, qtype).scales[0].float()
        assert set(ratio.unique().tolist()) == {1.0, 2.0}
        assert float((ratio == 2).float().mean()) == pytest.approx(share, abs=0.02)
        assert torch.equal(quantize(x, qtype, Parameters.of((scale,))).codes, codes)


def nvfp4_of_torchao(x: Tensor, root: Tensor | None) -> tuple[Tensor, Tensor]:
    scale, codes = nvfp4_quantize(x, 16, root)
    return scale.reshape(x.shape[0], -1), without_negative_zero(unpack_uint4(codes).reshape(x.shape), 4)


@pytest.mark.parametrize("seed", range(3))
def test_nvfp4_of_torchao(seed: int) -> None:
    """Codes may differ in the last place of 1 / scale, by which torchao multiplies: at most 1 in 100,000."""
    x = torch.from_numpy(np.random.default_rng(seed).standard_t(3, (256, 1024)).astype(np.float32))
    root = per_tensor_amax_to_scale(x.abs().max())
    scale, codes = nvfp4_of_torchao(x, root)
    quantized = quantize(x, format_of("nvfp4"))
    torch.testing.assert_close(quantized.scales[1], root.reshape(1, 1), rtol=1.2e-7, atol=0)
    apart = quantized.scales[0].float() != scale.float()
    assert float(apart.float().mean()) <= 1e-3
    same = ~apart.repeat_interleave(16, -1)
    assert float((quantized.codes != codes)[same].float().mean()) <= 1e-5


def test_nvfp4_of_torchao_without_a_root() -> None:
    x = torch.from_numpy(np.random.default_rng(4).standard_t(3, (64, 512)).astype(np.float32))
    scale, codes = nvfp4_of_torchao(x, None)
    quantized = quantize(x, parse_qtype("fp2_1 | (1,16) e4m3"))
    assert torch.equal(quantized.scales[0].float(), scale.float())
    assert float((quantized.codes != codes).float().mean()) <= 1e-5


def test_nvfp4_scales_are_subnormal_where_torchao_stops_at_normal_ones() -> None:
    """Theirs are at least 2^-6, so small blocks vanish; those of qcc go down to 2^-9, and to 0 for zeros."""
    x = torch.from_numpy(np.random.default_rng(5).standard_normal((4, 64)).astype(np.float32))
    x[:, 16:32] *= 2.0**-16
    x[0, 32:48] = 0
    root = per_tensor_amax_to_scale(x.abs().max())
    scale, codes = nvfp4_of_torchao(x, root)
    quantized = quantize(x, format_of("nvfp4"))
    ours = quantized.scales[0].float()
    assert bool((scale[:, 1].float() == 2.0**-6).all())
    assert bool((ours[:, 1] < 2.0**-6).all())
    assert ours[0, 2] == 0
    assert scale[0, 2].float() == 2.0**-6
    rest = [0, 3]
    assert torch.equal(ours[:, rest], scale[:, rest].float())
    small = slice(16, 32)
    given = quantize(x, format_of("nvfp4"), Parameters.of((scale, root.reshape(1, 1))))
    assert torch.equal(given.codes, codes)
    errors = [float((dequantize(one) - x)[:, small].square().sum()) for one in (quantized, given)]
    assert errors[0] < errors[1]

"""The row-wise Triton kernels, interpreted on a CPU, beside the formats' own arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from qcc.backends.triton.emulate import EmulatedDevice
from qcc.backends.triton.launch import code_stride
from qcc.backends.triton.pack import DTYPES
from qcc.backends.triton.spec import RowSpec
from qcc.errors import ShapeError
from qcc.numerics.hadamard import hadamard
from qcc.numerics.parameters import Parameters
from qcc.numerics.qtype import int_qtype
from qcc.numerics.quantize import quantize
from tests.triton_cases import int8_input, normal, run_rows


def hard_rows(columns: int) -> Tensor:
    """Zeros, outliers, NaN, infinity, subnormal and huge numbers, ties between two codes."""
    x = normal(9, columns)
    x[0] = 0
    x[1, 0] = 1e6
    x[2, columns // 2] = torch.nan
    x[3, -1] = -torch.inf
    x[4] *= 1e-41
    x[5] = 1e-45
    x[6] *= 1e37
    x[7] = torch.arange(columns) % 256 - 127.5
    x[7, 0] = 127
    return x


@pytest.mark.parametrize("columns", [1, 32, 200, 257])
def test_codes_of_a_token_are_the_formats(emulated_device: EmulatedDevice, columns: int) -> None:
    x = hard_rows(columns)
    _, codes = run_rows(emulated_device, RowSpec("f32", sums=0, ragged=True), x)
    wanted = int8_input(x)
    assert codes is not None
    assert codes.sums is not None
    assert torch.equal(codes.codes[:, :columns], wanted.codes)
    assert not codes.codes[:, columns:].any()
    assert torch.equal(codes.scales.nan_to_num(-3.0), wanted.scales[0][:, 0].nan_to_num(-3.0))
    assert torch.equal(codes.sums, wanted.codes.sum(-1).int())


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("columns", [33, 256])
def test_codes_of_groups_are_the_formats(emulated_device: EmulatedDevice, group: int, columns: int) -> None:
    x = hard_rows(columns)
    _, codes = run_rows(emulated_device, RowSpec("f32", scale="group", group=group, sums=group, ragged=True), x)
    wanted = int8_input(x, group)
    groups = math.ceil(columns / group)
    assert codes is not None
    assert codes.sums is not None
    assert torch.equal(codes.codes[:, :columns], wanted.codes)
    assert torch.equal(codes.scales[:, :groups].nan_to_num(-3.0), wanted.scales[0].nan_to_num(-3.0))
    assert not codes.scales[:, groups:].any()
    padded = functional.pad(wanted.codes, (0, code_stride(columns) - columns)).int()
    assert torch.equal(codes.sums, padded.reshape(9, -1, group).sum(-1).int())


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("narrow", [False, True])
def test_codes_under_a_stored_scale(emulated_device: EmulatedDevice, bits: int, narrow: bool) -> None:
    kind = int_qtype(bits, group="tensor", scale="f32", narrow=narrow)
    low, high = -(2 ** (bits - 1)) + narrow, 2 ** (bits - 1) - 1
    x = hard_rows(40)
    for scale in (0.0, 0.37, 1e-30):
        spec = RowSpec("f32", scale="tensor", low=low, high=high, ragged=True)
        _, codes = run_rows(emulated_device, spec, x, static=scale)
        finite = x.nan_to_num(0.0)
        wanted = quantize(finite, kind, Parameters.of((torch.full((1, 1), scale),)))
        assert codes is not None
        assert torch.equal(codes.codes[:, :40], wanted.codes)
        assert codes.scales.item() == pytest.approx(scale)


def norm(x: Tensor, kind: str, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The meaning of `qcc.norm`: statistics in float32, roundings to the element type where it has them."""
    wide = x.float()
    if kind == "layer":
        return (functional.layer_norm(wide, x.shape[-1:], None, None, eps) * weight.float() + bias.float()).to(x.dtype)
    unit = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    if kind == "rms_plus1":
        return (unit * (1 + weight.float())).to(x.dtype)
    return (unit.to(x.dtype).float() * weight.float()).to(x.dtype)


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32"])
@pytest.mark.parametrize("kind", ["rms", "rms_plus1", "layer"])
def test_norms(emulated_device: EmulatedDevice, dtype, kind) -> None:
    x = normal(4, 100) * torch.tensor([[1.0], [1e-3], [300.0], [0.0]])
    x[0, 7] = 1000.0
    x, weight, bias = (one.to(DTYPES[dtype]) for one in (x, normal(100, seed=1), normal(100, seed=2)))
    layer = kind == "layer"
    spec = RowSpec(dtype, kind, True, layer, scale="token", values=True, ragged=True)
    parameters = {"norm_weight": weight, "eps": 1e-5, **({"norm_bias": bias} if layer else {})}
    values, codes = run_rows(emulated_device, spec, x, **parameters)
    wanted = norm(x, kind, weight, bias, 1e-5)
    assert values is not None
    assert codes is not None
    # One rounding of the element type apart at most, where float32 statistics differ in their last bits.
    step = torch.finfo(DTYPES[dtype]).eps * (8 if dtype == "f32" else 1)
    torch.testing.assert_close(values.float(), wanted.float(), rtol=step, atol=1e-6)
    assert (values == wanted).float().mean() > (0.3 if dtype == "f32" else 0.97)
    again = int8_input(values.float())
    assert torch.equal(codes.codes[:, :100], again.codes)
    assert torch.equal(codes.scales, again.scales[0][:, 0])


@pytest.mark.parametrize(("size", "columns"), [(2, 6), (64, 64), (32, 96), (128, 256)])
def test_hadamard_rotations(emulated_device: EmulatedDevice, size: int, columns: int) -> None:
    x = normal(3, columns)
    grouped = RowSpec("f32", hadamard=size, scale="group", group=32, values=True, ragged=True)
    for spec in (RowSpec("f32", hadamard=size, scale="none", values=True, ragged=True), grouped):
        values, _ = run_rows(emulated_device, spec, x)
        wanted = (x.double().reshape(3, -1, size) @ hadamard(size) / math.sqrt(size)).reshape(3, columns)
        assert values is not None
        torch.testing.assert_close(values.double(), wanted, rtol=1e-5, atol=1e-5)


def test_one_row_and_many_columns(emulated_device: EmulatedDevice) -> None:
    x = normal(1, 5000)
    _, codes = run_rows(emulated_device, RowSpec("f32", ragged=True), x)
    assert codes is not None
    assert torch.equal(codes.codes[:, :5000], int8_input(x).codes)
    with pytest.raises(ShapeError, match="32769 columns"):
        run_rows(emulated_device, RowSpec("f32", ragged=True), torch.zeros(1, 32769))

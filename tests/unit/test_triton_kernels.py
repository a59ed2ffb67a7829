"""Every Triton kernel, interpreted on a CPU, beside the interpreter's formula."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional

from qcc.backends.triton.config import BlockConfig, choose_variant, variants
from qcc.backends.triton.emulate import EmulatedDevice
from qcc.backends.triton.geometry import step_of
from qcc.backends.triton.pack import DTYPES, pack_weight
from qcc.backends.triton.spec import Combine, GemmSpec, Requantize, Unary
from qcc.errors import BuildError, ShapeError
from qcc.interpreter.contraction import contract
from qcc.numerics.qtype import int_qtype
from qcc.numerics.quantize import dequantize, quantize
from qcc.numerics.tensor import QuantizedTensor
from tests.triton_cases import SMALL, int8_input, normal, run_gemm, weight_qtype

INTEGER = [
    # bits, group, zero, M, N, K
    (4, 128, "none", 1, 40, 256),
    (4, 128, "integer", 7, 33, 300),
    (4, 64, "none", 3, 130, 128),
    (4, 64, "integer", 2, 17, 65),
    (4, 32, "none", 5, 31, 96),
    (4, 32, "integer", 33, 32, 130),
    (4, None, "none", 7, 40, 300),
    (4, None, "integer", 3, 40, 129),
    (4, 256, "half", 2, 20, 257),
    (8, 128, "none", 4, 40, 200),
    (8, 32, "integer", 3, 33, 70),
    (8, None, "none", 17, 20, 64),
    (8, None, "integer", 1, 20, 100),
    (2, None, "none", 7, 40, 300),
    (2, None, "half", 2, 33, 256),
    (2, 128, "integer", 3, 20, 200),
    (2, 64, "half", 3, 20, 100),
    (2, 32, "none", 1, 20, 40),
]


@pytest.mark.parametrize(("bits", "group", "zero", "m", "n", "k"), INTEGER)
def test_integer_contractions_are_the_interpreters_bit_for_bit(
    emulated_device: EmulatedDevice, bits: int, group: int | None, zero, m: int, n: int, k: int
) -> None:
    spec = GemmSpec(bits, group, "i8", zero=zero, output="f32", ragged=True)
    weight = quantize(normal(n, k), weight_qtype(spec))
    source = int8_input(normal(m, k, seed=1) * torch.logspace(-4, 4, m)[:, None])
    assert torch.equal(run_gemm(emulated_device, spec, source, weight), contract(source, weight, None, torch.float32))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("input_group", [32, 128])
def test_a_scale_per_group_of_the_input(emulated_device: EmulatedDevice, bits: int, input_group: int) -> None:
    spec = GemmSpec(
        bits, 32, "i8", zero="integer", output="f32", input_scale="group", input_group=input_group, ragged=True
    )
    weight = quantize(normal(20, 150), weight_qtype(spec))
    source = int8_input(normal(3, 150, seed=1), input_group)
    assert torch.equal(run_gemm(emulated_device, spec, source, weight), contract(source, weight, None, torch.float32))


def test_a_group_of_the_weight_may_span_groups_of_the_input(emulated_device: EmulatedDevice) -> None:
    spec = GemmSpec(4, 32, "i8", output="f32", input_scale="group", input_group=32, ragged=True)
    weight = quantize(normal(20, 200), weight_qtype(spec, group=64))
    source = int8_input(normal(3, 200, seed=1), 32)
    assert torch.equal(run_gemm(emulated_device, spec, source, weight), contract(source, weight, None, torch.float32))


@pytest.mark.parametrize("group", [None, 128])
@pytest.mark.parametrize("step", [128, 256])
@pytest.mark.parametrize("split", [2, 5])
def test_parts_of_k_add_up(emulated_device: EmulatedDevice, group: int | None, step, split: int) -> None:
    spec = GemmSpec(4, group, "i8", output="f32", step=step, ragged=True)
    weight, source = quantize(normal(70, 600), weight_qtype(spec)), int8_input(normal(3, 600, seed=1))
    config = dataclasses.replace(SMALL, split_k=split)
    result, wanted = (
        run_gemm(emulated_device, spec, source, weight, config=config),
        contract(source, weight, None, torch.float32),
    )
    if group is None:
        assert torch.equal(result, wanted)
    else:
        torch.testing.assert_close(result, wanted, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(("group", "zero"), [(32, "integer"), (64, "none"), (None, "none")])
@pytest.mark.parametrize("source", ["i8", "f16"])
def test_every_entry_of_the_table_reads_one_packed_weight(
    emulated_device: EmulatedDevice, group: int | None, zero, source
) -> None:
    """Steps of 64, 128 and 256 columns read the same bytes."""
    scale = "token" if source == "i8" else "none"
    step = step_of(4, group, 256)
    spec = GemmSpec(4, group, source, zero=zero, output="f32", input_scale=scale, step=step)
    weight, x = quantize(normal(32, 256), weight_qtype(spec)), normal(3, 256, seed=1)
    packed, given = pack_weight(weight, spec), int8_input(x) if source == "i8" else x.half()
    results = list[torch.Tensor]()
    assert len({one.spec.step for one in variants(spec)}) >= (
        2 if group is None or zero == "integer" == source.replace("i8", "integer") else 1
    )
    for variant in variants(spec):
        config = dataclasses.replace(variant.config, block_m=16, block_n=32)
        results.append(run_gemm(emulated_device, variant.spec, given, packed, config=config))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-6, atol=1e-5)


def test_the_table_covers_every_number_of_tokens() -> None:
    spec = GemmSpec(4, 128, "i8", step=256)
    chosen = [choose_variant(spec, tokens, 4096, 4096, 132) for tokens in (1, 16, 17, 64, 65, 4096)]
    assert [one.config.block_m for one in chosen] == [16, 16, 32, 64, 128, 128]
    assert chosen[0].config.split_k == 4
    assert chosen[-1].config.split_k == 1
    assert choose_variant(spec, 1, 128, 256, 132).config.split_k == 1


def test_the_largest_sums_of_a_row_do_not_overflow(emulated_device: EmulatedDevice) -> None:
    spec, k = GemmSpec(4, None, "i8", zero="integer", output="f32", ragged=True), 4096
    codes = torch.zeros(2, k, dtype=torch.uint8)
    codes[1] = 15
    zero = torch.tensor([[15], [0]], dtype=torch.uint8)
    kind = int_qtype(4, symmetric=False)
    plain = quantize(torch.ones(2, k), kind)
    weight = QuantizedTensor(
        kind,
        (2, k),
        codes,
        dataclasses.replace(plain.parameters, zero=dataclasses.replace(plain.parameters.zero, values=(zero,))),
    )
    x = torch.ones(2, k)
    x[1] = -1
    source = int8_input(x)
    assert source.codes.max() == 127
    result = run_gemm(emulated_device, spec, source, weight, config=BlockConfig(16, 32, split_k=2))
    assert torch.equal(result, contract(source, weight, None, torch.float32))


@pytest.mark.parametrize(("dtype", "m", "n", "k"), [("f16", 7, 33, 301), ("bf16", 1, 48, 256)])
@pytest.mark.parametrize(
    ("group", "zero"),
    [(32, "none"), (64, "integer"), (128, "none"), (128, "integer"), (None, "integer"), (32, "integer")],
)
def test_float_contractions_are_exact_but_for_the_sums(
    emulated_device: EmulatedDevice, dtype, group: int | None, zero, m: int, n: int, k: int
) -> None:
    spec = GemmSpec(4, group, dtype, zero=zero, input_scale="none", output="f32", ragged=k % 256 != 0)
    weight, x = quantize(normal(n, k), weight_qtype(spec)), normal(m, k, seed=1).to(DTYPES[dtype])
    result, exact, scale = run_gemm(emulated_device, spec, x, weight), x.double(), dequantize(weight, torch.float64)
    # Every product is exact in float32: what is left are K additions and one multiplication a group.
    bound = (k + 64) * 2.0**-24 * (exact.abs() @ scale.abs().T)
    assert ((result.double() - exact @ scale.T).abs() <= bound).all()


def test_float_contractions_of_small_integers_are_exact(emulated_device: EmulatedDevice) -> None:
    for dtype in ("f16", "bf16"):
        spec = GemmSpec(4, 64, dtype, zero="integer", input_scale="none", output="f32")
        weight = quantize(normal(32, 128), weight_qtype(spec))
        weight.parameters.scales.values[0].fill_(0.5)
        x = torch.randint(-8, 9, (4, 128), generator=torch.Generator().manual_seed(0)).to(DTYPES[dtype])
        assert torch.equal(
            run_gemm(emulated_device, spec, x, weight).double(), x.double() @ dequantize(weight, torch.float64).T
        )


STEPS = {
    "relu": torch.relu,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


@pytest.mark.parametrize("name", STEPS)
def test_activations(emulated_device: EmulatedDevice, name) -> None:
    spec = GemmSpec(8, None, "i8", bias="f32", steps=(Unary(name),), output="f32")
    weight, source = quantize(torch.eye(32), weight_qtype(spec)), int8_input(torch.zeros(2, 32))
    # The product is zero, so the activation meets the bias alone, also where exp overflows.
    bias = torch.cat([torch.linspace(-6, 6, 28), torch.tensor([-200.0, 200.0, -2.0e4, 2.0e4])])
    result = run_gemm(emulated_device, spec, source, weight, bias=bias)
    torch.testing.assert_close(result, STEPS[name](bias).expand(2, -1), rtol=2e-6, atol=2e-6)


def test_an_epilogue_of_all_steps_in_order(emulated_device: EmulatedDevice) -> None:
    spec = GemmSpec(
        4,
        128,
        "i8",
        bias="f16",
        output="f16",
        ragged=True,
        steps=(
            Unary("silu"),
            Combine("mul", "f16"),
            Combine("mul", "f32", "channel"),
            Combine("add", "f16"),
            Combine("mul", "f32", "scalar"),
        ),
    )
    weight, source = quantize(normal(33, 200), weight_qtype(spec)), int8_input(normal(5, 200, seed=1))
    bias, gate, residual = normal(33, seed=2).half(), normal(5, 33, seed=3).half(), normal(5, 33, seed=4).half()
    gains, factor = normal(33, seed=5), torch.tensor([1.5])
    result = run_gemm(emulated_device, spec, source, weight, bias=bias, operands=(gate, gains, residual, factor))
    wanted = functional.silu(contract(source, weight, bias, torch.float32)) * gate * gains
    torch.testing.assert_close(result, ((wanted + residual) * 1.5).half(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scale", [0.03, 1e-3, 0.0])
def test_codes_of_a_static_quantization_at_the_end(emulated_device: EmulatedDevice, scale: float) -> None:
    spec = GemmSpec(8, None, "i8", input_scale="tensor", steps=(Requantize(-128, 127),), output="i8")
    weight, x = quantize(normal(32, 64), weight_qtype(spec)), normal(4, 64, seed=1)
    source = quantize(x, int_qtype(8, group="tensor", scale="f32", when="static"))
    stored = torch.tensor([scale])
    result = run_gemm(emulated_device, spec, source, weight, out_scale=stored)
    wanted = contract(source, weight, None, torch.float32) / stored
    assert torch.equal(result, torch.where(stored == 0, 0, wanted.round().clamp(-128, 127)).to(torch.int8))


def test_nan_and_infinity_stay_in_their_row(emulated_device: EmulatedDevice) -> None:
    x = normal(5, 64, seed=1)
    x[1, 3], x[3, 0] = torch.nan, torch.inf
    spec = GemmSpec(4, 32, "i8", output="f32")
    weight, source = quantize(normal(32, 64), weight_qtype(spec)), int8_input(x)
    result, wanted = run_gemm(emulated_device, spec, source, weight), contract(source, weight, None, torch.float32)
    assert torch.equal(result.nan_to_num(5.0), wanted.nan_to_num(5.0))
    assert result[[0, 2, 4]].isfinite().all()
    assert result[1].isnan().all()
    floats = GemmSpec(4, 32, "f16", input_scale="none", output="f32", ragged=True)
    result = run_gemm(emulated_device, floats, x.half(), weight)
    assert result[[0, 2, 4]].isfinite().all()
    assert result[1].isnan().all()


@pytest.mark.parametrize("scale", [1e-38, 1e30])
def test_tiny_and_huge_scales(emulated_device: EmulatedDevice, scale: float) -> None:
    spec = GemmSpec(4, 32, "i8", scale="f32", output="f32")
    weight = quantize(normal(32, 64) * scale, weight_qtype(spec))
    source = int8_input(normal(3, 64, seed=1))
    result, wanted = run_gemm(emulated_device, spec, source, weight), contract(source, weight, None, torch.float32)
    assert wanted.abs().max() > 0
    torch.testing.assert_close(result, wanted, rtol=1e-5, atol=1e-44)


def test_a_kernel_that_fails_says_so(emulated_device: EmulatedDevice) -> None:
    spec = GemmSpec(4, 32, "i8", output="f32")
    weight, source = quantize(normal(32, 64), weight_qtype(spec)), int8_input(normal(3, 64))
    with pytest.raises(BuildError, match="w4a8_g32_f32 fails"):
        # A block that is no power of two.
        run_gemm(emulated_device, spec, source, weight, config=BlockConfig(24, 32))
    assert run_gemm(emulated_device, spec, source, weight).isfinite().all()


def test_all_arguments_that_do_not_fit_are_named(emulated_device: EmulatedDevice) -> None:
    spec = GemmSpec(4, 32, "i8", bias="f16", steps=(Combine("add", "f16"),), output="f32")
    weight, source = quantize(normal(33, 64), weight_qtype(spec)), int8_input(normal(3, 96))
    with pytest.raises(ShapeError) as error:
        run_gemm(emulated_device, spec, source, weight, bias=torch.zeros(33))
    text = str(error.value)
    wrong_bias = "bias: is torch.float32, not torch.float16"
    for part in ("96 columns", wrong_bias, "operand0: is missing", "0 are given for 1", "33 x 64 is ragged"):
        assert part in text

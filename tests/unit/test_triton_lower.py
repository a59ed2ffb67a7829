"""Kernels of the IR, read as specs, run through the printed Triton, beside the interpreter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

from qcc.backends.triton import jit
from qcc.backends.triton.emulate import EmulatedDevice
from qcc.backends.triton.launch import Codes
from qcc.backends.triton.lower import EPILOGUES, PROLOGUES, lower_kernel, lower_rows, spec_of
from qcc.backends.triton.spec import Combine, GemmSpec, RowSpec, Unary
from qcc.errors import UnsupportedOp
from qcc.ir.context import QccContext
from qcc.ir.elementwise import BinaryOp, CastOp, UnaryOp
from qcc.ir.kernel import KernelOp
from qcc.ir.program import WeightOp, program_of
from qcc.ir.quant import ContractOp, QuantizeOp
from qcc.ir.store import WeightStore
from qcc.ir.transform import RotateOp
from qcc.ir.transformer import NormOp
from qcc.ir.types import tensor
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import quantize
from qcc.numerics.tensor import QuantizedTensor
from qcc.passes.fuse_epilogue import FuseEpilogue
from qcc.passes.fuse_prologue import FusePrologue
from tests.modules import SCALARS, kind_of, make
from tests.triton_cases import Observed, normal, run_gemm_step, run_row_step

SHAPE = (2, 3, 64)
FORMATS = {
    "w4a8": ("uint4 | (1,32) f16 | pre u4", "int8 | (1,32) f32 | dynamic"),
    "w4a8-token": ("int4 | (1,64) f16", "int8 | (1,-1) f32 | dynamic"),
    "w2a8": ("int2 mid_rise | (1,-1) f32", "int8 | (1,-1) f32 | dynamic"),
    "w8a8": ("int8 | (1,-1) f16", "int8 | (1,-1) f32 | dynamic"),
    "w3a6": ("uint3 | (1,64) f16 | pre u3", "int6 | (1,-1) f32 | dynamic"),
}


def gated(weight: str, activation: str, dtype: torch.dtype, store: WeightStore) -> ModuleOp:
    """x + down(silu(gate(n)) * up(n)), n = norm(x): a block of a language model."""
    kind, inner = parse_qtype(weight), parse_qtype(activation)
    for index, (name, shape) in enumerate({"gate": (96, 64), "up": (96, 64), "down": (64, 96)}.items()):
        store[name] = quantize(normal(*shape, seed=index) / 8, kind)
    store["gain"], store["bias"] = (1 + normal(64, seed=7) / 4).to(dtype), normal(64, seed=8).to(dtype)
    scalar = SCALARS[dtype]

    def build(x: SSAValue) -> BinaryOp:
        weights = {name: WeightOp(name, kind_of(store[name])) for name in ("gate", "up", "down", "gain", "bias")}
        codes = QuantizeOp(NormOp("rms", x, weights["gain"], eps=1e-5), inner)
        gate = UnaryOp("silu", ContractOp(codes, weights["gate"], scalar=scalar))
        hidden = BinaryOp("mul", ContractOp(codes, weights["up"], scalar=scalar), gate)
        return BinaryOp(
            "add", x, ContractOp(QuantizeOp(hidden, inner), weights["down"], weights["bias"], scalar=scalar)
        )

    return make({"x": tensor(SHAPE, scalar)}, build)


def fuse(module: ModuleOp) -> list[KernelOp]:
    FuseEpilogue(EPILOGUES).apply(QccContext(), module)
    FusePrologue(PROLOGUES).apply(QccContext(), module)
    module.verify()
    return [op for op in program_of(module).body.block.ops if isinstance(op, KernelOp)]


def compare(found: Tensor | Codes | None, wanted: Tensor | QuantizedTensor, tolerance: float) -> None:
    """Floats within a tolerance; codes of the interpreter's floats may differ by one where rounding meets a tie."""
    assert found is not None
    if isinstance(found, Tensor):
        assert isinstance(wanted, Tensor)
        wide = wanted.reshape(-1, wanted.shape[-1]).float()
        torch.testing.assert_close(found.float(), wide, rtol=tolerance, atol=tolerance * float(wide.abs().max()))
        return
    assert isinstance(wanted, QuantizedTensor)
    codes = wanted.codes.reshape(-1, wanted.shape[-1]).int()
    difference = (found.codes[:, : found.columns].int() - codes).abs()
    assert difference.max() <= 1
    assert (difference != 0).float().mean() < 0.02


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_gated_block(emulated_device: EmulatedDevice, name: str, dtype: torch.dtype) -> None:
    store = WeightStore({})
    module = gated(*FORMATS[name], dtype, store)
    kernels = fuse(module)
    seen = Observed(module, store, {"x": normal(*SHAPE, seed=4).to(dtype)})
    tolerance = 2e-3 if dtype == torch.float16 else 2e-6
    assert [len(lower_kernel(op).specs) for op in kernels] == [1, 1, 1, 2]
    with jit.emulating(emulated_device):
        for op in kernels:
            lowered, values, codes = lower_kernel(op), None, None
            if lowered.rows is not None:
                values, codes = run_row_step(lowered.rows, seen)
                for result, given in ((lowered.rows.values, values), (lowered.rows.codes, codes)):
                    if result is not None:
                        compare(given, seen.values[result], tolerance)
            if lowered.gemm is not None:
                # The interpreter's codes: its sums are then the same integers.
                given = None if lowered.gemm.source in seen.values else codes
                result = run_gemm_step(lowered.gemm, seen, values, given)
                compare(result, seen.values[lowered.gemm.result], tolerance)


def test_the_specs_of_a_gated_block() -> None:
    kernels = fuse(gated(*FORMATS["w4a8-token"], torch.float16, WeightStore({})))
    first, gate, up = (spec_of(op) for op in kernels[:3])
    assert first == RowSpec("f16", "rms", True, scale="token")
    assert gate == GemmSpec(4, None, "i8", steps=(Unary("silu"),))
    assert up == GemmSpec(4, None, "i8", steps=(Combine("mul", "f16"),))
    rows, down = lower_kernel(kernels[3]).specs
    assert rows == RowSpec("f16", scale="token")
    # 64 columns are one group, 96 are one and a half.
    assert down == GemmSpec(4, 64, "i8", bias="f16", steps=(Combine("add", "f16"),))
    with pytest.raises(UnsupportedOp, match="is 2 launches"):
        spec_of(kernels[3])


def test_rows_know_what_sums_their_readers_want() -> None:
    first, *_ = fuse(gated(*FORMATS["w4a8"], torch.float32, WeightStore({})))
    assert spec_of(first) == RowSpec("f32", "rms", True, scale="group", group=32, sums=32)


def half_precision(store: WeightStore, dtype: str = "f16") -> ModuleOp:
    store["w"] = quantize(normal(48, 64), parse_qtype("uint4 | (1,32) f16 | pre u4"))

    def build(x: SSAValue) -> CastOp:
        gelu = UnaryOp("gelu", ContractOp(x, WeightOp("w", kind_of(store["w"])), scalar=dtype))
        return CastOp(gelu, "f32")

    return make({"x": tensor((5, 64), dtype)}, build)


def test_float_inputs(emulated_device: EmulatedDevice) -> None:
    store = WeightStore({})
    module = half_precision(store)
    (op,) = fuse(module)
    step = lower_kernel(op).gemm
    assert step is not None
    assert step.spec == GemmSpec(
        4, 32, "f16", "integer", input_scale="none", steps=(Unary("gelu"),), output="f32", ragged=True
    )
    seen = Observed(module, store, {"x": normal(5, 64).half()})
    with jit.emulating(emulated_device):
        compare(run_gemm_step(step, seen, None, None), seen.values[step.result], 1e-3)


def test_rows_outside_of_kernels(emulated_device: EmulatedDevice) -> None:
    store = WeightStore({"gain": normal(64), "bias": normal(64, seed=1)})

    def build(x: SSAValue) -> list[SSAValue]:
        gain, bias = (WeightOp(name, kind_of(store[name])) for name in ("gain", "bias"))
        turned = RotateOp("block_hadamard", NormOp("layer", x, gain, bias, eps=1e-5), 1, block=32)
        return [turned.result, QuantizeOp(turned, parse_qtype("int8 | (1,-1) f32 | dynamic")).result]

    module = make({"x": tensor((5, 64), "f32")}, build)
    operations = [op for op in program_of(module).body.block.ops if isinstance(op, NormOp | RotateOp | QuantizeOp)]
    step = lower_rows(operations)
    assert step.spec == RowSpec("f32", "layer", True, True, hadamard=32, values=True)
    seen = Observed(module, store, {"x": normal(5, 64, seed=2)})
    with jit.emulating(emulated_device):
        values, codes = run_row_step(step, seen)
    assert step.values is not None
    assert step.codes is not None
    compare(values, seen.values[step.values], 1e-5)
    compare(codes, seen.values[step.codes], 0.0)


def test_everything_that_no_kernel_covers_is_named() -> None:
    store = WeightStore({"w": quantize(normal(48, 96), parse_qtype("int4 | (1,48) f16"))})

    def build(x: SSAValue) -> UnaryOp:
        codes = QuantizeOp(x, parse_qtype("uint8 | (1,-1) f32 | pre u8 | dynamic"))
        return UnaryOp("hardswish", ContractOp(codes, WeightOp("w", kind_of(store["w"]))))

    module = make({"x": tensor((5, 96), "f32")}, build)
    FuseEpilogue().apply(QccContext(), module)
    FusePrologue().apply(QccContext(), module)
    (op,) = (op for op in program_of(module).body.block.ops if isinstance(op, KernelOp))
    with pytest.raises(UnsupportedOp) as error:
        lower_kernel(op)
    for part in ("groups of 48 columns", "unsigned codes", "the step 'hardswish'"):
        assert part in str(error.value)


def test_a_float32_input_of_narrow_weights_is_refused() -> None:
    (op,) = fuse(half_precision(WeightStore({}), "f32"))
    with pytest.raises(UnsupportedOp, match="a float input of f32"):
        lower_kernel(op)

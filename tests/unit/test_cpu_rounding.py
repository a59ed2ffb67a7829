"""Activations in small floats and tables in C: the interpreter's values, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from xdsl.ir import SSAValue

from qcc.backends.cpu.rounding_formats import rounding_problem
from qcc.ir.program import WeightOp
from qcc.ir.quant import ContractOp, DequantizeOp, QuantizeOp
from qcc.ir.store import WeightStore
from qcc.ir.types import SymbolAttr, tensor
from qcc.numerics.presets import format_of
from qcc.numerics.quantize import quantize
from tests.cpu_programs import compare, load
from tests.modules import kind_of, make

DYNAMIC = (
    "nvfp4",
    "mxfp4",
    "fp4_3 | token f32",
    "fp5_2 | (1,24) e8m0 ceil",
    "fp3_2 | (1,32) e8m0",
    "fp2_3 | token f16",
    "fp2_1 | (1,7) bf16",
    "fp2_1 | (1,16) e8m0, tensor f32",
    "fp4_3 | (1,16) f16, tensor f32",
    "nf4-g64",
    "fp2_1 | (1,100) e4m3",
)
S0 = [SymbolAttr.make("s0", 1, 400)]


def hard_rows(m: int, k: int) -> torch.Tensor:
    """Rows of every size, of zeros, halfway between codes, with outliers, and with values that are not finite."""
    x = torch.randn(m, k, generator=torch.Generator().manual_seed(m + k))
    if m > 8:
        x[1], x[2, k // 2], x[3], x[4] = 0.0, 1e4, x[3] * 1e-38, x[4] * 1e30
        x[5] = torch.arange(k) % 25 * 0.25  # ties under a scale that is a power of two
        x[6] = x[6].sign() * 6.0 * 2.0 ** -(torch.arange(k) % 20)
        x[7] = torch.tensor(1e-45)
    return x


@pytest.mark.parametrize("isa", ["portable", "avx2", ""])
@pytest.mark.parametrize("k", [1, 33, 160])
def test_dynamic_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, k: int, isa: str) -> None:
    monkeypatch.setenv("QCC_ISA", isa)
    formats = [replace(format_of(text), when="dynamic") for text in DYNAMIC]
    assert not any(map(rounding_problem, formats))

    def build(x: SSAValue) -> list[DequantizeOp]:
        return [DequantizeOp(QuantizeOp(x, qtype), "f32") for qtype in formats]

    module, store = make({"x": tensor(["s0", k], "f32")}, build, S0), WeightStore()
    calls = [{"x": hard_rows(m, k)} for m in (1, 9, 40)]
    calls += [{"x": torch.zeros(3, k)}, {"x": hard_rows(9, k) * 1e-30}]
    for special in (float("nan"), float("inf"), float("-inf")):
        strange = hard_rows(9, k)
        strange[8, k // 2] = special
        calls.append({"x": strange})
    compare(load(module, store, tmp_path), module, store, calls, 0.0)


def test_static_scales_by_channel(tmp_path: Path) -> None:
    k = 33
    qtype = replace(format_of("fp2_1 | (-1,1) pow2, tensor f32"), when="static")
    samples = torch.randn(64, k, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, k)
    leaf, root = quantize(samples, qtype).scales
    store = WeightStore({"leaf": leaf.to(torch.float32), "root": root})

    def build(x: SSAValue) -> list[DequantizeOp]:
        scales = [WeightOp(name, kind_of(store[name])) for name in ("leaf", "root")]
        return [DequantizeOp(QuantizeOp(x, qtype, scales), "f32")]

    module = make({"x": tensor(["s0", k], "f32")}, build, S0)
    compare(load(module, store, tmp_path), module, store, [{"x": hard_rows(m, k)} for m in (1, 40)], 0.0)


def test_products_with_weights_of_every_kind(tmp_path: Path) -> None:
    """Integers, small floats that are integers over a power of two, and tables that are decoded."""
    store = WeightStore()
    for name, text in {"int": "int4 | (1,32) f16", "fp4": "nvfp4", "nf4": "nf4-g64", "fp8": "fp4_3 | row f32"}.items():
        weight = torch.randn(21, 96, generator=torch.Generator().manual_seed(1)) * 0.1
        store[name] = quantize(weight, format_of(text))

    def build(x: SSAValue) -> list[ContractOp]:
        weights = [WeightOp(name, kind_of(store[name])) for name in ("int", "fp4", "nf4", "fp8")]
        formats = [replace(format_of(text), when="dynamic") for text in ("nvfp4", "mxfp4", "fp4_3 | token f32")]
        formats.append(replace(format_of("int8 | token f32"), when="dynamic"))
        return [ContractOp(QuantizeOp(x, qtype), weight) for qtype in formats for weight in weights]

    module = make({"x": tensor(["s0", 96], "f32")}, build, S0)
    compare(load(module, store, tmp_path), module, store, [{"x": hard_rows(m, 96)[:3]} for m in (1, 40)], 1e-5)

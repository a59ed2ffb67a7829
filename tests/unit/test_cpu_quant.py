"""Integer and weight-only contractions in C, beside the interpreter: bits, groups, odd sizes, hard rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from xdsl.ir import SSAValue

from qcc.backends.base import BackendOptions, ContractCase, Golden
from qcc.errors import UnsupportedOp
from qcc.interpreter.contraction import corrected_sums
from qcc.ir.elementwise import UnaryOp
from qcc.ir.nn import EmbeddingOp
from qcc.ir.program import WeightOp
from qcc.ir.quant import ContractOp, DequantizeOp, QuantizeOp
from qcc.ir.store import WeightStore
from qcc.ir.types import SymbolAttr, tensor
from qcc.numerics.qtype import QType, int_qtype
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import quantize
from tests.cpu_programs import BACKEND, compare, emit, load
from tests.modules import kind_of, make
from tests.unit.cpu_project import run_golden

TOKEN = int_qtype(8, group="token", scale="f32", when="dynamic")
S0 = [SymbolAttr.make("s0", 1, 400)]


def rows(m: int, k: int) -> torch.Tensor:
    """Random rows; where there are enough: one of zeros, one with an outlier, a tiny and a huge one."""
    x = torch.randn(m, k, generator=torch.Generator().manual_seed(m * 7 + k))
    if m > 4:
        x[1], x[2, 3], x[3], x[4] = 0.0, 1e4, x[3] * 1e-30, x[4] * 1e30
    return x


def stored(store: WeightStore, name: str, qtype: QType, n: int, k: int) -> WeightOp:
    value = torch.randn(n, k, generator=torch.Generator().manual_seed(n * k)) * 0.1
    value[n // 2] = 0.0
    store[name] = quantize(value, qtype, where=name)
    return WeightOp(name, kind_of(store[name]))


@pytest.mark.parametrize("k", [33, 96])
def test_all_widths_and_groups(tmp_path: Path, k: int) -> None:
    store = WeightStore()

    def build(x: SSAValue) -> list[ContractOp]:
        made: list[ContractOp] = []
        codes = QuantizeOp(x, TOKEN)
        grouped = QuantizeOp(x, replace(TOKEN, levels=int_qtype(8, group=32, scale="f32").levels))
        bias = WeightOp("bias", tensor([21], "f32"))
        for bits in range(1, 9):
            for symmetric in (True, False):
                for group in ("row", 32, 48, "tensor"):
                    qtype = int_qtype(bits, symmetric=symmetric, group=group, scale="f16" if bits % 2 else "f32")  # type: ignore[arg-type]
                    weight = stored(store, f"w{bits}{symmetric}{group}", qtype, 21, k)
                    made.append(ContractOp(codes, weight, bias if bits % 2 else None))
                    if bits in (4, 8) and group != 48:
                        made += [ContractOp(grouped, weight), ContractOp(x, weight, bias)]
        return made

    store["bias"] = torch.linspace(-1, 1, 21)
    module = make({"x": tensor(["s0", k], "f32")}, build, S0)
    program = load(module, store, tmp_path)
    compare(program, module, store, [{"x": rows(m, k)} for m in (1, 5, 37, 200)], 2e-6)


def test_activation_widths_static_scales_and_dequantize(tmp_path: Path) -> None:
    store = WeightStore({"scale": torch.full((1, 1), 0.037)})

    def build(x: SSAValue) -> list[object]:
        made: list[object] = []
        for bits in range(2, 9):
            codes = QuantizeOp(x, int_qtype(bits, group="token", scale="f32", when="dynamic", narrow=bits % 2 == 0))
            weight = stored(store, f"w{bits}", int_qtype(4, symmetric=False, group=16), 9, 50)
            made += [ContractOp(codes, weight), DequantizeOp(codes)]
        static = QuantizeOp(x, int_qtype(8, group="tensor", scale="f32"), [WeightOp("scale", tensor([1, 1], "f32"))])
        grouped = QuantizeOp(x, int_qtype(8, group=16, scale="f32", when="dynamic"))
        return [*made, ContractOp(static, weight), DequantizeOp(static), DequantizeOp(grouped), DequantizeOp(weight)]

    module = make({"x": tensor(["s0", 50], "f32")}, build, S0)  # type: ignore[arg-type]
    program = load(module, store, tmp_path)
    compare(program, module, store, [{"x": rows(m, 50)} for m in (1, 6, 40)], 2e-6)


def test_special_weight_formats(tmp_path: Path) -> None:
    texts = [
        "int1 mid_rise | (1,16) f16",
        "int3 mid_rise | (1,-1) f32",
        "int4 | (1,16) i8, (1,-1) f32",
        "uint4 | (1,32) f16, (1,-1) f32 | pre u4",
        "int8n | (1,-1) bf16",
        "int4 | (4,32) f32",
    ]
    store = WeightStore()

    def build(x: SSAValue, ids: SSAValue) -> list[object]:
        made: list[object] = []
        codes = QuantizeOp(x, TOKEN)
        for number, text in enumerate(texts):
            weight = stored(store, f"w{number}", parse_qtype(text), 40, 64)
            made += [ContractOp(codes, weight), ContractOp(x, weight), EmbeddingOp(weight, ids, "f32")]
        return made

    kinds = {"x": tensor(["s0", 64], "f32"), "ids": tensor(["s0"], "i64")}
    module = make(kinds, build, S0)  # type: ignore[arg-type]
    program = load(module, store, tmp_path)
    calls = [{"x": rows(m, 64), "ids": torch.arange(m) % 40} for m in (1, 50)]
    compare(program, module, store, calls, 2e-6)


def test_rows_that_are_not_finite_stay_apart(tmp_path: Path) -> None:
    store = WeightStore()
    module = make(
        {"x": tensor(["s0", 40], "f32")},
        lambda x: ContractOp(QuantizeOp(x, TOKEN), stored(store, "w", int_qtype(4, group=16), 9, 40)),
        S0,
    )
    program = load(module, store, tmp_path)
    x = rows(6, 40)
    clean = program.run({"x": x})["y"]
    x[0, 7], x[2, 1] = float("nan"), float("inf")
    found = program.run({"x": x})["y"]
    assert found[[0, 2]].isnan().all()
    assert torch.equal(found[[1, 3, 4, 5]], clean[[1, 3, 4, 5]])


def test_tied_weights_are_written_once(tmp_path: Path) -> None:
    store = WeightStore()
    table = stored(store, "table", int_qtype(4, symmetric=False, group=32), 512, 64)

    def build(x: SSAValue, ids: SSAValue) -> list[object]:
        again = [WeightOp("table", kind_of(store["table"])) for _ in range(2)]
        return [EmbeddingOp(again[0], ids, "f32"), ContractOp(QuantizeOp(x, TOKEN), again[1])]

    module = make({"x": tensor(["s0", 64], "f32"), "ids": tensor(["s0"], "i64")}, build, S0)  # type: ignore[arg-type]
    emitted = emit(module, store, tmp_path, build=False)
    codes, scales = 512 * 64 // 2, 512 * 2 * (2 + 1)
    assert codes + scales <= emitted.weight_bytes <= codes + scales + 256
    assert table.key.data == "table"


def test_golden_integers(tmp_path: Path) -> None:
    """The kernels' codes, scales and group sums are the interpreter's, to the last bit, and a wrong one is found."""
    store = WeightStore()
    k = 1400
    store["wide"] = quantize(torch.rand(19, k) * 0.5 + 0.5, int_qtype(8, symmetric=False, group="row"))
    fine = stored(store, "fine", int_qtype(3, group=32), 5, k)

    def build(x: SSAValue) -> list[object]:
        codes = QuantizeOp(UnaryOp("neg", x), TOKEN)
        again = [WeightOp(name, kind_of(store[name])) for name in ("wide", fine.key.data)]
        return [ContractOp(codes, one) for one in again]

    module = make({"x": tensor(["s0", k], "f32")}, build, S0)  # type: ignore[arg-type]
    x = rows(5, k)
    x[0] = torch.rand(k) * 0.1 + 0.9
    codes = quantize(x, TOKEN)
    cases = [
        ContractCase(
            index, x, codes.codes, codes.scales[0], corrected_sums(codes, store.quantized(name)).to(torch.int32)
        )
        for index, name in enumerate(("wide", "fine"))
    ]
    assert int(cases[0].sums.abs().max()) > 2**24, "more than float32 holds exactly"
    emitted = emit(module, store, tmp_path, Golden(contracts=tuple(cases)))
    good = run_golden(emitted.folder)
    assert good.returncode == 0, good.stderr
    assert good.stdout.count("equal bit for bit") == 2
    sums = cases[1].sums.clone()
    sums[4, 4, -1] += 1
    emit(module, store, tmp_path, Golden(contracts=(replace(cases[1], sums=sums),)), build=False)
    bad = run_golden(emitted.folder)
    assert bad.returncode == 1
    assert f"integer sums differ first at element {sums.numel() - 1}" in bad.stderr


def test_formats_that_have_no_kernel_are_refused_together() -> None:
    store = WeightStore()

    def build(x: SSAValue) -> list[object]:
        weight = stored(store, "w", int_qtype(4, group=32), 8, 64)
        asymmetric = QuantizeOp(x, int_qtype(8, symmetric=False, group="token", scale="f32", when="dynamic"))
        other = QuantizeOp(x, int_qtype(8, group=24, scale="f32", when="dynamic"))
        return [ContractOp(asymmetric, weight), ContractOp(other, weight)]

    module = make({"x": tensor(["s0", 64], "f32")}, build, S0)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedOp) as caught:
        BACKEND.emit(module, store, None, BackendOptions(), Path("/nonexistent"))
    text = str(caught.value)
    assert "symmetric" in text
    assert "groups of 24" in text

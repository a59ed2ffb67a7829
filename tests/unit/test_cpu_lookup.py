"""The lookup plan in emitted programs: the integer dot's bits, the interpreter's bits, the stated bound of class E2."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from xdsl.ir import SSAValue

from qcc.backends.base import BackendOptions, ContractCase, Golden
from qcc.errors import UnsupportedOp
from qcc.interpreter import Interpreter
from qcc.interpreter.contraction import corrected_sums
from qcc.ir.program import WeightOp
from qcc.ir.quant import ContractOp, QuantizeOp
from qcc.ir.store import WeightStore
from qcc.ir.types import SymbolAttr, tensor
from qcc.numerics.qtype import int_qtype
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import quantize
from tests.cpu_programs import BACKEND, emit, load
from tests.modules import kind_of, make
from tests.unit.cpu_project import run_golden

TOKEN = int_qtype(8, group="token", scale="f32", when="dynamic")
GROUPED = replace(TOKEN, levels=int_qtype(8, group=32, scale="f32").levels)
S0 = [SymbolAttr.make("s0", 1, 400)]
FORMATS = (
    "int1 mid_rise | (1,-1) f32",
    "int2 | (1,32) f16",
    "uint2 | (1,32) f16 | pre u2",
    "int3 mid_rise | (1,-1) f32",
    "int3 | (1,48) f32",
    "uint4 | (1,32) f16 | pre u4",
    "int4 | (1,16) i8, (1,-1) f32",
    "int5 | (1,-1) f16",
    "uint6 | (1,64) f32 | pre u6",
    "int7 mid_rise | (1,32) f16",
    "int8 | (1,32) f32",
)


def rows(m: int, k: int) -> torch.Tensor:
    """Rows of which some are uniform, so that their partial sums do not fit 8 bits."""
    x = torch.randn(m, k, generator=torch.Generator().manual_seed(m * 7 + k))
    x[::2] = torch.rand(x[::2].shape, generator=torch.Generator().manual_seed(m)) - 0.2
    if m > 4:
        x[1], x[2, 3], x[3] = 0.0, 1e4, x[3] * 1e-30
    return x


def stored(store: WeightStore, name: str, text: str, n: int, k: int) -> WeightOp:
    store[name] = quantize(torch.randn(n, k, generator=torch.Generator().manual_seed(n * k)) * 0.1, parse_qtype(text))
    return WeightOp(name, kind_of(store[name]))


@pytest.mark.parametrize("k", [33, 96])
def test_lookup_gives_the_bits_of_the_dot_and_of_the_interpreter(tmp_path: Path, k: int) -> None:
    store = WeightStore({"bias": torch.linspace(-1, 1, 21)})

    def build(x: SSAValue) -> list[ContractOp]:
        codes, bias = QuantizeOp(x, TOKEN), WeightOp("bias", tensor([21], "f32"))
        grouped = QuantizeOp(x, GROUPED)
        made: list[ContractOp] = []
        for number, text in enumerate(FORMATS):
            weight = stored(store, f"w{number}", text, 21, k)
            inputs = (codes, grouped) if "(1,32)" in text else (codes,)
            for source in inputs:
                made += [ContractOp(source, weight, bias, plan=plan) for plan in ("lookup", "group_after")]
        return made

    module = make({"x": tensor(["s0", k], "f32")}, build, S0)
    program, oracle = load(module, store, tmp_path), Interpreter(module, store)
    for m in (1, 5, 37, 130):
        found, wanted = list(program.run({"x": rows(m, k)}).values()), list(oracle.run({"x": rows(m, k)}).values())
        for pair in range(0, len(found), 2):
            assert torch.equal(found[pair], found[pair + 1])
            assert torch.equal(found[pair], wanted[pair])


def test_rounded_tables_stay_within_the_bound_of_their_class(tmp_path: Path) -> None:
    """At most half a step of two for each lookup: quads * (2^bits - 1) integer units of a group, by its scale."""
    store, k, group = WeightStore(), 128, 64

    def build(x: SSAValue) -> list[ContractOp]:
        codes = QuantizeOp(x, TOKEN)
        weights = [stored(store, f"w{bits}", f"int{bits} | (1,{group}) f32", 24, k) for bits in (2, 4)]
        return [ContractOp(codes, one, plan="lookup", exactness=e) for one in weights for e in ("E2", "E1")]

    module = make({"x": tensor(["s0", k], "f32")}, build, S0)
    program, x = load(module, store, tmp_path), rows(50, k)
    outputs = list(program.run({"x": x}).values())
    scale = quantize(x, TOKEN).scales[0].double()
    for number, bits in enumerate((2, 4)):
        steps = store.quantized(f"w{bits}").scales[0].double().sum(1)
        bound = scale * steps * (group // 4) * (2**bits - 1) + 1e-6 * outputs[2 * number + 1].abs()
        error = (outputs[2 * number].double() - outputs[2 * number + 1].double()).abs()
        assert bool((error <= bound).all())
        assert float(error.max()) > 0, "no row needed rounding"


def test_weights_that_share_rows_share_tables(tmp_path: Path) -> None:
    store = WeightStore()

    def build(x: SSAValue) -> list[ContractOp]:
        codes = QuantizeOp(x, TOKEN)
        weights = [stored(store, f"w{i}", text, 16, 64) for i, text in enumerate(("int2 | (1,32) f32",) * 3)]
        return [ContractOp(codes, one, plan="lookup") for one in weights]

    module = make({"x": tensor(["s0", 64], "f32")}, build, S0)
    text = (emit(module, store, tmp_path, build=False).folder / "model.c").read_text()
    assert text.count("run_tables(c,") == 1
    assert text.count("run_tlinear(c,") == 3


def test_golden_integers_by_lookup(tmp_path: Path) -> None:
    store, k = WeightStore(), 700
    texts = {"fine": "int3 | (1,32) f32", "wide": "uint8 | (1,-1) f32 | pre u8", "one": "int1 mid_rise | (1,32) f16"}

    def build(x: SSAValue) -> list[Any]:
        codes = QuantizeOp(x, TOKEN)
        return [ContractOp(codes, stored(store, name, text, 7, k), plan="lookup") for name, text in texts.items()]

    module, x = make({"x": tensor(["s0", k], "f32")}, build, S0), rows(5, k)
    codes = quantize(x, TOKEN)
    cases = [
        ContractCase(
            index, x, codes.codes, codes.scales[0], corrected_sums(codes, store.quantized(name)).to(torch.int32)
        )
        for index, name in enumerate(texts)
    ]
    emitted = emit(module, store, tmp_path, Golden(contracts=tuple(cases)), build=False)
    good = run_golden(emitted.folder)
    assert good.returncode == 0, good.stderr
    assert good.stdout.count("equal bit for bit") == 3
    sums = cases[0].sums.clone()
    sums[4, 4, 0] += 1
    emit(module, store, tmp_path, Golden(contracts=(replace(cases[0], sums=sums),)), build=False)
    assert run_golden(emitted.folder).returncode == 1


def test_lookup_of_floats_is_refused() -> None:
    store = WeightStore()

    def build(x: SSAValue) -> ContractOp:
        return ContractOp(x, stored(store, "w", "int2 | (1,32) f32", 8, 64), plan="lookup")

    module = make({"x": tensor(["s0", 64], "f32")}, build, S0)
    with pytest.raises(UnsupportedOp, match="input that is not quantized"):
        BACKEND.emit(module, store, None, BackendOptions(), Path("/nonexistent"))

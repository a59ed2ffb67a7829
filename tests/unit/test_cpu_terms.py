"""Weights of formats that no kernel reads: taken apart into terms, and run in C beside the interpreter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.ir import SSAValue

from qcc.backends.cpu.qformat import is_native
from qcc.backends.cpu.weight_terms import WeightTerms, terms_of
from qcc.ir.elementwise import UnaryOp
from qcc.ir.nn import EmbeddingOp
from qcc.ir.program import WeightOp
from qcc.ir.quant import ContractOp, QuantizeOp
from qcc.ir.store import WeightStore
from qcc.ir.types import SymbolAttr, tensor
from qcc.numerics.presets import PRESETS, format_of
from qcc.numerics.qtype import int_qtype
from qcc.numerics.quantize import dequantize, quantize
from tests.cpu_programs import compare, load
from tests.modules import Made, kind_of, make

S0 = [SymbolAttr.make("s0", 1, 400)]
SPARSE = "sparse(csr, f16, 0.02)"
BITS = {
    "mxfp4": 5, "nvfp4": 5, "mxfp6_e2m3": 7, "ternary": 2, "bitmod3-g128": 4, "bitmod4-g128": 6, "olive4": 8,
    "bipolar<2>": 3, "planes(3, 01, twos) | row f16": 3, "fp2_1 | (1,64) pow2 ceil, row f16": 5,
    "table powers(-4, -2, -1, 0, 1, 2, 4) | row pow2 mse": 4,
    "select(int4n 0.75, int8n 0.25) by u1 (-1,16) | (1,16) f16": 8,
}  # fmt: skip
"""Formats whose values are integers over a power of two, and the bits that the widest takes."""

ADDED = [
    "uint2 | (1,16) f16 | post f16", "uint4 | row f32 | post f32", "int4 | (1,8) f16 | post f16", "q2_K", "q4_K",
    "spqr3-g16", "qoq-g128", "uint4 | (1,16) f16 | pre f16",
]  # fmt: skip
PLANES = ["trit2-g128", "hlq2-g128", "hlq3-g128", "planes(2, pm1, free) | (1,16) f16"]
FLOATS = ["nf4-g64", "mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2", "int4 | (1,16) f16 | mask(2:4)"]
SIDES = [
    f"int4 | (1,16) f16 | {SPARSE}", "int4 | row f16 | lowrank(3, f16)", "int4 | row f32 | sparse(columns, f16, 0.1)",
    f"{PRESETS['spqr3-g16']} | {SPARSE}", f"fp2_1 | row f16 | {SPARSE} | lowrank(2, i8)",
    "int4 | (1,16) f16 | sparse(coo, f32, 0.05)", f"nf4-g64 | {SPARSE} | lowrank(2, f16)",
    "int4 | (1,16) f16 | sparse(csr, f16, 0.0001)",
]  # fmt: skip


def weight(text: str, n: int, k: int, seed: int = 0):
    value = torch.randn(n, k, generator=torch.Generator().manual_seed(seed)) * 0.1
    value[n // 2] = 0.0
    value[0, k // 2] = 3.0
    head, *sides = text.split(" | ") if text.startswith("nf4") else [text]
    return quantize(value, format_of(" | ".join([str(format_of(head)), *sides])), where=text)


def total(terms: WeightTerms, n: int, k: int) -> torch.Tensor:
    found = torch.zeros(n, k, dtype=torch.float64)
    for one in terms.integers:
        assert is_native(one.qtype)
        found += dequantize(one, torch.float64)
    if terms.thin is not None:
        found += terms.thin.up.double() @ terms.thin.down.double()
    if terms.sparse is not None:
        found = terms.sparse.add_to(found)
    return found if terms.dense is None else found + terms.dense.double()


@settings(max_examples=80, deadline=None)
@given(
    text=st.sampled_from([*BITS, *ADDED, *PLANES, *FLOATS, *SIDES]),
    n=st.integers(1, 20),
    k=st.integers(1, 70),
    seed=st.integers(0, 9),
)
def test_terms_add_up_to_what_is_dequantized(text: str, n: int, k: int, seed: int) -> None:
    whole = weight(text, n, k, seed)
    wanted = dequantize(whole, torch.float64)
    found = total(terms_of(whole), n, k)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6 * float(wanted.abs().max()))


@pytest.mark.parametrize("text", BITS)
def test_values_over_a_power_of_two_are_integers_of_so_many_bits(text: str) -> None:
    terms = terms_of(weight(text, 24, 256))
    (only,) = terms.integers
    assert (terms.thin, terms.sparse, terms.dense) == (None, None, None)
    assert only.qtype.decode.bits <= BITS[text]


@pytest.mark.parametrize(("text", "bits"), [("trit2-g128", [2, 2]), ("hlq3-g128", [1, 1, 1])])
def test_free_planes_keep_their_bits(text: str, bits: list[int]) -> None:
    terms = terms_of(weight(text, 24, 256))
    assert [one.qtype.decode.bits for one in terms.integers] == bits
    assert (terms.thin is not None) == (text == "hlq3-g128")
    assert terms.dense is None


@pytest.mark.parametrize("text", FLOATS)
def test_what_is_no_integers_is_decoded_to_floats(text: str) -> None:
    terms = terms_of(weight(text, 24, 256))
    assert terms.integers == ()
    assert terms.dense is not None


@pytest.mark.parametrize("k", [33, 128])
def test_every_format_runs_beside_the_interpreter(tmp_path: Path, k: int) -> None:
    store = WeightStore({"bias": torch.linspace(-1, 1, 21)})
    texts = [*BITS, *ADDED, *PLANES, *FLOATS, *SIDES]

    def build(x: SSAValue) -> list[Made]:
        made: list[Made] = []
        bias = WeightOp("bias", tensor([21], "f32"))
        for index, text in enumerate(texts):
            store[text] = weight(text, 21, k, index)
            made.append(ContractOp(x, WeightOp(text, kind_of(store[text])), bias if index % 2 else None))
        return [*made, UnaryOp("gelu", made[0]), UnaryOp("relu", made[-1])]

    module = make({"x": tensor(["s0", k], "f32")}, build, S0)
    program = load(module, store, tmp_path)
    for m in (1, 5, 37):
        x = torch.randn(m, k, generator=torch.Generator().manual_seed(m))
        if m > 1:
            x[1], x[2, 3] = 0.0, 1e3
        compare(program, module, store, [{"x": x}], 1e-5)


def test_quantized_inputs_meet_integers_and_extra_terms(tmp_path: Path) -> None:
    store, texts = WeightStore(), [*ADDED, *SIDES[:4], *SIDES[5:6]]
    token = int_qtype(8, group="token", scale="f32", when="dynamic")
    blocks = int_qtype(8, group=16, scale="f32", when="dynamic")

    def build(x: SSAValue) -> list[Made]:
        made: list[Made] = []
        codes, grouped = QuantizeOp(x, token), QuantizeOp(x, blocks)
        for index, text in enumerate(texts):
            store[text] = weight(text, 21, 64, index)
            stored = WeightOp(text, kind_of(store[text]))
            made.append(ContractOp(codes, stored))
            if "(1,16)" in str(format_of(text)):
                made.append(ContractOp(grouped, stored))
        return made

    module = make({"x": tensor(["s0", 64], "f32")}, build, S0)
    program = load(module, store, tmp_path)
    for m in (1, 7):
        x = torch.randn(m, 64, generator=torch.Generator().manual_seed(m))
        compare(program, module, store, [{"x": x}], 1e-5)


def test_tables_of_any_format_are_read_row_by_row(tmp_path: Path) -> None:
    store = WeightStore()

    def build(ids: SSAValue) -> list[Made]:
        made: list[Made] = []
        for text in ("nf4-g64", "mxfp4", f"int4 | (1,16) f16 | {SPARSE}"):
            store[text] = weight(text, 21, 64)
            made.append(EmbeddingOp(WeightOp(text, kind_of(store[text])), ids, "f32"))
        return made

    module = make({"ids": tensor(["s0"], "i64")}, build, S0)
    program = load(module, store, tmp_path)
    compare(program, module, store, [{"ids": torch.tensor([0, 20, 3, 3])}], 0.0)

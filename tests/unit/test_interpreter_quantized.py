"""The meaning of the quantization operations."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from qcc.errors import ShapeError
from qcc.interpreter import Interpreter
from qcc.interpreter.contraction import corrected_sums, integer_sums
from qcc.ir.nn import EmbeddingOp
from qcc.ir.program import StateOp, UpdateStateOp
from qcc.ir.quant import ContractOp, DequantizeOp, QparamsOp, QuantizeOp, RequantOp
from qcc.ir.shape import ReshapeOp
from qcc.ir.storage import CacheOp, PackOp, UnpackOp
from qcc.ir.store import WeightStore
from qcc.ir.transform import (
    AddLowrankOp,
    AddSparseOp,
    ExpandKOp,
    PermuteOp,
    RotateOp,
    ScaleAxisOp,
    SliceBitsOp,
)
from qcc.numerics.hadamard import hadamard
from qcc.numerics.hadamard_sizes import has_hadamard, largest_block
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import dequantize, fake_quantize, quantize
from qcc.numerics.tensor import QuantizedTensor
from tests.modules import kind_of, make, run

TOKEN = parse_qtype("int8n | token f32 | dynamic")
WEIGHT = parse_qtype("uint4 | (1,8) f16 | pre u4")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_quantize_and_dequantize_are_those_of_the_numerics() -> None:
    x = torch.randn(2, 3, 20)
    found = run(lambda v: DequantizeOp(QuantizeOp(v, TOKEN)), x)
    assert torch.equal(found, fake_quantize(x, TOKEN))
    half = run(lambda v: DequantizeOp(QuantizeOp(v, TOKEN), "f16"), x)
    assert torch.equal(half, fake_quantize(x, TOKEN).half())


def test_given_parameters_are_used() -> None:
    static = parse_qtype("uint8 | tensor f16 | pre u8")
    x, other = torch.randn(4, 6), torch.randn(4, 6) * 9

    def build(v: object, u: object) -> DequantizeOp:
        made = QparamsOp(u, static)
        return DequantizeOp(QuantizeOp(v, static, made.outputs))

    reference = quantize(other, static)
    assert torch.equal(run(build, x, other), dequantize(quantize(x, static, reference.parameters)))


def reference_contract(q: QuantizedTensor, w: QuantizedTensor, bias: torch.Tensor, group: int) -> torch.Tensor:
    """Accumulate group by group in float32, number by number: the order that the definition fixes."""
    rows, columns = q.shape
    result = torch.zeros(rows, w.shape[0])
    for m in range(rows):
        for n in range(w.shape[0]):
            total = torch.tensor(0.0)
            for g in range(math.ceil(columns / group)):
                part = slice(g * group, min((g + 1) * group, columns))
                zero = 0 if w.zero is None else int(w.zero[n, g])
                exact = sum(int(a) * (int(b) - zero) for a, b in zip(q.codes[m, part], w.codes[n, part], strict=True))
                sx, sw = q.scales[0][m], w.scales[0][n, g].float()
                total = total + (sw if len(sx) == 1 else sx[g] * sw) * torch.tensor(float(exact))
            result[m, n] = (total if len(q.scales[0][m]) > 1 else q.scales[0][m, 0] * total) + bias[n]
    return result


@pytest.mark.parametrize("columns", [1, 8, 13, 24])
@pytest.mark.parametrize("activation", [TOKEN, parse_qtype("int8 | (1,8) f32 | dynamic")], ids=["token", "group"])
def test_contract_follows_its_order_bit_for_bit(columns: int, activation: QType) -> None:
    x, w, bias = torch.randn(3, columns) * 5, torch.randn(4, columns), torch.randn(4)
    quantized = quantize(w, WEIGHT)
    found = run(lambda v, w, b: ContractOp(QuantizeOp(v, activation), w, b), x, w=quantized, b=bias)
    assert torch.equal(found, reference_contract(quantize(x, activation), quantized, bias, 8))
    exact = dequantize(quantize(x, activation), torch.float64) @ dequantize(quantized, torch.float64).T + bias
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


def test_integer_sums_are_exact_beyond_float32() -> None:
    columns = 100_000
    x = torch.full((1, columns), 3.0)
    q = quantize(x, TOKEN)
    values = torch.ones(1, columns)
    values[0, -1] = 0.99
    w = quantize(values, parse_qtype("uint8 | row f32 | pre u8"))
    assert integer_sums(q, w).item() == sum(127 * int(code) for code in w.codes[0])
    assert integer_sums(q, w).item() > 2**31
    assert corrected_sums(q, w).item() == integer_sums(q, w).item() - int(w.zero) * 127 * columns


@pytest.mark.parametrize(
    "weight",
    [
        "int8n | row f32",
        "int4 | (1,8) f16",
        "uint4 | (1,8) f16 | post f16",
        "int1 mid_rise | row f32",
        "uint4 | (1,8) i8, row f16 protect(119) | scaled i8",
        "int4 | (1,8) i8, row f16",
        "uint2 | tensor f32 | pre u2",
    ],
)
@pytest.mark.parametrize("value", ["int8n | token f32 | dynamic", "uint8 | (1,4) f32 | pre u8 | dynamic", None])
def test_contract_equals_decoding_first(weight: str, value: str | None) -> None:
    x, w = torch.randn(2, 3, 24), torch.randn(5, 24)
    quantized = quantize(w, parse_qtype(weight))

    def build(v: object, w: object) -> ContractOp:
        return ContractOp(v if value is None else QuantizeOp(v, parse_qtype(value)), w)

    left = x.double() if value is None else dequantize(quantize(x, parse_qtype(value)), torch.float64)
    wanted = left @ dequantize(quantized, torch.float64).T
    torch.testing.assert_close(run(build, x, w=quantized).double(), wanted, rtol=1e-4, atol=1e-4)


def test_a_row_with_nan_stays_nan_and_alone() -> None:
    x, w = torch.randn(3, 16), quantize(torch.randn(4, 16), WEIGHT)
    x[1, 5] = float("nan")
    found = run(lambda v, w: ContractOp(QuantizeOp(v, TOKEN), w), x, w=w)
    assert found[1].isnan().all()
    assert not found[[0, 2]].isnan().any()


def test_requant_rounds_halves_up() -> None:
    x = torch.tensor([[-3, -2, -1, 0, 1, 2, 3, 2**31 - 1]], dtype=torch.int32)
    one, shift = torch.tensor([1], dtype=torch.int32), torch.tensor([1], dtype=torch.int32)
    assert run(RequantOp, x, one, shift).tolist() == [[-1, -1, 0, 0, 1, 1, 2, 127]]
    wide = run(lambda *a: RequantOp(*a, "i32"), x, torch.tensor([2**30], dtype=torch.int32), shift * 30)
    assert wide.tolist() == x.tolist()
    assert run(lambda *a: RequantOp(*a, "u8"), x, one, shift * 0).tolist() == [[0, 0, 0, 0, 1, 2, 3, 255]]
    with pytest.raises(ShapeError, match=r"shifts 63\.\.63 are outside"):
        run(RequantOp, x, one, shift * 63)


def test_embedding_of_a_quantized_table() -> None:
    table, ids = quantize(torch.randn(9, 16), WEIGHT), torch.tensor([[8, 0], [3, 3]])
    assert torch.equal(run(lambda i, t: EmbeddingOp(t, i, "f32"), ids, t=table), dequantize(table)[ids])


@pytest.mark.parametrize("size", [1, 2, 16])
def test_hadamard_is_orthogonal(size: int) -> None:
    matrix = hadamard(size)
    assert torch.equal(matrix @ matrix.T, size * torch.eye(size, dtype=torch.float64))
    assert torch.equal(matrix, matrix.T)
    with pytest.raises(ShapeError, match="no Hadamard matrix of size 14"):
        hadamard(14)


def test_rotations_undo_themselves() -> None:
    x = torch.randn(3, 8, 5, dtype=torch.float64)
    dense = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q
    close = {"rtol": 1e-12, "atol": 1e-12}
    for kind, block in (("hadamard", 8), ("block_hadamard", 2)):
        once = run(lambda v, k=kind, b=block: RotateOp(k, v, 1, block=b), x)
        matrix = torch.block_diag(*[hadamard(block) / math.sqrt(block)] * (8 // block))
        torch.testing.assert_close(once, torch.einsum("abc,bd->adc", x, matrix), **close)
        back = run(lambda v, k=kind, b=block: RotateOp(k, v, 1, block=b, inverse=True), once)
        torch.testing.assert_close(back, x, **close)
    once = run(lambda v, m: RotateOp("dense", v, 1, matrix=m), x, m=dense)
    torch.testing.assert_close(once, torch.einsum("abc,bd->adc", x, dense), **close)
    back = run(lambda v, m: RotateOp("dense", v, 1, matrix=m, inverse=True), once, m=dense)
    torch.testing.assert_close(back, x, **close)


def test_permute_moves_scales_with_rows_and_keeps_blocks_whole() -> None:
    w, order = torch.randn(4, 16), torch.tensor([2, 0, 3, 1])
    rows = quantize(w, parse_qtype("int4 | (1,8) f16"))
    found = run(lambda w, o: DequantizeOp(PermuteOp(w, o, 0)), w=rows, o=order)
    assert torch.equal(found, dequantize(rows)[order])
    with pytest.raises(ShapeError, match="tears the blocks"):
        run(lambda w, o: DequantizeOp(PermuteOp(w, o, 1)), w=rows, o=torch.randperm(16))
    with pytest.raises(ShapeError, match="no permutation of 4"):
        run(lambda v, o: PermuteOp(v, o, 0), w, o=torch.tensor([0, 0, 1, 2]))


def test_channel_operations() -> None:
    x, source, factors = torch.randn(3, 4), torch.tensor([0, 1, 1, 3, 1]), torch.randn(4)
    torch.testing.assert_close(run(lambda v, f: ScaleAxisOp(v, f, 1), x, f=factors), x * factors)
    assert torch.equal(run(lambda v, s: ExpandKOp("duplicate", v, s), x, s=source), x[:, source])
    split = run(lambda v, s: ExpandKOp("split", v, s), x, s=source)
    torch.testing.assert_close(split, x[:, source] / torch.tensor([1, 3, 3, 1, 3]))
    residual = run(lambda v, s: ExpandKOp("residual", v, s, TOKEN), x, s=source)
    torch.testing.assert_close(residual, torch.cat((x, (x - fake_quantize(x, TOKEN))[:, source]), 1))


def test_slice_bits_rounds_and_clamps() -> None:
    master = quantize(torch.linspace(-1, 1, 256).reshape(1, 256), parse_qtype("uint8 | row f32 | pre u8"))
    found = run(lambda w: DequantizeOp(SliceBitsOp(w, 4)), w=master)
    codes = ((master.codes.long() + 8) // 16).clamp(0, 15) * 16
    expected = replace(master, codes=codes.to(torch.uint8))
    assert torch.equal(found, dequantize(expected))
    assert torch.equal(run(lambda w: DequantizeOp(SliceBitsOp(w, 8)), w=master), dequantize(master))


def test_side_tensors() -> None:
    base, x, down, up = torch.randn(2, 5), torch.randn(2, 7), torch.randn(3, 7), torch.randn(5, 3)
    found = run(lambda b, v, d, u: AddLowrankOp(b, v, d, u), base, x, d=down, u=up)
    torch.testing.assert_close(found, base + x @ (up @ down).T)
    sparse = (torch.randn(5, 7) * (torch.rand(5, 7) > 0.7)).to_sparse_csr()
    parts = sparse.values(), sparse.col_indices().int(), sparse.crow_indices().int()
    found = run(lambda b, v, z, c, o: AddSparseOp(b, v, z, c, o), base, x, z=parts[0], c=parts[1], o=parts[2])
    torch.testing.assert_close(found, base + x @ sparse.to_dense().T)


@pytest.mark.parametrize("qtype", [None, "int8n | (1,-1) f32 | dynamic", "uint4 | (1,4) f16 | pre u4"])
def test_cache_is_written_row_by_row_and_kept(qtype: str | None) -> None:
    first = torch.randn(1, 2, 6, 8)
    cache = first if qtype is None else quantize(first, parse_qtype(qtype))

    def build(rows: object, at: object) -> object:
        held = CacheOp("token", StateOp("kv", kind_of(cache)), rows, at)
        UpdateStateOp("kv", held)
        return held if qtype is None else DequantizeOp(held)

    rows, at = torch.randn(1, 2, 2, 8), torch.tensor([5, 1])
    module = make({"rows": kind_of(rows), "at": kind_of(at)}, build)
    interpreter = Interpreter(module, WeightStore({"kv": cache}))
    wanted = first.clone() if qtype is None else dequantize(cache)
    for offset in (0, -1):
        found = interpreter.run({"rows": rows, "at": at + offset})["y"]
        wanted[:, :, at + offset] = rows if qtype is None else dequantize(quantize(rows, parse_qtype(qtype)))
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("text", ["int3 | (1,4) f16", "uint5 | row f32 | pre u5", "int4 | (1,4) i8, row f16"])
def test_pack_and_unpack(text: str) -> None:
    w = quantize(torch.randn(3, 13), parse_qtype(text))

    def build(w: object) -> DequantizeOp:
        return DequantizeOp(UnpackOp(list(PackOp(w).outputs), kind_of(quantize(torch.ones(3, 13), w_type))))

    w_type = parse_qtype(text)
    assert torch.equal(run(build, w=w), dequantize(w))


def test_float_operations_refuse_codes() -> None:
    with pytest.raises(ShapeError, match="takes no quantized tensor"):
        run(lambda w: DequantizeOp(ReshapeOp(w, [3, 16])), w=quantize(torch.randn(3, 16), WEIGHT))


@pytest.mark.parametrize("size", [4, 12, 20, 24, 28, 36, 40, 44, 52, 56, 60, 76, 100, 108, 112, 160, 344])
def test_hadamard_matrices_of_other_sizes(size: int) -> None:
    if not has_hadamard(size):
        assert size == 344
        with pytest.raises(ShapeError, match="use blocks of 8, the largest"):
            hadamard(size)
        return
    matrix = hadamard(size)
    assert torch.equal(matrix.abs(), torch.ones(size, size, dtype=torch.float64))
    assert torch.equal(matrix @ matrix.T, size * torch.eye(size, dtype=torch.float64))


@pytest.mark.parametrize(
    ("size", "block"), [(13696, 128), (11008, 11008), (10944, 10944), (29566, 2), (120, 120), (7, 1), (6, 2)]
)
def test_widths_of_models_have_blocks(size: int, block: int) -> None:
    assert largest_block(size) == block


def test_rotations_of_other_sizes_undo_themselves() -> None:
    x = torch.randn(3, 24, dtype=torch.float64)
    for kind, block in (("hadamard", 24), ("block_hadamard", 12)):
        once = run(lambda v, k=kind, b=block: RotateOp(k, v, 1, block=b), x)
        back = run(lambda v, k=kind, b=block: RotateOp(k, v, 1, block=b, inverse=True), once)
        torch.testing.assert_close(back, x, rtol=1e-12, atol=1e-12)
        assert not torch.allclose(once, x)

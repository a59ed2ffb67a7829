"""The integer operations against Python's own integers."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.errors import ShapeError
from qcc.ir.integer import CodesOp, IntegerContractOp, IntegerMatmulOp, LookupOp, OfCodesOp
from qcc.ir.integer_rows import IntegerNormOp, IntegerSoftmaxOp
from qcc.ir.nn import PoolOp, UnfoldOp
from qcc.ir.quant import DequantizeOp, QuantizeOp, RequantOp
from qcc.ir.transformer import NormKind
from qcc.numerics.fixed_point import integer_square_root, inverse_square_root
from qcc.numerics.integer_values import integer_factor, integer_range, integer_values
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import dequantize, quantize
from tests.modules import run

WEIGHTS = [
    "int1 mid_rise | row f32",
    "int2 | row f32",
    "uint3 | row f16 | pre u3",
    "int4 | row f16",
    "int6n | tensor pow2 ceil",
    "int8n | row f32",
    "table ternary(-1, 0, 1) | row f32 mean_abs",
    "table powers(-1, -0.5, -0.25, -0.125, 0, 0.125, 0.25, 0.5, 1) | row f32",
    "planes(3, pm1, pow2) mid_rise | row f16 mse",
]


def draw(shape: tuple[int, ...], low: int, high: int, seed: int, dtype: torch.dtype = torch.int8) -> torch.Tensor:
    return torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("text", WEIGHTS)
@pytest.mark.parametrize(("rows", "columns", "groups"), [(1, 1, 1), (5, 7, 1), (6, 3, 3), (4, 1, 4)])
def test_a_contraction_multiplies_what_codes_stand_for(text: str, rows: int, columns: int, groups: int) -> None:
    qtype = parse_qtype(text)
    generator = torch.Generator().manual_seed(rows * columns)
    weight = quantize(torch.randn(rows, columns, generator=generator), qtype)
    x = draw((2, 3, columns * groups), -128, 127, 1)
    bias = draw((rows,), -(2**20), 2**20, 2, torch.int32)
    found = run(lambda x, w, b: IntegerContractOp(x, w, b, groups=groups), x, w=weight, b=bias)
    integers = integer_values(weight)
    low, high = integer_range(qtype)
    assert low <= int(integers.min()) <= int(integers.max()) <= high
    # the integers times factor times scale are the decoded weight
    factor = integer_factor(qtype)
    assert factor is not None
    ones = dequantize(weight, torch.float64)
    scale = weight.scales[0].double().expand(rows, 1)
    torch.testing.assert_close(integers * factor * scale, ones, rtol=0, atol=0)
    each = rows // groups
    wanted = torch.empty(2, 3, rows, dtype=torch.int64)
    for n in range(rows):
        part = x[..., (n // each) * columns : (n // each + 1) * columns].long()
        wanted[..., n] = (part * integers[n]).sum(-1) + bias[n]
    assert found.dtype == torch.int32
    assert torch.equal(found.long(), wanted)


@pytest.mark.parametrize(
    "text",
    ["fp2_1 | row f32", "uint4 | row f16 | post f16", "planes(2, -101, free) | row f16", "table(0, 0.1) | row f32"],
)
def test_formats_without_integers(text: str) -> None:
    assert integer_factor(parse_qtype(text)) is None


def test_sums_that_do_not_fit_are_an_error() -> None:
    weight = quantize(torch.ones(1, 4), parse_qtype("int8n | row f32"))
    big = torch.full((1, 4), 2**31 - 1, dtype=torch.int32)
    with pytest.raises(ShapeError, match="sums in i32"):
        run(lambda x, w: IntegerContractOp(x, w), big, w=weight)
    wide = run(lambda x, w: IntegerContractOp(x, w, scalar="i64"), big, w=weight)
    assert wide.item() == 4 * 127 * (2**31 - 1)
    with pytest.raises(ShapeError, match="64 bits"):
        run(lambda x, y: IntegerMatmulOp(x, y, "i64"), *[torch.full((1, 1), 2**62)] * 2)


def test_codes_and_back() -> None:
    x, qtype = torch.tensor([[-9.0, 0.25, 0.75, 2.6, 80.0, 0.0]]), parse_qtype("int6 | tensor f32")
    scale = torch.tensor([[0.5]])
    codes = run(lambda x, s: CodesOp(QuantizeOp(x, qtype, [s])), x, scale)
    assert codes.tolist() == [[-18, 0, 2, 5, 31, 0]]
    back = run(lambda c, s: DequantizeOp(OfCodesOp(c, qtype, [s])), codes, scale)
    assert back.tolist() == [[-9.0, 0.0, 1.0, 2.5, 15.5, 0.0]]
    with pytest.raises(ShapeError, match=r"-32\.\.31"):
        run(lambda c, s: DequantizeOp(OfCodesOp(c, qtype, [s])), codes + 20, scale)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=5),
    multiplier=st.integers(-(2**31), 2**31 - 1),
    shift=st.integers(0, 62),
)
def test_requant_is_exact(values: list[int], multiplier: int, shift: int) -> None:
    one = [torch.tensor([number], dtype=torch.int32) for number in (multiplier, shift)]
    x = torch.tensor(values, dtype=torch.int32)
    found = run(lambda x, m, s: RequantOp(x, m, s, "i8", low=-31, high=30), x, *one).tolist()
    wanted = [min(30, max(-31, math.floor(Fraction(v * multiplier, 2**shift) + Fraction(1, 2)))) for v in values]
    assert found == (wanted if shift else [min(30, max(-31, v * multiplier)) for v in values])


def test_requant_of_wide_sums() -> None:
    m, s = torch.tensor([2**31 - 1], dtype=torch.int32), torch.tensor([40], dtype=torch.int32)
    x = torch.tensor([2**31, -(2**31)])
    assert run(lambda x, m, s: RequantOp(x, m, s, "i32"), x, m, s).tolist() == [2**22, -(2**22)]
    with pytest.raises(ShapeError, match="do not fit 64 bits"):
        run(lambda x, m, s: RequantOp(x, m, s, "i32"), x * 8, m, s)


def test_lookup() -> None:
    table = torch.arange(10, 15, dtype=torch.int8)
    x = torch.tensor([-2, 2, 0], dtype=torch.int8)
    assert run(lambda x, t: LookupOp(x, t, -2), x, table).tolist() == [10, 14, 12]
    with pytest.raises(ShapeError, match=r"-2\.\.2"):
        run(lambda x, t: LookupOp(x, t, -2), x + 1, table)


def test_matmul_broadcasts() -> None:
    x, y = draw((2, 1, 3, 4), -128, 127, 0), draw((5, 4, 2), 0, 255, 1, torch.uint8)
    found = run(IntegerMatmulOp, x, y)
    assert np.array_equal(found.numpy(), x.numpy().astype(np.int32) @ y.numpy().astype(np.int32))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(-40, 40), min_size=3, max_size=3), min_size=1, max_size=4),
    keep=st.lists(st.booleans(), min_size=3, max_size=3),
    table=st.lists(st.integers(0, 2**20), min_size=1, max_size=30),
    unit=st.integers(1, 127),
)
def test_softmax_is_exact(rows: list[list[int]], keep: list[bool], table: list[int], unit: int) -> None:
    table[0] += 1
    found = run(
        lambda x, t, k: IntegerSoftmaxOp(x, t, k, unit=unit),
        torch.tensor(rows, dtype=torch.int8),
        torch.tensor(table, dtype=torch.int32),
        torch.tensor(keep),
    ).tolist()
    for row, codes in zip(rows, found, strict=True):
        top = max((x for x, k in zip(row, keep, strict=True) if k), default=0)
        e = [table[min(top - x, len(table) - 1)] if k else 0 for x, k in zip(row, keep, strict=True)]
        wanted = [math.floor(Fraction(unit * one, sum(e)) + Fraction(1, 2)) if sum(e) else 0 for one in e]
        assert codes == wanted


@given(st.integers(0, 2**62 - 1))
def test_square_roots_are_exact(value: int) -> None:
    for one in (value, math.isqrt(value) ** 2, max(math.isqrt(value) ** 2 - 1, 0)):
        assert int(integer_square_root(torch.tensor(one))) == math.isqrt(one)
        inverse, exponent = (int(part) for part in inverse_square_root(torch.tensor(max(one, 1))))
        assert 2**30 <= inverse <= 2**31
        exact = 1 / math.sqrt(max(one, 1))
        assert abs(math.ldexp(inverse, exponent - 61) - exact) <= exact * 2**-29


@settings(max_examples=60, deadline=None)
@given(
    row=st.lists(st.integers(-128, 127), min_size=1, max_size=9),
    kind=st.sampled_from(["layer", "rms"]),
    eps=st.integers(0, 1000),
    multiplier=st.integers(-(2**31), 2**31 - 1),
    bias=st.integers(-(2**40), 2**40),
    shift=st.integers(0, 62),
)
def test_norm_is_what_it_says(row: list[int], kind: str, eps: int, multiplier: int, bias: int, shift: int) -> None:
    found = run(
        lambda x, m, s, b: IntegerNormOp(kind, x, m, s, b, eps=eps, low=-100, high=90),
        torch.tensor([row], dtype=torch.int8),
        torch.tensor([multiplier], dtype=torch.int32),
        torch.tensor([shift], dtype=torch.int32),
        torch.tensor([bias]),
    ).tolist()[0]
    n = len(row)
    d = [n * x - sum(row) if kind == NormKind.LAYER else x for x in row]
    q = max(sum(x * x for x in d) + eps, 1)
    t = max(t for t in range(32) if q * 4**t < 2**62)
    v = 2**61 // math.isqrt(q * 4**t)
    z = [(x * v + (1 << 37 - t >> 1)) >> 37 - t for x in d]
    assert found == [min(90, max(-100, (one * multiplier + bias + (1 << shift >> 1)) >> shift)) for one in z]
    # and z is the normalised element to within 2^-24 of a unit
    assert all(abs(one / 2**24 - x / math.sqrt(q)) <= 2**-24 for one, x in zip(z, d, strict=True))


def test_norm_refuses_squares_beyond_62_bits() -> None:
    x = torch.full((1, 8), 2**31 - 1, dtype=torch.int32)
    m, s = torch.ones(1, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    with pytest.raises(ShapeError, match="62 bits"):
        run(lambda x, m, s: IntegerNormOp("rms", x, m, s, eps=0), x, m, s)


@pytest.mark.parametrize(("window", "stride", "padding"), [(2, 2, 0), (3, 1, 1), (3, 2, 2)])
def test_pooling_integers(window: int, stride: int, padding: int) -> None:
    x = draw((2, 3, 7, 5), -128, 127, 5)
    settings_ = {"window": [window] * 2, "stride": [stride] * 2, "padding": [padding] * 2}
    largest = run(lambda x: PoolOp("max", x, **settings_), x)
    rows = run(lambda x: UnfoldOp(x, dilation=[1, 1], **settings_), x.int())
    sums = run(lambda x: PoolOp("sum", x, **settings_), x.int())
    assert torch.equal(sums, rows.unflatten(-1, (3, -1)).sum(-1).permute(0, 3, 1, 2).int())
    padded = torch.nn.functional.pad(x.double(), [padding] * 4, value=-128.0)
    assert torch.equal(largest.double(), torch.nn.functional.max_pool2d(padded, window, stride))
    if window > 2:
        with pytest.raises(ShapeError, match="do not fit"):
            run(lambda x: PoolOp("sum", x, **settings_), torch.full((1, 1, 5, 5), 127, dtype=torch.int8))

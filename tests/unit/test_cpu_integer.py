"""Operations of integer-only programs in C: the interpreter's integers, at the ends of their ranges too."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from qcc.errors import QccError, UnsupportedOp
from qcc.ir.elementwise import BinaryOp, UnaryOp
from qcc.ir.gather import ReduceOp
from qcc.ir.integer import CodesOp, IntegerContractOp, IntegerMatmulOp, LookupOp, OfCodesOp
from qcc.ir.integer_rows import IntegerNormOp, IntegerSoftmaxOp
from qcc.ir.nn import EmbeddingOp, PoolOp, UnfoldOp
from qcc.ir.program import WeightOp
from qcc.ir.quant import DequantizeOp, QuantizeOp, RequantOp
from qcc.ir.shape import TransposeOp
from qcc.ir.store import WeightStore
from qcc.ir.types import SymbolAttr, tensor
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import quantize
from tests.cpu_programs import compare, load
from tests.hls_programs import SPECIAL
from tests.modules import kind_of, make

WEIGHTS = [
    "int1 mid_rise | row f32",
    "int2 | row f32",
    "uint3 | row f16 | pre u3",
    "int5n | tensor pow2 ceil",
    "int8n | row f32",
    "uint8 | row f32 | pre u8",
    "table ternary(-1, 0, 1) | row f32 mean_abs",
    "table powers(-1, -0.5, -0.25, -0.125, 0, 0.125, 0.25, 0.5, 1) | row f32",
    "planes(3, pm1, pow2) mid_rise | row f16 mse",
]
DTYPES = {"i8": torch.int8, "u8": torch.uint8, "i32": torch.int32, "i64": torch.int64}


def draw(shape: tuple[int, ...], low: int, high: int, seed: int, dtype: torch.dtype = torch.int8) -> torch.Tensor:
    return torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def ends(shape: tuple[int, ...], scalar: str, bits: int, seed: int) -> torch.Tensor:
    """Integers of `bits` bits, the first ones at the ends of their range."""
    low, high = (0, 2**bits - 1) if scalar == "u8" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    values = draw(shape, low, high, seed, torch.int64)
    values.view(-1)[:3] = torch.tensor([low, high, 0])[: values.numel()]
    return values.to(DTYPES[scalar])


def agree(out: Path, build: Callable[..., Any], *inputs: torch.Tensor, **stored: Any) -> None:
    """Hold C to the interpreter, bit for bit, on programs whose inputs are `inputs`; `build` gets weights by name."""

    def made(*arguments: Any) -> Any:
        return build(*arguments, **{name: WeightOp(name, kind_of(value)) for name, value in stored.items()})

    module = make({f"x{index}": kind_of(value) for index, value in enumerate(inputs)}, made)
    store = WeightStore(stored)
    with closing(load(module, store, out)) as program:
        compare(program, module, store, [{f"x{i}": value for i, value in enumerate(inputs)}], tolerance=0.0)


def number(value: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.tensor([value], dtype=dtype)


@pytest.mark.parametrize("text", WEIGHTS)
def test_weights_are_multiplied_as_integers(text: str, tmp_path: Path) -> None:
    """Groups, odd sizes, one row; inputs of bytes and of 32 bits, sums in 32 and 64."""
    weight = quantize(torch.randn(6, 37, generator=torch.Generator().manual_seed(1)), parse_qtype(text))
    bias = {"b32": draw((6,), -(2**20), 2**20, 2, torch.int32), "b64": draw((6,), -(2**50), 2**50, 3, torch.int64)}

    def build(x: Any, u: Any, y: Any, one: Any, *, w: Any, b32: Any, b64: Any) -> list[Any]:
        return [
            IntegerContractOp(x, w, b32, groups=3),
            IntegerContractOp(x, w, groups=2 + 1, scalar="i64"),
            IntegerContractOp(u, w, b32),
            IntegerContractOp(y, w, b64, scalar="i64"),
            IntegerContractOp(one, w),
        ]

    inputs = ends((2, 9, 111), "i8", 8, 4), ends((35, 37), "u8", 8, 5), ends((3, 37), "i32", 32, 6)
    agree(tmp_path, build, *inputs, draw((1, 37), -9, 9, 7, torch.int32), w=weight, **bias)


def test_products_of_two_tensors(tmp_path: Path) -> None:
    """All pairs of element types, leading axes that broadcast, operands that lie transposed."""

    def build(a: Any, b: Any, c: Any, d: Any) -> list[Any]:
        turned = TransposeOp(a, (0, 2, 1))
        return [
            IntegerMatmulOp(a, b),
            IntegerMatmulOp(a, turned, "i64"),
            IntegerMatmulOp(c, b, "i64"),
            IntegerMatmulOp(b, TransposeOp(b, (1, 0))),
            IntegerMatmulOp(d, TransposeOp(c, (0, 1, 3, 2)), "i64"),
        ]

    inputs = ends((3, 5, 7), "i8", 8, 1), ends((7, 4), "u8", 8, 2), ends((2, 1, 9, 7), "i32", 32, 3)
    agree(tmp_path, build, *inputs, ends((2, 3, 1, 7), "i64", 24, 4))


@pytest.mark.parametrize("scalar", DTYPES)
def test_requantization(scalar: str, tmp_path: Path) -> None:
    """Every shift, multipliers of both signs, by tensor and by channel, contiguous and transposed."""
    shifts, bits = torch.arange(63, dtype=torch.int32), {"i8": 8, "u8": 8, "i32": 32, "i64": 33}[scalar]
    factors = draw((63,), -(2**28), 2**28, 2, torch.int32)

    def build(x: Any, *, m: Any, s: Any, m1: Any, s1: Any) -> list[Any]:
        turned = TransposeOp(TransposeOp(x, (1, 0)), (1, 0))
        return [
            RequantOp(x, m, s, "i32"),
            RequantOp(x, m1, s1),
            RequantOp(turned, m1, s1, "u8", low=3, high=200),
            RequantOp(TransposeOp(x, (1, 0)), m1, s1, "i32", low=-(2**30)),
            RequantOp(x, m, s1, "i8", low=-7, high=6),
        ]

    agree(
        tmp_path, build, ends((300, 63), scalar, bits, 1), m=factors, s=shifts, m1=number(-77777), s1=number(bits + 9)
    )


def test_tables_of_functions(tmp_path: Path) -> None:
    x, wide = draw((5, 300), -7, 7, 1), draw((4, 3), 100, 109, 2, torch.int32)
    tables = {"small": draw((15,), -128, 127, 3), "large": draw((10,), -(2**31), 2**31 - 1, 4, torch.int32)}

    def build(x: Any, y: Any, *, small: Any, large: Any) -> list[Any]:
        return [LookupOp(TransposeOp(x, (1, 0)), small, -7), LookupOp(y, large, 100)]

    agree(tmp_path, build, x, wide, **tables)


def test_what_no_table_has_is_an_error(tmp_path: Path) -> None:
    table, rows = draw((4,), 0, 9, 1), draw((4, 3), -9, 9, 2)
    store = WeightStore({"t": table, "r": rows})
    kinds = {"x": tensor([2], "i32"), "ids": tensor([2], "i64")}

    def build(x: Any, ids: Any) -> list[Any]:
        return [LookupOp(x, WeightOp("t", kind_of(table)), -1), EmbeddingOp(WeightOp("r", kind_of(rows)), ids)]

    module = make(kinds, build)
    good = {"x": torch.tensor([-1, 2], dtype=torch.int32), "ids": torch.tensor([0, 3])}
    with closing(load(module, store, tmp_path)) as program:
        compare(program, module, store, [good], tolerance=0.0)
        for bad in (-2, 3, -(2**31), 2**31 - 1):
            with pytest.raises(QccError, match="outside the table of a function"):
                program.run({**good, "x": torch.tensor([0, bad], dtype=torch.int32)})
        for bad in (-1, 4):
            with pytest.raises(QccError, match="outside the table"):
                program.run({**good, "ids": torch.tensor([bad, 0])})
        compare(program, module, store, [good], tolerance=0.0)


@pytest.mark.parametrize("length", [1, 5, 130])
def test_softmax_and_norms(length: int, tmp_path: Path) -> None:
    """Rows of one, of equal elements, of zeros; masks that keep nothing; the widest integers that squares allow."""
    x = ends((4, length), "i32", 20, length)
    x[1], x[2] = 0, -5
    mask = draw((4, length), 0, 1, 3).bool()
    mask[2] = False
    weights = {
        "table": (2**16 * torch.exp(-0.01 * torch.arange(500))).to(torch.int32),
        "m": draw((length,), -(2**20), 2**20, 4, torch.int32),
        "one": number(2**20),
        "s": number(36),
        "b": draw((length,), -(2**40), 2**40, 5, torch.int64),
    }

    def build(x: Any, c: Any, mask: Any, *, table: Any, m: Any, one: Any, s: Any, b: Any) -> list[Any]:
        return [
            IntegerSoftmaxOp(x, table, unit=2**15, scalar="i32"),
            IntegerSoftmaxOp(c, table, mask, unit=127),
            IntegerNormOp("layer", x, m, s, b, eps=3, scalar="i32"),
            IntegerNormOp("rms", x, one, s, eps=0, low=-100, high=90),
            IntegerNormOp("rms", c, m, s, b, eps=2**40),
        ]

    agree(tmp_path, build, x, ends((4, length), "i8", 8, 9), mask, **weights)


def test_windows(tmp_path: Path) -> None:
    """One and two axes, padding, strides and dilations; maxima keep the least integer out of the padding's way."""
    x, line = ends((2, 3, 7, 5), "i8", 8, 1), ends((2, 2, 9), "i32", 20, 2)

    def build(x: Any, line: Any) -> list[Any]:
        two = {"window": [3, 2], "stride": [2, 1], "padding": [1, 1]}
        return [
            UnfoldOp(x, window=[3, 2], stride=[2, 1], padding=[2, 0], dilation=[2, 3]),
            UnfoldOp(line, window=[4], stride=[1], padding=[3], dilation=[1]),
            UnfoldOp(TransposeOp(x, (0, 1, 3, 2)), window=[1, 1], stride=[1, 1], padding=[0, 0], dilation=[1, 1]),
            PoolOp("max", x, **two),
            PoolOp("max", line, window=[2], stride=[3], padding=[0]),
            PoolOp("sum", line, window=[4], stride=[2], padding=[3]),
        ]

    agree(tmp_path, build, x, line)


def test_narrow_integers_elementwise(tmp_path: Path) -> None:
    a, b = draw((3, 5), -60, 60, 1), draw((3, 1), 0, 100, 2, torch.uint8)
    c = draw((3, 5), 0, 100, 3, torch.uint8)

    def build(a: Any, b: Any, c: Any) -> list[Any]:
        made: list[Any] = [UnaryOp("relu", a), ReduceOp("max", a, [1], True), ReduceOp("min", c, [0, 1], False)]
        made += [ReduceOp("max", c, [0], False), BinaryOp("add", a, a), BinaryOp("sub", a, UnaryOp("relu", a))]
        return [*made, *(BinaryOp(one, b, c) for one in ("max", "min", "lt"))]

    agree(tmp_path, build, a, b, c)


@pytest.mark.parametrize(
    "text", ["int8n | tensor f32", "int16 | tensor f32", "uint4 | tensor f32", "int6 | tensor pow2"]
)
def test_floats_at_the_border(text: str, tmp_path: Path) -> None:
    """Ties, what is no number, what no integer holds, and scales from subnormal to infinite quotients."""
    qtype = parse_qtype(text + " | static")
    halves = torch.arange(-40, 40) * 0.25
    x = torch.cat([torch.tensor([*SPECIAL, 1e30, -1e30, 2**31, -(2.0**63)]), halves]).reshape(2, -1)

    def build(x: Any, **scales: Any) -> list[Any]:
        codes = [QuantizeOp(x, qtype, [scale]) for scale in scales.values()]
        plain = [CodesOp(one) for one in codes]
        back = [DequantizeOp(OfCodesOp(one, qtype, [scale])) for one, scale in zip(plain, scales.values(), strict=True)]
        return [*plain, *back, DequantizeOp(codes[0])]

    values = [0.5, 1e-38, 3e38, 0.3]
    agree(tmp_path, build, x, **{f"s{index}": torch.tensor([[value]]) for index, value in enumerate(values)})


def test_codes_of_weights_and_symbolic_rows(tmp_path: Path) -> None:
    weight = quantize(torch.randn(5, 6, generator=torch.Generator().manual_seed(2)), parse_qtype("int4 | row f32"))
    store = WeightStore({"w": weight, "m": number(7), "s": number(3)})
    weights = {name: WeightOp(name, kind_of(store[name])) for name in store}

    def build(x: Any) -> list[Any]:
        for one in weights.values():
            x.owner.add_op(one)
        sums = IntegerMatmulOp(x, TransposeOp(CodesOp(weights["w"]), (1, 0)))
        return [RequantOp(sums, weights["m"], weights["s"]), IntegerContractOp(x, weights["w"])]

    module = make({"x": tensor(["s0", 6], "i8")}, build, [SymbolAttr.make("s0", 1, 99)])
    with closing(load(module, store, tmp_path)) as program:
        calls = [{"x": draw((rows, 6), -128, 127, rows)} for rows in (1, 8, 33)]
        compare(program, module, store, calls, tolerance=0.0)


def test_refusals_name_every_operation(tmp_path: Path) -> None:
    zero = parse_qtype("uint8 | tensor f32 | pre u8 | static")
    free = quantize(torch.randn(4, 6), parse_qtype("planes(2, -101, free) | row f16"))
    store = WeightStore(
        {"w": free, "m": number(3), "far": number(63), "scale": torch.tensor([[0.5]]), "zero": torch.ones(1, 1).int()}
    )

    def build(x: Any, y: Any, shift: Any) -> list[Any]:
        weight = {name: WeightOp(name, kind_of(store[name])) for name in store}
        return [
            IntegerContractOp(x, weight["w"]),
            RequantOp(x, weight["m"], weight["far"]),
            RequantOp(x, weight["m"], shift),
            CodesOp(QuantizeOp(y, zero, [weight["scale"], weight["zero"]])),
        ]

    module = make({"x": tensor([2, 6], "i8"), "y": tensor([2, 6], "f32"), "s": tensor([1], "i32")}, build)
    with pytest.raises(UnsupportedOp) as caught:
        load(module, store, tmp_path / "out")
    said = str(caught.value)
    for part in ("stand for integers", "outside 0..62", "computed at run time", "must be symmetric"):
        assert part in said
    assert not (tmp_path / "out").exists()

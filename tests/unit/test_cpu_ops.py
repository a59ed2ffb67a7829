"""Every operation through emitted C, beside the interpreter, at several sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from xdsl.ir import SSAValue

from qcc.ir.dims import Dim
from qcc.ir.elementwise import BinaryFunction, BinaryOp, CastOp, UnaryFunction, UnaryOp, WhereOp
from qcc.ir.gather import CumulativeSumOp, GatherOp, IndexOp, IndexUpdateOp, ReduceOp, SliceUpdateOp
from qcc.ir.nn import ConvOp, EmbeddingOp, LinearOp, MatmulOp, PoolOp, SoftmaxOp
from qcc.ir.program import ConstantOp, DimOp, IotaOp, WeightOp
from qcc.ir.shape import ConcatOp, ExpandOp, PadOp, ReshapeOp, SliceOp, TransposeOp
from qcc.ir.store import WeightStore
from qcc.ir.transformer import AttentionOp, BatchNormOp, NormOp, RopeOp
from qcc.ir.types import SymbolAttr, tensor
from tests.cpu_programs import compare, load
from tests.modules import kind_of, make

S0 = [SymbolAttr.make("s0", 0, 512)]
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, 2.5, -2.5, 1e-40, 1e38, -1e38, float("inf"), float("-inf"), float("nan")]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def weight(store: WeightStore, name: str, value: torch.Tensor) -> WeightOp:
    store[name] = value
    return WeightOp(name, kind_of(value))


def test_unary_functions(tmp_path: Path) -> None:
    # torch's gelu gives NaN at +infinity, where the function has the value +infinity
    floats = [one for one in UnaryFunction if one not in ("not", "gelu", "gelu_tanh")]

    def build(x: SSAValue, n: SSAValue, b: SSAValue) -> list[UnaryOp]:
        made = [UnaryOp(one, x) for one in floats]
        made += [UnaryOp(one, n) for one in ("abs", "neg", "relu")]
        below = BinaryOp("min", x, ConstantOp(1e30, tensor([], "f32")))
        made += [UnaryOp("gelu", below), UnaryOp("gelu_tanh", below)]
        return [*made, UnaryOp("not", b), UnaryOp("exp", TransposeOp(x, (1, 0)))]

    kinds = {"x": tensor(["s0", 13], "f32"), "n": tensor(["s0"], "i64"), "b": tensor(["s0"], "i1")}
    module, store = make(kinds, build, S0), WeightStore()
    program = load(module, store, tmp_path)
    calls = []
    for size in (1, 7, 0, 64):
        x = draw(size, 13) * 3
        if size > 1:
            x[1] = torch.tensor(SPECIAL)
        calls.append({"x": x, "n": torch.arange(size) - 3, "b": torch.arange(size) % 2 == 0})
    compare(program, module, store, calls, 1e-6)


def test_binary_functions_broadcast(tmp_path: Path) -> None:
    arithmetic = [one for one in BinaryFunction if one not in ("and", "or", "xor", "floordiv")]

    def build(x: SSAValue, y: SSAValue, n: SSAValue, m: SSAValue, b: SSAValue) -> list[BinaryOp]:
        made = [BinaryOp(one, x, y) for one in arithmetic]
        made += [BinaryOp(one, n, m) for one in BinaryFunction if one not in ("div", "pow")]
        made += [BinaryOp(one, b, UnaryOp("not", b)) for one in ("and", "or", "xor", "eq", "ne")]
        made += [BinaryOp("floordiv", CastOp(n, "f32"), CastOp(m, "f32"))]
        half = ConstantOp(0.5, tensor([], "f32"))
        return [*made, BinaryOp("mul", x, half), BinaryOp("sub", half, x)]

    kinds = {
        "x": tensor(["s0", 1, 13], "f32"),
        "y": tensor([3, 1], "f32"),
        "n": tensor(["s0", 1], "i64"),
        "m": tensor([5], "i64"),
        "b": tensor(["s0"], "i1"),
    }
    module, store = make(kinds, build, S0), WeightStore()
    program = load(module, store, tmp_path)
    calls = []
    for size in (1, 4, 0, 33):
        x = draw(size, 1, 13).abs() + 0.1
        if size > 1:
            x[1, 0] = torch.tensor(SPECIAL)
        y = torch.tensor([[1.5], [-2.0], [0.25]])
        n, m = torch.arange(size).reshape(size, 1) * 3 - 5, torch.tensor([1, -2, 3, 7, -1])
        calls.append({"x": x, "y": y, "n": n, "m": m, "b": torch.arange(size) % 3 == 0})
    compare(program, module, store, calls, 1e-6)


def test_casts_constants_and_where(tmp_path: Path) -> None:
    def build(x: SSAValue, n: SSAValue, c: SSAValue) -> list[object]:
        counts = IotaOp(Dim.symbol("s0") + 2, -3, tensor(["s0"], "i64"))
        fill = ConstantOp(float("-inf"), tensor(["s0", 4], "f32"))
        return [
            *[CastOp(x, kind) for kind in ("f16", "bf16", "f64", "i64", "i32", "i1")],
            *[CastOp(n, kind) for kind in ("f32", "i32", "i1")],
            CastOp(c, "f32"),
            CastOp(c, "i64"),
            counts,
            DimOp(Dim.symbol("s0") * 2 + 1, tensor([], "i64")),
            WhereOp(ReshapeOp(c, ["s0", 1]), x, fill),
            WhereOp(c, n, counts),
            ConstantOp(7, tensor(["s0"], "i64")),
            ConstantOp(True, tensor([2], "i1")),
        ]

    kinds = {"x": tensor(["s0", 4], "f32"), "n": tensor(["s0"], "i64"), "c": tensor(["s0"], "i1")}
    module, store = make(kinds, build, S0), WeightStore()  # type: ignore[arg-type]
    program = load(module, store, tmp_path)
    calls = []
    for size in (1, 5, 0, 40):
        calls.append({"x": draw(size, 4) * 50, "n": torch.arange(size) - 2, "c": torch.arange(size) % 2 == 1})
    # half precision is computed in float32 and rounded where it leaves the program
    compare(program, module, store, calls, 1e-6)


def test_reshape_family(tmp_path: Path) -> None:
    s0 = Dim.symbol("s0")

    def build(x: SSAValue) -> list[object]:
        turned = TransposeOp(x, (2, 0, 1))
        split = ReshapeOp(x, ["s0", 2, 3, 2, 2])
        heads = TransposeOp(split, (0, 3, 1, 2, 4))
        wide = ExpandOp(ReshapeOp(x, ["s0", 1, 6, 4]), ["s0", 3, 6, 4])
        return [
            turned,
            ReshapeOp(turned, [4 * s0 * 6]),
            ReshapeOp(TransposeOp(x, (0, 2, 1)), ["s0", 24]),
            heads,
            ReshapeOp(heads, [s0 * 2, 12]),
            wide,
            ReshapeOp(wide, ["s0", 18, 4]),
            SliceOp(x, 1, 1, 3, 2),
            SliceOp(SliceOp(turned, 0, 1, 2), 2, 0, 2, 3),
            SliceOp(x, 0, s0 - 1, 1),
            SliceOp(ReshapeOp(x, [s0 * 24]), 0, s0, s0 * 23),
            ConcatOp([x, ExpandOp(SliceOp(x, 0, 0, 1), [2, 6, 4]), x], 0),
            ConcatOp([turned, turned], 1),
            ConcatOp([SliceOp(x, 2, 2, 2), SliceOp(x, 2, 0, 2)], 2),
            PadOp(x, (1, 0, 2), (0, 3, 1), -1.5),
            ReshapeOp(x, ["s0", 1, 24, 1]),
        ]

    module, store = make({"x": tensor(["s0", 6, 4], "f32")}, build, [SymbolAttr.make("s0", 1, 99)]), WeightStore()  # type: ignore[arg-type]
    program = load(module, store, tmp_path)
    compare(program, module, store, [{"x": draw(size, 6, 4)} for size in (1, 2, 9, 31)], 0)


def test_indexing(tmp_path: Path) -> None:
    def build(x: SSAValue, i: SSAValue, j: SSAValue, g: SSAValue) -> list[object]:
        rows = IndexOp(x, [i], 1)
        return [
            IndexOp(x, [j], 0),
            rows,
            IndexOp(TransposeOp(x, (2, 1, 0)), [i, j], 1),
            IndexOp(x, [CastOp(j, "i32")], 2),
            GatherOp(x, g, 1),
            IndexUpdateOp(x, [i], ConstantOp(9.0, tensor([], "f32")), 1),
            IndexUpdateOp(rows, [j], SliceOp(rows, 0, 0, 1), 0),
            SliceUpdateOp(x, SliceOp(x, 1, 0, 2), 1, 1, 2),
            SliceUpdateOp(UnaryOp("neg", x), SliceOp(x, 2, 1, 1), 2, 3),
        ]

    kinds = {
        "x": tensor([3, 5, "s0"], "f32"),
        "i": tensor([2, 2], "i64"),
        "j": tensor([2], "i64"),
        "g": tensor([3, 2, "s0"], "i64"),
    }
    module, store = make(kinds, build, [SymbolAttr.make("s0", 4, 99)]), WeightStore()  # type: ignore[arg-type]
    program = load(module, store, tmp_path)
    calls = []
    for size in (4, 7, 33):
        generator = torch.Generator().manual_seed(size)
        i = torch.tensor([[0, -1], [3, 2]])
        g = torch.randint(0, 5, (3, 2, size), generator=generator)
        calls.append({"x": draw(3, 5, size), "i": i, "j": torch.tensor([2, 0]), "g": g})
    compare(program, module, store, calls, 0)
    for name, bad in (("i", torch.tensor([[0, 1], [5, 0]])), ("j", torch.tensor([-4, 0]))):
        with pytest.raises(Exception, match="outside its axis"):
            program.run({**calls[0], name: bad})


def test_reductions(tmp_path: Path) -> None:
    def build(x: SSAValue, n: SSAValue) -> list[object]:
        kinds = ("sum", "mean", "max", "min")
        made: list[object] = [
            ReduceOp(one, x, axes, keep) for one in kinds for axes, keep in (([2], False), ([0], True))
        ]
        made += [
            ReduceOp("mean", x, [1, 2], False),
            ReduceOp("sum", x, [0, 2], True),
            ReduceOp("max", x, [0, 1, 2], False),
        ]
        made += [ReduceOp("argmax", x, [1], False), ReduceOp("sum", TransposeOp(x, (1, 0, 2)), [1, 2], False)]
        positive = BinaryOp("gt", n, ConstantOp(0, tensor([], "i64")))
        made += [ReduceOp("any", positive, [0], False), ReduceOp("all", positive, [0, 1], False)]
        made += [ReduceOp("sum", n, [1], True), ReduceOp("sum", CastOp(n, "i32"), [0], False)]
        made += [CumulativeSumOp(x, 1), CumulativeSumOp(n, 0), CumulativeSumOp(CastOp(n, "i32"), 1)]
        return [*made, SoftmaxOp(x, 2), SoftmaxOp(x, 0), SoftmaxOp(TransposeOp(x, (2, 0, 1)), 1)]

    module = make(
        {"x": tensor(["s0", 5, 3], "f32"), "n": tensor(["s0", 7], "i64")}, build, [SymbolAttr.make("s0", 1, 99)]
    )  # type: ignore[arg-type]
    store = WeightStore()
    program = load(module, store, tmp_path)
    calls = [{"x": draw(size, 5, 3), "n": torch.arange(size * 7).reshape(size, 7) - 9} for size in (1, 2, 17)]
    calls[1]["x"][0, 1, 2] = float("nan")
    calls[2]["x"][3] = float("-inf")
    compare(program, module, store, calls, 1e-5)


def test_linear_and_matmul(tmp_path: Path) -> None:
    store = WeightStore()

    def build(x: SSAValue, z: SSAValue) -> list[object]:
        w, b = weight(store, "w", draw(19, 33)), weight(store, "b", draw(19))
        flipped = TransposeOp(weight(store, "wt", draw(33, 8)), (1, 0))
        hidden = LinearOp(x, w, b)
        residual = BinaryOp("add", UnaryOp("gelu", hidden), UnaryOp("neg", hidden))
        again = LinearOp(x, w)
        fused = BinaryOp("add", UnaryOp("silu", again), UnaryOp("tanh", hidden))
        return [
            residual,
            fused,
            LinearOp(x, flipped),
            LinearOp(TransposeOp(x, (1, 0, 2)), w, b),
            LinearOp(x, UnaryOp("relu", w), b),
            MatmulOp(x, TransposeOp(x, (0, 2, 1))),
            MatmulOp(z, x),
            MatmulOp(TransposeOp(x, (0, 2, 1)), ExpandOp(SliceOp(x, 0, 0, 1), ["s0", 4, 33])),
        ]

    module = make(
        {"x": tensor(["s0", 4, 33], "f32"), "z": tensor([2, 1, 6, 4], "f32")}, build, [SymbolAttr.make("s0", 1, 99)]
    )  # type: ignore[arg-type]
    program = load(module, store, tmp_path)
    compare(program, module, store, [{"x": draw(size, 4, 33), "z": draw(2, 1, 6, 4)} for size in (1, 3, 50)], 1e-5)


def test_convolutions(tmp_path: Path) -> None:
    store = WeightStore()

    def build(x: SSAValue, t: SSAValue) -> list[object]:
        first = ConvOp(
            x,
            weight(store, "c1", draw(8, 3, 3, 3)),
            weight(store, "b1", draw(8)),
            stride=(2, 1),
            padding=(1, 1),
            dilation=(1, 2),
        )
        names = ("mean", "variance", "scale", "shift")
        stored = [weight(store, name, draw(8, seed=i).abs() + 0.1) for i, name in enumerate(names)]
        normal = UnaryOp("hardswish", BatchNormOp(first, *stored, eps=1e-5))
        one_by_one = [1, 1]
        depth = ConvOp(
            normal,
            weight(store, "c2", draw(8, 1, 3, 3)),
            stride=one_by_one,
            padding=[1, 1],
            dilation=one_by_one,
            groups=8,
        )
        relu = UnaryOp("relu", depth)
        grouped = ConvOp(
            relu,
            weight(store, "c3", draw(4, 4, 1, 1)),
            stride=one_by_one,
            padding=[0, 0],
            dilation=one_by_one,
            groups=2,
        )
        series = ConvOp(
            t, weight(store, "c4", draw(6, 5, 4)), weight(store, "b4", draw(6)), stride=[3], padding=[2], dilation=[1]
        )
        pools = [
            PoolOp(kind, normal, window=[3, 2], stride=[2, 2], padding=[1, 0])
            for kind in ("max", "average", "average_valid")
        ]
        return [first, normal, grouped, series, *pools, PoolOp("max", t, window=[2], stride=[2], padding=[0])]

    kinds = {"x": tensor(["s0", 3, "s1", 11], "f32"), "t": tensor(["s0", 5, "s1"], "f32")}
    symbols = [SymbolAttr.make("s0", 0, 9), SymbolAttr.make("s1", 1, 99)]
    module = make(kinds, build, symbols)  # type: ignore[arg-type]
    program = load(module, store, tmp_path)
    compare(
        program,
        module,
        store,
        [{"x": draw(b, 3, h, 11), "t": draw(b, 5, h)} for b, h in ((1, 7), (3, 12), (2, 33))],
        1e-5,
    )
    with pytest.raises(Exception, match=r"would have size|elements|memory|axis"):
        program.run({"x": draw(1, 3, 1, 11), "t": draw(1, 5, 1)[:, :, :0]})


def test_transformer_block(tmp_path: Path) -> None:
    store = WeightStore()

    def build(x: SSAValue, ids: SSAValue, keep: SSAValue, bias: SSAValue) -> list[object]:
        table = weight(store, "table", draw(50, 24))
        h = BinaryOp("add", x, EmbeddingOp(table, ids))
        norms = [
            NormOp("layer", h, weight(store, "g", draw(24)), weight(store, "bt", draw(24)), eps=1e-12),
            NormOp("rms", h, weight(store, "g2", draw(24)), eps=1e-6),
            NormOp("rms_plus1", h, weight(store, "g3", draw(24)), eps=1e-6),
            NormOp("layer", h, eps=1e-5),
        ]

        def heads(value: object, name: str, count: int) -> TransposeOp:
            rows = LinearOp(value, weight(store, name, draw(count * 8, 24)))  # type: ignore[arg-type]
            return TransposeOp(ReshapeOp(rows, ["s0", "s1", count, 8]), (0, 2, 1, 3))

        q, k, v = heads(norms[0], "q", 4), heads(norms[0], "k", 2), heads(norms[0], "v", 2)
        cos = weight(store, "cos", draw(40, 8).cos())
        sin = weight(store, "sin", draw(40, 8).sin())
        here = [SliceOp(one, 0, 0, "s1") for one in (cos, sin)]
        turned = [RopeOp("half", one, *here) for one in (q, k)]
        crossed = RopeOp("interleaved", q, *here)
        mask = ReshapeOp(keep, ["s0", 1, 1, "s1"])
        mixed = [
            AttentionOp(*turned, v, mask, scale=8**-0.5),
            AttentionOp(q, k, v, scale=0.3, causal=True),
            AttentionOp(q, k, v, bias, scale=0.3),
            AttentionOp(q, k, v, mask, scale=0.3, causal=True),
        ]
        joined = ReshapeOp(TransposeOp(mixed[0], (0, 2, 1, 3)), ["s0", "s1", 32])
        out = BinaryOp("add", LinearOp(joined, weight(store, "o", draw(24, 32))), h)
        return [out, *norms, *mixed, crossed]

    kinds = {
        "x": tensor(["s0", "s1", 24], "f32"),
        "ids": tensor(["s0", "s1"], "i64"),
        "keep": tensor(["s0", "s1"], "i1"),
        "bias": tensor([4, "s1", "s1"], "f32"),
    }
    symbols = [SymbolAttr.make("s0", 1, 9), SymbolAttr.make("s1", 1, 40)]
    module = make(kinds, build, symbols)  # type: ignore[arg-type]
    program = load(module, store, tmp_path)
    calls = []
    for b, s in ((1, 1), (2, 7), (3, 33)):
        keep = torch.ones(b, s, dtype=torch.bool)
        keep[-1, (s + 1) // 2 :] = False
        keep[0] &= s == 1 or b > 1  # with b > 1 the first row keeps all; one sentence may keep nothing
        bias = draw(4, s, s)
        bias[1, 0] = float("-inf")
        ids = torch.randint(0, 50, (b, s), generator=torch.Generator().manual_seed(s))
        calls.append({"x": draw(b, s, 24), "ids": ids, "keep": keep, "bias": bias})
    compare(program, module, store, calls, 1e-5)
    with pytest.raises(Exception, match="token id"):
        program.run({**calls[1], "ids": torch.full((2, 7), 50)})

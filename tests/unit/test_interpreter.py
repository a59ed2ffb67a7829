"""The meaning of the float operations, against torch."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from qcc.errors import CheckpointError, ShapeError
from qcc.interpreter import Interpreter
from qcc.interpreter.elementwise import BINARY
from qcc.interpreter.table import MEANING
from qcc.ir.dialect import OPERATIONS
from qcc.ir.dims import Dim
from qcc.ir.elementwise import BinaryOp, CastOp, UnaryOp, WhereOp
from qcc.ir.gather import CumulativeSumOp, GatherOp, IndexOp, IndexUpdateOp, ReduceOp, SliceUpdateOp
from qcc.ir.kernel import KernelOp, YieldOp
from qcc.ir.nn import ConvOp, EmbeddingOp, LinearOp, MatmulOp, PoolOp, SoftmaxOp
from qcc.ir.program import (
    ConstantOp,
    DimOp,
    IotaOp,
    ProgramOp,
    ReturnOp,
    StateOp,
    UpdateStateOp,
    WeightOp,
)
from qcc.ir.shape import ConcatOp, ExpandOp, PadOp, ReshapeOp, SliceOp, TransposeOp
from qcc.ir.store import WeightStore
from qcc.ir.transformer import AttentionOp, BatchNormOp, NormOp, RopeOp
from qcc.ir.types import SymbolAttr, tensor
from qcc.numerics.functions import UNARY
from tests.modules import make, run, scalar

NAN = float("nan")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-6) -> None:
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance, equal_nan=True)


def test_every_operation_of_the_dialect_has_a_meaning() -> None:
    assert set(OPERATIONS) - set(MEANING) == {ProgramOp, ReturnOp, KernelOp, YieldOp}


@pytest.mark.parametrize("name", UNARY)
def test_unary(name: str) -> None:
    x = torch.tensor([0.5, 1.0, 2.25, 30.0, NAN]) if name in ("log", "sqrt", "rsqrt") else torch.randn(3, 1, 5) * 3
    references = {
        "not": torch.logical_not,
        "rsqrt": lambda v: 1 / v.sqrt(),
        "gelu_tanh": lambda v: 0.5 * v * (1 + torch.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))),
        "gelu": lambda v: v * 0.5 * (1 + torch.erf(v / math.sqrt(2))),
        "silu": lambda v: v / (1 + torch.exp(-v)),
        "hardswish": lambda v: v * (v + 3).clamp(0, 6) / 6,
        "hardsigmoid": lambda v: (v + 3).clamp(0, 6) / 6,
    }
    if name == "not":
        x = x > 0
    wanted = references.get(name, getattr(torch, name, None))(x)
    close(run(lambda v: UnaryOp(name, v), x), wanted, 1e-5)


@pytest.mark.parametrize("name", [one.value for one in BINARY])
def test_binary_broadcasts(name: str) -> None:
    integers = name in ("and", "or", "xor", "floordiv", "mod")
    a = torch.randint(-9, 9, (2, 1, 4)) if integers else torch.randn(2, 1, 4).abs()
    b = torch.randint(1, 5, (3, 1)) if integers else torch.randn(3, 1)
    special = {
        "and": torch.bitwise_and,
        "or": torch.bitwise_or,
        "xor": torch.bitwise_xor,
        "max": torch.maximum,
        "min": torch.minimum,
        "mod": lambda x, y: x - y * torch.floor(x / y).long(),
        "floordiv": lambda x, y: torch.floor(x / y).long(),
    }
    wanted = special.get(name, getattr(torch, name, None))(a, b)
    close(run(lambda x, y: BinaryOp(name, x, y), a, b), wanted)


def test_minimum_and_maximum_keep_nan() -> None:
    a, b = torch.tensor([NAN, 1.0]), torch.tensor([0.0, NAN])
    assert run(lambda x, y: BinaryOp("max", x, y), a, b).isnan().all()
    assert run(lambda x, y: BinaryOp("min", x, y), a, b).isnan().all()


def test_where_and_cast() -> None:
    x = torch.tensor([-1.75, 0.0, 2.5, NAN])
    close(run(lambda v: WhereOp(BinaryOp("gt", v, scalar(0, v)), v, scalar(7, v)), x), torch.tensor([7, 7, 2.5, 7.0]))
    close(run(lambda v: CastOp(v, "i32"), x[:3]), torch.tensor([-1, 0, 2], dtype=torch.int32))
    close(run(lambda v: CastOp(v, "i1"), x), torch.tensor([True, False, True, True]))
    close(run(lambda v: CastOp(v, "bf16"), x), x.bfloat16())


def test_half_precision_rounds_once() -> None:
    x, w = torch.randn(3, 64).half(), torch.randn(5, 64).half()
    close(run(lambda v, u: LinearOp(v, u), x, w), (x.float() @ w.float().T).half(), 0)
    close(run(lambda v: UnaryOp("gelu", v), x), F.gelu(x.float()).half(), 0)


def test_constant_dim_and_iota_follow_the_symbols() -> None:
    def build(x: object) -> list[object]:
        kind = tensor(["2*s + 1"], "i64")
        return [ConstantOp(3, kind), DimOp("s*s", tensor([], "i64")), IotaOp("s", 2, kind), IotaOp(0, 1, kind)]

    module = make({"x": tensor(["s"], "f32")}, build, [SymbolAttr.make("s", 1)])
    found = Interpreter(module, {}).run({"x": torch.zeros(3)})
    assert [one.tolist() for one in found.values()] == [[3] * 7, 9, [3, 5, 7, 9, 11, 13, 15], [0, 1, 2, 3, 4, 5, 6]]


def test_reshape_family() -> None:
    x = torch.randn(2, 3, 4)
    close(run(lambda v: ReshapeOp(v, [4, 6]), x), x.reshape(4, 6))
    close(run(lambda v: TransposeOp(v, [2, 0, 1]), x), x.permute(2, 0, 1))
    close(run(lambda v: ExpandOp(v, [5, 2, 3, 4]), x), x.expand(5, 2, 3, 4))
    close(run(lambda v: SliceOp(v, 2, 1, 2, 2), x), x[:, :, 1:4:2])
    close(run(lambda v: SliceOp(v, 1, 2, 0), x), x[:, 2:2])
    close(run(lambda v: ConcatOp([v, v], 1), x), torch.cat([x, x], 1))
    close(run(lambda v: PadOp(v, [0, 1, 0], [2, 0, 3], -1.0), x), F.pad(x, (0, 3, 1, 0, 0, 2), value=-1.0))


def test_a_slice_outside_its_axis_is_refused_when_it_runs() -> None:
    def build(x: object) -> SliceOp:
        return SliceOp(x, 0, 2, "s")

    module = make({"x": tensor(["s"], "f32")}, build, [SymbolAttr.make("s", 1)])
    with pytest.raises(ShapeError, match=r"elements 2\.\.4 are outside an axis of 3"):
        Interpreter(module, {}).run({"x": torch.zeros(3)})


def test_index_broadcasts_and_counts_from_the_end() -> None:
    x = torch.randn(3, 4, 5)
    i, j = torch.tensor([[0], [-1]]), torch.tensor([1, -4, 3], dtype=torch.int32)
    close(run(lambda v, a, b: IndexOp(v, [a, b], 1), x, i, j), x[:, i, j.long()])
    close(run(lambda v, a: IndexOp(v, [a]), x, i), x[i])
    with pytest.raises(ShapeError, match=r"indices 0\.\.4 are outside 4"):
        run(lambda v, a: IndexOp(v, [a], 1), x, torch.tensor([0, 4]))
    close(run(lambda v, a: GatherOp(v, a, 2), x, j.long().reshape(1, 1, 3).remainder(5)), x[:1, :1, j.long() % 5])


def test_index_update_lets_the_last_duplicate_win() -> None:
    x, source = torch.zeros(2, 4, 3), torch.arange(18.0).reshape(2, 3, 3)
    found = run(lambda v, s, i: IndexUpdateOp(v, [i], s, 1), x, source, torch.tensor([1, -1, 1]))
    wanted = x.clone()
    wanted[:, 3], wanted[:, 1] = source[:, 1], source[:, 2]
    close(found, wanted)
    spread = run(
        lambda v, s, i, j: IndexUpdateOp(v, [i, j], s), x, torch.ones(3), torch.tensor([[0], [1]]), torch.tensor([2, 0])
    )
    assert spread[:, [0, 2]].eq(1).all()
    assert spread[:, [1, 3]].eq(0).all()


def test_slice_update() -> None:
    x, source = torch.zeros(2, 5), torch.ones(2, 2)
    found = run(lambda v, s: SliceUpdateOp(v, s, 1, 1, 3), x, source)
    assert found.tolist() == [[0, 1, 0, 0, 1]] * 2
    assert x.eq(0).all()


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("axes", [[1], [0, 2], [0, 1, 2], []])
def test_reduce(axes: list[int], keep: bool) -> None:
    x = torch.randn(3, 4, 5)
    references = {"sum": torch.sum, "mean": torch.mean, "max": torch.amax, "min": torch.amin}
    for name, reference in references.items():
        wanted = reference(x, tuple(axes), keep) if axes else x
        close(run(lambda v, n=name: ReduceOp(n, v, axes, keep), x), wanted)
    truth = x > 0.5
    close(run(lambda v: ReduceOp("any", v, axes, keep), truth), torch.any(truth, tuple(axes), keep) if axes else truth)
    close(run(lambda v: ReduceOp("all", v, axes, keep), truth), torch.all(truth, tuple(axes), keep) if axes else truth)


def test_argmax_gives_the_first_maximum() -> None:
    x = torch.tensor([[1.0, 3.0, 3.0], [NAN, 5.0, NAN]])
    assert run(lambda v: ReduceOp("argmax", v, [1], False), x).tolist() == [1, 0]
    assert run(lambda v: ReduceOp("argmax", v, [0, 1], True), x[:1]).tolist() == [[1]]


def test_reducing_nothing_to_a_maximum_is_refused() -> None:
    with pytest.raises(ShapeError, match="max over no elements"):
        run(lambda v: ReduceOp("max", v, [0], False), torch.zeros(0, 3))
    assert run(lambda v: ReduceOp("sum", v, [0], False), torch.zeros(0, 3)).tolist() == [0, 0, 0]


def test_cumulative_sum() -> None:
    x = torch.randint(0, 5, (2, 6))
    close(run(lambda v: CumulativeSumOp(v, 1), x), x.cumsum(1))


@pytest.mark.parametrize("rows", [1, 7])
def test_linear_and_matmul(rows: int) -> None:
    x, w, b = torch.randn(2, rows, 9), torch.randn(5, 9), torch.randn(5)
    close(run(lambda v, weight, bias: LinearOp(v, weight, bias), x, weight=w, bias=b), F.linear(x, w, b))
    lhs, rhs = torch.randn(4, 1, rows, 3), torch.randn(2, 3, 5)
    close(run(MatmulOp, lhs, rhs), lhs @ rhs)


@pytest.mark.parametrize(("spatial", "groups"), [(1, 1), (2, 3), (3, 1)])
def test_conv(spatial: int, groups: int) -> None:
    x, w = torch.randn(2, 6, *[7] * spatial), torch.randn(6, 6 // groups, *[3] * spatial)
    settings = {"stride": [2] * spatial, "padding": [1] * spatial, "dilation": [2] * spatial}
    conv = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[spatial]
    close(
        run(lambda v, weight: ConvOp(v, weight, groups=groups, **settings), x, weight=w),
        conv(x, w, groups=groups, **settings),
        1e-5,
    )


def test_embedding_refuses_ids_outside_the_table() -> None:
    table, ids = torch.randn(5, 3), torch.tensor([[0, 4], [2, 2]])
    close(run(lambda i, table: EmbeddingOp(table, i), ids, table=table), table[ids])
    with pytest.raises(ShapeError, match=r"ids -1\.\.5 are outside a table of 5 rows"):
        run(lambda i, table: EmbeddingOp(table, i), torch.tensor([-1, 5]), table=table)


def test_softmax() -> None:
    x = torch.randn(3, 4) * 50
    close(run(lambda v: SoftmaxOp(v, 0), x), torch.softmax(x, 0))
    assert run(lambda v: SoftmaxOp(v, 0), torch.full((2,), float("-inf"))).isnan().all()


@pytest.mark.parametrize(("kind", "window", "padding"), [("max", 3, 1), ("average", 2, 1), ("average_valid", 3, 1)])
def test_pool(kind: str, window: int, padding: int) -> None:
    x = torch.randn(2, 3, 7, 5)
    found = run(lambda v: PoolOp(kind, v, window=[window] * 2, stride=[2, 2], padding=[padding] * 2), x)
    if kind == "max":
        close(found, F.max_pool2d(x, window, 2, padding))
    else:
        close(found, F.avg_pool2d(x, window, 2, padding, count_include_pad=kind == "average"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_norms_follow_their_models(dtype: torch.dtype) -> None:
    x, w, b = (torch.randn(4, 16) * 5).to(dtype), torch.randn(16).to(dtype), torch.randn(16).to(dtype)
    real = torch.float64 if dtype == torch.float64 else torch.float32
    normal = x.to(real) * torch.rsqrt(x.to(real).pow(2).mean(-1, keepdim=True) + 1e-6)
    close(run(lambda v, w: NormOp("rms", v, w, eps=1e-6), x, w=w), w * normal.to(dtype), 0)
    close(run(lambda v, w: NormOp("rms_plus1", v, w, eps=1e-6), x, w=w), (normal * (1.0 + w.to(real))).to(dtype), 0)
    wanted = F.layer_norm(x.to(real), (16,), w.to(real), b.to(real), 1e-5).to(dtype)
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-5
    close(run(lambda v, w, b: NormOp("layer", v, w, b, eps=1e-5), x, w=w, b=b), wanted, tolerance)
    wanted = F.layer_norm(x.to(real), (16,), None, b.to(real), 1e-5).to(dtype)
    close(run(lambda v, b: NormOp("layer", v, None, b, eps=1e-5), x, b=b), wanted, tolerance)


def test_batch_norm() -> None:
    x, p = torch.randn(2, 3, 4, 5), torch.rand(4, 3) + 0.5
    found = run(lambda v, m, s, w, b: BatchNormOp(v, m, s, w, b, eps=1e-3), x, m=p[0], s=p[1], w=p[2], b=p[3])
    close(found, F.batch_norm(x, *p, eps=1e-3), 1e-5)
    close(run(lambda v, m, s: BatchNormOp(v, m, s, eps=0.1), x, m=p[0], s=p[1]), F.batch_norm(x, *p[:2], eps=0.1), 1e-5)


def test_rope_pairs() -> None:
    x, angle = torch.randn(2, 3, 5, 8), torch.randn(5, 4)
    half = torch.polar(torch.ones(5, 4), angle)
    for pairing, pick in (
        ("half", lambda v: torch.cat((v, v), -1)),
        ("interleaved", lambda v: v.repeat_interleave(2, -1)),
    ):
        found = run(lambda v, c, s, p=pairing: RopeOp(p, v, c, s), x, pick(angle.cos()), pick(angle.sin()))
        pairs = torch.stack(x.chunk(2, -1), -1) if pairing == "half" else x.unflatten(-1, (4, 2))
        turned = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * half)
        wanted = torch.cat(turned.unbind(-1), -1) if pairing == "half" else turned.flatten(-2)
        close(found, wanted, 1e-5)


@pytest.mark.parametrize("heads", [6, 2, 1])
def test_attention_groups_heads(heads: int) -> None:
    q, k, v = torch.randn(2, 6, 5, 8), torch.randn(2, heads, 7, 8), torch.randn(2, heads, 7, 3)
    found = run(lambda *a: AttentionOp(*a, scale=0.3), q, k, v)
    close(found, F.scaled_dot_product_attention(q, k, v, scale=0.3, enable_gqa=True), 1e-5)


def test_attention_masks() -> None:
    q, k, v = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    keep = torch.rand(2, 1, 5, 5) > 0.4
    keep[0, 0, 2] = False
    added = torch.randn(5)
    kwargs = {"scale": 0.5, "enable_gqa": True}
    wanted = F.scaled_dot_product_attention(q, k, v, keep, **kwargs)
    found = run(lambda *a: AttentionOp(*a, scale=0.5), q, k, v, keep)
    assert found[0, :, 2].eq(0).all()
    close(found, wanted, 1e-5)
    infinite = torch.zeros(keep.shape).masked_fill(~keep, float("-inf"))
    close(run(lambda *a: AttentionOp(*a, scale=0.5), q, k, v, infinite), wanted, 1e-5)
    wanted = F.scaled_dot_product_attention(q, k, v, added.expand(5, 5), **kwargs)
    close(run(lambda *a: AttentionOp(*a, scale=0.5), q, k, v, added), wanted, 1e-5)
    wanted = F.scaled_dot_product_attention(q, k, v, is_causal=True, **kwargs)
    close(run(lambda *a: AttentionOp(*a, scale=0.5, causal=True), q, k, v), wanted, 1e-5)


def test_nan_reaches_the_output() -> None:
    x = torch.randn(2, 2, 3, 4)
    x[0, 0, 0, 0] = NAN
    found = run(lambda v: AttentionOp(v, v, v, scale=1.0), x)
    assert found[0, 0].isnan().all()
    assert not found[1].isnan().any()
    normed = run(lambda v: NormOp("layer", v, eps=1e-5), x)
    assert normed[0, 0, 0].isnan().all()
    assert not normed[0, 0, 1].isnan().any()


def state_module() -> object:
    def build(x: object) -> BinaryOp:
        held = StateOp("total", tensor([2], "f32"))
        grown = BinaryOp("add", held, x)
        UpdateStateOp("total", grown)
        return BinaryOp("mul", held, scalar(1, held))

    return make({"x": tensor([2], "f32")}, build)


@pytest.mark.parametrize("dtype", [None, "f64"])
def test_state_is_kept_between_calls(dtype: str | None) -> None:
    interpreter = Interpreter(state_module(), WeightStore({"total": torch.ones(2)}), dtype)
    x = torch.tensor([1.0, 2.0])
    assert [interpreter.run({"x": x})["y"].tolist() for _ in range(3)] == [[1, 1], [2, 3], [3, 5]]
    assert interpreter.state["total"].tolist() == [4, 7]
    interpreter.reset()
    assert interpreter.run({"x": x})["y"].tolist() == [1, 1]


def test_float64_mode_is_float64_throughout() -> None:
    x, w = torch.randn(3, 8), torch.randn(4, 8)

    def build(v: object, w: object) -> CastOp:
        return CastOp(CastOp(NormOp("rms", LinearOp(v, w), eps=1e-6), "f16"), "f32")

    wanted = x.double() @ w.double().T
    wanted = wanted / (wanted.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    close(run(build, x, dtype="f64", w=w), wanted, 1e-12)


def test_observers_see_every_operation() -> None:
    seen: list[tuple[str, int]] = []
    module = make({"x": tensor([2], "f32")}, lambda x: UnaryOp("neg", UnaryOp("exp", x)))
    Interpreter(module, {}).run_with({"x": torch.zeros(2)}, lambda op, results: seen.append((op.name, len(results))))
    assert seen == [("qcc.unary", 1), ("qcc.unary", 1)]


def test_inputs_are_checked_all_at_once() -> None:
    module = make({"x": tensor(["s", 2], "f32"), "i": tensor([], "i64")}, lambda x, i: x, [SymbolAttr.make("s", 1, 4)])
    interpreter = Interpreter(module, {})
    good = {"x": torch.zeros(3, 2), "i": torch.tensor(0)}
    assert interpreter.run(good)["y"].shape == (3, 2)
    with pytest.raises(ShapeError) as error:
        interpreter.run({"x": torch.zeros(3, 2).half(), "i": torch.tensor(0.0), "z": torch.zeros(1)})
    assert len(error.value.problems) == 3
    assert "has dtype torch.float16, expected torch.float32" in str(error.value)
    with pytest.raises(ShapeError, match="is 5, the model was exported for between 1 and 4"):
        interpreter.run({**good, "x": torch.zeros(5, 2)})
    with pytest.raises(ShapeError, match="input 'i': is missing"):
        interpreter.run({"x": torch.zeros(3, 2)})


def test_weights_are_checked_all_at_once() -> None:
    def build() -> list[WeightOp]:
        return [WeightOp("a", tensor([2], "f32")), WeightOp("b", tensor([3], "f32")), WeightOp("c", tensor([1], "i64"))]

    with pytest.raises(CheckpointError) as error:
        Interpreter(make({}, build), {"a": torch.zeros(3), "c": torch.zeros(1)})
    assert len(error.value.problems) == 3


def test_symbolic_shapes_flow() -> None:
    def build(x: object) -> ReshapeOp:
        return ReshapeOp(x, [Dim.of("s*t"), 3])

    symbols = [SymbolAttr.make("s", 1), SymbolAttr.make("t", 1)]
    module = make({"x": tensor(["s", "t", 3], "f32")}, build, symbols)
    assert Interpreter(module, {}).run({"x": torch.zeros(1, 5, 3)})["y"].shape == (5, 3)

"""Every pass leaves the function of a module as it was: interpreted in float64 before and after."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass

from qcc.interpreter import Interpreter
from qcc.ir.context import QccContext
from qcc.ir.elementwise import BinaryOp, CastOp, UnaryOp, WhereOp
from qcc.ir.gather import ReduceOp
from qcc.ir.nn import MatmulOp, SoftmaxOp
from qcc.ir.program import WeightOp
from qcc.ir.shape import ConcatOp, ExpandOp, ReshapeOp, SliceOp, TransposeOp
from qcc.ir.store import WeightStore
from qcc.ir.types import type_of
from qcc.passes.canonicalize import Canonicalize
from qcc.passes.fold_constants import FoldConstants
from qcc.passes.raise_activation import RaiseActivation
from qcc.passes.raise_attention import RaiseAttention
from qcc.passes.raise_linear import RaiseLinear
from qcc.passes.raise_norm import RaiseNorm
from qcc.passes.raise_rope import RaiseRope
from tests.modules import Made, kind_of, make, scalar

SIZE = st.integers(1, 5)
FEW = settings(max_examples=50, deadline=None)


def check(
    build: Callable[..., Made],
    inputs: Sequence[torch.Tensor],
    stored: dict[str, torch.Tensor],
    passes: Sequence[ModulePass],
) -> Counter[str]:
    """Apply passes, compare before with after, and count the operations that are left."""

    def with_weights(*arguments: SSAValue) -> Made:
        return build(*arguments, **{name: WeightOp(name, kind_of(value)) for name, value in stored.items()})

    module = make({f"x{i}": kind_of(value) for i, value in enumerate(inputs)}, with_weights)
    named = {f"x{i}": value for i, value in enumerate(inputs)}
    store = WeightStore(stored)
    before = Interpreter(module, store, "f64").run(named)["y"]
    apply(module, store, passes)
    after = Interpreter(module, store, "f64").run(named)["y"]
    torch.testing.assert_close(after, before, rtol=1e-10, atol=1e-10, equal_nan=True)
    return Counter(op.name.removeprefix("qcc.") for op in module.walk())


def apply(module: ModuleOp, store: WeightStore, passes: Sequence[ModulePass]) -> None:
    context = QccContext(store)
    for one in passes:
        one.apply(context, module)
        module.verify()


def floats(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(shape) * scale


@FEW
@given(st.lists(SIZE, min_size=1, max_size=3), SIZE, SIZE, st.booleans(), st.sampled_from([0, 1, 2, 3]))
def test_linear(lead: list[int], k: int, n: int, stored_kn: bool, form: int) -> None:
    x, weight, bias = floats(*lead, k), floats(k, n) if stored_kn else floats(n, k), floats(n)

    def build(v: SSAValue, w: Made, b: Made) -> Made:
        flat = ReshapeOp(v, [math.prod(lead), k])
        product: Made = MatmulOp(flat, w if stored_kn else TransposeOp(w, [1, 0]))
        if form == 1:
            product = BinaryOp("add", b, product)
        product = ReshapeOp(product, [*lead, n])
        if form == 2:
            product = BinaryOp("add", product, b)
        if form == 3:
            product = BinaryOp("add", product, ExpandOp(b, [*lead, n]))
        return product

    left = check(build, [x], {"w": weight, "b": bias}, [RaiseLinear(), FoldConstants(), Canonicalize()])
    assert left["linear"] == 1
    assert left["matmul"] == left["reshape"] == left["transpose"] == left["binary"] == 0


def rms(v: Made, eps: float, form: int) -> Made:
    square = BinaryOp("mul", v, v) if form % 2 else BinaryOp("pow", v, scalar(2.0, v))
    kind = type_of(SSAValue.get(v))
    mean: Made = ReduceOp("mean", square, [kind.rank - 1], True)
    if form == 2:
        total = ReduceOp("sum", square, [kind.rank - 1], True)
        mean = BinaryOp("div", total, scalar(kind.shape[-1].constant or 1, v))
    shifted = BinaryOp("add", mean, scalar(eps, v))
    if form == 3:
        return BinaryOp("div", v, UnaryOp("sqrt", shifted))
    return BinaryOp("mul", UnaryOp("rsqrt", shifted), v)


@FEW
@given(
    st.lists(SIZE, min_size=1, max_size=3),
    st.integers(1, 9),
    st.integers(0, 3),
    st.sampled_from(["rms", "1+", "layer"]),
)
def test_norm(lead: list[int], k: int, form: int, kind: str) -> None:
    x = floats(*lead, k, scale=100.0)

    def build(v: SSAValue, w: Made, b: Made) -> Made:
        if kind == "layer":
            centred = BinaryOp("sub", v, ReduceOp("mean", v, [len(lead)], True))
            return BinaryOp("add", BinaryOp("mul", rms(centred, 1e-5, form), w), b)
        weight = BinaryOp("add", w, scalar(1.0, w)) if kind == "1+" else w
        return BinaryOp("mul", weight, rms(v, 1e-6, form))

    left = check(build, [x], {"w": floats(k), "b": floats(k)}, [RaiseNorm()])
    assert left["norm"] == 1
    assert left["binary"] == left["reduce"] == 0


def test_norms_in_half_precision_raise_bit_for_bit() -> None:
    def llama(v: SSAValue, w: SSAValue) -> Made:
        return BinaryOp("mul", w, CastOp(rms(CastOp(v, "f32"), 1e-6, 0), "bf16"))

    def gemma(v: SSAValue, w: SSAValue) -> Made:
        wide = CastOp(w, "f32")
        grown = BinaryOp("add", scalar(1.0, wide), wide)
        return CastOp(BinaryOp("mul", rms(CastOp(v, "f32"), 1e-6, 1), grown), "bf16")

    def late(v: SSAValue, w: SSAValue) -> Made:
        return CastOp(BinaryOp("mul", rms(CastOp(v, "f32"), 1e-6, 1), CastOp(w, "f32")), "bf16")

    torch.manual_seed(0)
    inputs = {"v": (torch.randn(64, 48) * 7).bfloat16(), "w": torch.randn(48).bfloat16()}
    for build, casts in ((llama, 0), (gemma, 0), (late, 3)):
        module = make({name: kind_of(value) for name, value in inputs.items()}, build)
        before = Interpreter(module, WeightStore()).run(inputs)["y"]
        apply(module, WeightStore(), [RaiseNorm(), Canonicalize()])
        names = Counter(op.name for op in module.walk())
        assert names["qcc.norm"] == 1
        assert names["qcc.cast"] == casts
        assert torch.equal(Interpreter(module, WeightStore()).run(inputs)["y"], before)


def activation(name: str, v: SSAValue, flipped: bool) -> Made:
    def mul(a: Made, b: Made) -> Made:
        return BinaryOp("mul", b, a) if flipped else BinaryOp("mul", a, b)

    def add(a: Made, b: Made) -> Made:
        return BinaryOp("add", b, a) if flipped else BinaryOp("add", a, b)

    def number(value: float) -> Made:
        return scalar(value, v)

    def logistic() -> Made:
        return add(number(1), UnaryOp("exp", UnaryOp("neg", v)))

    def clamped() -> Made:
        return BinaryOp("min", BinaryOp("max", add(v, number(3)), number(0)), number(6))

    def erf(scaled: Made) -> Made:
        return add(UnaryOp("erf", scaled), number(1))

    def tanh(argument: Made) -> Made:
        return add(number(1), UnaryOp("tanh", argument))

    root = math.sqrt(2 / math.pi)
    makers: dict[str, Callable[[], Made]] = {
        "silu": lambda: mul(v, UnaryOp("sigmoid", v)),
        "silu_by_exp": lambda: BinaryOp("div", v, logistic()),
        "sigmoid": lambda: BinaryOp("div", number(1), logistic()),
        "gelu": lambda: mul(mul(v, number(0.5)), erf(mul(v, number(math.sqrt(0.5))))),
        "gelu_by_division": lambda: BinaryOp("div", mul(erf(BinaryOp("div", v, number(math.sqrt(2)))), v), number(2)),
        "gelu_tanh": lambda: mul(
            mul(number(0.5), v), tanh(mul(number(root), add(v, mul(number(0.044715), mul(mul(v, v), v)))))
        ),
        "gelu_tanh_factored": lambda: mul(
            mul(v, number(0.5)),
            tanh(mul(mul(v, number(root)), add(number(1), mul(BinaryOp("pow", v, number(2)), number(0.044715))))),
        ),
        "hardsigmoid": lambda: BinaryOp("div", clamped(), number(6)),
        "hardswish": lambda: mul(v, BinaryOp("div", clamped(), number(6))),
        "hardswish_after": lambda: BinaryOp("div", mul(clamped(), v), number(6)),
    }
    return makers[name]()


ACTIVATIONS = (
    "silu silu_by_exp sigmoid gelu gelu_by_division gelu_tanh gelu_tanh_factored hardsigmoid hardswish hardswish_after"
)


@FEW
@given(st.lists(SIZE, max_size=3), st.sampled_from(ACTIVATIONS.split()), st.booleans(), st.booleans())
def test_activation(shape: list[int], name: str, flipped: bool, of_a_product: bool) -> None:
    def build(v: SSAValue) -> Made:
        value = BinaryOp("mul", v, UnaryOp("cos", v)).result if of_a_product else v
        return activation(name, value, flipped)

    left = check(build, [floats(*shape, scale=4.0)], {}, [RaiseActivation(), Canonicalize()])
    if not (of_a_product and name == "gelu_tanh_factored"):  # which of the factors is x cannot be told there
        assert left["unary"] == 1 + of_a_product
        assert left["binary"] == of_a_product


@FEW
@given(SIZE, SIZE, SIZE, st.sampled_from(["half", "interleaved"]), st.booleans(), st.booleans())
def test_rope(batch: int, seq: int, half: int, pairing: str, by_pieces: bool, by_pairs: bool) -> None:
    x = floats(batch, 2, seq, 2 * half)
    angle = floats(seq, half if by_pieces else 2 * half)

    def pieces(v: SSAValue) -> tuple[Made, Made]:
        if pairing == "half":
            return SliceOp(v, 3, 0, half), SliceOp(v, 3, half, half)
        if by_pairs:
            pairs = ReshapeOp(v, [batch, 2, seq, half, 2])
            first, second = (ReshapeOp(SliceOp(pairs, 4, i, 1), [batch, 2, seq, half]) for i in (0, 1))
            return first, second
        return SliceOp(v, 3, 0, half, 2), SliceOp(v, 3, 1, half, 2)

    def joined(a: Made, b: Made) -> Made:
        if pairing == "half":
            return ConcatOp([a, b], 3)
        columns = [ReshapeOp(one, [batch, 2, seq, half, 1]) for one in (a, b)]
        return ReshapeOp(ConcatOp(columns, 4), [batch, 2, seq, 2 * half])

    def build(v: SSAValue, cos: SSAValue, sin: SSAValue) -> Made:
        a, b = pieces(v)
        if not by_pieces:
            turned = joined(UnaryOp("neg", b), a)
            return BinaryOp("add", BinaryOp("mul", v, cos), BinaryOp("mul", turned, sin))
        first = BinaryOp("sub", BinaryOp("mul", a, cos), BinaryOp("mul", b, sin))
        second = BinaryOp("add", BinaryOp("mul", sin, a), BinaryOp("mul", b, cos))
        return joined(first, second)

    left = check(build, [x, angle.cos(), angle.sin()], {}, [RaiseRope(), Canonicalize()])
    assert left["rope"] == 1
    assert left["binary"] == left["slice"] == 0


def repeated(v: Made, groups: int) -> Made:
    b, h, t, d = type_of(SSAValue.get(v)).shape
    return ReshapeOp(ExpandOp(ReshapeOp(v, [b, h, 1, t, d]), [b, h, groups, t, d]), [b, h * groups, t, d])


def safe_softmax(scores: Made) -> Made:
    infinite = BinaryOp("eq", scores, scalar(-math.inf, scores))
    alive = ReduceOp("any", UnaryOp("not", infinite), [3], True)
    return WhereOp(UnaryOp("not", alive), scalar(0.0, scores), SoftmaxOp(scores, 3))


def masked(scores: Made, masking: str, keep: Made, added: Made) -> Made:
    match masking:
        case "bool" | "finite":
            least = -math.inf if masking == "bool" else -1e30
            return BinaryOp("add", scores, WhereOp(keep, scalar(0.0, scores), scalar(least, scores)))
        case "where":
            return WhereOp(keep, scores, scalar(-math.inf, scores))
        case "float":
            return BinaryOp("add", added, scores)
        case _:
            return scores


@FEW
@given(
    st.tuples(SIZE, st.integers(1, 2), st.integers(1, 3), SIZE, SIZE, SIZE),
    st.sampled_from(["none", "bool", "where", "float", "finite"]),
    st.sampled_from(["both", "query", "product", "none"]),
    st.booleans(),
)
def test_attention(sizes: tuple[int, ...], masking: str, scaling: str, flat: bool) -> None:
    batch, heads, groups, s, t, d = sizes
    q, k, v = floats(batch, heads * groups, s, d), floats(batch, heads, t, d), floats(batch, heads, t, d)
    keep, added = torch.rand(batch, 1, s, t) > 0.5, floats(s, t)

    def build(q: SSAValue, k: SSAValue, v: SSAValue, keep: SSAValue, added: SSAValue) -> Made:
        key, value = TransposeOp(repeated(k, groups), [0, 1, 3, 2]), repeated(v, groups)
        left: Made = BinaryOp("mul", q, scalar(0.7, q)) if scaling in ("both", "query") else q
        right: Made = BinaryOp("mul", key, scalar(0.6, key)) if scaling == "both" else key
        if flat:
            rows = batch * heads * groups
            product: Made = MatmulOp(ReshapeOp(left, [rows, s, d]), ReshapeOp(right, [rows, d, t]))
            product = ReshapeOp(product, [batch, heads * groups, s, t])
        else:
            product = MatmulOp(left, right)
        scores: Made = BinaryOp("div", product, scalar(2.5, product)) if scaling == "product" else product
        scores = masked(scores, masking, keep, added)
        weights = SoftmaxOp(scores, 3) if masking in ("none", "finite") else safe_softmax(scores)
        return MatmulOp(weights, value)

    left = check(build, [q, k, v, keep, added], {}, [Canonicalize(), RaiseAttention(), Canonicalize()])
    assert left["attention"] == 1
    assert left["softmax"] == left["matmul"] == left["expand"] == left["reduce"] == 0
    assert left["where"] == (masking == "finite")


def test_plain_softmax_under_an_unknown_mask_stays() -> None:
    def build(q: SSAValue, mask: SSAValue) -> Made:
        product = MatmulOp(q, TransposeOp(q, [0, 1, 3, 2]))
        return MatmulOp(SoftmaxOp(BinaryOp("add", product, mask), 3), q)

    mask = torch.zeros(3, 3)
    mask[1] = -math.inf
    left = check(build, [floats(1, 2, 3, 4), mask], {}, [RaiseAttention()])
    assert left["attention"] == 0


def step(value: Made, move: str, data: st.DataObject) -> Made:
    now = [dim.constant or 0 for dim in type_of(SSAValue.get(value)).shape]
    match move:
        case "reshape":
            return ReshapeOp(value, data.draw(st.sampled_from([[math.prod(now)], now, [*now, 1], [1, *now]])))
        case "transpose":
            return TransposeOp(value, data.draw(st.permutations(range(len(now)))))
        case "expand":
            return ExpandOp(value, data.draw(st.sampled_from([now, [2, *now]])))
        case "slice":
            size = data.draw(st.integers(1, now[0]))
            return SliceOp(value, 0, data.draw(st.integers(0, now[0] - size)), size)
        case "mul":
            return BinaryOp("mul", value, ExpandOp(scalar(data.draw(st.sampled_from([1.0, 2.0])), value), now))
        case _:
            return BinaryOp("add", BinaryOp("add", value, scalar(0.0, value)), BinaryOp("sub", value, scalar(0, value)))


@FEW
@given(
    st.lists(SIZE, min_size=2, max_size=3),
    st.lists(st.sampled_from(["reshape", "transpose", "expand", "slice", "mul", "add"]), max_size=6),
    st.data(),
)
def test_canonicalize(shape: list[int], moves: list[str], data: st.DataObject) -> None:
    def build(v: SSAValue) -> Made:
        value: Made = v
        for move in moves:
            value = step(value, move, data)
        return value

    left = check(build, [floats(*shape)], {}, [Canonicalize()])
    assert left["binary"] <= moves.count("add") + moves.count("mul")
    assert left["transpose"] <= moves.count("transpose")


@FEW
@given(SIZE, SIZE, st.booleans(), st.booleans())
def test_fold_constants(n: int, k: int, shared: bool, arithmetic: bool) -> None:
    stored = {"w": floats(n, k).double(), "v": floats(n, k).double()}

    def build(x: SSAValue, w: Made, v: Made) -> Made:
        joined = ConcatOp([TransposeOp(w, [1, 0]), TransposeOp(v, [1, 0])], 1)
        halved = BinaryOp("mul", joined, scalar(0.5, joined))
        part = SliceOp(ReshapeOp(halved, [k * 2 * n]), 0, 1, k * 2 * n - 1)
        total = BinaryOp("add", x, ReduceOp("sum", part, [0], False))
        return BinaryOp("add", total, ReduceOp("sum", w, [0, 1], False)) if shared else total

    def with_weights(x: SSAValue) -> Made:
        return build(x, *(WeightOp(name, kind_of(value)) for name, value in stored.items()))

    x, store = torch.randn(3, dtype=torch.float64), WeightStore(stored)
    module = make({"x": kind_of(x)}, with_weights)
    wanted = Interpreter(module, store).run({"x": x})["y"]
    apply(module, store, [FoldConstants(arithmetic)])
    torch.testing.assert_close(Interpreter(module, store).run({"x": x})["y"], wanted, rtol=1e-12, atol=1e-12)
    assert {op.key.data for op in module.walk() if isinstance(op, WeightOp)} == set(store)
    assert sum(store.tensor(key).numel() for key in store) <= sum(one.numel() for one in stored.values())
    names = Counter(op.name for op in module.walk())
    assert names["qcc.transpose"] == shared
    assert (names["qcc.slice"] == 0) == (arithmetic and not shared)

"""Folds that must not happen: refused by name, line and way out; and what forcing each of them does to the output.

Rows stand in the order of the pipeline; what must not happen to facts that are settled is in `test_illegal_orders`, and
to scales and sums in `test_illegal_sums`. Where a fold is legal in one form only, `CARELESS` has what another form
breaks beside the pass that takes the right one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import pytest
import torch
from torch import Tensor
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass

from qcc.calibrate.run import SampleRun
from qcc.errors import IllegalFold
from qcc.ir.context import QccContext
from qcc.ir.elementwise import BinaryOp, UnaryOp
from qcc.ir.gather import ReduceOp
from qcc.ir.nn import LinearOp
from qcc.ir.transformer import AttentionOp, BatchNormOp, NormOp, RopeOp
from qcc.numerics.hadamard import hadamard
from qcc.passes.expand_k import ExpandK
from qcc.passes.fold_batch_norm import FoldBatchNorm
from qcc.passes.fold_norm import FoldNorm
from qcc.passes.legality import Kind, prove, space_on
from qcc.passes.permute import Permute
from qcc.passes.pipeline import run_passes
from qcc.passes.rotate_activations import RotateActivations
from qcc.passes.rotate_streams import RotateStreams
from qcc.passes.smooth import Smooth
from qcc.passes.smooth_attention import SmoothAttention
from tests import blocks
from tests.folding import outputs, relative
from tests.hand_made import Model, Row, built, by, forced, located, randn, refusal
from tests.modules import Made

T = TypeVar("T")
R = hadamard(8) / math.sqrt(8)
SCALES = 4 ** randn(8, seed=5)


def after(first: ModulePass, one: ModulePass) -> Callable[[Model], str]:
    """Attempt a fold by its pass when another has run."""

    def attempt(model: Model) -> str:
        module, store, inputs = model
        run_passes([first], QccContext(store, SampleRun([inputs])), module)
        return refusal(model, one)

    return attempt


def at(kind: Kind, pick: Callable[[ModuleOp], SSAValue], *axes: int) -> Callable[[Model], str]:
    """Attempt a transform of the channels of one value."""

    def attempt(model: Model) -> str:
        with pytest.raises(IllegalFold) as caught:
            prove(kind, space_on(pick(model[0]), axes or [-1]), "the transform")
        return str(caught.value)

    return attempt


def first(kind: type[T]) -> Callable[[ModuleOp], T]:
    return lambda module: next(op for op in module.walk() if isinstance(op, kind))


def of_blocks(**kind: object) -> Callable[[], Model]:
    return lambda: blocks.block(blocks.Kind(**kind))  # type: ignore[arg-type]


def batch_norm_behind_an_activation() -> Model:
    def build(x: SSAValue, w: SSAValue, m: SSAValue, v: SSAValue, g: SSAValue, h: SSAValue) -> Made:
        active = located(UnaryOp("silu", LinearOp(x, w)), "act (net.py:2)")
        return located(BatchNormOp(active, m, v, g, h, eps=0.0), "bn (net.py:3)")

    names = ("m", "g", "h")
    vectors = {name: 1 + 0.5 * randn(8, seed=index) for index, name in enumerate(names)}
    return built(
        {"w": randn(8, 8, seed=6), "m": vectors["m"], "v": 1 + randn(8).abs(), "g": vectors["g"], "h": vectors["h"]},
        build,
        x=randn(5, 8, seed=7),
    )


def fold_batch_norm(w: dict[str, Tensor]) -> dict[str, Tensor]:
    factor = w["g"] / w["v"].sqrt()
    one = torch.ones_like(factor)
    return {"w": w["w"] * factor[:, None], "m": w["m"] * factor, "v": one, "g": one}


def mean_that_a_layer_reads() -> Model:
    def build(x: SSAValue, a: SSAValue, b: SSAValue) -> Made:
        total = LinearOp(x, a)
        outer = located(LinearOp(total, b), "reader (net.py:2)")
        return BinaryOp("add", LinearOp(NormOp("layer", total, eps=1e-6), b), outer)

    return built({"a": randn(8, 8) + 0.5, "b": randn(8, 8, seed=1)}, build, x=randn(5, 8, seed=3))


def norm_that_a_sum_reads() -> Model:
    def build(x: SSAValue, a: SSAValue, g: SSAValue, b: SSAValue) -> Made:
        normed = located(NormOp("rms", LinearOp(x, a), g, eps=1e-6), "norm (net.py:1)")
        total = located(BinaryOp("add", normed, LinearOp(normed, b)), "sum (net.py:2)")
        return LinearOp(located(NormOp("rms", total, eps=1e-6), "next (net.py:5)"), b)

    stored = {"a": randn(8, 8), "g": 1 + 0.3 * randn(8), "b": randn(8, 8, seed=1)}
    return built(stored, build, x=randn(5, 8, seed=2))


def stream(
    norm: Callable[[SSAValue, SSAValue | None], Made], *, weight: bool = False, leaks: bool = False
) -> Callable[[], Model]:
    """A stream that a layer writes, a block adds to, and `norm` reads in front of a head."""

    def build(x: SSAValue, a: SSAValue, b: SSAValue, c: SSAValue, d: SSAValue, g: SSAValue) -> list[Made]:
        written = located(LinearOp(x, a), "first (net.py:1)")
        inner = UnaryOp("silu", LinearOp(NormOp("rms", written, eps=1e-6), b))
        total = located(BinaryOp("add", written, LinearOp(inner, c)), "residual (net.py:3)")
        head = LinearOp(norm(total.results[0], g if weight else None), d)
        return [head, total] if leaks else [head]

    names = ("a", "b", "c", "d")
    stored = {name: randn(8, 8, seed=index) for index, name in enumerate(names)}
    return lambda: built({**stored, "g": 1 + 0.3 * randn(8, seed=9)}, build, x=randn(5, 8, seed=8))


def rms(value: SSAValue, weight: SSAValue | None) -> Made:
    return located(NormOp("rms", value, weight, eps=1e-6), "norm (net.py:4)")


def mean_magnitude(value: SSAValue, weight: SSAValue | None) -> Made:
    """A norm that nobody knows: x / mean |x|, beside one that is known."""
    size = located(UnaryOp("abs", value), "odd (net.py:6)")
    mean = ReduceOp("mean", size, [1], True)
    return BinaryOp("div", BinaryOp("add", value, NormOp("rms", value, eps=1e-6)), mean)


def rotate_stream(w: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"a": R.T @ w["a"], "b": w["b"] @ R, "c": R.T @ w["c"], "d": w["d"] @ R}


def gated() -> Model:
    def build(x: SSAValue, a: SSAValue, u: SSAValue, d: SSAValue) -> Made:
        gate = located(UnaryOp("silu", LinearOp(x, a)), "gate (net.py:1)")
        return LinearOp(BinaryOp("mul", gate, LinearOp(x, u)), d)

    stored = {"a": randn(8, 8), "u": randn(8, 8, seed=1), "d": randn(3, 8, seed=2)}
    return built(stored, build, x=randn(5, 8, seed=3))


def product_that_is_read_twice() -> Model:
    def build(x: SSAValue, a: SSAValue, d: SSAValue) -> Made:
        active = UnaryOp("silu", LinearOp(x, a))
        head = located(LinearOp(active, d), "head (net.py:3)")
        return BinaryOp("add", head, located(UnaryOp("tanh", active), "tanh (net.py:2)"))

    return built({"a": randn(8, 8), "d": randn(8, 8, seed=2)}, build, x=randn(5, 8, seed=3))


def squared() -> Model:
    def build(x: SSAValue, a: SSAValue, d: SSAValue) -> Made:
        made = LinearOp(x, a)
        return LinearOp(located(BinaryOp("mul", made, made), "square (net.py:2)"), d)

    return built({"a": randn(8, 8), "d": randn(3, 8, seed=1)}, build, x=randn(5, 8, seed=2))


def turned(size: int, seed: int) -> Tensor:
    """Return a random rotation f64[size, size]."""
    return torch.linalg.qr(randn(size, size, seed=seed))[0]


def rotate_heads_apart(w: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the query heads of one value head rotations of their own: the values can follow only one of them."""
    one, other = turned(4, 1), turned(4, 2)
    wide = torch.block_diag(one, other)
    return {"v.weight": one.T @ w["v.weight"], "o.weight": w["o.weight"] @ wide}


def scale_heads_apart(w: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"v.weight": w["v.weight"] / SCALES[:4, None], "o.weight": w["o.weight"] * SCALES}


def rotate_before_the_angles(w: dict[str, Tensor]) -> dict[str, Tensor]:
    turn = hadamard(4) / 2
    return {name: turn.T @ w[name] for name in ("q.weight", "k.weight")}


def sort_the_stream(w: dict[str, Tensor]) -> dict[str, Tensor]:
    order = torch.arange(12).flip(0)
    rows = {name: w[name][order] for name in ("o.weight", "down.weight", "o.bias", "down.bias")}
    columns = {name: w[name][:, order] for name in ("q.weight", "k.weight", "v.weight", "gate.weight", "up.weight")}
    norms = {name: w[name][order] for name in ("norm1.weight", "norm2.weight", "norm3.weight")}
    return {**rows, **columns, **norms, "embed.weight": w["embed.weight"][:, order]}


ROWS = [
    Row(
        "a batch norm folded across an activation", batch_norm_behind_an_activation, by(FoldBatchNorm()),
        ("bn (net.py:3): qcc.batch_norm", "put it behind a layer"), fold_batch_norm, 0.05,
    ),
    Row(
        "a mean baked into a producer that a layer reads", mean_that_a_layer_reads,
        at(Kind.CENTRING, lambda module: first(NormOp)(module).input),
        ("reader (net.py:2): qcc.linear", "reads the mean"), lambda w: {"a": w["a"] - w["a"].mean(0)}, 0.1,
    ),
    Row(
        "the weight of a norm folded though a sum reads the norm", norm_that_a_sum_reads, by(FoldNorm()),
        ("next (net.py:5)", "qcc.norm is in the way"),
        lambda w: {"g": torch.ones(8).double(), "b": w["b"] * w["g"]}, 0.1,
    ),
    Row(
        "a stream rotated across a norm with a weight", stream(rms, weight=True), by(RotateStreams()),
        ("norm (net.py:4)", "scales each channel by its weight", "transform fold_norm"), rotate_stream, 0.08,
    ),
    Row(
        "a stream rotated across a norm that is not known", stream(mean_magnitude), by(RotateStreams()),
        ("odd (net.py:6)", "abs"), rotate_stream, 0.01,
    ),
    Row(
        "a stream rotated that the program returns", stream(rms, leaks=True), by(RotateStreams()),
        ("output 'y1'",), rotate_stream, 0.1,
    ),
    Row(
        "a diagonal before the rotation", stream(rms, weight=True), after(Smooth(), RotateStreams()),
        ("norm (net.py:4)", "scales each channel by its weight"), rotate_stream, 0.08,
    ),
    Row(
        "query heads of one value head rotated apart", of_blocks(kv=1, groups=2, bias=False),
        at(Kind.ROTATION, lambda module: first(AttentionOp)(module).result, 1, 3),
        ("query heads share each key and value head",), rotate_heads_apart, 0.01,
    ),
    Row(
        "queries and keys rotated before the rotary embedding", of_blocks(kv=1, groups=1, bias=False),
        at(Kind.ROTATION, lambda module: first(RopeOp)(module).input, 1, 3),
        ("rotate after the rotary embedding",), rotate_before_the_angles, 0.06,
    ),
    Row(
        "an input rotated that is read unrotated elsewhere", product_that_is_read_twice, by(RotateActivations()),
        ("tanh (net.py:2)",), lambda w: {"d": w["d"] @ R}, 0.1,
    ),
    Row(
        "a stream sorted that the program returns", of_blocks(leak="stream", bias=True), by(Permute("weights")),
        ("output 'y1'",), sort_the_stream, 0.1,
    ),
    Row(
        "a norm scaled that feeds a residual too", norm_that_a_sum_reads, by(Smooth()),
        ("next (net.py:5)", "divides by a sum over all channels"),
        lambda w: {"g": w["g"] / SCALES, "b": w["b"] * SCALES}, 0.02,
    ),
    Row(
        "a scale through the gate of an activation", gated,
        at(Kind.DIAGONAL, lambda module: first(UnaryOp)(module).input),
        ("gate (net.py:1)", "silu is not linear"),
        lambda w: {"a": w["a"] / SCALES[:, None], "d": w["d"] * SCALES}, 0.04,
    ),
    Row(
        "a scale that both factors of a product carry", squared,
        at(Kind.DIAGONAL, lambda module: first(LinearOp)(module).result),
        ("square (net.py:2)", "both factors carry"),
        lambda w: {"a": w["a"] / SCALES[:, None], "d": w["d"] * SCALES}, 0.1,
    ),
    Row(
        "query heads of one value head scaled apart", of_blocks(kv=1, groups=2, bias=False),
        at(Kind.DIAGONAL, lambda module: first(AttentionOp)(module).result, 1, 3),
        ("query heads share each key and value head",), scale_heads_apart, 0.01,
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.fold.replace(" ", "-"))
def test_it_is_refused_and_would_have_broken_the_output(row: Row) -> None:
    row.check()


@dataclass(frozen=True)
class Form:
    """A fold whose careless form breaks the output, and the pass that has the right one."""

    fold: str
    model: Callable[[], Model]
    force: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    breaks: float
    right: ModulePass


def one_plus_the_weight() -> Model:
    def build(x: SSAValue, g: SSAValue, a: SSAValue) -> Made:
        return LinearOp(NormOp("rms_plus1", x, g, eps=1e-6), a)

    return built({"g": 0.3 * randn(8), "a": randn(4, 8, seed=1)}, build, x=randn(5, 8, seed=2))


def split_undivided(w: dict[str, Tensor]) -> dict[str, Tensor]:
    """Count every channel of the largest column twice, as copies whose columns are not divided do."""
    wide = w["a"].clone()
    wide[:, int(wide.abs().amax(0).argmax())] *= 2
    return {"a": wide}


def untied_pairs(w: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "q.weight": w["q.weight"] * SCALES[:4].repeat(4)[:, None], "q.bias": w["q.bias"] * SCALES[:4].repeat(4),
        "k.weight": w["k.weight"] / SCALES[:4].repeat(2)[:, None], "k.bias": w["k.bias"] / SCALES[:4].repeat(2),
    }  # fmt: skip


def sorted_without_the_table(w: dict[str, Tensor]) -> dict[str, Tensor]:
    order = torch.tensor([1, 0, 3, 2])
    return {name: w[name][order] * 4 for name in ("q.weight", "k.weight")}


CARELESS = [
    Form(
        "the weight of 1 + w folded as if it were w", one_plus_the_weight,
        lambda w: {"a": w["a"] * w["g"], "g": torch.zeros(8).double()}, 0.5, FoldNorm(),
    ),
    Form(
        "channels sorted across the rotary embedding without its table", of_blocks(kv=1, groups=1, bias=False),
        sorted_without_the_table, 0.1, Permute("weights"),
    ),
    Form(
        "keys scaled without tying the pairs of the rotary embedding", of_blocks(), untied_pairs, 0.03,
        SmoothAttention(0.8),
    ),
    Form(
        "copies of a channel whose columns are not divided", one_plus_the_weight, split_undivided, 0.1, ExpandK(0.2, 1)
    ),
]  # fmt: skip


@pytest.mark.parametrize("form", CARELESS, ids=lambda form: form.fold.replace(" ", "-"))
def test_the_careless_form_breaks_the_output_and_the_pass_does_not(form: Form) -> None:
    module, store, inputs = form.model()
    assert forced((module, store, inputs), **form.force({key: store.tensor(key) for key in store})) > form.breaks
    before = outputs(module, store, inputs)
    keys = {key: store.tensor(key) for key in store}
    run_passes([form.right], QccContext(store, SampleRun([inputs])), module)
    assert relative(outputs(module, store, inputs), before) <= 1e-13
    assert any(key not in keys or not torch.equal(store.tensor(key), keys[key]) for key in store)

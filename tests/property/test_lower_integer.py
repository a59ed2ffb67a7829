"""Every lowering to integers keeps the bound that its room states, on hard inputs too."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qcc.ir.elementwise import BinaryOp, UnaryOp, WhereOp
from qcc.ir.gather import ReduceOp
from qcc.ir.integer import IntegerContractOp
from qcc.ir.nn import ConvOp, EmbeddingOp, MatmulOp, PoolOp, SoftmaxOp, UnfoldOp
from qcc.ir.quant import ContractOp, DequantizeOp
from qcc.ir.shape import ConcatOp, PadOp, ReshapeOp, SliceOp, TransposeOp
from qcc.ir.transformer import AttentionOp, BatchNormOp, NormOp
from qcc.ir.types import tensor
from qcc.numerics.fixed_point import multiplier_and_shift
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import quantize
from tests.integer_ops import lower
from tests.modules import scalar

ROUNDING = 0.5 + 2**-9
WEIGHTS = [
    "int1 mid_rise | row f32",
    "int2 | row f32",
    "uint3 | row f16 | pre u3",
    "int4 | row f16",
    "int8n | row pow2 ceil",
    "int8n | tensor f32",
    "table ternary(-1, 0, 1) | row f32 mean_abs",
    "table powers(-1, -0.5, -0.25, -0.125, 0, 0.125, 0.25, 0.5, 1) | row f32",
]
SCALES = st.sampled_from([2.0**-4, 0.0371, 1.0, 1e-6, 3e4])


def draw(seed: int, *shape: int, spread: float = 1.0) -> torch.Tensor:
    """Draw values, some of them far out, some zero."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator) * spread
    return torch.where(torch.rand(shape, generator=generator) < 0.1, values * 10, values)


@settings(max_examples=80, deadline=None)
@given(
    text=st.sampled_from(WEIGHTS),
    rows=st.integers(1, 6),
    columns=st.integers(1, 40),
    batch=st.integers(1, 3),
    bits=st.integers(2, 8),
    scale=SCALES,
    bias=st.sampled_from([0.0, 1.0, 1e-3, 1e7]),
    zero_row=st.booleans(),
    relu=st.booleans(),
    seed=st.integers(0, 999),
)
def test_contractions(text, rows, columns, batch, bits, scale, bias, zero_row, relu, seed) -> None:
    weights = draw(seed, rows, columns)
    weights[0] *= 0.0 if zero_row else 1.0
    stored = quantize(weights, parse_qtype(text))
    x = draw(seed + 1, batch, 2, columns, spread=scale * 2.0 ** (bits - 2))
    b = draw(seed + 2, rows) * bias * scale

    def build(value, w, b):
        made = ContractOp(value, w, b)
        return UnaryOp("relu", made) if relu else made

    reach = max(float((x.abs().max() * weights.abs().sum(1)).max() + b.abs().max()), 1e-30)
    for out in (reach / 127, 2.0 ** round(math.log2(reach / 127)), reach):
        found = lower(build, [(x, scale, bits)], (out, 8), w=stored, b=b)
        assert found.worst <= ROUNDING + 2**-6  # of the bias


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_scales_of_zero(scale: float) -> None:
    stored = quantize(torch.zeros(3, 5), parse_qtype("int8n | row f32"))
    x, b = torch.randn(2, 5), torch.tensor([0.0, 1.0, -2.0])
    found = lower(lambda x, w, b: ContractOp(x, w, b), [(x, scale, 8)], (2 / 127, 8), w=stored, b=b)
    assert found.worst <= ROUNDING
    nothing = lower(lambda x, w, b: ContractOp(x, w, b), [(x, scale, 8)], (0.0, 8), w=stored, b=b)
    assert not nothing.codes.any()


@pytest.mark.parametrize("size", [1e-30, 1e-9, 1e9])
@pytest.mark.parametrize("out", [1e-30, 1.0, 1e30])
def test_weights_beside_huge_biases_and_formats_of_any_scale(size: float, out: float) -> None:
    weights = torch.cat([draw(5, 2, 6), draw(6, 2, 6) * size])
    stored = quantize(weights, parse_qtype("int8n | row f32"))
    b = torch.tensor([0.0, 3.0, -5.0, 100.0])
    found = lower(lambda x, w, b: ContractOp(x, w, b), [(draw(7, 1, 6), 0.05, 8)], (out, 8), w=stored, b=b)
    assert found.worst <= ROUNDING + 2**-6


def test_ties_go_up_and_ends_are_clamped() -> None:
    identity = quantize(torch.eye(4), parse_qtype("int2 | row f32"))
    x = torch.tensor([[-127.0, -3.0, 3.0, 127.0]])
    halved = lower(lambda x, w: ContractOp(x, w), [(x, 1.0, 8)], (2.0, 8), w=identity)
    assert halved.codes.tolist() == [[-63, -1, 2, 64]]
    doubled = lower(lambda x, w: ContractOp(x, w), [(x, 1.0, 8)], (0.5, 6), w=identity)
    assert doubled.codes.tolist() == [[-31, -6, 6, 31]]


@settings(max_examples=50, deadline=None)
@given(
    channels=st.integers(1, 4),
    each=st.integers(1, 3),
    grouped=st.booleans(),
    size=st.integers(3, 7),
    window=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.integers(0, 1),
    normed=st.booleans(),
    seed=st.integers(0, 999),
)
def test_convolutions(channels, each, grouped, size, window, stride, padding, normed, seed) -> None:
    groups = channels if grouped else 1
    filters = draw(seed, channels * each, channels // groups, window, window)
    kind = tensor(tuple(filters.shape), "f32")
    stored = quantize(filters.flatten(1), parse_qtype("int8n | row f32"))
    x, bias = draw(seed + 1, 2, channels, size, size), draw(seed + 2, channels * each)
    statistics = {
        "mean": draw(seed + 3, channels * each),
        "variance": draw(seed + 4, channels * each).abs() + 0.1,
        "gamma": draw(seed + 5, channels * each),
    }

    def build(value, w, b, **norm):
        shaped = ReshapeOp(DequantizeOp(w), kind.shape)
        windows = {"stride": [stride] * 2, "padding": [padding] * 2, "dilation": [1, 1]}
        made = ConvOp(value, shaped, b, groups=groups, **windows)
        if not normed:
            return made
        return BatchNormOp(made, norm["mean"], norm["variance"], norm["gamma"], b, eps=1e-5)

    found = lower(build, [(x, 0.03, 8)], (0.2, 8), w=stored, b=bias, **statistics)
    assert found.worst <= ROUNDING + 2**-6
    (contract,) = [op for op in found.module.walk() if isinstance(op, IntegerContractOp)]
    assert contract.groups.value.data == groups


UNARY = ["gelu", "gelu_tanh", "silu", "sigmoid", "tanh", "exp", "sqrt", "erf", "hardswish", "hardsigmoid", "abs", "log"]


@pytest.mark.parametrize("function", [*UNARY, "reciprocal", "rsqrt", "sin", "cos"])
@pytest.mark.parametrize(("scale", "bits"), [(0.05, 8), (2.0**-5, 10), (1e-20, 4)])
def test_tables(function: str, scale: float, bits: int) -> None:
    most = 2 ** (bits - 1) - 1
    x = (torch.arange(-most, most + 1) * scale)[None]
    if function in ("sqrt", "log", "rsqrt", "reciprocal"):
        x = x[:, most + 1 :]
    found = lower(lambda x: UnaryOp(function, x), [(x, scale, bits)], (0.02, 8))
    assert found.worst <= 0.5 + 1e-3  # float32 of the function itself


@settings(max_examples=60, deadline=None)
@given(
    scales=st.tuples(SCALES, SCALES),
    bits=st.tuples(st.integers(2, 8), st.integers(2, 8)),
    function=st.sampled_from(["add", "sub", "mul", "max", "min"]),
    broadcast=st.booleans(),
    out=st.sampled_from([1 / 64, 0.03, 0.7]),
    seed=st.integers(0, 999),
)
def test_two_values(scales, bits, function, broadcast, out, seed) -> None:
    spreads = [scale * 2.0 ** (width - 2) for scale, width in zip(scales, bits, strict=True)]
    x, y = draw(seed, 3, 5, spread=spreads[0]), draw(seed + 1, *((1,) if broadcast else (3,)), 5, spread=spreads[1])
    sizes = [scale * (2 ** (width - 1) - 1) for scale, width in zip(scales, bits, strict=True)]
    reach = sizes[0] * sizes[1] if function == "mul" else sum(sizes)
    inputs = [(x, scales[0], bits[0]), (y, scales[1], bits[1])]
    found = lower(lambda x, y: BinaryOp(function, x, y), inputs, (reach * out, 8))
    # two terms, each half a step of 2^-27 of the larger one off
    assert found.worst <= ROUNDING + 2**-18


@settings(max_examples=60, deadline=None)
@given(
    function=st.sampled_from(["add", "sub", "mul", "div"]),
    shape=st.sampled_from([(), (5,), (1, 5), (3, 1), (3, 5), (1,)]),
    constant_first=st.booleans(),
    scale=SCALES,
    seed=st.integers(0, 999),
)
def test_a_value_and_a_constant(function, shape, constant_first, scale, seed) -> None:
    assume(not (constant_first and function == "div"))
    x, c = draw(seed, 3, 5, spread=30 * scale), draw(seed + 1, *shape)
    c = c.abs() + 0.1 if function == "div" else c * (scale * 30 if function in ("add", "sub") else 1.0)

    def build(value, c):
        return BinaryOp(function, *((c, value) if constant_first else (value, c)))

    size = float(c.abs().max())
    peak = 127 * scale
    reach = {"mul": peak * size, "div": peak / float(c.abs().min())}.get(function, peak + size)
    found = lower(build, [(x, scale, 8)], (max(reach, 1e-9) / 127, 8), c=c)
    # factors along no channel have 15 bits, and so has what they multiply
    assert found.worst <= ROUNDING + 2**-7


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["max", "average", "average_valid"]),
    window=st.integers(1, 3),
    stride=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_pooling(kind, window, stride, seed) -> None:
    x = draw(seed, 2, 3, 7, 5)
    sizes = {"window": [window] * 2, "stride": [stride] * 2, "padding": [0, 0]}
    found = lower(lambda x: PoolOp(kind, x, **sizes), [(x, 0.05, 8)], (0.04, 8))
    assert found.worst <= ROUNDING


@pytest.mark.parametrize("reduction", ["sum", "mean", "max", "min"])
@pytest.mark.parametrize(("axes", "keep"), [((1,), False), ((0, 2), True), ((2,), True)])
def test_reductions(reduction: str, axes: tuple[int, ...], keep: bool) -> None:
    x = draw(7, 2, 3, 5)
    found = lower(lambda x: ReduceOp(reduction, x, axes, keep), [(x, 0.05, 8)], (0.1, 8))
    assert found.worst <= ROUNDING


def test_moves_picks_and_joins() -> None:
    x, y = draw(1, 2, 3, 4, 4), draw(2, 2, 3, 4, 4)

    def build(x, y):
        return ConcatOp([TransposeOp(x, (0, 1, 3, 2)), y], 1)

    found = lower(build, [(x, 0.05, 8), (y, 0.02, 8)], (0.05, 8))
    assert found.worst <= ROUNDING

    def unfolded(x):
        padded = PadOp(SliceOp(x, 2, 1, 2), [0, 0, 1, 0], [0, 0, 0, 2], 1.5)
        return UnfoldOp(padded, window=[2, 2], stride=[1, 1], padding=[1, 0], dilation=[1, 1])

    assert lower(unfolded, [(x, 0.05, 8)], (0.05, 8)).worst <= ROUNDING


def test_choices_and_limits() -> None:
    x, y, condition = draw(1, 3, 4), draw(2, 3, 4), draw(3, 3, 4) > 0
    inputs = [(x, 0.05, 8), (y, 0.02, 8)]
    found = lower(lambda x, y, c: WhereOp(c, x, y), inputs, (0.05, 8), plain=[condition])
    assert found.worst <= ROUNDING
    stored = quantize(draw(4, 6, 4), parse_qtype("int8n | row f32"))

    def limited(x, w):
        made = ContractOp(x, w)
        return BinaryOp("min", BinaryOp("max", made, scalar(-0.5, made)), scalar(1.3, made))

    assert lower(limited, [(x, 0.05, 8)], (0.02, 8), w=stored).worst <= ROUNDING
    six = lower(lambda x: BinaryOp("min", UnaryOp("relu", x), scalar(1.3, x)), [(x, 0.05, 8)], (0.05, 8))
    assert six.worst <= 0.5  # of codes: the limit itself is rounded


@settings(max_examples=50, deadline=None)
@given(
    columns=st.integers(1, 30),
    axis=st.sampled_from([-1, 0]),
    scale=st.sampled_from([0.0, 2.0**-5, 0.1, 1.7]),
    out=st.sampled_from([1 / 127, 2.0**-6, 2.0**-7, 0.003]),
    summed=st.booleans(),
    seed=st.integers(0, 999),
)
def test_softmax(columns, axis, scale, out, summed, seed) -> None:
    x = draw(seed, 3, columns, spread=scale * 40)

    def build(value):
        return SoftmaxOp(BinaryOp("add", value, value) if summed else value, axis % 2)

    found = lower(build, [(x, scale, 8)], (out, 8))
    length = columns if axis else 3
    assert found.worst <= ROUNDING + (length / 2**21 + (2**-7 / 4 if summed else 0.0)) / out


@settings(max_examples=80, deadline=None)
@given(
    kind=st.sampled_from(["layer", "rms", "rms_plus1"]),
    columns=st.integers(1, 70),
    scale=st.sampled_from([1e-9, 2.0**-10, 0.02, 3.0]),
    bits=st.sampled_from([8, 16]),
    eps=st.sampled_from([0.0, 1e-12, 1e-5]),
    constant_row=st.booleans(),
    seed=st.integers(0, 999),
)
def test_norms(kind, columns, scale, bits, eps, constant_row, seed) -> None:
    x = draw(seed, 3, columns, spread=scale * 2.0 ** (bits - 4))
    x[0] = 0.0 if eps == 0 and kind != "layer" else (5.0 * scale if constant_row else x[0])
    assume(eps > 0 or (kind != "layer" and not constant_row))
    x[0] = 3 * scale if eps == 0 else x[0]
    weight, bias = draw(seed + 1, columns), draw(seed + 2, columns)

    def build(value, w, b):
        return NormOp(kind, value, w, b if kind == "layer" else None, eps=eps)

    factor = float((weight.abs() + (kind == "rms_plus1")).max())
    size = factor * math.sqrt(columns) + float(bias.abs().max())
    out = size / 127
    found = lower(build, [(x, scale, bits)], (out, 8), w=weight, b=bias)
    assume(not found.real.isnan().any())  # a row of zeros without eps has no direction
    assert found.worst <= 0.5 + 2**-7 + factor * math.sqrt(columns) / (out * 2**24)


@settings(max_examples=40, deadline=None)
@given(
    heads=st.sampled_from([(1, 1), (4, 2), (3, 1)]),
    lengths=st.tuples(st.integers(1, 6), st.integers(1, 9)),
    width=st.integers(1, 8),
    masked=st.sampled_from(["no", "truth", "floats"]),
    causal=st.booleans(),
    seed=st.integers(0, 999),
)
def test_attention(heads, lengths, width, masked, causal, seed) -> None:
    (many, few), (s, t) = heads, lengths
    q, k, v = draw(seed, 2, many, s, width), draw(seed + 1, 2, few, t, width), draw(seed + 2, 2, few, t, width)
    keep = draw(seed + 3, 2, 1, s, t) > -0.5
    floats = torch.where(keep, 0.0, -3e38)

    def build(q, k, v, *plain, **stored):
        mask = {"no": None, "truth": plain[0] if plain else None, "floats": stored.get("m")}[masked]
        return AttentionOp(q, k, v, mask, scale=0.3, causal=causal)

    inputs = [(q, 0.05, 8), (k, 0.04, 8), (v, 0.03, 8)]
    plain = [keep] if masked == "truth" else []
    stored = {"m": floats} if masked == "floats" else {}
    # a mask of floats keeps the smallest scores where a row has nothing else; leave such rows out
    assume(masked != "floats" or bool((keep & torch.ones(s, t).bool().tril() if causal else keep).any(-1).all()))
    found = lower(build, inputs, (0.03, 8), plain=plain, **stored)
    reach = 127 * 0.03
    assert found.worst <= ROUNDING + reach * (2**-7 / 2 + t / 2**15) / 0.03


def test_products_of_two_values_and_rows_of_a_table() -> None:
    x, y = draw(1, 2, 3, 4), draw(2, 1, 4, 5)
    assert lower(lambda x, y: MatmulOp(x, y), [(x, 0.05, 8), (y, 0.02, 8)], (0.1, 8)).worst <= ROUNDING
    table, ids = quantize(draw(3, 9, 4), parse_qtype("int8n | row f16")), torch.tensor([[8, 0], [3, 3]])
    found = lower(lambda ids, t: EmbeddingOp(t, ids, "f32"), [], (0.03, 8), plain=[ids], t=table)
    assert found.worst <= 0.5
    plain = lower(lambda ids, t: EmbeddingOp(t, ids), [], (0.03, 8), plain=[ids], t=draw(3, 9, 4))
    assert plain.worst <= 0.5


@settings(max_examples=80)
@given(
    ratio=st.floats(-1e30, 1e30, allow_nan=False) | st.floats(-1, 1).map(lambda x: x * 1e-12),
    bits=st.integers(1, 31),
)
def test_multiplier_and_shift(ratio: float, bits: int) -> None:
    multiplier, shift = (int(one) for one in multiplier_and_shift(torch.tensor(ratio, dtype=torch.float64), bits))
    assert abs(multiplier) < 2**31
    assert 0 <= shift <= 62
    wanted = max(-(2.0**30), min(2.0**30, ratio))
    assert abs(multiplier / 2**shift - wanted) <= max(abs(wanted) * 2.0**-bits, 2.0**-63)
    power = 2.0 ** (bits - 16)
    one, by = (int(part) for part in multiplier_and_shift(torch.tensor(power, dtype=torch.float64), bits))
    assert (one, by) == ((1, 16 - bits) if bits <= 16 else (2 ** (bits - 16), 0))

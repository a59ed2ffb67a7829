"""Whole integer programs as projects: the simulation gives what the interpreter gives, bit for bit, from raw floats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from xdsl.ir import Operation, SSAValue

from qcc.ir.elementwise import BinaryOp, UnaryOp
from qcc.ir.gather import ReduceOp
from qcc.ir.integer import IntegerMatmulOp, LookupOp
from qcc.ir.integer_rows import IntegerNormOp, IntegerSoftmaxOp
from qcc.ir.nn import PoolOp, UnfoldOp
from qcc.ir.shape import ConcatOp, ExpandOp, PadOp, ReshapeOp, SliceOp, TransposeOp
from qcc.ir.types import tensor
from tests.hls_programs import Net, check, simulate
from tests.modules import make

Made = SSAValue | Operation


def conv(
    net: Net, value: Made, n: int, window: int, *, stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1
) -> Operation:
    settings = {"stride": [stride] * 2, "padding": [padding] * 2, "dilation": [dilation] * 2}
    rows = UnfoldOp(value, window=[window] * 2, **settings)
    sums = net.contract(rows, n, "int4 | row f32", groups=groups)
    return TransposeOp(net.requant(sums, channels=n, shift=10), [0, 3, 1, 2])


def flat(value: Operation, n: int) -> Operation:
    return ReshapeOp(value, [1, n])


def mlp(net: Net, x: SSAValue) -> Made:
    hidden = net.requant(net.contract(net.codes(x), 12), channels=12, low=0)
    return net.floats(net.requant(net.contract(hidden, 5, bias=False)))


def narrow_weights(net: Net, x: SSAValue) -> Sequence[Made]:
    value = net.codes(x, bits=4)
    formats = ("int1 mid_rise | row f32", "table(-1, 0, 1) | row f32", "int3 | row f32", "uint4 | row f32 | pre u4")
    powers = "table(-4, -2, -1, -0.5, 0, 0.5, 1, 2, 4) | row f32"
    return [net.floats(net.requant(net.contract(value, 3, text), shift=6)) for text in (*formats, powers)]


def cnn(net: Net, x: SSAValue) -> Made:
    value = conv(net, net.codes(x), 6, 3, padding=1)
    value = PoolOp("max", value, window=[2, 2], stride=[2, 2], padding=[0, 0])
    value = conv(net, value, 4, 3, stride=2, padding=2, dilation=2)
    return net.floats(net.requant(net.contract(flat(value, 16), 3)))


def depthwise(net: Net, x: SSAValue) -> Made:
    value = conv(net, net.codes(x), 4, 3, padding=1, groups=4)
    value = conv(net, value, 8, 3, groups=4)
    value = conv(net, value, 6, 1, groups=2)
    value = PoolOp("sum", net.wide(value), window=[2, 2], stride=[1, 2], padding=[1, 0])
    return net.floats(net.requant(value, shift=8))


def residual(net: Net, x: SSAValue) -> Made:
    value = conv(net, net.codes(x), 4, 1)
    branch = UnaryOp("relu", conv(net, value, 4, 3, padding=1))
    wide = [net.wide(one) for one in (value, branch)]
    total = net.requant(BinaryOp("add", *wide), shift=6)
    mean = net.requant(ReduceOp("sum", net.wide(total), [2, 3], keep=False), shift=10)
    return net.floats(net.requant(net.contract(mean, 5), shift=14))


def pooled_with_padding(net: Net, x: SSAValue) -> Sequence[Made]:
    value = net.codes(x)
    largest = PoolOp("max", value, window=[3, 3], stride=[1, 1], padding=[1, 1])
    return [net.floats(largest), net.floats(ReduceOp("max", value, [1, 3], keep=True))]


def moved(net: Net, x: SSAValue) -> Sequence[Made]:
    value = net.codes(x)
    part = SliceOp(value, 1, 1, 2)
    turned = TransposeOp(part, [2, 0, 1])
    padded = PadOp(turned, [1, 0, 0], [0, 0, 2], 3.0)
    joined = ConcatOp([padded, TransposeOp(padded, [0, 1, 2])], 1)
    repeated = ExpandOp(ReshapeOp(SliceOp(value, 2, 0, 1), [1, 3, 1]), [2, 3, 4])
    stepped = SliceOp(value, 2, 1, 2, 2)
    return [net.floats(joined), net.floats(repeated), net.floats(TransposeOp(stepped, [0, 2, 1]))]


def tables(net: Net, x: SSAValue) -> Sequence[Made]:
    value = net.codes(x)
    table = net.weight(net.draw(-100, 100, 256, dtype=torch.int8))
    looked = LookupOp(value, table, -128)
    gate = net.requant(BinaryOp("mul", net.wide(looked), net.wide(value)), shift=8)
    turned = BinaryOp("sub", net.weight(net.draw(-90, 90, 4)), net.wide(looked))
    number = BinaryOp("max", net.requant(turned, shift=4), net.weight(torch.tensor([3], dtype=torch.int8)))
    return [net.floats(gate), net.floats(number)]


def attention(net: Net, x: SSAValue) -> Made:
    value = net.codes(x)
    heads = []
    for _ in range(3):
        rows = net.requant(net.contract(value, 6), channels=6)
        heads.append(TransposeOp(ReshapeOp(rows, [1, 5, 2, 3]), [0, 2, 1, 3]))
    query, key, content = heads
    scores = net.requant(IntegerMatmulOp(query, TransposeOp(key, [0, 1, 3, 2])), shift=7)
    table = net.weight((2**16 * torch.exp(-0.05 * torch.arange(256))).to(torch.int32))
    weights = IntegerSoftmaxOp(scores, table, unit=127)
    mixed = net.requant(IntegerMatmulOp(weights, content), shift=10)
    rows = ReshapeOp(TransposeOp(mixed, [0, 2, 1, 3]), [1, 5, 6])
    out = net.requant(net.contract(rows, 8), channels=8)
    wide = [net.wide(one) for one in (out, value)]
    total = net.requant(BinaryOp("add", *wide), shift=6)
    normal = IntegerNormOp(
        "layer",
        total,
        net.weight(net.draw(1000, 9000, 8)),
        net.weight(torch.tensor([32], dtype=torch.int32)),
        net.weight(net.draw(-(2**34), 2**34, 8, dtype=torch.int64)),
        eps=3,
    )
    return net.floats(normal)


def masked(net: Net, x: SSAValue, mask: SSAValue) -> Made:
    table = net.weight((2**16 * torch.exp(-0.05 * torch.arange(64))).to(torch.int32))
    return net.floats(IntegerSoftmaxOp(net.codes(x), table, mask, unit=127))


def integers(net: Net, x: SSAValue) -> Made:
    return net.contract(x, 3)


PROGRAMS: dict[str, tuple[Callable[..., Made | Sequence[Made]], dict[str, tuple[list[int], str]]]] = {
    "mlp": (mlp, {"x": ([1, 16], "f32")}),
    "one row of one": (mlp, {"x": ([1, 1], "f32")}),
    "batch of seven": (mlp, {"x": ([7, 9], "f32")}),
    "narrow weights": (narrow_weights, {"x": ([2, 10], "f32")}),
    "cnn": (cnn, {"x": ([1, 3, 9, 7], "f32")}),
    "depthwise": (depthwise, {"x": ([2, 4, 6, 5], "f32")}),
    "residual": (residual, {"x": ([1, 3, 6, 6], "f32")}),
    "padded pools": (pooled_with_padding, {"x": ([1, 2, 5, 3], "f32")}),
    "moved": (moved, {"x": ([1, 3, 4], "f32")}),
    "tables": (tables, {"x": ([3, 4], "f32")}),
    "attention": (attention, {"x": ([1, 5, 8], "f32")}),
    "masked": (masked, {"x": ([2, 3, 5], "f32"), "mask": ([1, 3, 5], "i1")}),
    "integers": (integers, {"x": ([2, 4], "i8")}),
}


MEETING = ("residual", "attention")
"""Programs in which streams part and meet again around a buffer, so that a FIFO must be deep."""

FIRST = ("mlp", "depthwise", "residual", "attention")
"""Programs that are run always; the others are for the second step of CI."""


@pytest.mark.parametrize(
    "name", [name if name in FIRST else pytest.param(name, marks=pytest.mark.slow) for name in PROGRAMS]
)
def test_simulation_equals_the_interpreter(name: str, tmp_path: Path) -> None:
    build, inputs = PROGRAMS[name]
    net = Net(len(name))
    kinds = {one: tensor(shape, scalar) for one, (shape, scalar) in inputs.items()}
    module = make(kinds, lambda *values: build(net, *values))
    project = check(module, net.store, tmp_path)
    deep = [one for one in project.design.fifos if one.needed]
    assert bool(deep) == (name in MEETING), deep
    if not deep:
        return
    status, said = simulate(tmp_path / "hls", bounded=True)
    assert status == 0, said
    for one in deep:
        status, said = simulate(tmp_path / "hls", bounded=True, depths={one.name: one.depth - 1})
        assert status == 3, f"runs with {one.name} at {one.depth - 1}"
        assert f"FIFO {one.name}" in said

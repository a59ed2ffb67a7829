"""A lowered convolution is the convolution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import ModuleOp, StringAttr

from qcc.interpreter import Interpreter
from qcc.ir.context import QccContext
from qcc.ir.nn import ConvOp
from qcc.ir.program import ProgramOp, ReturnOp, WeightOp
from qcc.ir.store import WeightStore
from qcc.ir.types import SymbolAttr, tensor
from qcc.passes.lower_conv import LowerConv


@dataclass(frozen=True)
class Case:
    batch: int
    channels: int
    filters: int
    spatial: tuple[int, ...]
    window: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    bias: bool
    seed: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    axes = draw(st.integers(1, 3))

    def sizes(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(axes))

    case = Case(
        batch=draw(st.integers(1, 3)),
        channels=draw(st.integers(1, 5)),
        filters=draw(st.integers(1, 4)),
        spatial=sizes(1, 9),
        window=sizes(1, 4),
        stride=sizes(1, 3),
        padding=sizes(0, 3),
        dilation=sizes(1, 3),
        bias=draw(st.booleans()),
        seed=draw(st.integers(0, 2**16)),
    )
    for size, window, padding, dilation in zip(case.spatial, case.window, case.padding, case.dilation, strict=True):
        assume(size + 2 * padding > (window - 1) * dilation)
    return case


def build(case: Case) -> tuple[ModuleOp, WeightStore]:
    """Return a program of one convolution with a dynamic batch, and its weights."""
    filters = (case.filters, case.channels, *case.window)
    program = ProgramOp(
        "main",
        [("x", tensor(("s0", case.channels, *case.spatial), "f64"))],
        symbols=[SymbolAttr.make("s0", 1, 64)],
        outputs=["y"],
    )
    weight = WeightOp("conv.weight", tensor(filters, "f64"))
    bias = WeightOp("conv.bias", tensor((case.filters,), "f64")) if case.bias else None
    conv = ConvOp(
        program.body.block.args[0],
        weight,
        bias,
        stride=case.stride,
        padding=case.padding,
        dilation=case.dilation,
    )
    program.body.block.add_ops([one for one in (weight, bias, conv, ReturnOp([conv.result])) if one is not None])
    generator = torch.Generator().manual_seed(case.seed)
    weights = {"conv.weight": torch.randn(filters, generator=generator, dtype=torch.float64)}
    if case.bias:
        weights["conv.bias"] = torch.randn(case.filters, generator=generator, dtype=torch.float64)
    return ModuleOp([program]), WeightStore(weights)


@given(cases())
@settings(max_examples=80, deadline=None)
def test_a_lowered_convolution_computes_the_same(case: Case) -> None:
    module, store = build(case)
    module.verify()
    generator = torch.Generator().manual_seed(case.seed + 1)
    x = torch.randn(case.batch, case.channels, *case.spatial, generator=generator, dtype=torch.float64)
    before = Interpreter(module, store, dtype="f64").run({"x": x})["y"]
    LowerConv("w8a8").apply(QccContext(store), module)
    module.verify()
    assert not any(isinstance(one, ConvOp) for one in module.walk())
    layers = [one.attributes["layer"] for one in module.walk() if "layer" in one.attributes]
    assert layers == [StringAttr("conv")]
    after = Interpreter(module, store, dtype="f64").run({"x": x})["y"]
    assert after.shape == before.shape
    assert float((after - before).abs().max()) <= 1e-12 * max(1.0, float(before.abs().max()))

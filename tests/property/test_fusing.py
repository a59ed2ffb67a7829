"""Fusion moves operations into kernels and changes no bit of any result, whatever the graph and the rules."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.builder import ImplicitBuilder
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue
from xdsl.parser import Parser

from qcc.errors import IllegalFold, QccError
from qcc.interpreter import Interpreter
from qcc.ir.context import QccContext
from qcc.ir.elementwise import BinaryOp, UnaryOp
from qcc.ir.fusion import parse_rules
from qcc.ir.kernel import KernelOp, dissolve, kernel_parts
from qcc.ir.nn import LinearOp
from qcc.ir.program import ProgramOp, ReturnOp, WeightOp
from qcc.ir.quant import ContractOp, QuantizeOp
from qcc.ir.store import WeightStore
from qcc.ir.transform import RotateOp
from qcc.ir.transformer import NormOp
from qcc.ir.types import SymbolAttr, tensor
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import quantize
from qcc.passes import fuse_epilogue, fuse_prologue
from qcc.passes.fuse_epilogue import FuseEpilogue
from qcc.passes.fuse_prologue import FusePrologue
from tests.modules import kind_of

WIDTH = 8
ACTIVATIONS = ["int8 | (1,-1) f32 | dynamic", "int8 | (1,4) f32 | dynamic", "int8 | (-1,-1) f32 | dynamic", ""]
WEIGHTS = ["int4 | (1,-1) f16", "uint4 | (1,4) f32 | pre u4", ""]
STEPS = ["gelu", "silu", "relu", "exp", "add", "mul", "square", "vector", "return", "static"]

STEP = st.sampled_from(STEPS)
LAYER = st.tuples(
    st.booleans(), st.booleans(), st.sampled_from(ACTIVATIONS), st.sampled_from(WEIGHTS), st.lists(STEP, max_size=4),
    st.integers(0, 9), st.booleans(),
)  # fmt: skip


class Graph:
    """A random program over [m, WIDTH], built layer by layer; `values` are what later layers may read."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.store = WeightStore()
        self.values: list[SSAValue] = []
        self.outputs: list[SSAValue] = []

    def weight(self, value: object) -> SSAValue:
        key = f"w{len(self.store)}"
        self.store[key] = value
        return WeightOp(key, kind_of(value)).result

    def random(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator)

    def layer(self, norm, rotate, activation, weight, steps, at, again) -> None:
        value = self.values[at % len(self.values)]
        if norm:
            value = NormOp("rms", value, self.weight(self.random(WIDTH)), eps=1e-5).result
        if rotate:
            value = RotateOp("hadamard", value, 1, block=WIDTH).result
        plain, matrix = value, self.random(WIDTH, WIDTH)
        if activation and weight:
            value = QuantizeOp(value, parse_qtype(activation)).result
        for _ in range(1 + again):
            if weight:
                stored = self.weight(quantize(matrix, parse_qtype(weight)))
                result = ContractOp(value, stored, self.weight(self.random(WIDTH))).result
            else:
                result = LinearOp(value, self.weight(matrix)).result
            for step in steps:
                result = self.step(step, result, plain, at)
            self.values.append(result)

    def step(self, step: str, value: SSAValue, plain: SSAValue, at: int) -> SSAValue:
        match step:
            case "add" | "mul":
                other = plain if at % 2 else self.values[at % len(self.values)]
                pair = (value, other) if at % 3 else (other, value)
                return BinaryOp(step, *pair).result
            case "square":
                return BinaryOp("mul", value, value).result
            case "vector":
                return BinaryOp("add", value, self.weight(self.random(WIDTH))).result
            case "return":
                self.outputs.append(value)
                return value
            case "static":
                scale = self.weight(torch.full((1, 1), 0.05))
                codes = QuantizeOp(value, parse_qtype("int8 | (-1,-1) f32"), [scale])
                stored = self.weight(quantize(self.random(WIDTH, WIDTH), parse_qtype("int4 | (1,-1) f16")))
                return ContractOp(codes, stored).result
            case _:
                return UnaryOp(step, value).result


def build(layers, seed: int) -> tuple[ModuleOp, WeightStore]:
    kind = tensor(["m", WIDTH], "f32")
    graph = Graph(seed)
    program = ProgramOp("main", [("x", kind)], [SymbolAttr.make("m", 0)])
    with ImplicitBuilder(program.body.block) as (x,):
        graph.values.append(x)
        for one in layers:
            graph.layer(*one)
        values = [*dict.fromkeys([*graph.outputs, graph.values[-1]])]
        ReturnOp(values)
    names = [f"y{index}" for index in range(len(values))]
    region = program.detach_region(program.body)
    module = ModuleOp([ProgramOp("main", [("x", kind)], [SymbolAttr.make("m", 0)], names, region)])
    module.verify()
    return module, graph.store


ALL_EPILOGUES = ("contract: relu|gelu|silu|exp|add|mul * > quantize_static", "linear: gelu|add_channel|mul *")
ALL_PROLOGUES = (
    "contract: norm > rotate > quantize_static|quantize_token|quantize_block",
    "linear: norm > rotate",
    "rows: norm > rotate > quantize_static|quantize_token|quantize_block",
)


@settings(max_examples=80, deadline=None)
@given(
    layers=st.lists(LAYER, min_size=1, max_size=4), seed=st.integers(0, 999), m=st.sampled_from([1, 5]),
    epilogues=st.sampled_from([ALL_EPILOGUES, fuse_epilogue.RULES, ("contract: gelu > add", "linear:"), ()]),
    prologues=st.sampled_from([ALL_PROLOGUES, ALL_PROLOGUES[2:], ("rows: norm", "contract: quantize_token"), ()]),
)  # fmt: skip
def test_fusion_changes_no_bit(layers, seed, m, epilogues, prologues) -> None:
    module, store = build(layers, seed)
    x = torch.randn(m, WIDTH, generator=torch.Generator().manual_seed(seed)) * 3
    wanted = Interpreter(module, store).run({"x": x})
    fused = module.clone()
    for one in (FuseEpilogue(epilogues), FusePrologue(prologues)):
        one.apply(QccContext(), fused)
        fused.verify()
    fused = Parser(QccContext(), str(fused)).parse_module()
    found = Interpreter(fused, store).run({"x": x})
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, equal_nan=True)
    kernels = [op for op in fused.walk() if isinstance(op, KernelOp)]
    assert all(isinstance(op.parent_op(), KernelOp) for op in fused.walk() if isinstance(op, ContractOp))
    rules = parse_rules(epilogues)
    for kernel in kernels:
        parts = kernel_parts(kernel)
        if parts.epilogue:
            assert parts.root is not None
            assert parts.root.name.removeprefix("qcc.") in rules
    for kernel in kernels:
        dissolve(kernel)
    fused.verify()
    assert sorted(op.name for op in fused.walk()) == sorted(op.name for op in module.walk())


@settings(max_examples=30, deadline=None)
@given(layers=st.lists(LAYER, min_size=1, max_size=4), seed=st.integers(0, 999))
def test_fusing_twice_is_fusing_once(layers, seed) -> None:
    module, _ = build(layers, seed)
    passes = (FuseEpilogue(), FusePrologue())
    for one in passes:
        one.apply(QccContext(), module)
    once = str(module)
    for one in passes:
        one.apply(QccContext(), module)
    assert str(module) == once


def contraction(activation: str, weight: str) -> ModuleOp:
    layer = (False, False, activation, weight, [], 0, False)
    return build([layer], 0)[0]


def test_a_scale_inside_the_sum_may_not_leave_it() -> None:
    FuseEpilogue(scales_after_sum=True).apply(QccContext(), contraction(ACTIVATIONS[0], WEIGHTS[0]))
    FuseEpilogue(scales_after_sum=True).apply(QccContext(), contraction(ACTIVATIONS[2], WEIGHTS[0]))
    with pytest.raises(IllegalFold) as raised:
        FuseEpilogue(scales_after_sum=True).apply(QccContext(), contraction(ACTIVATIONS[1], WEIGHTS[1]))
    assert len(raised.value.problems) == 2
    assert "change inside the sum over K" in str(raised.value)
    assert "granularity: token" in str(raised.value)


def test_rules_that_cannot_be_read_are_all_named() -> None:
    with pytest.raises(QccError) as raised:
        parse_rules(("gemm: relu", "contract: relu > frobnicate", "conv: relu", "conv: gelu"))
    assert len(raised.value.problems) == 3
    assert "frobnicate" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "taken", "refused"),
    [
        (
            "contract: gelu|relu > mul > add",
            [["gelu", "add"], ["mul"], []],
            [["add", "gelu"], ["gelu", "relu"], ["exp"]],
        ),
        ("contract: gelu|add *", [["add", "gelu", "add"]], [["mul"]]),
        ("contract:", [[]], [["add"]]),
    ],
)
def test_what_a_rule_accepts(text, taken, refused) -> None:
    (rule,) = parse_rules((text,)).values()
    assert all(rule.accepts(kinds) for kinds in taken)
    assert not any(rule.accepts(kinds) for kinds in refused)


def test_the_default_rules_can_be_read() -> None:
    assert set(parse_rules(fuse_epilogue.RULES)) == {"contract", "linear", "conv"}
    assert set(parse_rules(fuse_prologue.RULES)) == {"contract", "linear", "rows"}

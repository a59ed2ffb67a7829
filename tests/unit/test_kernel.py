"""Kernels: their parts, their meaning, and values followed through their borders."""

from __future__ import annotations

import torch
from xdsl.builder import ImplicitBuilder
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, Region, SSAValue

from qcc.interpreter import Interpreter
from qcc.ir.context import QccContext
from qcc.ir.elementwise import BinaryOp, UnaryOp
from qcc.ir.kernel import KernelOp, YieldOp, contracts_of, kernel_of, kernel_parts, origin_of, outer_value, uses_of
from qcc.ir.program import ProgramOp, WeightOp, program_of
from qcc.ir.quant import ContractOp, QuantizeOp
from qcc.ir.store import WeightStore
from qcc.ir.transformer import NormOp
from qcc.ir.types import tensor
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import quantize
from tests.modules import kind_of, make

INT8 = parse_qtype("int8 | (1,-1) f32 | dynamic")
WEIGHT = parse_qtype("int4 | (1,-1) f32")


def fused(store: WeightStore) -> ModuleOp:
    """norm -> quantize, read as floats and as codes; then contract -> gelu -> add."""

    def build(x: SSAValue) -> Operation:
        gain, weight = (WeightOp(name, kind_of(store[name])) for name in ("g", "w"))
        rows = Region(Block(arg_types=[x.type, gain.result.type]))
        with ImplicitBuilder(rows.block) as (inside, scale):
            norm = NormOp("rms", inside, scale, eps=1e-5)
            codes = QuantizeOp(norm, INT8)
            YieldOp([norm, codes])
        first = KernelOp("rows", [x, gain], rows)
        body = Region(Block(arg_types=[first.outputs[1].type, weight.result.type, first.outputs[0].type]))
        with ImplicitBuilder(body.block) as (inside, matrix, residual):
            product = ContractOp(inside, matrix)
            YieldOp([BinaryOp("add", UnaryOp("gelu", product), residual)])
        return KernelOp("up", [first.outputs[1], weight, first.outputs[0]], body, accumulator=32, why="it is cheap")

    return make({"x": tensor([3, 8], "f32")}, build)


def plain(store: WeightStore) -> ModuleOp:
    """The same function without kernels."""

    def build(x: SSAValue) -> Operation:
        gain, weight = (WeightOp(name, kind_of(store[name])) for name in ("g", "w"))
        norm = NormOp("rms", x, gain, eps=1e-5)
        return BinaryOp("add", UnaryOp("gelu", ContractOp(QuantizeOp(norm, INT8), weight)), norm)

    return make({"x": tensor([3, 8], "f32")}, build)


def weights() -> WeightStore:
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(8, 8, generator=generator)
    return WeightStore({"g": torch.randn(8, generator=generator), "w": quantize(matrix, WEIGHT)})


def test_a_kernel_computes_what_its_region_says() -> None:
    store, x = weights(), torch.randn(3, 8) * 50
    wanted = Interpreter(plain(store), store).run({"x": x})["y"]
    assert torch.equal(Interpreter(fused(store), store).run({"x": x})["y"], wanted)


def test_an_observer_sees_operations_inside_kernels_and_kernels() -> None:
    store, seen = weights(), list[str]()
    Interpreter(fused(store), store).run_with({"x": torch.randn(3, 8)}, lambda op, results: seen.append(op.name))
    assert seen == [
        "qcc.weight", "qcc.norm", "qcc.quantize", "qcc.kernel", "qcc.weight",
        "qcc.contract", "qcc.unary", "qcc.binary", "qcc.kernel",
    ]  # fmt: skip


def test_parts() -> None:
    rows, up = (op for op in program_of(fused(weights())).body.block.ops if isinstance(op, KernelOp))
    parts = kernel_parts(rows)
    assert [op.name for op in parts.prologue] == ["qcc.norm", "qcc.quantize"]
    assert (parts.root, parts.epilogue, parts.chain) == (None, (), ())
    parts = kernel_parts(up)
    assert parts.prologue == ()
    assert isinstance(parts.root, ContractOp)
    assert [op.name for op in parts.epilogue] == ["qcc.unary", "qcc.binary"]
    assert parts.chain == (parts.root.result, *(op.results[0] for op in parts.epilogue))
    assert parts.others(0) == ()
    assert parts.others(1) == (up.body.block.args[2],)


def test_values_are_followed_through_borders() -> None:
    module = fused(weights())
    program = program_of(module)
    rows, up = (op for op in program.body.block.ops if isinstance(op, KernelOp))
    (contract,) = contracts_of(module)
    norm, quantize_op = kernel_parts(rows).prologue
    assert kernel_of(contract) is up
    assert kernel_of(up) is None
    assert outer_value(contract.input) is rows.outputs[1]
    assert outer_value(rows.outputs[1]) is rows.outputs[1]
    assert origin_of(contract.input) is quantize_op.results[0]
    assert origin_of(up.outputs[0]) is kernel_parts(up).chain[-1]
    assert isinstance(origin_of(contract.weight).owner, WeightOp)
    assert origin_of(rows.body.block.args[0]) is program.body.block.args[0]
    readers = {use.operation for use in uses_of(norm.results[0])}
    assert readers == {quantize_op, kernel_parts(up).epilogue[1]}
    assert [use.operation for use in uses_of(program.body.block.args[0])] == [norm]
    assert [use.operation for use in uses_of(kernel_parts(up).chain[-1])] == [program.terminator]


def test_the_text_of_a_kernel_is_the_kernel() -> None:
    from xdsl.parser import Parser

    module = fused(weights())
    again = Parser(QccContext(), str(module)).parse_module()
    assert str(again) == str(module)
    assert module.is_structurally_equivalent(again)
    (up,) = (op for op in again.walk() if isinstance(op, KernelOp) and op.label.data == "up")
    assert up.accumulator is not None
    assert up.accumulator.value.data == 32
    assert up.why is not None
    assert up.why.data == "it is cheap"
    assert isinstance(up.parent_op(), ProgramOp)

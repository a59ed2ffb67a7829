"""Kernel regions in C, beside the interpreter: what joins a call, what does not, values through borders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from xdsl.ir import SSAValue

from qcc.ir.context import QccContext
from qcc.ir.elementwise import BinaryOp, UnaryOp
from qcc.ir.kernel import KernelOp, kernel_parts
from qcc.ir.nn import LinearOp, MatmulOp
from qcc.ir.program import WeightOp
from qcc.ir.quant import ContractOp, DequantizeOp, QuantizeOp
from qcc.ir.shape import TransposeOp
from qcc.ir.store import WeightStore
from qcc.ir.transformer import NormOp
from qcc.ir.types import SymbolAttr, tensor
from qcc.numerics.qtype import int_qtype
from qcc.numerics.quantize import quantize
from qcc.passes.fuse_epilogue import FuseEpilogue
from tests.cpu_programs import BACKEND, compare, emit
from tests.modules import kind_of, make

TOKEN = int_qtype(8, group="token", scale="f32", when="dynamic")
GROUPS = int_qtype(8, group=32, scale="f32", when="dynamic")
S0 = [SymbolAttr.make("s0", 1, 400)]
K = 64


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


class Weights:
    """A store that grows as a module is built."""

    def __init__(self) -> None:
        self.store = WeightStore()

    def plain(self, *shape: int) -> WeightOp:
        return self._put(draw(*shape))

    def coded(self, n: int, k: int, group: int | str = 32) -> WeightOp:
        return self._put(quantize(draw(n, k) * 0.1, int_qtype(4, group=group, scale="f16")))

    def _put(self, value) -> WeightOp:
        key = f"w{len(self.store)}"
        self.store[key] = value
        return WeightOp(key, kind_of(value))


def check(module, store: WeightStore, out: Path, calls: float, sizes=(1, 5, 33), tolerance: float = 1e-5) -> None:
    emitted = emit(module, store, out)
    assert emitted.figures["kernel_calls"] == calls
    inputs = [{"x": draw(size, K) * 2} for size in sizes]
    compare(BACKEND.load(out, threads=2), module, store, inputs, tolerance)


@pytest.mark.parametrize("quantized", [True, False])
def test_a_gated_layer_with_a_residual(tmp_path: Path, quantized: bool) -> None:
    have = Weights()

    def build(x: SSAValue) -> BinaryOp:
        rows = NormOp("rms", x, have.plain(K), eps=1e-5)
        codes = QuantizeOp(rows, TOKEN) if quantized else rows
        gate = ContractOp(codes, have.coded(96, K), have.plain(96))
        up = ContractOp(codes, have.coded(96, K))
        hidden = BinaryOp("mul", UnaryOp("silu", gate), up)
        down = ContractOp(QuantizeOp(hidden, GROUPS) if quantized else hidden, have.coded(K, 96))
        return BinaryOp("add", x, down)

    module = make({"x": tensor(["s0", K], "f32")}, build, S0)
    # norm and three products, and what is quantized in front of them
    check(module, have.store, tmp_path, 6 if quantized else 4, tolerance=2e-2 if quantized else 1e-5)


def test_steps_without_a_member_are_calls_of_their_own(tmp_path: Path) -> None:
    have = Weights()

    def build(x: SSAValue) -> list[BinaryOp | UnaryOp]:
        twice = BinaryOp("add", UnaryOp("relu", ContractOp(x, have.coded(K, K))), x)
        product = MatmulOp(x, TransposeOp(have.plain(K, K), (1, 0)))
        made = LinearOp(x, UnaryOp("exp", have.plain(K, K)), have.plain(K))
        return [
            BinaryOp("add", UnaryOp("gelu", twice), x),
            BinaryOp("add", UnaryOp("silu", product), x),
            BinaryOp("mul", UnaryOp("gelu", made), x),
            UnaryOp("exp", LinearOp(x, have.plain(K, K))),
        ]

    module = make({"x": tensor(["s0", K], "f32")}, build, S0)
    anything = "relu|gelu|silu|exp|add|mul *"
    FuseEpilogue((f"contract: {anything}", f"linear: {anything}", f"matmul: {anything}")).apply(QccContext(), module)
    assert sorted(len(kernel_parts(op).epilogue) for op in module.walk() if isinstance(op, KernelOp)) == [1, 2, 2, 4]
    # wlinear with relu and add, gelu, add; matmul, silu, add; exp, matmul, bias, gelu, mul; linear, exp
    check(module, have.store, tmp_path, 3 + 3 + 5 + 2, tolerance=1e-4)


def test_codes_cross_borders_in_the_layout_of_each_reader(tmp_path: Path) -> None:
    have = Weights()

    def build(x: SSAValue) -> list[ContractOp | DequantizeOp]:
        codes = QuantizeOp(NormOp("rms", x, have.plain(K), eps=1e-5), TOKEN)
        products = [ContractOp(codes, have.coded(24, K, group)) for group in (32, 16, "row", 32)]
        return [*products, DequantizeOp(codes)]

    module = make({"x": tensor(["s0", K], "f32")}, build, S0)
    # the rows are quantized once for each of the three group lengths
    check(module, have.store, tmp_path, 1 + 3 + 4 + 1, tolerance=2e-2)


def test_what_nothing_reads_in_a_kernel_is_not_computed(tmp_path: Path) -> None:
    have = Weights()

    def build(x: SSAValue) -> NormOp:
        norm = NormOp("rms", x, have.plain(K), eps=1e-5)
        codes = QuantizeOp(norm, TOKEN)
        for _ in range(2):
            ContractOp(codes, have.coded(24, K))
        return norm

    check(make({"x": tensor(["s0", K], "f32")}, build, S0), have.store, tmp_path, 1)


def test_halves_become_float32_inside_kernels(tmp_path: Path) -> None:
    have = Weights()

    def build(x: SSAValue) -> BinaryOp:
        product = ContractOp(QuantizeOp(x, TOKEN), have.coded(K, K), scalar="f16")
        return BinaryOp("add", UnaryOp("gelu", product), x)

    module = make({"x": tensor(["s0", K], "f16")}, build, S0)
    emitted = emit(module, have.store, tmp_path)
    # a cast where the input enters and one where the output leaves
    assert emitted.figures["kernel_calls"] == 4
    inputs = [{"x": draw(size, K).half()} for size in (1, 6)]
    compare(BACKEND.load(tmp_path, threads=1), module, have.store, inputs, 3e-2)

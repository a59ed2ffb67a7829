"""quantize-values changes a program by the rounding of its formats and nothing else; lower-integer follows it."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

from qcc.calibrate.run import SampleRun
from qcc.interpreter import Interpreter
from qcc.ir.context import QccContext
from qcc.ir.elementwise import BinaryOp, UnaryOp
from qcc.ir.nn import LinearOp, SoftmaxOp
from qcc.ir.program import WeightOp
from qcc.ir.shape import ConcatOp, SliceOp, TransposeOp
from qcc.ir.store import WeightStore
from qcc.ir.transformer import NormOp
from qcc.ir.types import tensor
from qcc.passes.pipeline import lowering, planning, run_passes, solving
from qcc.recipes.load import load_recipe
from tests.integer_ops import expect_integers
from tests.modules import make

WIDTH = 6
STEPS = ["linear", "relu", "gelu", "norm", "softmax", "residual", "gate", "half", "twice", "turn", "double"]
RECIPE = {
    "version": 1,
    "weights": {"format": "int8n | row f32"},
    "activations": {"format": "int10n | tensor f32", "when": "static"},
}
FINE = load_recipe(RECIPE)


def build(steps: list[str], seed: int) -> tuple[ModuleOp, WeightStore]:
    generator = torch.Generator().manual_seed(seed)
    store = WeightStore()

    def weight(name: str, *shape: int) -> WeightOp:
        store[name] = torch.randn(shape, generator=generator) / shape[-1] ** 0.5
        return WeightOp(name, tensor(shape, "f32"))

    def body(x: SSAValue) -> SSAValue:
        first, value = x, x
        for index, step in enumerate(steps):
            match step:
                case "linear":
                    made = LinearOp(value, weight(f"{index}.weight", WIDTH, WIDTH), weight(f"{index}.bias", WIDTH))
                case "norm":
                    made = NormOp("layer", value, weight(f"{index}.scale", WIDTH), eps=1e-3)
                case "softmax":
                    made = SoftmaxOp(value, 1)
                case "residual" | "gate":
                    made = BinaryOp("add" if step == "residual" else "mul", value, first)
                case "half":
                    made = BinaryOp("mul", value, weight(f"{index}.factor", WIDTH))
                case "twice":
                    low, high = SliceOp(value, 1, 0, 3), SliceOp(value, 1, 3, 3)
                    made = ConcatOp([high, low], 1)
                case "turn":
                    turned = UnaryOp("relu", TransposeOp(value, (1, 0)))
                    made = TransposeOp(turned, (1, 0))
                case "double":
                    made = BinaryOp("add", value, value)
                case _:
                    made = UnaryOp(step, value)
            value = made.results[0]
        return value

    return make({"x": tensor((4, WIDTH), "f32")}, body), store


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.sampled_from(STEPS), min_size=1, max_size=6), seed=st.integers(0, 999))
def test_programs_keep_their_function(steps: list[str], seed: int) -> None:
    module, store = build(steps, seed)
    inputs = {"x": torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(seed + 1))}
    wanted = Interpreter(module, store).run(inputs)["y"]
    run_passes(planning(FINE, integer_only=True), QccContext(store), module)
    run_passes(solving(), QccContext(store, SampleRun([inputs])), module)
    quantized = Interpreter(module, store).run(inputs)["y"]
    run_passes(lowering(integer_only=True), QccContext(store), module)
    expect_integers(module)
    integers = Interpreter(module, store).run(inputs)["y"]
    # 8-bit weights and 10-bit values, each layer passing on what the one before it lost
    size = max(float(wanted.abs().max()), 1e-3)
    assert float((quantized - wanted).abs().max()) <= 0.06 * size * 2 ** steps.count("norm")
    assert float((integers - quantized).abs().max()) <= 0.04 * size * 2 ** steps.count("norm")

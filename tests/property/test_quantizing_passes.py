"""assign-formats changes a program by the rounding of the formats and nothing else; solve-weights changes nothing."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import ModuleOp

from qcc.errors import RecipeError
from qcc.interpreter import Interpreter
from qcc.ir.base import set_location
from qcc.ir.context import QccContext
from qcc.ir.elementwise import BinaryOp, UnaryOp
from qcc.ir.nn import EmbeddingOp, LinearOp
from qcc.ir.program import ProgramOp, ReturnOp, WeightOp
from qcc.ir.quant import ContractOp, QuantizeOp
from qcc.ir.store import WeightStore
from qcc.ir.types import SymbolAttr, tensor, type_of
from qcc.numerics.integer_sums import sums_integers
from qcc.numerics.quantize import dequantize, fake_quantize, quantize
from qcc.passes.assign_formats import AssignFormats
from qcc.passes.solve_weights import SolveWeights
from qcc.recipes.load import load_recipe

FORMATS = st.sampled_from([f"{sign}int{bits}" for sign in ("", "u") for bits in range(2, 9)])


def two_layers(columns: int, rows: int, seed: int) -> tuple[ModuleOp, WeightStore]:
    """Two layers that read one input, added."""
    generator = torch.Generator().manual_seed(seed)
    store = WeightStore({
        f"{name}.{part}": torch.randn(*shape, generator=generator)
        for name in ("first", "second")
        for part, shape in (("weight", (rows, columns)), ("bias", (rows,)))
    })  # fmt: skip
    program = ProgramOp("main", [("x", tensor(["m", columns], "f32"))], [SymbolAttr.make("m", 0)], ["y"])
    block = program.body.block
    layers: list[LinearOp] = []
    for name in ("first", "second"):
        weight = WeightOp(f"{name}.weight", tensor([rows, columns], "f32"))
        bias = WeightOp(f"{name}.bias", tensor([rows], "f32"))
        layer = LinearOp(block.args[0], weight, bias)
        set_location(layer, f"{name} (net.py:1)")
        block.add_ops([weight, bias, layer])
        layers.append(layer)
    total = BinaryOp("add", *layers)
    block.add_ops([total, ReturnOp([total])])
    module = ModuleOp([program])
    module.verify()
    return module, store


@settings(max_examples=60, deadline=None)
@given(
    weight=FORMATS, group=st.sampled_from(["row", 8, 16]), token=st.booleans(), rows=st.integers(1, 9),
    blocks=st.integers(1, 4), m=st.integers(1, 5), seed=st.integers(0, 999),
)  # fmt: skip
def test_the_function_is_that_of_the_rounded_operands(
    weight: str, group: str | int, token: bool, rows: int, blocks: int, m: int, seed: int
) -> None:
    module, store = two_layers(16 * blocks, rows, seed)
    float_ = {key: store.tensor(key).clone() for key in store}
    recipe = load_recipe({
        "weights": {"format": weight, "group": group},
        "activations": {"format": "int8", **({} if token else {"group": 16})},
    })  # fmt: skip
    x = torch.randn(m, 16 * blocks, generator=torch.Generator().manual_seed(seed + 1))
    context = QccContext(store)
    AssignFormats(recipe.model_dump_json()).apply(context, module)
    module.verify()
    # float32 throughout: in float64 a value near a rounding boundary may take the other code
    assigned = Interpreter(module, store).run({"x": x})["y"]
    SolveWeights().apply(context, module)
    module.verify()
    solved = Interpreter(module, store).run({"x": x})["y"]
    assert torch.equal(assigned, solved)
    rounded = fake_quantize(x, recipe.activations.qtype()).double()
    expected = sum(
        rounded @ dequantize(quantize(float_[f"{name}.weight"], recipe.weights.qtype()), torch.float64).T
        + float_[f"{name}.bias"].double()
        for name in ("first", "second")
    )
    assert isinstance(expected, torch.Tensor)
    torch.testing.assert_close(solved.double(), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    # one input, one format: quantized once
    assert sum(isinstance(op, QuantizeOp) for op in module.walk()) == 1
    assert {key for key in store if ":" not in key} == {"first.bias", "second.bias"}


WHOLE = [
    "mxfp4", "mxfp6_e2m3", "nvfp4", "nvint4", "nf4-g64", "hlq2-g128", "trit2-g128", "bitmod3-g128", "q4_K", "qoq-g128",
    "ternary", "olive4", "spqr3-g16", "bipolar<2>", "fixed<8,3>", "uint4 | (1,32) f16 | pre u4",
]  # fmt: skip
AT_RUN_TIME = ["f32", "int8-token", "mxfp8_e4m3", "mxint8", "nvfp4", "uint8 | token f32 | pre u8"]


@settings(max_examples=60, deadline=None)
@given(weight=st.sampled_from(WHOLE), activation=st.sampled_from(AT_RUN_TIME), m=st.integers(1, 3))
def test_formats_by_name_give_the_function_of_the_rounded_operands(weight: str, activation: str, m: int) -> None:
    module, store = two_layers(256, 5, m)
    float_ = {key: store.tensor(key).clone() for key in store}
    recipe = load_recipe({"weights": {"format": weight}, "activations": {"format": activation}})
    x = torch.randn(m, 256, generator=torch.Generator().manual_seed(m))
    context = QccContext(store)
    AssignFormats(recipe.model_dump_json()).apply(context, module)
    module.verify()
    assigned = Interpreter(module, store).run({"x": x})["y"]
    SolveWeights().apply(context, module)
    module.verify()
    assert torch.equal(assigned, Interpreter(module, store).run({"x": x})["y"])
    rounded = x.double() if activation == "f32" else fake_quantize(x, recipe.activations.qtype()).double()
    expected = sum(
        rounded @ dequantize(quantize(float_[f"{name}.weight"], recipe.weights.qtype()), torch.float64).T
        + float_[f"{name}.bias"].double()
        for name in ("first", "second")
    )
    assert isinstance(expected, torch.Tensor)
    torch.testing.assert_close(assigned.double(), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    contracts = [op for op in module.walk() if isinstance(op, ContractOp)]
    plans = {op.plan.data.value for op in contracts if op.plan is not None}
    inputs = {one for op in contracts if (one := type_of(op.input).qtype) is not None}
    integers = all(sums_integers(one, recipe.weights.qtype()) for one in inputs)
    assert plans == {"group_after" if inputs and integers else "dequant_first"}


def test_groups_that_a_format_says_itself_are_held_to_the_columns() -> None:
    module, store = two_layers(96, 4, 0)
    with pytest.raises(RecipeError) as caught:
        AssignFormats(json.dumps({"weights": {"format": "q4_K"}})).apply(QccContext(store), module)
    text = str(caught.value)
    assert len(caught.value.problems) == 2
    assert "weights cannot use group 256: it does not divide 96 columns" in text
    assert "{match: first, weights: {format: f32}}" in text


def test_float_recipes_leave_the_program_alone() -> None:
    module, store = two_layers(8, 3, 0)
    x = torch.randn(2, 8)
    before = Interpreter(module, store).run({"x": x})["y"]
    AssignFormats("float").apply(QccContext(store), module)
    assert torch.equal(before, Interpreter(module, store).run({"x": x})["y"])
    assert all("left_in_float" in op.attributes for op in module.walk() if isinstance(op, LinearOp))


def test_the_last_override_wins_and_unused_ones_are_refused() -> None:
    module, store = two_layers(32, 4, 0)
    recipe = {
        "weights": {"format": "int4"},
        "overrides": [
            {"match": "*", "weights": {"format": "int8"}},
            {"match": "re:^sec", "weights": {"format": "f32"}},
        ],
    }
    AssignFormats(json.dumps(recipe)).apply(QccContext(store), module)
    (contract,) = (op for op in module.walk() if isinstance(op, ContractOp))
    assert "int8" in str(contract.weight.type)
    (left,) = (op for op in module.walk() if isinstance(op, LinearOp))
    assert "float" in str(left.attributes["left_in_float"])
    module, store = two_layers(32, 4, 0)
    recipe["overrides"] += [{"match": "third"}, {"match": "fourth.*"}]
    with pytest.raises(RecipeError) as caught:
        AssignFormats(json.dumps(recipe)).apply(QccContext(store), module)
    assert len(caught.value.problems) == 2


def test_every_layer_a_group_does_not_divide_is_named() -> None:
    module, store = two_layers(40, 4, 0)
    with pytest.raises(RecipeError) as caught:
        AssignFormats("w4a8").apply(QccContext(store), module)
    text = str(caught.value)
    assert "first" in text
    assert "second" in text
    assert "40 columns" in text


def test_tied_weights_stay_tied() -> None:
    """A head that shares the embedding table: one quantized entry serves both."""
    table = WeightOp("table.weight", tensor([50, 32], "f32"))
    program = ProgramOp("main", [("ids", tensor(["n"], "i64"))], [SymbolAttr.make("n", 1)], ["logits"])
    embedded = EmbeddingOp(table, program.body.block.args[0])
    head = LinearOp(hidden := UnaryOp("tanh", embedded), table)
    program.body.block.add_ops([table, embedded, hidden, head, ReturnOp([head])])
    module = ModuleOp([program])
    store = WeightStore({"table.weight": torch.randn(50, 32)})
    context = QccContext(store)
    AssignFormats("w4a8").apply(context, module)
    SolveWeights().apply(context, module)
    module.verify()
    assert len(store) == 1
    logits = Interpreter(module, store).run({"ids": torch.tensor([3, 49])})["logits"]
    assert logits.shape == (2, 50)

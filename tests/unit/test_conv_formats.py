"""Convolutions and linear layers get the formats of one recipe."""

from __future__ import annotations

import pytest
import torch
import yaml
from xdsl.dialects.builtin import ModuleOp, StringAttr

from qcc.coverage import coverage_of
from qcc.errors import RecipeError
from qcc.interpreter import Interpreter
from qcc.ir.context import QccContext
from qcc.ir.dims import product
from qcc.ir.elementwise import UnaryOp
from qcc.ir.nn import ConvOp, LinearOp
from qcc.ir.program import ProgramOp, ReturnOp, WeightOp
from qcc.ir.quant import ContractOp
from qcc.ir.shape import ReshapeOp
from qcc.ir.store import WeightStore
from qcc.ir.types import SymbolAttr, tensor, type_of
from qcc.passes.assign_formats import AssignFormats
from qcc.passes.layer_schemes import layer_name
from qcc.passes.pipeline import pipeline, run_passes
from qcc.recipes.load import load_recipe
from qcc.recipes.model import Recipe

FILTERS = {
    "conv1": ((32, 3, 3, 3), 2, 1, 1),
    "layer1.depthwise": ((32, 1, 3, 3), 1, 1, 32),
    "layer1.conv1": ((64, 32, 1, 1), 1, 0, 1),
    "layer1.conv2": ((8, 64, 3, 3), 2, 1, 1),
}
"""Name -> shape of the filters, stride, padding, groups."""

QUANTIZED = ["conv1", "layer1.conv1", "layer1.conv2", "fc"]


def network() -> tuple[ModuleOp, WeightStore]:
    """Return a small network of [s0, 3, 15, 13] images and its weights."""
    program = ProgramOp("main", [("x", tensor(("s0", 3, 15, 13), "f32"))], [SymbolAttr.make("s0", 1, 8)], outputs=["y"])
    block, generator = program.body.block, torch.Generator().manual_seed(7)
    store, value = WeightStore(), block.args[0]
    for name, (shape, stride, padding, groups) in FILTERS.items():
        store[f"{name}.weight"] = torch.randn(shape, generator=generator) / shape[1] ** 0.5
        weight = WeightOp(f"{name}.weight", tensor(shape, "f32"))
        conv = ConvOp(value, weight, stride=[stride] * 2, padding=[padding] * 2, dilation=[1, 1], groups=groups)
        relu = UnaryOp("relu", conv)
        block.add_ops([weight, conv, relu])
        value = relu.result
    flat = ReshapeOp(value, ("s0", product(type_of(value).shape[1:])))
    columns = type_of(flat.result).shape[1].constant
    assert columns is not None
    store["fc.weight"] = torch.randn(10, columns, generator=generator) / columns**0.5
    weight = WeightOp("fc.weight", tensor((10, columns), "f32"))
    head = LinearOp(flat, weight)
    block.add_ops([flat, weight, head, ReturnOp([head.result])])
    return ModuleOp([program]), store


def assign(module: ModuleOp, store: WeightStore, recipe: Recipe) -> None:
    run_passes(pipeline(recipe), QccContext(store), module)


def name_of(op: ContractOp | ConvOp) -> str:
    name = op.attributes["layer"]
    assert isinstance(name, StringAttr)
    return name.data


@pytest.mark.parametrize(("recipe", "floor_db"), [("w8a8", 30.0), ("w8", 30.0)])
def test_convolutions_are_quantized_under_their_names(recipe: str, floor_db: float) -> None:
    module, store = network()
    x = torch.randn(3, 3, 15, 13, generator=torch.Generator().manual_seed(1))
    exact = Interpreter(module, store).run({"x": x})["y"]
    assign(module, store, load_recipe(recipe))
    assert [name_of(one) for one in module.walk() if isinstance(one, ContractOp)] == QUANTIZED
    (left,) = [one for one in module.walk() if isinstance(one, ConvOp)]
    reason = left.attributes["left_in_float"]
    assert isinstance(reason, StringAttr)
    assert name_of(left) == "layer1.depthwise"
    assert reason.data.startswith("grouped convolution: its 32 groups reduce over 9 weights each")
    layers = coverage_of(module, store, {}, 0).layers
    assert {one.name for one in layers} == {*QUANTIZED, "layer1.depthwise"}
    assert [one.name for one in layers if one.left_in_float] == ["layer1.depthwise"]
    found = Interpreter(module, store).run({"x": x})["y"]
    noise = 10 * torch.log10(exact.square().sum() / (found - exact).square().sum())
    assert floor_db < float(noise) < 80.0


def test_every_position_has_its_own_activation_scale() -> None:
    module, store = network()
    assign(module, store, load_recipe("w8a8"))
    x = torch.randn(1, 3, 15, 13, generator=torch.Generator().manual_seed(2))
    louder = x.clone()
    louder[..., 8:, :] *= 1000.0
    first = next(one for one in module.walk() if isinstance(one, ContractOp))
    seen: list[torch.Tensor] = []
    for image in (x, louder):
        Interpreter(module, store).run_with(
            {"x": image}, lambda op, results: seen.append(results[0]) if op is first else None
        )
    # rows of output 0..3 read input rows up to 7: a scale per image would drown them
    torch.testing.assert_close(seen[0][:, :4], seen[1][:, :4], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["w4a8", "w4"])
def test_the_message_about_groups_can_be_pasted(name: str) -> None:
    module, store = network()
    recipe = load_recipe(name)
    with pytest.raises(RecipeError) as caught:
        assign(module, store, recipe)
    text = str(caught.value)
    assert "conv1: weights cannot use group 32: it does not divide 27 columns" in text
    pasted = yaml.safe_load(text[text.index("\noverrides:") :])
    overrides = pasted["overrides"]
    # 'conv1' alone would mean layer1.conv1 as well
    assert [one["match"] for one in overrides] == ["re:^conv1$"]
    module, store = network()
    assign(module, store, load_recipe({**recipe.model_dump(), **pasted}))
    contracts = {name_of(one): one for one in module.walk() if isinstance(one, ContractOp)}
    assert list(contracts) == QUANTIZED
    assert "(1,-1)" in str(contracts["conv1"].weight.type)
    assert "(1,32)" in str(contracts["layer1.conv1"].weight.type)
    x = torch.randn(1, 3, 15, 13)
    assert bool(Interpreter(module, store).run({"x": x})["y"].isfinite().all())


def test_a_folded_weight_keeps_the_name_of_its_layer() -> None:
    program = ProgramOp("main", [("x", tensor((2, 6), "f32"))], outputs=["y"])
    weight = WeightOp("h.0.c_attn.weight/transpose", tensor((4, 6), "f32"))
    layer = LinearOp(program.body.block.args[0], weight)
    program.body.block.add_ops([weight, layer, ReturnOp([layer.result])])
    assert layer_name(layer) == "h.0.c_attn"


def test_a_recipe_may_leave_one_convolution_in_float() -> None:
    module, store = network()
    recipe = load_recipe(
        {**load_recipe("w8a8").model_dump(), "overrides": [{"match": "re:^conv1$", "weights": {"format": "f32"}}]}
    )
    assign(module, store, recipe)
    assert [name_of(one) for one in module.walk() if isinstance(one, ContractOp)] == QUANTIZED[1:]
    left = {name_of(one): one.attributes["left_in_float"] for one in module.walk() if isinstance(one, ConvOp)}
    assert left["conv1"] == StringAttr("the recipe keeps its weights in float")


def test_convolutions_that_were_not_lowered_are_reported() -> None:
    module, store = network()
    AssignFormats("w8a8").apply(QccContext(store), module)
    reasons = [str(one.attributes["left_in_float"]) for one in module.walk() if isinstance(one, ConvOp)]
    assert len(reasons) == 4
    assert sum("run lower-conv first" in one for one in reasons) == 3

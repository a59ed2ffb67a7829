"""Budgets of what a target predicts: the choice is that of brute force, counts are those of the target, and no more."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from xdsl.dialects.builtin import ModuleOp

import qcc
from qcc.backends.cpu.costs import BYTE_COST, COSTS
from qcc.backends.hls.folding import Fold
from qcc.backends.hls.project import plan_project
from qcc.backends.hls.resources import RESOURCES, resource_costs, unit_of
from qcc.backends.hls.settings import read_hls_settings
from qcc.backends.hls.steps import Steps
from qcc.backends.hls.units_matvec import LoadUnit, MatvecUnit
from qcc.errors import RecipeError
from qcc.frontend.export import import_program
from qcc.ir.context import QccContext
from qcc.ir.nn import LinearOp
from qcc.ir.plans import ContractCost, latency_of
from qcc.ir.quant import ContractOp
from qcc.ir.types import tensor, type_of
from qcc.numerics.integer_values import integer_domain, integer_values
from qcc.numerics.presets import format_of
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import quantize
from qcc.passes.allocate_bits import AllocateBits
from qcc.passes.layer_schemes import layer_name
from qcc.passes.pipeline import fusing, planned_recipe, planning, raising, run_passes
from qcc.passes.sensitivity import Choice, harms
from qcc.recipes.load import load_recipe
from qcc.recipes.model import Recipe, WeightScheme
from tests.integer_nets import nets
from tests.property.test_allocate_bits import Net, data, formats, imported

DYNAMIC = {"weights": {"format": "int8"}, "activations": {"format": "int8"}}
STATIC = {"weights": {"format": "int8"}, "activations": {"format": "int8", "when": "static", "granularity": "tensor"}}
CANDIDATES = [{"format": "int2"}, {"format": "int4", "group": 8}, {"format": "int8"}]
ROWS = [{"format": "int2"}, {"format": "int4"}, {"format": "int6"}, {"format": "int8"}]


def costs_of(name: str, folding: str = "") -> Mapping[str, ContractCost]:
    if name == "latency":
        return {"latency": latency_of(COSTS, BYTE_COST, 1)}
    return resource_costs({"folding": folding} if folding else {})


def fixed_net(seed: int) -> tuple[ModuleOp, Any]:
    """The net of the other tests for three rows: designs have fixed shapes."""
    found = import_program(torch.export.export(Net(seed).eval(), (torch.randn(3, 16),)))
    return found.module, found.store


def recipe_of(name: str, most: float, **rest: Any) -> Recipe:
    plain = dict(DYNAMIC if name == "latency" else STATIC) | rest
    candidates = CANDIDATES if name == "latency" else ROWS
    return load_recipe(plain | {"allocate": {"candidates": candidates, "budget": {name: most}}})


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 99), share=st.floats(0, 1), name=st.sampled_from(["latency", *RESOURCES]),
    folding=st.sampled_from(["", "left=8x4,right=4x16", "*=2x2,head=5x16"]),
)  # fmt: skip
def test_the_choice_is_that_of_brute_force(seed: int, share: float, name: str, folding: str) -> None:
    module, store = fixed_net(seed)
    predicted = costs_of(name, folding if name != "latency" else "")[name]
    run_passes(raising(), QccContext(store), module)
    layers = {layer_name(op): op for op in module.walk() if isinstance(op, LinearOp)}
    groups = [[layers["left"], layers["right"]], [layers["down"]], [layers["head"]]]
    recipe = recipe_of(name, 1)
    assert recipe.allocate is not None
    options = recipe.allocate.candidates

    def cost(op: LinearOp, scheme: WeightScheme) -> int:
        inputs = tensor(type_of(op.input).shape, recipe.activations.qtype())
        found = predicted(layer_name(op), inputs, tensor(type_of(op.weight).static_shape or (), scheme.qtype()))
        assert not isinstance(found, str)
        return math.ceil(found * 1000)

    table = [[sum(cost(op, one) for op in group) for one in options] for group in groups]
    least, most = sum(map(min, table)), sum(map(max, table))
    whole = sum(cost(op, recipe.weights) for op in layers.values())
    room = least + share * (most - least)
    asked = math.ceil(room / whole * 1e4) / 1e4 if name == "latency" else math.ceil(room / 1000)
    limit = asked * whole if name == "latency" else asked * 1000
    samples = data(seed, 3, 3)
    measured = harms(module, store, samples, [Choice(one, options) for one in groups], "output")
    sums = [
        (math.fsum(row[place] for row, place in zip(measured, one, strict=True)), one)
        for one in itertools.product(range(len(options)), repeat=3)
        if sum(row[place] for row, place in zip(table, one, strict=True)) <= limit * (1 + 1e-12)
    ]
    best = min(total for total, _ in sums)
    context = QccContext(store, samples, costs=costs_of(name, folding if name != "latency" else ""))
    AllocateBits(recipe_of(name, asked).model_dump_json()).apply(context, module)
    chosen = planned_recipe(recipe_of(name, asked), module)
    given_ = {one.match: one.weights for one in chosen.overrides}
    taken = [next(at for at, one in enumerate(options) if one == given_.get(n, recipe.weights)) for n in _first(groups)]
    assert given_.get("left") == given_.get("right")  # they read one value
    assert sum(row[at] for row, at in zip(table, taken, strict=True)) <= limit * (1 + 1e-12)
    assert math.fsum(row[at] for row, at in zip(measured, taken, strict=True)) <= best * (1 + 1e-4) + 1e-300


def _first(groups: list[list[LinearOp]]) -> list[str]:
    return [layer_name(one[0]) for one in groups]


def test_latency_is_what_plans_are_chosen_by() -> None:
    module, store = imported(0)
    recipe = recipe_of("latency", 0.6)
    run_passes(planning(recipe), QccContext(store, data(0), costs=costs_of("latency")), module)
    assert len(set(formats(module).values())) > 1

    def total(found: ModuleOp) -> float:
        contracts = [op for op in found.walk() if isinstance(op, ContractOp)]
        return sum(
            min(
                one.cost(type_of(op.weight), 1, BYTE_COST)
                for one in COSTS
                if not one.refusal(type_of(op.input), type_of(op.weight))
            )
            for op in contracts
        )

    plain, plain_store = imported(0)
    run_passes(planning(load_recipe(DYNAMIC)), QccContext(plain_store), plain)
    assert 0.4 * total(plain) < total(module) <= 0.6 * total(plain)
    # what was chosen needs neither samples nor a target
    written = load_recipe(yaml.safe_load(planned_recipe(recipe, module).model_dump_json()))
    again, again_store = imported(0)
    run_passes(planning(written), QccContext(again_store), again)
    assert formats(again) == formats(module)


@pytest.mark.parametrize(
    ("name", "most", "least"),
    [("latency", 0.01, r"0\.\d+ of the latency predicted"), ("lut", 100, r"\d+ look-up tables"), ("dsp", 0, "")],
)
def test_a_budget_that_cannot_be_met_says_the_least_possible(name: str, most: float, least: str) -> None:
    module, store = fixed_net(0)
    context = QccContext(store, data(0, 3), costs=costs_of(name))
    fixed = [{"match": "head", "weights": {"format": "int8"}}]
    recipe = recipe_of(name, most, overrides=fixed)
    with pytest.raises(RecipeError) as caught:
        run_passes(planning(recipe), context, module)
    said = str(caught.value)
    assert f"allocate.budget: {most:g} " in said
    assert "head: takes" in said
    assert "by an override" in said
    found = re.search(rf"cannot be met, ({least or '1 DSP blocks'}.*) is the least possible", said)
    assert found is not None
    number = float(found[1].split()[0])
    module, store = fixed_net(0)
    met = recipe_of(name, number if name == "latency" else int(number), overrides=fixed)
    run_passes(planning(met), QccContext(store, data(0, 3), costs=costs_of(name)), module)


def test_what_the_target_does_not_predict_is_refused() -> None:
    module, store = fixed_net(0)
    with pytest.raises(RecipeError) as caught:
        run_passes(planning(recipe_of("lut", 100)), QccContext(store, data(0, 3), costs=costs_of("latency")), module)
    assert "allocate.budget.lut: is nothing that the target predicts for a layer" in str(caught.value)
    assert "it predicts latency; bits_per_weight and bytes need no target" in str(caught.value)
    module, store = fixed_net(0)
    with pytest.raises(RecipeError, match="it predicts nothing"):
        run_passes(planning(recipe_of("latency", 0.5)), QccContext(store, data(0, 3)), module)
    module, store = fixed_net(0)
    floats = recipe_of("dsp", 9, activations={"format": "f32"})
    with pytest.raises(RecipeError) as caught:
        run_passes(planning(floats), QccContext(store, data(0, 3), costs=costs_of("dsp")), module)
    assert "head: input 'f32' stand for no integers" in str(caught.value)
    for wrong in ({"lut": 3, "dsp": 3}, {}, {"latency": 0}):
        with pytest.raises(RecipeError):
            load_recipe(STATIC | {"allocate": {"candidates": ROWS, "budget": wrong}})


@pytest.mark.parametrize("text", ["int8", "int4", "int2", "ternary-fixed", "pow2-w4a8"])
def test_resources_are_those_of_the_units_that_are_built(text: str) -> None:
    """DSP and memory blocks to the block; look-up tables up to how far the sums of these very weights reach."""
    recipe = load_recipe(text) if "-" in text else load_recipe({**STATIC, "weights": {"format": text}})
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 256), nn.ReLU(), nn.Linear(256, 10)).eval()
        for one in model.parameters():
            nn.init.normal_(one)
    found = nets(model, [(torch.randn(4, 64),), (torch.randn(4, 64),)], recipe)
    run_passes(fusing((), ()), QccContext(found.integer_store), found.integer_module)
    texts = {"folding": "0=4x8,2=8x2,4=1x1"}
    project = plan_project(found.integer_module, found.integer_store, read_hls_settings(texts))
    units = {one.node.layer: one for one in project.design.nodes if isinstance(one.node.unit, MatvecUnit)}
    assert sorted(units) == ["0", "2", "4"]
    shapes = {"0": (96, 64), "2": (256, 96), "4": (10, 256)}
    costs, qtype = resource_costs(texts), recipe.weights.qtype()
    for layer, built in units.items():
        unit, fold = built.node.unit, built.fold
        assert isinstance(unit, MatvecUnit)
        kinds = tensor((4, shapes[layer][1]), recipe.activations.qtype()), tensor(shapes[layer], qtype)
        real = MatvecUnit(
            unit.rows, unit.weights, unit.bias, unit.x, unit.codes, unit.streamed, steps=Steps(unit.steps.first)
        ).cost(fold)
        if unit.streamed:
            real = real + LoadUnit(unit).cost(fold)
        for name in RESOURCES:
            predicted = costs[name](layer, *kinds)
            assert not isinstance(predicted, str)
            wanted = float(getattr(real, name))
            if name == "lut":
                assert wanted * 0.98 <= predicted <= wanted * 1.5
            else:
                assert predicted == wanted


def test_foldings_are_those_of_the_settings() -> None:
    kinds = tensor((1, 64), parse_qtype("int8n | tensor f32")), tensor((32, 64), parse_qtype("int8n | row f32"))

    def dsp(**texts: str) -> float | str:
        return resource_costs(texts)["dsp"]("blocks.0.up", *kinds)

    assert dsp() == 1
    assert dsp(folding="*.up=8x4") == 32
    assert dsp(folding="*.up=8x4,*.0.*=2x4") == 8
    assert dsp(target_fps="1000000", clock_ns="4") == 16  # 250 cycles: 2048 products in 128
    assert dsp(folding="*.up=5x4") == "folding 5x4 does not divide 32 outputs and 64 inputs"
    assert "needs 2 cycles a frame at its widest, 1 are asked for" in str(dsp(target_fps="200000000", clock_ns="4"))
    unit = unit_of(*kinds)
    assert isinstance(unit, MatvecUnit)
    assert unit.cycles(Fold(8, 8)) == 32
    dynamic = tensor(["m", 64], parse_qtype("int8n | tensor f32"))
    assert unit_of(dynamic, kinds[1]) == "is not of a fixed shape"


@pytest.mark.parametrize(
    "text", ["int4", "int3 mid_rise | row f32", "uint4 | row f16 | pre u4", "table t(-1, -0.5, 0, 0.5, 1) | row f32"]
)
def test_the_domain_of_a_format_is_what_its_codes_stand_for(text: str) -> None:
    qtype = format_of(text if "|" in text else f"{text} | row f32")
    domain = integer_domain(qtype)
    assert domain == sorted(set(domain))
    generator = torch.Generator().manual_seed(0)
    found = set(integer_values(quantize(torch.randn(64, 96, generator=generator), qtype)).flatten().tolist())
    assert found <= set(domain)
    assert len(found) >= 0.5 * len(domain)


def documented() -> list[dict[str, Any]]:
    text = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text("utf-8")
    section = text.partition("#### Budgets of what a target predicts")[2].partition("\n### ")[0]
    found = [yaml.safe_load(one) for one in re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)]
    return [one for one in found if "budget" in one.get("allocate", {})]


@pytest.mark.parametrize("at", [0, 1])
def test_the_recipes_of_the_page_compile_within_their_budgets(at: int, tmp_path: Path) -> None:
    recipe = documented()[at]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 32)).eval()
    calls = [(torch.randn(1, 64, generator=torch.Generator().manual_seed(seed)),) for seed in range(3)]
    target = "cpu" if "latency" in recipe["allocate"]["budget"] else "hls"
    settings_ = {} if target == "cpu" else {"folding": "*=4x8"}
    compiled = qcc.compile(
        model, calls[0], recipe=recipe, target=target, settings=settings_, calibration=calls, output=tmp_path / "m.qcc",
        threads=1,
    )  # fmt: skip
    assert len({one.weights for one in compiled.coverage.layers}) > 1
    assert "allocate" not in yaml.safe_load((tmp_path / "m.qcc" / "recipe.yaml").read_text("utf-8"))

"""`allocate-bits` chooses what trying every choice would, within the budget, and changes nothing else."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from xdsl.dialects.builtin import ModuleOp

from qcc.calibrate.run import SampleRun
from qcc.coverage import coverage_of
from qcc.errors import QccError, RecipeError, ShapeError
from qcc.frontend.export import import_program
from qcc.interpreter import Interpreter
from qcc.ir.context import QccContext
from qcc.ir.nn import LinearOp
from qcc.ir.program import program_of
from qcc.ir.quant import ContractOp
from qcc.ir.store import WeightStore
from qcc.ir.types import type_of
from qcc.numerics.qtype_bits import storage_bits
from qcc.numerics.quantize import fake_quantize
from qcc.passes.allocate_bits import AllocateBits, allocated_recipe
from qcc.passes.layer_schemes import layer_name
from qcc.passes.pipeline import planned_recipe, planning, raising, run_passes
from qcc.passes.sensitivity import Choice, harms
from qcc.recipes.load import load_recipe, recipe_yaml
from qcc.recipes.model import Recipe, WeightScheme

CANDIDATES = [{"format": "uint2", "group": 8}, {"format": "uint4", "group": 8}, {"format": "int8"}]


class Net(nn.Module):
    """Two fused layers, one behind them, and a small one whose input has outliers."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.left, self.right = nn.Linear(16, 24), nn.Linear(16, 24, bias=False)
            self.down, self.head = nn.Linear(24, 16), nn.Linear(16, 5)
            self.head.weight.data[:, 3] *= 50

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return f32[..., 5]."""
        return self.head(x + self.down(torch.relu(self.left(x)) * self.right(x)))


def imported(seed: int) -> tuple[ModuleOp, WeightStore]:
    rows = torch.export.Dim.DYNAMIC
    program = torch.export.export(Net(seed).eval(), (torch.randn(3, 16),), dynamic_shapes=({0: rows},))
    found = import_program(program)
    return found.module, found.store


def data(seed: int, *sizes: int) -> SampleRun:
    generator = torch.Generator().manual_seed(seed)
    return SampleRun([{"x": torch.randn(size, 16, generator=generator)} for size in sizes or (4, 1, 7)])


def recipe_of(budget: dict[str, Any], **rest: Any) -> Recipe:
    by = rest.pop("by", "output")
    section = {"candidates": rest.pop("candidates", CANDIDATES), "budget": budget, "by": by}
    return load_recipe({"weights": {"format": "uint4", "group": 8}, "allocate": section, **rest})


def planned(recipe: Recipe, seed: int = 0, samples: SampleRun | None = None) -> tuple[ModuleOp, WeightStore]:
    module, store = imported(seed)
    run_passes(planning(recipe), QccContext(store, samples or data(seed)), module)
    return module, store


def formats(module: ModuleOp) -> dict[str, str]:
    return {layer_name(op): str(type_of(op.weight).qtype) for op in module.walk() if isinstance(op, ContractOp)}


def bits_of(module: ModuleOp) -> float:
    return coverage_of(module, None, {}, 0).bits_per_weight


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 99), bits=st.floats(4.6, 9.0), by=st.sampled_from(["output", "hessian"]))
def test_the_choice_is_that_of_brute_force_and_within_the_budget(seed: int, bits: float, by: Any) -> None:
    recipe = recipe_of({"bits_per_weight": bits}, by=by)
    module, store = imported(seed)
    run_passes(raising(), QccContext(store), module)
    layers = {layer_name(op): op for op in module.walk() if isinstance(op, LinearOp)}
    groups = [[layers["left"], layers["right"]], [layers["down"]], [layers["head"]]]
    options = [WeightScheme.model_validate(one) for one in CANDIDATES]
    measured = harms(module, store, data(seed), [Choice(one, options) for one in groups], by)

    def cost(scheme: WeightScheme, group: list[LinearOp]) -> int:
        return sum(storage_bits(scheme.qtype(), type_of(op.weight).static_shape or ()) for op in group)

    costs = [[cost(one, group) for one in options] for group in groups]
    count = sum(math.prod(type_of(op.weight).static_shape or ()) for op in layers.values())
    choices = [
        (math.fsum(row[place] for row, place in zip(measured, one, strict=True)), one)
        for one in itertools.product(range(3), repeat=3)
        if sum(row[place] for row, place in zip(costs, one, strict=True)) <= bits * count
    ]
    best = min(choices)[1]
    wanted = {
        layer_name(op): str(options[place].qtype()) for group, place in zip(groups, best, strict=True) for op in group
    }
    found, _ = planned(recipe, seed)
    assert formats(found) == wanted
    assert bits_of(found) <= bits


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99))
def test_the_function_is_the_same_to_the_bit_before_and_after(seed: int) -> None:
    module, store = imported(seed)
    run_passes(raising(), QccContext(store), module)
    x = {"x": torch.randn(5, 16, generator=torch.Generator().manual_seed(seed))}
    before, keys = Interpreter(module, store).run(x), set(store)
    AllocateBits(recipe_of({"bits_per_weight": 6}).model_dump_json()).apply(QccContext(store, data(seed)), module)
    module.verify()
    after = Interpreter(module, store).run(x)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert set(store) == keys
    assert sum("allocated" in op.attributes for op in module.walk()) == 4


@pytest.mark.parametrize("by", ["output", "hessian"])
def test_the_result_is_a_recipe_that_needs_no_samples_and_gives_the_same(by: str) -> None:
    recipe = recipe_of({"bits_per_weight": 6}, by=by)
    module, _ = planned(recipe)
    written = recipe_yaml(planned_recipe(recipe, module))
    assert written == recipe_yaml(planned_recipe(recipe, planned(recipe)[0]))
    loaded = load_recipe(yaml.safe_load(written))
    assert loaded.allocate is None
    again, store = imported(0)
    run_passes(planning(loaded), QccContext(store), again)
    assert formats(again) == formats(module)
    assert len(set(formats(module).values())) > 1
    assert allocated_recipe(loaded, again) is loaded


def test_harms_are_what_they_say() -> None:
    module, store = imported(3)
    run_passes(raising(), QccContext(store), module)
    (down,) = [op for op in module.walk() if isinstance(op, LinearOp) and layer_name(op) == "down"]
    samples, net = data(3), Net(3).eval()
    options = [WeightScheme.model_validate(one) for one in CANDIDATES]
    rows = torch.cat([one["x"] for one in samples.samples])
    whole: list[float] = []
    own: list[float] = []
    with torch.no_grad():
        exact, inner = net(rows), torch.relu(net.left(rows)) * net.right(rows)
        weight = net.down.weight.clone()
        for scheme in options:
            net.down.weight.copy_(rounded := fake_quantize(weight, scheme.qtype()))
            own.append(float((inner @ (weight - rounded).T).square().sum() / (inner @ weight.T).square().sum()))
            whole.append(float((net(rows) - exact).square().sum() / exact.square().sum()))
    (outputs,) = harms(module, store, samples, [Choice([down], options)], "output")
    assert outputs == pytest.approx(whole, rel=1e-3)
    # the middle one does the harm that was measured, the others in proportion to what the layer loses
    (found,) = harms(module, store, samples, [Choice([down], options)], "hessian")
    middle = own.index(sorted(own)[1])
    assert found == pytest.approx([one * whole[middle] / own[middle] for one in own], rel=1e-3)


def test_fused_layers_get_one_format_at_any_budget() -> None:
    for bits in (4.6, 5.0, 5.5, 6.5, 7.5, 20.0):
        found = formats(planned(recipe_of({"bits_per_weight": bits}))[0])
        assert found["left"] == found["right"]
    assert set(found.values()) == {"int8 | (1,-1) f16"}


def test_layers_with_weights_by_an_override_keep_them_and_count() -> None:
    fixed = [{"match": "down", "weights": {"format": "int8", "scale": "f32"}}]
    recipe = recipe_of({"bits_per_weight": 6.5}, overrides=fixed)
    module, _ = planned(recipe)
    assert formats(module)["down"] == "int8 | (1,-1) f32"
    assert bits_of(module) <= 6.5
    assert planned_recipe(recipe, module).overrides[0].match == "down"
    every = [{"match": "*", "weights": {"format": "int8"}}]
    assert set(formats(planned(recipe_of({"bits_per_weight": 1}, overrides=every))[0]).values()) == {
        "int8 | (1,-1) f16"
    }


def test_a_budget_in_bytes_holds_for_the_stored_weights() -> None:
    module, _ = planned(recipe_of({"bytes": 900}))
    layers = coverage_of(module, None, {}, 0).layers
    assert 700 < sum(one.bytes for one in layers) <= 900


def test_a_candidate_that_does_not_divide_a_layer_is_no_choice_for_it() -> None:
    candidates = [{"format": "uint2", "group": 24}, {"format": "int8"}]
    found = formats(planned(recipe_of({"bits_per_weight": 8.5}, candidates=candidates))[0])
    assert found["down"] == "uint2 | (1,24) f16 | pre u2"
    assert {found[name] for name in ("left", "right", "head")} == {"int8 | (1,-1) f16"}


def test_zeros_harm_nothing_and_take_the_cheapest() -> None:
    module, store = imported(0)
    for name in ("left.weight", "right.weight"):
        store[name] = torch.zeros_like(store.tensor(name))
    run_passes(planning(recipe_of({"bits_per_weight": 20})), QccContext(store, data(0)), module)
    assert formats(module)["left"] == formats(module)["right"] == "uint2 | (1,8) f16 | pre u2"


@pytest.mark.parametrize("by", ["output", "hessian"])
def test_samples_that_are_not_finite_name_the_layers(by: str) -> None:
    samples = SampleRun([{"x": torch.full((2, 16), math.nan)}])
    with pytest.raises(ShapeError, match="not finite") as caught:
        planned(recipe_of({"bits_per_weight": 6}, by=by), samples=samples)
    assert [one.where for one in caught.value.problems] == ["left, right", "down", "head"]


@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("by", ["output", "hessian"])
def test_the_scale_of_the_samples_does_not_matter_to_a_linear_layer(by: Any, scale: float) -> None:
    program = torch.export.export(nn.Linear(16, 5, bias=False).eval(), (torch.randn(3, 16),))
    options = [WeightScheme.model_validate(one) for one in CANDIDATES]

    def harm(factor: float) -> list[float]:
        found = import_program(program)
        run_passes(raising(), QccContext(found.store), found.module)
        layers = [op for op in found.module.walk() if isinstance(op, LinearOp)]
        (name,) = program_of(found.module).input_names
        run = SampleRun([{name: data(0, 3).samples[0]["x"] * factor}])
        return harms(found.module, found.store, run, [Choice(layers, options)], by)[0]

    assert harm(scale) == pytest.approx(harm(1.0), rel=1e-3)


def test_a_budget_that_cannot_be_met_says_the_least_possible() -> None:
    with pytest.raises(RecipeError, match=r"2 bits per weight cannot be met, (\S+) bits per weight is") as caught:
        planned(recipe_of({"bits_per_weight": 2}))
    least = float(str(caught.value).split("met, ")[1].split()[0])
    module, _ = planned(recipe_of({"bits_per_weight": least}))
    assert bits_of(module) <= least
    with pytest.raises(RecipeError, match=r"10 bytes cannot be met, \d+ bytes is the least possible"):
        planned(recipe_of({"bytes": 10}))


def test_without_samples_it_is_refused_with_the_way_out() -> None:
    module, store = imported(0)
    with pytest.raises(QccError, match=r"bit allocation needs calibration(.|\n)*overrides"):
        run_passes(planning(recipe_of({"bits_per_weight": 6})), QccContext(store), module)


def test_solvers_that_a_candidate_cannot_have_are_refused_before_anything_runs() -> None:
    candidates = [{"format": "olive4", "solver": "gptq"}, {"format": "int4", "solver": "adaround"}]
    with pytest.raises(RecipeError) as caught:
        planned(recipe_of({"bits_per_weight": 6}, candidates=candidates))
    assert [one.where.split(":")[0] for one in caught.value.problems] == [
        "allocate.candidates.0",
        "allocate.candidates.1",
    ]


@pytest.mark.parametrize(
    ("section", "what"),
    [
        ({"candidates": CANDIDATES, "budget": {}}, "write one of them"),
        ({"candidates": CANDIDATES, "budget": {"bytes": 4, "bits_per_weight": 4}}, "write one of them"),
        ({"candidates": CANDIDATES[:1], "budget": {"bytes": 4}}, "at least 2"),
        ({"candidates": [*CANDIDATES, CANDIDATES[0]], "budget": {"bytes": 4}}, "named twice: uint2"),
        ({"candidates": [*CANDIDATES, {"format": "f16"}], "budget": {"bytes": 4}}, "not f16"),
        ({"candidates": CANDIDATES, "budgett": {"bytes": 4}}, "did you mean 'budget'"),
    ],
)
def test_sections_that_make_no_sense_are_refused(section: dict[str, Any], what: str) -> None:
    with pytest.raises(RecipeError, match=what):
        load_recipe({"weights": {"format": "int4"}, "allocate": section})


def test_nothing_can_be_allocated_where_weights_stay_in_float() -> None:
    section = {"candidates": CANDIDATES, "budget": {"bytes": 4}}
    with pytest.raises(RecipeError, match="set its format"):
        load_recipe({"allocate": section})

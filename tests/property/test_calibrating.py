"""`calibrate` gives static formats the parameters of all samples together, and changes nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import ModuleOp

from qcc.calibrate.histogram import RESOLUTION
from qcc.calibrate.run import SampleRun
from qcc.errors import QccError, RecipeError, ShapeError
from qcc.interpreter import Interpreter
from qcc.ir.base import set_location
from qcc.ir.context import QccContext
from qcc.ir.elementwise import UnaryOp
from qcc.ir.nn import LinearOp
from qcc.ir.program import ProgramOp, ReturnOp, WeightOp
from qcc.ir.quant import QuantizeOp
from qcc.ir.store import WeightStore
from qcc.ir.types import SymbolAttr, tensor, type_of
from qcc.numerics.levels import stored_dtype
from qcc.numerics.named_tensors import named_parameters, parameters_from
from qcc.numerics.presets import format_of
from qcc.numerics.quantize import compute_qparams, dequantize, fake_quantize, quantize
from qcc.numerics.stored_parts import parameter_parts
from qcc.passes.assign_formats import AssignFormats
from qcc.passes.calibrate import Calibrate
from qcc.passes.float_view import float_view
from qcc.passes.solve_weights import SolveWeights
from qcc.recipes.model import ActivationScheme

COLUMNS = 12


def two_in_a_row(seed: int) -> tuple[ModuleOp, WeightStore]:
    """`second(relu(first(x)))` over any number of rows."""
    generator = torch.Generator().manual_seed(seed)
    names = ("first", "second")
    store = WeightStore({f"{name}.weight": torch.randn(COLUMNS, COLUMNS, generator=generator) for name in names})
    program = ProgramOp("main", [("x", tensor(["m", COLUMNS], "f32"))], [SymbolAttr.make("m", 0)], ["y"])
    block, value = program.body.block, program.body.block.args[0]
    for name in names:
        weight = WeightOp(f"{name}.weight", tensor([COLUMNS, COLUMNS], "f32"))
        layer, relu = LinearOp(value, weight), None
        set_location(layer, f"{name} (net.py:1)")
        block.add_ops([weight, layer])
        value = layer.result
        if name == "first":
            relu = UnaryOp("relu", value)
            block.add_op(relu)
            value = relu.result
    block.add_op(ReturnOp([value]))
    module = ModuleOp([program])
    module.verify()
    return module, store


def planned(seed: int, activations: dict[str, Any], weights: str = "int8") -> tuple[ModuleOp, WeightStore]:
    module, store = two_in_a_row(seed)
    recipe = {"weights": {"format": weights}, "activations": activations}
    AssignFormats(json.dumps(recipe)).apply(QccContext(store), module)
    module.verify()
    return module, store


def samples(count: int, rows: int, seed: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [{"x": torch.randn(rows + index, COLUMNS, generator=generator)} for index in range(count)]


SCHEMES = [
    {"format": "int8", "when": "static", "granularity": "tensor"},
    {"format": "int4", "when": "static", "granularity": "tensor", "clip": "mse"},
    {"format": "int8", "when": "static", "granularity": "tensor", "clip": 99.5},
    {"format": "uint8", "when": "static", "granularity": "tensor"},
    {"format": "int8", "when": "static", "granularity": "channel"},
    {"format": "int8", "when": "static", "group": 4},
    {"format": "int8 | tensor pow2 ceil", "when": "static"},
    {"format": "fp2_1 | (1,4) e4m3, tensor f32 | dynamic_local"},
]


@settings(max_examples=50, deadline=None)
@given(scheme=st.sampled_from(SCHEMES), count=st.integers(1, 4), rows=st.integers(1, 5), seed=st.integers(0, 999))
def test_the_program_quantizes_with_the_parameters_of_all_samples(
    scheme: dict[str, Any], count: int, rows: int, seed: int
) -> None:
    module, store = planned(seed, scheme)
    data, (_, float_store) = samples(count, rows, seed), two_in_a_row(seed)
    Calibrate().apply(QccContext(store, SampleRun(data)), module)
    module.verify()
    assert all(op.parameters for op in module.walk() if isinstance(op, QuantizeOp) and "weight" not in str(op.input))
    # before and after: the float program, quantized by hand
    every = torch.cat([one["x"] for one in data])
    hidden = torch.relu(every @ float_store.tensor("first.weight").T)
    for name, values in (("first", every), ("second", hidden)):
        for part, value in _given(store, name).items():
            wanted = _parameters(values, scheme)[part].to(value.dtype)
            if scheme.get("clip") != "mse":  # nearly equal errors have ranges far apart
                torch.testing.assert_close(value, wanted, rtol=RESOLUTION * 1.001, atol=0)
    weights = [fake_quantize(store.tensor(f"{name}.weight"), "int8 | row f16") for name in ("first", "second")]
    x = data[0]["x"]
    middle = torch.relu(_by_hand(x, scheme, _given(store, "first")) @ weights[0].T)
    expected = _by_hand(middle, scheme, _given(store, "second")) @ weights[1].T
    found = Interpreter(module, store, "f64").run({"x": x})["y"]
    # a code next to a rounding boundary may fall on either side, so single entries may differ by a step
    assert float((found - expected).norm()) <= 0.05 * float(expected.norm()) + 1e-6


def _given(store: WeightStore, name: str) -> dict[str, torch.Tensor]:
    prefix = f"{name}.input."
    return {key.removeprefix(prefix): store.tensor(key) for key in store if key.startswith(prefix)}


def _parameters(values: torch.Tensor, scheme: dict[str, Any]) -> dict[str, torch.Tensor]:
    qtype = ActivationScheme.model_validate(scheme).qtype()
    return named_parameters(qtype, compute_qparams(values, replace(qtype, when="static")))


def _by_hand(x: torch.Tensor, scheme: dict[str, Any], given: dict[str, torch.Tensor]) -> torch.Tensor:
    qtype = ActivationScheme.model_validate(scheme).qtype()
    if qtype.when == "dynamic_local":
        return dequantize(quantize(x, qtype, compute_qparams(x, qtype, roots=(given["scale1"],))))
    dtypes = {part.name: stored_dtype(part.dtype) for part in parameter_parts(qtype)}
    stored = {name: value.to(dtypes[name]) for name, value in given.items()}
    return dequantize(quantize(x, qtype, parameters_from(qtype, stored)))


def test_a_format_is_calibrated_once_for_all_its_readers_and_named_after_the_first() -> None:
    module, store = planned(0, {"format": "int8", "when": "static", "granularity": "tensor"})
    Calibrate().apply(QccContext(store, SampleRun(samples(2, 3, 0))), module)
    SolveWeights().apply(QccContext(store), module)
    module.verify()
    assert sorted(key for key in store if "input" in key) == ["first.input.scale0", "second.input.scale0"]
    assert store.tensor("first.input.scale0").shape == (1, 1)


def test_the_same_samples_give_the_same_bits() -> None:
    found: list[torch.Tensor] = []
    for _ in range(2):
        module, store = planned(3, SCHEMES[1])
        Calibrate().apply(QccContext(store, SampleRun(samples(4, 5, 1))), module)
        found.append(store.tensor("second.input.scale0"))
    assert torch.equal(*found)


def test_without_samples_static_formats_are_refused_with_the_way_out() -> None:
    module, store = planned(0, SCHEMES[0])
    with pytest.raises(QccError) as caught:
        Calibrate().apply(QccContext(store), module)
    assert "needs calibration" in str(caught.value)
    assert "--calib FILE" in str(caught.value)
    assert "when: dynamic" in str(caught.value)


def test_every_format_that_cannot_be_static_is_named() -> None:
    module, store = planned(0, {"format": "int8 | token f32", "when": "static"})
    with pytest.raises(RecipeError) as caught:
        Calibrate().apply(QccContext(store, SampleRun(samples(1, 2, 0))), module)
    assert [one.where for one in caught.value.problems] == ["first (net.py:1)", "second (net.py:1)"]
    assert "granularity: tensor" in str(caught.value)


def test_samples_that_do_not_fit_are_listed() -> None:
    module, store = planned(0, SCHEMES[0])
    data = [*samples(1, 2, 0), {"x": torch.zeros(2, 5)}, {"y": torch.zeros(2, COLUMNS)}]
    with pytest.raises(ShapeError) as caught:
        Calibrate().apply(QccContext(store, SampleRun(data)), module)
    assert [one.where for one in caught.value.problems] == ["sample 2", "sample 3"]
    assert "size 5" in str(caught.value)


@pytest.mark.parametrize(("bad", "what"), [(float("nan"), "not finite"), (None, "no sample has values")])
def test_values_that_give_no_scale_are_named(bad: float | None, what: str) -> None:
    module, store = planned(0, SCHEMES[0])
    x = torch.zeros(0, COLUMNS) if bad is None else torch.full((2, COLUMNS), bad)
    with pytest.raises(ShapeError, match=what) as caught:
        Calibrate().apply(QccContext(store, SampleRun([{"x": x}])), module)
    assert len(caught.value.problems) == 2


def test_the_float_view_is_the_program_before_quantization() -> None:
    module, store = planned(1, {"format": "int4"}, "int2")
    plain, _ = two_in_a_row(1)
    x = torch.randn(3, COLUMNS)
    view = float_view(module)
    assert torch.equal(Interpreter(view.module, store).run({"x": x})["y"], Interpreter(plain, store).run({"x": x})["y"])
    for op in module.walk():
        if isinstance(op, QuantizeOp):
            assert type_of(view.of(op.result)) == type_of(op.input)


def test_whole_formats_by_name_are_calibrated_too() -> None:
    module, store = planned(0, {"format": "fixed<8,3>", "when": "static"})
    Calibrate().apply(QccContext(store, SampleRun(samples(1, 2, 0))), module)
    assert float(store.tensor("first.input.scale0")) == 2.0**-5
    assert format_of("fixed<8,3>").levels[0].constant == 2.0**-5

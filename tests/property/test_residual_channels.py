"""Residual channels: one product over more columns is the sum of two, and the codes of the first stay the same."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation
from xdsl.rewriter import InsertPoint, Rewriter

from qcc.calibrate.run import SampleRun
from qcc.errors import IllegalFold, RecipeError
from qcc.interpreter import Interpreter
from qcc.ir.base import RESIDUAL
from qcc.ir.context import QccContext
from qcc.ir.elementwise import UnaryOp
from qcc.ir.nn import LinearOp
from qcc.ir.program import WeightOp
from qcc.ir.quant import ContractOp, DequantizeOp, QuantizeOp
from qcc.ir.store import WeightStore
from qcc.ir.types import type_of
from qcc.numerics.presets import format_of
from qcc.numerics.quantize import fake_quantize
from qcc.passes.assign_formats import AssignFormats
from qcc.passes.float_view import float_view
from qcc.passes.lower_transforms import LowerTransforms
from qcc.passes.pipeline import run_passes
from qcc.passes.residual_channels import ResidualChannels
from qcc.passes.solve_weights import SolveWeights
from tests.modules import Made, kind_of, make

FORMATS = ["nvfp4", "nvint4", "mxfp4", "int4 | (1,32) f32", "mxint8"]


def siblings(columns: int, rows: int, seed: int, *, outliers: float = 20.0) -> tuple[ModuleOp, WeightStore, Tensor]:
    """Two layers that read one input of which some channels stand out, and that input."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator)
    x[:, torch.randperm(columns, generator=generator)[: max(1, columns // 20)]] *= outliers
    stored = {name: torch.randn(count, columns, generator=generator) for name, count in (("first", 5), ("second", 3))}

    def build(value: Made) -> list[LinearOp]:
        return [LinearOp(value, WeightOp(name, kind_of(weight))) for name, weight in stored.items()]

    return make({"x": kind_of(x)}, build), WeightStore(stored), x


def recipe(text: str, **weights: str) -> str:
    return json.dumps({"weights": {"format": text, **weights}, "activations": {"format": text}})


def contracts(module: ModuleOp) -> list[ContractOp]:
    return [op for op in module.walk() if isinstance(op, ContractOp)]


def residuals(module: ModuleOp) -> list[int]:
    return [op.attributes[RESIDUAL].value.data for op in contracts(module) if RESIDUAL in op.attributes]  # type: ignore[attr-defined]


@settings(max_examples=40, deadline=None)
@given(
    text=st.sampled_from(FORMATS), blocks=st.integers(1, 5), rows=st.integers(1, 4), seed=st.integers(0, 999),
    threshold=st.sampled_from([0.02, 0.125, 1.0]), share=st.sampled_from([0.1, 0.5, 1.0]),
    size=st.sampled_from([0.0, 1e-30, 1.0, 1e25]), lowered=st.booleans(),
)  # fmt: skip
def test_the_wide_product_is_the_sum_of_two(
    text: str, blocks: int, rows: int, seed: int, threshold: float, share: float, size: float, lowered: bool
) -> None:
    columns = 32 * blocks
    module, store, x = siblings(columns, rows, seed)
    x = x * size
    weights = {key: store.tensor(key) for key in store}
    context = QccContext(store, SampleRun([{"x": x}]))
    run_passes([AssignFormats(recipe(text)), ResidualChannels(threshold, share)], context, module)
    found = residuals(module)
    step = 16 if text in ("nvfp4", "nvint4") else 32
    if size == 0.0:
        assert not found
        return
    assert len(found) == 2
    (count,) = set(found)
    assert count % step == 0
    assert count <= max(step, share * columns)
    run_passes([SolveWeights(), *([LowerTransforms()] if lowered else [])], context, module)
    got = Interpreter(module, store).run({"x": x})

    order = x.abs().amax(0).argsort(descending=True, stable=True)
    given_ = format_of(f"{format_of(text)} | dynamic")
    sorted_ = x[:, order]
    plain = fake_quantize(sorted_, given_)
    wide = fake_quantize(torch.cat((sorted_, (sorted_ - plain)[:, :count]), 1), given_)
    assert torch.equal(wide[:, :columns], plain)  # the codes of the first channels are what they were
    for name, output in (("first", got["y"]), ("second", got["y1"])):
        coded = fake_quantize(weights[name][:, order], text).double()
        terms = plain.double() @ coded.T, wide[:, columns:].double() @ coded[:, :count].T
        scale = max(float((plain.double().abs() @ coded.abs().T).max()), 1e-300)
        assert float((output.double() - sum(terms)).abs().max()) <= 2e-6 * scale


@pytest.mark.parametrize("text", FORMATS)
def test_the_float_program_stays_what_it_was(text: str) -> None:
    module, store, x = siblings(96, 4, 1)
    before = Interpreter(module, store, "f64").run({"x": x})
    context = QccContext(store, SampleRun([{"x": x}]))
    run_passes([AssignFormats(recipe(text)), ResidualChannels()], context, module)
    assert residuals(module)
    view = float_view(module).module
    view.verify()
    after = Interpreter(view, store, "f64").run({"x": x})
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=1e-13, atol=1e-13 * float(value.abs().max()))


def loss(weights: dict[str, str], *, residual: bool) -> float:
    """Return the relative squared error of two layers behind NVFP4 inputs with outliers."""
    module, store, x = siblings(128, 256, 3)
    wanted = Interpreter(module, store).run({"x": x})
    text = json.dumps({"weights": weights, "activations": {"format": "nvfp4"}})
    passes = [AssignFormats(text), *([ResidualChannels()] if residual else []), SolveWeights()]
    run_passes(passes, QccContext(store, SampleRun([{"x": x}])), module)
    found = Interpreter(module, store).run({"x": x})
    noise = sum(float((found[name] - wanted[name]).square().sum()) for name in wanted)
    return noise / sum(float(value.square().sum()) for value in wanted.values())


def test_outliers_lose_far_less() -> None:
    """Behind weights that lose little, nearly all that was lost was lost by the outliers."""
    weights = {"format": "int8"}
    assert loss(weights, residual=True) < 0.1 * loss(weights, residual=False)


@pytest.mark.parametrize("solver", ["rtn", "gptq"])
def test_weights_in_the_same_format_leave_their_own_error(solver: str) -> None:
    weights = {"format": "nvfp4", "solver": solver}
    assert loss(weights, residual=True) < 0.8 * loss(weights, residual=False)


def refusal(activations: dict[str, str], columns: int = 64) -> str:
    module, store, x = siblings(columns, 3, 0)
    context = QccContext(store, SampleRun([{"x": x}]))
    text = json.dumps({"weights": {"format": "int8"}, "activations": activations})
    run_passes([AssignFormats(text)], context, module)
    before = str(module)
    with pytest.raises(IllegalFold) as caught:
        run_passes([ResidualChannels()], context, module)
    assert str(module) == before
    run_passes([ResidualChannels(illegal="keep")], context, module)
    assert not residuals(module)
    assert "not_folded" in str(module)
    return str(caught.value)


def test_scales_over_all_channels_are_refused() -> None:
    said = refusal({"format": "int8"})
    assert "has no blocks along the columns" in said
    assert "first, second: 'int8" in said
    assert "such as nvfp4" in said


def test_scales_that_are_chosen_before_are_refused() -> None:
    said = refusal({"format": "fp2_1 | (1,16) e4m3, tensor f32 | dynamic_local"})
    assert "has scales that are chosen before the residual is known" in said


def test_a_scale_over_all_channels_that_would_change_is_refused() -> None:
    said = refusal({"format": "fp2_1 | (1,16) e4m3, tensor f32 mse | dynamic"})
    assert "over all channels would change with the residual" in said


def test_layers_that_are_solved_are_refused() -> None:
    module, store, x = siblings(64, 3, 0)
    context = QccContext(store, SampleRun([{"x": x}]))
    run_passes([AssignFormats(recipe("nvfp4")), SolveWeights()], context, module)
    with pytest.raises(IllegalFold, match=r"codes of its weight .* are solved for its input as it was"):
        run_passes([ResidualChannels()], context, module)


def test_codes_that_something_else_reads_are_refused() -> None:
    module, store, x = siblings(64, 3, 0)
    context = QccContext(store, SampleRun([{"x": x}]))
    run_passes([AssignFormats(recipe("nvfp4"))], context, module)
    codes = next(op for op in module.walk() if isinstance(op, ContractOp)).input
    assert isinstance(codes.owner, Operation)
    Rewriter.insert_op(DequantizeOp(codes), InsertPoint.after(codes.owner))
    with pytest.raises(IllegalFold, match="weights that are still to be solved"):
        run_passes([ResidualChannels()], context, module)


def test_layers_whose_input_is_not_quantized_are_left_alone() -> None:
    module, store, x = siblings(64, 3, 0)
    context = QccContext(store, SampleRun([{"x": x}]))
    run_passes([AssignFormats(json.dumps({"weights": {"format": "nvfp4"}}))], context, module)
    before = str(module)
    run_passes([ResidualChannels()], context, module)
    assert str(module) == before


@pytest.mark.parametrize("numbers", [{"threshold": 0.0}, {"share": 1.5}, {"multiple": 0}])
def test_numbers_that_make_no_sense_are_refused(numbers: dict[str, float]) -> None:
    with pytest.raises(RecipeError, match="multiple >= 1"):
        ResidualChannels(**numbers).apply(QccContext(WeightStore({})), siblings(32, 1, 0)[0])  # type: ignore[arg-type]


def test_a_tied_weight_stays_for_its_other_reader() -> None:
    """A layer in float keeps the weight that a quantized one is widened from."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(4, 64, generator=generator), torch.randn(64, 64, generator=generator)

    def build(value: Made) -> Made:
        shared = WeightOp("shared", kind_of(weight))
        return UnaryOp("relu", LinearOp(LinearOp(value, shared), shared))

    store = WeightStore({"shared": weight})
    module = make({"x": kind_of(x)}, build)
    context = QccContext(store, SampleRun([{"x": x}]))
    run_passes([AssignFormats(recipe("nvfp4")), ResidualChannels(share=0.3)], context, module)
    keys = [
        op.input.owner.key.data
        for op in module.walk()
        if isinstance(op, QuantizeOp) and isinstance(op.input.owner, WeightOp)
    ]
    assert keys == ["shared/residual", "shared/residual.1"]
    assert set(store) >= set(keys)
    assert {type_of(op.weight).shape[1].constant for op in contracts(module)} == {80}

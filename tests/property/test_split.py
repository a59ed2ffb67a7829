"""Weights split into codes, outliers and low-rank factors: what leaves, what stays, and what that gains."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.calibrate.run import SampleRun
from qcc.errors import QccError, RecipeError
from qcc.interpreter import Interpreter
from qcc.ir.base import LOW_RANK
from qcc.ir.context import QccContext
from qcc.ir.quant import QuantizeOp
from qcc.ir.store import WeightStore
from qcc.numerics.lowrank import LowRankFactors
from qcc.numerics.qtype_bits import whole_share
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import dequantize, quantize
from qcc.numerics.sparse import CompressedRows, DenseColumns
from qcc.numerics.tensor import QuantizedTensor
from qcc.passes.assign_formats import AssignFormats
from qcc.passes.solve_weights import SolveWeights
from qcc.passes.solvers.hessian import conditioned
from qcc.passes.solvers.outliers import chosen_outliers
from qcc.passes.solvers.split import solve_split
from qcc.passes.solvers.table import SOLVERS, SplitChoice
from qcc.recipes.load import load_recipe
from tests.property.test_calibrating import COLUMNS, samples, two_in_a_row
from tests.property.test_solvers import correlated, hessian_of, loss, weight_of

SPQR = "uint3 | (1,16) u3 offset(parent), (16,16) f16 | pre (1,16) u3 offset(parent), (16,16) f16"
INNER = ["int4 | (1,8) f16", "uint3 | (1,16) f16 | pre u3", "uint2 | (1,8) f32 | post f32", SPQR, "fp2_1 | row f32"]
METHODS: list[Any] = ["svd", "lorc", "alternating"]


def solve(weight: torch.Tensor, text: str, hessian: torch.Tensor | None, solver: str, **choice: Any) -> QuantizedTensor:
    return solve_split(weight, parse_qtype(text), hessian, "w", SOLVERS[solver], SplitChoice(**choice))


def places(found: QuantizedTensor) -> torch.Tensor:
    """Say where a weight has outliers, and that their values are stored there and nowhere else."""
    (side,) = found.sides
    assert isinstance(side, CompressedRows | DenseColumns)
    ones = torch.ones_like(side.values)
    return type(side)(ones, *list(vars(side).values())[1:]).to_dense() != 0


@settings(max_examples=60, deadline=None)
@given(
    text=st.sampled_from(INNER),
    rows=st.integers(1, 20),
    columns=st.integers(1, 50),
    fraction=st.sampled_from([0.01, 0.1, 0.5]),
    kind=st.sampled_from(["csr", "columns"]),
    by=st.sampled_from(["magnitude", "sensitivity"]),
    solver=st.sampled_from(["rtn", "gptq"]),
    seed=st.integers(0, 99),
)
def test_as_many_leave_as_the_type_says_and_lose_nothing_but_their_dtype(
    text: str, rows: int, columns: int, fraction: float, kind: str, by: Any, solver: str, seed: int
) -> None:
    weight, hessian = weight_of(rows, columns, seed), hessian_of(correlated(80, columns, seed))
    found = solve(weight, f"{text} | sparse({kind}, f32, {fraction})", hessian, solver, outliers=by)
    where, values = places(found), dequantize(found)
    whole = columns if kind == "columns" else rows * columns
    assert int(where.sum()) == whole_share(fraction, whole) * (rows if kind == "columns" else 1)
    if solver == "rtn":
        torch.testing.assert_close(values[where], weight[where], rtol=1e-5, atol=1e-5 * float(weight.abs().max()))
    if by == "magnitude" and kind == "csr" and bool(where.any()):
        assert float(weight[where].abs().min()) >= float(weight.masked_fill(where, 0).abs().max())


@pytest.mark.parametrize("text", ["int4 | (1,8) f16", "nvfp4", "uint4 | (1,16) f16 | pre u4"])
@pytest.mark.parametrize("side", ["sparse(csr, f16, 0.03)", "sparse(columns, f16, 0.1)"])
def test_around_the_largest_rounding_is_what_quantize_does(text: str, side: str) -> None:
    from qcc.numerics.presets import format_of

    weight = weight_of(24, 48, 3) ** 3
    whole = f"{format_of(text)} | {side}"
    found, wanted = solve(weight, whole, None, "rtn"), quantize(weight, parse_qtype(whole))
    assert torch.equal(found.codes, wanted.codes)
    assert torch.equal(dequantize(found), dequantize(wanted))


def test_with_inputs_that_do_not_correlate_error_feedback_rounds_to_nearest() -> None:
    weight, text = weight_of(24, 48, 4) ** 3, "uint3 | (1,16) f16 | pre u3 | sparse(csr, f16, 0.03)"
    eye = torch.eye(48, dtype=torch.float64)
    found, wanted = (solve(weight, text, eye, solver, outliers="sensitivity") for solver in ("gptq", "rtn"))
    assert torch.equal(dequantize(found), dequantize(wanted))


@pytest.mark.parametrize("kind", ["csr", "columns"])
def test_what_leaves_by_sensitivity_is_what_the_outputs_need(kind: str) -> None:
    """One channel of large inputs: its weights are small, so that by magnitude others leave."""
    inputs, gains = correlated(300, 64, 1), list[float]()
    inputs[:, 9] = 100 * torch.randn(300, generator=torch.Generator().manual_seed(2))
    hessian = hessian_of(inputs)
    for seed in range(4):
        weight = weight_of(32, 64, seed)
        weight[:, 9] *= 0.3
        text = f"{SPQR} | sparse({kind}, f16, {1 / 64})"
        found = [solve(weight, text, hessian, "gptq", outliers=by) for by in ("magnitude", "sensitivity")]
        gains.append(loss(weight, found[1], hessian) / loss(weight, found[0], hessian))
        share = float(places(found[1])[:, 9].float().mean())
        assert share == 1.0 if kind == "columns" else share > 0.3
    assert max(gains) < 0.5


def test_an_element_that_stretches_its_block_leaves_before_one_that_rounds_badly() -> None:
    weight = torch.linspace(-1, 1, 64).repeat(16, 1)
    weight[3, 17] = 6.0
    apart = chosen_outliers(weight, parse_qtype("int3 | (1,16) f32"), _sparse(1 / 1024), torch.eye(64))
    assert apart.nonzero().tolist() == [[3, 17]]


def _sparse(fraction: float) -> Any:
    return parse_qtype(f"int4 | row f32 | sparse(csr, f16, {fraction})").sides[0]


def test_outliers_of_error_feedback_make_up_for_what_others_lost() -> None:
    weight, hessian = weight_of(32, 64, 5), hessian_of(correlated(300, 64, 5))
    text = f"{SPQR} | sparse(csr, f32, 0.1)"
    around = solve(weight, text, hessian, "gptq")
    apart = places(around)
    inner = SOLVERS["gptq"].load()(weight.masked_fill(apart, 0), parse_qtype(SPQR), hessian, "w")
    plain = torch.where(apart, weight, dequantize(inner))
    assert loss(weight, around, hessian) < 0.9 * float(((weight - plain).double() @ hessian * (weight - plain)).sum())


@settings(max_examples=30, deadline=None)
@given(
    text=st.sampled_from(INNER),
    rows=st.integers(2, 20),
    columns=st.integers(2, 40),
    rank=st.integers(1, 5),
    dtype=st.sampled_from(["f32", "f16", "i8"]),
    method=st.sampled_from(METHODS),
    weighted=st.booleans(),
    seed=st.integers(0, 99),
)
def test_factors_never_cost_and_alternating_is_never_worse_than_once(
    text: str, rows: int, columns: int, rank: int, dtype: str, method: Any, weighted: bool, seed: int
) -> None:
    weight, hessian = weight_of(rows, columns, seed), hessian_of(correlated(80, columns, seed))
    scale = conditioned(hessian).diag() if weighted else torch.ones(columns, dtype=torch.float64)
    whole = f"{text} | lowrank({rank}, {dtype})"

    def missing(found: QuantizedTensor) -> float:
        return float(((weight.double() - dequantize(found, torch.float64)).square() * scale).sum())

    found = solve(weight, whole, hessian, "rtn", low_rank=method, weighted=weighted)
    assert isinstance(found.sides[0], LowRankFactors)
    if method == "svd":
        return
    plain = missing(quantize(weight, parse_qtype(text)))
    once = missing(solve(weight, whole, hessian, "rtn", low_rank="lorc", weighted=weighted))
    tiny = 1e-6 * float((weight.double().square() * scale).sum())
    assert once <= plain * 1.01 + tiny  # factors are rounded themselves
    assert missing(found) <= once * (1 + 1e-6) + tiny


def test_a_weight_of_low_rank_is_all_factors() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 3, generator=generator) @ torch.randn(3, 48, generator=generator)
    found = solve(weight, "int2 | row f32 | lowrank(3, f32)", None, "rtn", low_rank="svd")
    torch.testing.assert_close(dequantize(found), weight, rtol=1e-4, atol=1e-4)
    other = solve(weight, "int2 | row f32 | lowrank(3, f32)", None, "rtn", low_rank="lorc")
    assert float((dequantize(other) - weight).norm()) > 0.1 * float(weight.norm())


@pytest.mark.parametrize("method", METHODS)
def test_outliers_and_factors_of_one_weight_do_not_undo_each_other(method: Any) -> None:
    weight = weight_of(32, 64, 0)
    weight[3, 5] = 40.0
    found = solve(weight, "int4 | (1,32) f16 | sparse(csr, f16, 0.01) | lowrank(4, f16)", None, "rtn", low_rank=method)
    sparse = solve(weight, "int4 | (1,32) f16 | sparse(csr, f16, 0.01)", None, "rtn")
    direct = quantize(weight, parse_qtype("int4 | (1,32) f16 | sparse(csr, f16, 0.01) | lowrank(4, f16)"))
    for one in (found, direct):
        assert float((dequantize(one) - weight).norm()) < float((dequantize(sparse) - weight).norm())


SPLIT = {
    "weights": {"format": "int3", "group": 4, "solver": "gptq"},
    "outliers": {"fraction": 0.05, "by": "sensitivity", "format": "f32"},
    "low_rank": {"rank": 2, "format": "f32", "weighted": True},
}


def test_solving_splits_the_weights_and_changes_nothing_else() -> None:
    """Before and after: the program with split weights is the one whose weights are decoded by hand."""
    data, (float_module, float_store) = samples(3, 30, 0), two_in_a_row(0)
    module, store = two_in_a_row(0)
    AssignFormats(json.dumps(SPLIT)).apply(QccContext(store), module)
    SolveWeights().apply(QccContext(store, SampleRun(data)), module)
    qtype = parse_qtype("int3 | (1,4) f16 | sparse(csr, f32, 0.05) | lowrank(2, f32)")
    assert sorted(store) == [f"first.weight:{qtype}", f"second.weight:{qtype}"]
    decoded = {f"{n}.weight": dequantize(store.quantized(f"{n}.weight:{qtype}")) for n in ("first", "second")}
    for key, value in decoded.items():
        assert float((value - float_store.tensor(key)).norm()) < 0.25 * float(value.norm())
    x = data[0]["x"]
    wanted = Interpreter(float_module, WeightStore(decoded), "f64").run({"x": x})["y"]
    found = Interpreter(module, store, "f64").run({"x": x})["y"]
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6 * float(wanted.abs().max()))


def test_an_override_may_keep_nothing_apart() -> None:
    module, store = two_in_a_row(0)
    recipe = SPLIT | {"overrides": [{"match": "first", "outliers": {"fraction": 0}, "low_rank": {"rank": 0}}]}
    AssignFormats(json.dumps(recipe)).apply(QccContext(store), module)
    SolveWeights().apply(QccContext(store, SampleRun(samples(2, 20, 0))), module)
    assert "first.weight:int3 | (1,4) f16" in store


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"low_rank": {"rank": COLUMNS}}, "as large as its weight"),
        ({"weights": {"format": "int4 | row f16 | lowrank(2, f16)"}}, "cannot be added to a format that has lowrank"),
        ({"weights": {"format": "int4 | row f16 | mask(2:4)"}}, "cannot be added to a format that has mask"),
    ],
)
def test_what_cannot_be_kept_apart_is_refused_with_what_to_paste(change: dict[str, Any], what: str) -> None:
    module, store = two_in_a_row(0)
    with pytest.raises(RecipeError, match=what) as caught:
        AssignFormats(json.dumps(SPLIT | change)).apply(QccContext(store), module)
    assert len(caught.value.problems) >= 2
    assert "low_rank: {rank: 0}" in caught.value.fix


def test_by_sensitivity_and_without_samples_is_refused() -> None:
    module, store = two_in_a_row(0)
    AssignFormats(json.dumps(SPLIT | {"weights": {"format": "int4"}})).apply(QccContext(store), module)
    with pytest.raises(QccError, match="needs calibration"):
        SolveWeights().apply(QccContext(store), module)


def test_an_unknown_way_in_a_text_is_refused() -> None:
    from xdsl.dialects.builtin import StringAttr

    module, store = two_in_a_row(0)
    AssignFormats(json.dumps(SPLIT)).apply(QccContext(store), module)
    for op in module.walk():
        if isinstance(op, QuantizeOp):
            op.attributes[LOW_RANK] = StringAttr("magic")
    with pytest.raises(QccError, match="low rank by 'magic'"):
        SolveWeights().apply(QccContext(store), module)


def test_allocation_counts_no_parts_that_come_on_top() -> None:
    candidates = [{"format": "uint2"}, {"format": "uint4"}]
    data = {"weights": {"format": "uint4"}, "allocate": {"candidates": candidates, "budget": {"bits_per_weight": 4}}}
    load_recipe(data)
    for more in ({"outliers": {"fraction": 0.1}}, {"overrides": [{"match": "x", "low_rank": {"rank": 2}}]}):
        with pytest.raises(RecipeError, match="on top"):
            load_recipe(data | more)

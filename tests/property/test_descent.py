"""Coordinate descent and the fit of scales: what they must not lose, and where they must change nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.numerics.presets import PRESETS, format_of
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import compute_qparams, dequantize, quantize
from qcc.passes.solvers import descent
from qcc.passes.solvers.choice import choice_of, refitted
from qcc.passes.solvers.gptq import Feedback, gptq, gptq_around, round_with_feedback
from qcc.passes.solvers.hessian import conditioned, output_loss
from qcc.passes.solvers.problems import not_linear
from qcc.passes.solvers.rounding import rtn
from qcc.passes.solvers.table import SOLVERS, SplitChoice
from tests.correlated import correlated, hessian_of, loss, weight_of

CODED_APART = [name for name in PRESETS if SOLVERS["descent"].problem(format_of(name)) == ""]
NOT_FITTED = [name for name in CODED_APART if not_linear(format_of(name))]
FORMATS = ["uint3 | (1,8) f16 mse | pre u3", "int4 | row f16", "uint4 | (1,8) f16 | post f16", "int2 | (1,16) bf16"]


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(CODED_APART), rows=st.integers(1, 12), columns=st.integers(1, 40), seed=st.integers(0, 999),
    size=st.sampled_from([1.0, 1e-6, 1e4]),
)  # fmt: skip
def test_with_independent_inputs_no_code_changes(name: str, rows: int, columns: int, seed: int, size: float) -> None:
    weight, qtype = weight_of(rows, columns, seed) * size, format_of(name)
    near, eye = rtn(weight, qtype, None), conditioned(torch.eye(columns) * size)
    assert torch.equal(descent.descend(weight, qtype, near.codes, near.parameters, eye), near.codes)
    if name in NOT_FITTED:
        found = descent.solve(weight, qtype, torch.eye(columns) * size)
        assert torch.equal(dequantize(found), dequantize(near))


@settings(max_examples=60, deadline=None)
@given(
    text=st.sampled_from([*FORMATS, "nf4-g64", "mxfp4", "nvfp4"]), rows=st.integers(1, 12), columns=st.integers(1, 40),
    inputs=st.sampled_from([0, 1, 7, 300]), dead=st.booleans(), seed=st.integers(0, 999),
    size=st.sampled_from([1.0, 1e-20, 1e15]),
)  # fmt: skip
def test_no_more_is_lost_than_by_gptq(
    text: str, rows: int, columns: int, inputs: int, dead: bool, seed: int, size: float
) -> None:
    """Whatever the shape: groups that end early, fewer inputs than columns, columns that no input reaches."""
    qtype = format_of(text) if text in PRESETS else parse_qtype(text)
    data = correlated(inputs, columns, seed)
    if dead:
        data[:, ::3] = 0
    weight, hessian = weight_of(rows, columns, seed) * size, hessian_of(data)
    if qtype.levels[0].dtype != "f32":
        weight /= size  # narrow scales have narrow ranges
    found, start = descent.solve(weight, qtype, hessian), gptq(weight, qtype, hessian)
    assert bool(torch.isfinite(dequantize(found)).all())
    whole = conditioned(hessian)
    lost = output_loss(weight - dequantize(start), whole)
    # a Hessian of few inputs has directions that lose nothing, up to rounding
    slack = 1e-9 * float((weight.double().square().sum()) * whole.diag().sum())
    assert output_loss(weight - dequantize(found), whole) <= lost * (1 + 1e-6) + slack


@settings(max_examples=40, deadline=None)
@given(text=st.sampled_from(FORMATS), rows=st.integers(2, 9), groups=st.integers(1, 3), seed=st.integers(0, 999))
def test_it_ends_where_no_single_code_loses_less(text: str, rows: int, groups: int, seed: int) -> None:
    columns = 16 * groups
    weight, qtype, hessian = (
        weight_of(rows, columns, seed),
        parse_qtype(text),
        hessian_of(correlated(99, columns, seed)),
    )
    whole, start = conditioned(hessian), gptq(weight, qtype, hessian)
    codes = start.codes
    for _ in range(20):
        before, codes = codes, descent.descend(weight, qtype, codes, start.parameters, whole)
        if torch.equal(before, codes):
            break
    least = choice_of(weight, qtype, codes, start.parameters, whole).loss
    steps = torch.zeros_like(codes, dtype=torch.int16)
    generator = torch.Generator().manual_seed(seed)
    lowest, highest = int(start.codes.min()), int(start.codes.max())
    for _ in range(12):
        row, column = (int(torch.randint(size, (), generator=generator)) for size in codes.shape)
        steps.zero_()[row, column] = 1 if int(codes[row, column]) < highest else -1
        moved = (codes.to(torch.int16) + steps).clamp(lowest, highest).to(codes.dtype)
        assert choice_of(weight, qtype, moved, start.parameters, whole).loss >= least * (1 - 1e-9)


def test_columns_behind_are_made_up_for_as_well() -> None:
    weight, qtype = weight_of(32, 96, 0), parse_qtype("uint3 | (1,16) f16 mse | pre u3")
    hessian = hessian_of(correlated(400, 96, 0))
    found = descent.solve(weight, qtype, hessian)
    assert loss(weight, found, hessian) < 0.95 * loss(weight, gptq(weight, qtype, hessian), hessian)


@settings(max_examples=40, deadline=None)
@given(text=st.sampled_from(FORMATS), rows=st.integers(1, 9), groups=st.integers(1, 3), seed=st.integers(0, 999))
def test_a_fit_in_wide_scales_never_loses_more(text: str, rows: int, groups: int, seed: int) -> None:
    qtype, columns = parse_qtype(text.replace("bf16", "f32").replace("f16", "f32")), 16 * groups
    weight, hessian = weight_of(rows, columns, seed), conditioned(hessian_of(correlated(200, columns, seed)))
    start = quantize(weight, qtype)
    before = choice_of(weight, qtype, start.codes, start.parameters, hessian)
    assert refitted(weight, qtype, before, hessian).loss <= before.loss * (1 + 1e-6)


@pytest.mark.parametrize("by", ["magnitude", "sensitivity"])
def test_around_outliers_less_is_lost_than_by_gptq(by: str) -> None:
    from qcc.passes.solvers.split import solve_split

    weight, hessian = weight_of(24, 64, 3), hessian_of(correlated(300, 64, 3))
    weight[3, 5], weight[7, 40] = 30.0, -20.0
    qtype = parse_qtype("uint3 | (1,16) f16 | pre u3 | sparse(csr, f16, 0.02)")
    choice = SplitChoice(by)  # type: ignore[arg-type]
    lost = [
        loss(weight, solve_split(weight, qtype, hessian, "w", SOLVERS[name], choice), hessian)
        for name in ("gptq", "descent")
    ]
    assert lost[1] < lost[0]


def test_outliers_take_what_is_left_and_codes_at_their_places_stay() -> None:
    weight, qtype = weight_of(8, 32, 1), parse_qtype("uint4 | (1,16) f16 | pre u4")
    hessian, apart = hessian_of(correlated(300, 32, 1)), torch.zeros(8, 32, dtype=torch.bool)
    apart[2, 7] = apart[5, 31] = True
    start, before = gptq_around(weight, apart, qtype, hessian)
    found, moved = descent.descent_around(weight, apart, qtype, hessian)
    assert torch.equal(found.codes[apart], start.codes[apart])
    assert torch.equal(moved[~apart], weight[~apart])
    lost = [
        output_loss(weight.double() - torch.where(apart, values, dequantize(one)).double(), hessian)
        for one, values in ((start, before), (found, moved))
    ]
    assert lost[1] < lost[0]


def test_gptq_itself_is_left_as_it_was() -> None:
    weight, qtype = weight_of(8, 32, 2), parse_qtype("uint3 | (1,16) f16 mse | pre u3")
    hessian = hessian_of(correlated(300, 32, 2))
    parameters = compute_qparams(weight, qtype)
    codes = round_with_feedback(weight, qtype, parameters, Feedback.of(hessian))
    assert torch.equal(gptq(weight, qtype, hessian).codes, codes)

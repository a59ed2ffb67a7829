"""Solvers see matrices: what they must give, and what they must not lose, on inputs of every kind."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.errors import ShapeError
from qcc.numerics.presets import PRESETS, format_of
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import compute_qparams, dequantize, quantize
from qcc.numerics.tensor import QuantizedTensor
from qcc.passes.solvers import decoupleq
from qcc.passes.solvers.columns import ColumnCoder
from qcc.passes.solvers.fit import fit_parameters
from qcc.passes.solvers.gptq import Feedback, gptq, round_with_feedback
from qcc.passes.solvers.hessian import conditioned, inverse_factor
from qcc.passes.solvers.rounding import mse, rtn
from qcc.passes.solvers.table import SOLVERS
from tests.correlated import correlated, hessian_of, loss, weight_of

CODED_APART = [name for name in PRESETS if SOLVERS["gptq"].problem(format_of(name)) == ""]
LINEAR = [
    "uint4 | (1,8) f16 | post f16", "uint2 | (1,16) f32 | post f32", "uint3 | (1,8) f16 | pre u3", "int4 | row f16",
    "int2 | (1,8) bf16", "int4 | tensor f32", "uint4 | tensor f32 | post f32",
    "planes(2, 01, free) | (1,16) f16 | post f16", "planes(2, -101, free) | (1,16) f16",
    "planes(2, pm1, pow2) mid_rise | row f16", "planes(3, 01, twos) | row f16",
    "int3 mid_rise | (1,8) f16", "int4 | (-1,8) f32",
]  # fmt: skip


def same(one: QuantizedTensor, other: QuantizedTensor) -> bool:
    scales = zip(one.scales, other.scales, strict=True)
    return torch.equal(one.codes, other.codes) and all(torch.equal(a.float(), b.float()) for a, b in scales)


@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from(CODED_APART), rows=st.integers(1, 20), columns=st.integers(1, 40), seed=st.integers(0, 999),
    size=st.sampled_from([1.0, 1e-6, 1e4]),
)  # fmt: skip
def test_with_independent_inputs_gptq_rounds_to_nearest(
    name: str, rows: int, columns: int, seed: int, size: float
) -> None:
    weight, qtype = weight_of(rows, columns, seed) * size, format_of(name)
    assert same(gptq(weight, qtype, torch.eye(columns) * size), rtn(weight, qtype, None))


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(CODED_APART), rows=st.integers(1, 9), columns=st.integers(1, 40), seed=st.integers(0, 99))
def test_columns_have_the_codes_of_the_whole(name: str, rows: int, columns: int, seed: int) -> None:
    weight, qtype = weight_of(rows, columns, seed), format_of(name)
    parameters = compute_qparams(weight, qtype)
    whole = quantize(weight, qtype, parameters)
    coder = ColumnCoder(qtype, parameters, (rows, columns))
    for place in range(columns):
        codes, values = coder.code(weight[:, place], place)
        assert torch.equal(codes, whole.codes[:, place])
        assert torch.equal(values, dequantize(whole)[:, place])


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(["uint4-g32", "uint3-g128", "uint2-g64", "int4-g32", "mxfp4", "nvfp4", "nf4-g64"]),
    columns=st.sampled_from([32, 48, 200]), seed=st.integers(0, 999), order=st.booleans(),
)  # fmt: skip
def test_gptq_loses_less_than_rounding_on_correlated_inputs(name: str, columns: int, seed: int, order: bool) -> None:
    weight, qtype, hessian = weight_of(24, columns, seed), format_of(name), hessian_of(correlated(400, columns, seed))
    found = gptq(weight, qtype, hessian, act_order=order)
    assert loss(weight, found, hessian) < loss(weight, rtn(weight, qtype, None), hessian)


@pytest.mark.parametrize("inputs", [0, 1, 3])
@pytest.mark.parametrize("solver", ["gptq", "descent", "decoupleq"])
def test_a_hessian_of_low_rank_is_no_obstacle(inputs: int, solver: str) -> None:
    weight, qtype = weight_of(8, 32, 0), parse_qtype("uint3 | (1,16) f16 | post f16")
    hessian = hessian_of(correlated(inputs, 32, 0))
    found = SOLVERS[solver].load()(weight, qtype, hessian, "w")
    assert bool(torch.isfinite(dequantize(found)).all())
    assert loss(weight, found, hessian) <= loss(weight, rtn(weight, qtype, None), hessian) + 1e-9


@pytest.mark.parametrize("solver", ["gptq", "descent", "decoupleq"])
def test_dead_channels_are_rounded_to_nearest_and_disturb_nothing(solver: str) -> None:
    weight, qtype = weight_of(8, 32, 0), parse_qtype("int4 | (1,16) f16")
    inputs = correlated(300, 32, 0)
    inputs[:, ::4] = 0
    hessian = hessian_of(inputs)
    found, plain = SOLVERS[solver].load()(weight, qtype, hessian, "w"), rtn(weight, qtype, None)
    assert loss(weight, found, hessian) < loss(weight, plain, hessian)
    if solver == "gptq":  # the others move scales as well
        assert torch.equal(found.codes[:, ::4], plain.codes[:, ::4])


@settings(max_examples=30, deadline=None)
@given(
    solver=st.sampled_from(["gptq", "descent", "decoupleq"]), size=st.sampled_from([1e-30, 1e-10, 1e10, 1e30]),
    inputs=st.sampled_from([1e-15, 1.0, 1e15]), seed=st.integers(0, 99),
)  # fmt: skip
def test_sizes_change_nothing(solver: str, size: float, inputs: float, seed: int) -> None:
    """Powers of two of weights and inputs leave the codes as they are."""
    weight, qtype = weight_of(6, 24, seed), parse_qtype("int4 | (1,8) f32")
    factor, hessian = 2.0 ** round(torch.tensor(size).log2().item()), hessian_of(correlated(200, 24, seed))
    solve = SOLVERS[solver].load()
    found = solve(weight * factor, qtype, hessian * 4.0 ** round(torch.tensor(inputs).log2().item()), "w")
    assert torch.equal(found.codes, solve(weight, qtype, hessian, "w").codes)


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_one_column_and_one_row(solver: str) -> None:
    text = {"hlq": "planes(2, 01, free) | (1,8) f16 | post f16", "tritplanes": "planes(2, -101, free) | (1,8) f16"}
    qtype = parse_qtype(text.get(solver, "int8 | row f32"))
    for rows, columns in ((1, 1), (5, 1), (1, 5)):
        weight = weight_of(rows, columns, 0)
        found = SOLVERS[solver].load()(weight, qtype, torch.eye(columns) * 3, "w")
        assert found.shape == (rows, columns)
        if solver not in text:
            torch.testing.assert_close(dequantize(found), weight, rtol=0, atol=0.03)


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_zeros_stay_zeros(solver: str) -> None:
    text = {"hlq": "planes(2, 01, free) | (1,8) f16 | post f16", "tritplanes": "planes(2, -101, free) | (1,8) f16"}
    qtype = parse_qtype(text.get(solver, "uint4 | (1,8) f16 | pre u4"))
    found = SOLVERS[solver].load()(torch.zeros(4, 16), qtype, hessian_of(correlated(50, 16, 0)), "w")
    assert not bool(dequantize(found).any())


def test_a_hessian_that_is_not_finite_is_refused_by_name() -> None:
    hessian = torch.eye(8)
    hessian[3, 3] = float("nan")
    for solver in ("gptq", "descent", "decoupleq"):
        with pytest.raises(ShapeError, match=r"layer\.w"):
            SOLVERS[solver].load()(torch.zeros(2, 8), parse_qtype("int4 | row f16"), hessian, "layer.w")


def test_the_factor_inverts_the_damped_hessian() -> None:
    hessian = conditioned(hessian_of(correlated(500, 40, 0)))
    assert float(hessian.diag().mean()) == pytest.approx(1.0)
    upper = inverse_factor(hessian.clone, 0.01)
    torch.testing.assert_close(
        upper.T @ upper, torch.linalg.inv(hessian + 0.01 * torch.eye(40, dtype=torch.float64)), rtol=1e-8, atol=1e-10
    )
    assert torch.equal(upper, upper.triu())


@pytest.mark.parametrize("columns", [127, 128, 129, 300])
def test_blocks_of_columns_are_an_order_of_summation_only(columns: int) -> None:
    """Feedback through blocks equals feedback column by column."""
    weight, qtype = weight_of(4, columns, 0), parse_qtype("int6 | row f32")
    hessian, parameters = hessian_of(correlated(500, columns, 0)), None
    parameters = compute_qparams(weight, qtype)
    feedback = Feedback.of(hessian, act_order=False)
    found = round_with_feedback(weight, qtype, parameters, feedback)
    rest, wanted, coder = weight.double(), torch.zeros_like(found), ColumnCoder(qtype, parameters, (4, columns))
    for place in range(columns):
        wanted[:, place], value = coder.code(rest[:, place].float(), place)
        error = (rest[:, place] - value) / feedback.factor[place, place]
        rest = rest - error[:, None] * feedback.factor[place]
    assert int((found != wanted).sum()) <= columns // 50  # sums in another order may tip a tie


@settings(max_examples=25, deadline=None)
@given(text=st.sampled_from(LINEAR), rows=st.integers(2, 12), groups=st.integers(1, 3), seed=st.integers(0, 999))
def test_decoupleq_loses_no_more_than_gptq(text: str, rows: int, groups: int, seed: int) -> None:
    columns = 16 * groups
    weight, qtype, hessian = (
        weight_of(rows, columns, seed),
        parse_qtype(text),
        hessian_of(correlated(200, columns, seed)),
    )
    assert SOLVERS["decoupleq"].problem(qtype) == ""
    found = decoupleq.solve(weight, qtype, hessian)
    assert loss(weight, found, hessian) <= loss(weight, gptq(weight, qtype, hessian), hessian) * (1 + 1e-6)


@settings(max_examples=40, deadline=None)
@given(text=st.sampled_from(LINEAR), rows=st.integers(2, 9), groups=st.integers(1, 3), seed=st.integers(0, 999))
def test_fitted_parameters_are_a_least_of_the_loss(text: str, rows: int, groups: int, seed: int) -> None:
    """Before rounding, no small step in any direction loses less: compared in float32 scales."""
    text = text.replace("f16", "f32").replace("bf32", "f32")
    columns = 16 * groups
    weight, qtype, hessian = (
        weight_of(rows, columns, seed),
        parse_qtype(text),
        hessian_of(correlated(200, columns, seed)),
    )
    start = quantize(weight, qtype)
    fitted = fit_parameters(weight, qtype, start.codes, start.parameters, conditioned(hessian))
    best = QuantizedTensor(qtype, start.shape, start.codes, fitted)
    least = loss(weight, best, hessian)
    assert least <= loss(weight, start, hessian) * (1 + 1e-6)
    if bool((fitted.scales.values[0] == start.scales[0]).any()):
        return  # a scale that would have turned negative stayed
    generator = torch.Generator().manual_seed(seed)
    scale, zero = fitted.scales.values[0], None if fitted.zero is None else fitted.zero.values[0]
    for step in (1e-2, -1e-2):
        moved = scale * (1 + step * torch.rand(scale.shape, generator=generator))
        other = QuantizedTensor(qtype, start.shape, start.codes, type(fitted).of((moved,), zero))
        assert loss(weight, other, hessian) >= least * (1 - 1e-5)


def test_known_parameters_are_found_again() -> None:
    """A weight that is exactly on some grid is fitted exactly, from a start that is off."""
    qtype = parse_qtype("uint4 | (1,8) f32 | post f32")
    codes = torch.randint(0, 16, (5, 24), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    true = quantize(weight_of(5, 24, 0), qtype).parameters
    weight = dequantize(QuantizedTensor(qtype, (5, 24), codes, true))
    off = type(true).of((true.scales.values[0] * 1.3,), true.zero.values[0] + 0.2 if true.zero else None)
    fitted = fit_parameters(weight, qtype, codes, off, conditioned(hessian_of(correlated(200, 24, 0))))
    torch.testing.assert_close(fitted.scales.values[0], true.scales.values[0], rtol=1e-4, atol=1e-6)
    assert fitted.zero is not None
    assert true.zero is not None
    torch.testing.assert_close(fitted.zero.values[0], true.zero.values[0], rtol=1e-4, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["int4-g32", "uint2-g64", "mxfp4", "nf4-g64", "int8-row"]),
    rows=st.integers(1, 9), columns=st.integers(1, 70), seed=st.integers(0, 999),
)  # fmt: skip
def test_searched_ranges_lose_no_more_than_whole_ones(name: str, rows: int, columns: int, seed: int) -> None:
    weight, qtype = weight_of(rows, columns, seed), format_of(name)
    eye = torch.eye(columns, dtype=torch.float64)
    found = mse(weight, qtype, None)
    assert found.qtype == qtype
    assert loss(weight, found, eye) <= loss(weight, rtn(weight, qtype, None), eye) * (1 + 1e-6)


@pytest.mark.parametrize("name", ["nvfp4", "bitmod3-g128", "bitmod4-g128", "nvint4"])
def test_searched_ranges_gain_under_two_levels_as_well(name: str) -> None:
    weight, qtype = weight_of(32, 256, 0) ** 3, format_of(name)
    eye = torch.eye(256, dtype=torch.float64)
    assert loss(weight, mse(weight, qtype, None), eye) < loss(weight, rtn(weight, qtype, None), eye)


def test_outliers_kept_apart_are_split_off_before_solving() -> None:
    weight, qtype = weight_of(16, 64, 0), parse_qtype("uint3 | (1,16) f16 | pre u3 | sparse(csr, f16, 0.02)")
    weight[3, 5], weight[7, 40] = 30.0, -20.0
    hessian = hessian_of(correlated(300, 64, 0))
    found = gptq(weight, qtype, hessian)
    assert abs(float(dequantize(found)[3, 5]) - 30.0) < 0.1
    assert loss(weight, found, hessian) < loss(weight, rtn(weight, qtype, None), hessian)


@pytest.mark.parametrize(
    ("solver", "text", "reason"),
    [
        ("gptq", PRESETS["olive4"], "in pairs"),
        ("gptq", "int4 | row f16 | mask(2:4)", "side tensors"),
        ("decoupleq", PRESETS["nvfp4"], "not linear"),
        ("decoupleq", PRESETS["nf4-g64"], "not linear"),
        ("hlq", "int2 | row f16", "digit planes 01"),
        ("tritplanes", PRESETS["hlq2-g128"], "digit planes -101"),
    ],
)
def test_formats_that_a_solver_cannot_solve_say_why(solver: str, text: str, reason: str) -> None:
    assert reason in SOLVERS[solver].problem(parse_qtype(text))

"""Fits of digit planes descend and reach the published figures; codes are the nearest; odd rows stay contained."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcc.errors import ShapeError
from qcc.numerics import plane_fit, planes
from qcc.numerics.plane_digits import digit_matrix, valid_codes
from qcc.numerics.planes import PlaneSolution, assign_planes, plane_values, solve_planes
from qcc.numerics.qtype_parts import Digits
from qcc.numerics.tiling import tiles

# Count of planes, digits, whether there is an offset.
Kind = tuple[int, Digits, bool]
HLQ2: Kind = (2, "01", True)
TRIT2: Kind = (2, "-101", False)
KINDS: list[Kind] = [
    (1, "01", True),
    HLQ2,
    (4, "01", True),
    (3, "01", False),
    (1, "-101", False),
    TRIT2,
    (3, "-101", True),
    (3, "pm1", False),
    (2, "pm1", True),
]
kinds = st.sampled_from(KINDS)
seeds = st.integers(0, 2**31)


def solved(x: Tensor, kind: Kind, valid: Tensor | None = None, **options: int) -> PlaneSolution:
    count, digits, offset = kind
    return solve_planes(x, valid, count, digits, offset=offset, **options)


def decoded(solution: PlaneSolution, kind: Kind) -> Tensor:
    return plane_values(solution.codes, solution.coefficients, solution.offset, kind[1])


def row_errors(x: Tensor, values: Tensor) -> Tensor:
    return (x.double() - values.double()).square().sum(1)


def random_rows(seed: int, rows: int, length: int, tails: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, length, generator=generator)
    return x / torch.rand(rows, length, generator=generator).add(1e-3) if tails else x


def uniform_errors(x: Tensor, bits: int) -> Tensor:
    """Round to the uniform grid from the smallest to the largest element of each row, in float64."""
    x = x.double()
    low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    step = (high - low) / (2**bits - 1)
    step = torch.where(step == 0, 1.0, step)
    return row_errors(x, low + step * ((x - low) / step).round())


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 5), st.integers(0, 30), st.integers(1, 70), st.booleans(), seeds)
def test_free_planes_never_lose_to_the_uniform_grid(
    bits: int, iterations: int, length: int, tails: bool, seed: int
) -> None:
    x = random_rows(seed, 5, length, tails)
    kind: Kind = (bits, "01", True)
    errors = row_errors(x, decoded(solved(x, kind, iterations=iterations), kind))
    # Rounding the coefficients to float32 moves every value by no more than this.
    moved = (bits + 2) * 2.0**-23 * x.double().abs().amax(1)
    assert bool((errors.sqrt() <= uniform_errors(x, bits).sqrt() + moved * length**0.5).all())


@settings(max_examples=60, deadline=None)
@given(kinds, st.integers(1, 60), st.booleans(), seeds)
def test_the_error_never_grows_with_the_iterations(kind: Kind, length: int, tails: bool, seed: int) -> None:
    x = random_rows(seed, 4, length, tails).double()
    errors = [row_errors(x, decoded(solved(x, kind, iterations=turns), kind)) for turns in range(7)]
    slack = 1e-12 * x.square().sum(1)
    for before, after in pairwise(errors):
        assert bool((after <= before + slack).all())


@pytest.mark.parametrize("length", [4, 5, 6])
@pytest.mark.parametrize("kind", [HLQ2, (2, "01", False), (1, "-101", False), (1, "-101", True), (2, "pm1", False)])
def test_small_rows_come_close_to_the_best_of_all_assignments(kind: Kind, length: int) -> None:
    count, digits, offset = kind
    x = random_rows(7, 40, length).double()
    matrix = digit_matrix(count, digits, torch.float64)[valid_codes(count, digits)]
    if offset:
        matrix = torch.cat([matrix, torch.ones(len(matrix), 1)], dim=1)
    every = matrix[torch.cartesian_prod(*[torch.arange(len(matrix))] * length)]
    projections = every @ torch.linalg.pinv(every)
    best = torch.stack([(row - projections @ row).square().sum(1).amin() for row in x])
    errors = row_errors(x, decoded(solved(x, kind), kind))
    assert bool((errors >= best - 1e-9).all())
    # Rows with hardly more elements than coefficients have optima close to 0, where no factor would hold.
    assert float(errors.sum()) <= 1.3 * float(best.sum()) + 0.0025 * float(x.square().sum())
    assert float(((errors - best) < 1e-9).double().mean()) >= 0.5


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["01", "pm1", "-101"]),
    st.integers(1, 4),
    st.lists(st.integers(-3, 3), min_size=4, max_size=4),
    st.none() | st.integers(-3, 3),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(-60, 60),
)
def test_the_assigned_code_is_the_lowest_of_the_nearest(
    digits: Digits, count: int, weights: list[int], offset: int | None, dtype: torch.dtype, exponent: int
) -> None:
    """Small integers collide and tie all the time, and every distance between them is exact."""
    unit = 2.0**exponent
    x = torch.arange(-14, 15, 0.5, dtype=dtype)[None] * unit
    coefficients = torch.tensor([weights[:count]], dtype=dtype) * unit
    offsets = None if offset is None else torch.tensor([offset], dtype=dtype) * unit
    codes = valid_codes(count, digits)
    values = digit_matrix(count, digits, torch.float64)[codes] @ coefficients[0].double() + (offset or 0) * unit
    expected: list[int] = []
    for element in x[0].tolist():
        distances = [abs(element - value) for value in values.tolist()]
        expected.append(int(codes[distances.index(min(distances))]))
    assert assign_planes(x, coefficients, offsets, digits)[0].tolist() == expected


@settings(max_examples=50, deadline=None)
@given(kinds, st.integers(1, 40), seeds)
def test_codes_are_nearest_under_coefficients_rounded_to_float16(kind: Kind, length: int, seed: int) -> None:
    count, digits, _ = kind
    x = random_rows(seed, 3, length)
    found = solved(x, kind)
    coefficients = found.coefficients.half()
    offsets = None if found.offset is None else found.offset.half()
    codes = assign_planes(x, coefficients, offsets, digits)
    matrix = digit_matrix(count, digits, torch.float64)[valid_codes(count, digits)]
    values = coefficients.double() @ matrix.T + (offsets.double()[:, None] if offsets is not None else 0)
    nearest = (x.double()[:, :, None] - values[:, None]).abs().amin(2)
    taken = digit_matrix(count, digits, torch.float64)[codes.long()] @ coefficients.double()[:, :, None]
    taken = taken.squeeze(2) + (offsets.double()[:, None] if offsets is not None else 0)
    assert torch.equal((x.double() - taken).abs(), nearest)


@pytest.mark.parametrize(
    ("kind", "alternating", "decibels"),
    [
        (HLQ2, 9.57, 9.66),
        ((3, "01", True), 14.78, 15.43),
        ((4, "01", True), 20.70, 21.53),
        (TRIT2, 15.35, 15.88),
        ((3, "pm1", False), 14.36, 15.07),
    ],
)
def test_gaussian_groups_of_128_gain_from_the_starts(kind: Kind, alternating: float, decibels: float) -> None:
    """Hold the figures reached, above those of alternating from the uniform grid alone."""
    x = random_rows(1, 256 * 1024 // 128, 128)
    noise = row_errors(x, decoded(solved(x, kind), kind)).sum()
    reached = float(10 * torch.log10(x.double().square().sum() / noise))
    assert reached > alternating
    assert reached == pytest.approx(decibels, abs=0.1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e30, 1e-30, 1e-42])
def test_magnitude_does_not_matter(kind: Kind, scale: float) -> None:
    x = random_rows(3, 8, 33)
    values = decoded(solved((x * scale).double(), kind), kind)
    plain = decoded(solved(x.double(), kind), kind)
    errors, expected = row_errors(x, values / scale), row_errors(x, plain)
    # Denormal float32 inputs are coarse themselves.
    assert torch.allclose(errors, expected, rtol=0.05 if scale < 1e-38 else 1e-3)
    single = decoded(solved(x * scale, kind), kind)
    assert bool(single.isfinite().all())
    if scale > 1e-38:
        assert torch.allclose(row_errors(x, single.double() / scale), expected, rtol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_zero_rows_have_zero_values(kind: Kind) -> None:
    found = solved(torch.zeros(3, 9), kind)
    assert not bool(found.coefficients.any())
    assert not bool(found.codes.any())
    assert torch.equal(decoded(found, kind), torch.zeros(3, 9))


@pytest.mark.parametrize("value", [1.0, -3.7, 1e-40, -3e38])
@pytest.mark.parametrize("length", [1, 2, 17])
@pytest.mark.parametrize("kind", KINDS)
def test_constant_rows_are_exact(kind: Kind, length: int, value: float) -> None:
    x = torch.full((2, length), value)
    values = decoded(solved(x, kind), kind)
    assert torch.allclose(values, x, rtol=1e-6, atol=1e-44)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_uniform_grid_is_found_exactly(bits: int) -> None:
    x = (torch.arange(2**bits, dtype=torch.float32) * 0.25 - 3)[None]
    found = solved(x, (bits, "01", True))
    assert found.codes[0].tolist() == list(range(2**bits))
    assert found.coefficients[0].tolist() == [0.25 * 2**plane for plane in range(bits)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_keeps_to_itself(kind: Kind, bad: float) -> None:
    x = random_rows(5, 4, 12)
    clean = solved(x, kind)
    x[2, 5] = bad
    found = solved(x, kind)
    assert bool(decoded(found, kind)[2].isnan().all())
    assert not bool(found.codes[2].any())
    others = [0, 1, 3]
    assert torch.equal(found.codes[others], clean.codes[others])
    assert torch.equal(found.coefficients[others], clean.coefficients[others])


@settings(max_examples=50, deadline=None)
@given(kinds, st.integers(1, 20), st.integers(0, 9), st.sampled_from([0.0, 99.0, math.nan, math.inf]), seeds)
def test_padding_has_no_say(kind: Kind, length: int, padding: int, fill: float, seed: int) -> None:
    x = random_rows(seed, 3, length)
    padded = torch.cat([x, torch.full((3, padding), fill)], dim=1)
    valid = (torch.arange(length + padding) < length).expand(padded.shape)
    plain, masked = solved(x, kind), solved(padded, kind, valid)
    assert torch.allclose(masked.coefficients, plain.coefficients, rtol=1e-5)
    assert torch.equal(masked.codes[:, :length], assign_planes(x, masked.coefficients, masked.offset, kind[1]))
    assert not bool(masked.codes[:, length:].any())


def test_a_row_without_valid_elements_is_zero() -> None:
    valid = torch.tensor([[True] * 4, [False] * 4])
    found = solved(torch.full((2, 4), math.nan).where(~valid, 1.0), HLQ2, valid)
    assert found.coefficients[1].tolist() == [0, 0]
    assert not bool(found.codes[1].any())


@pytest.mark.parametrize("kind", KINDS)
def test_tiles_do_not_show(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    x = random_rows(11, 23, 40)
    whole = solved(x, kind)
    monkeypatch.setattr(planes, "tiles", partial(tiles, budget=64))
    monkeypatch.setattr(plane_fit, "TILE_ELEMENTS", 64)
    pieces = solved(x, kind)
    assert torch.equal(whole.codes, pieces.codes)
    assert torch.allclose(whole.coefficients, pieces.coefficients)
    assert torch.equal(decoded(whole, kind), decoded(pieces, kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tails", [False, True])
def test_long_rows_are_fitted_on_bins_as_well_as_on_elements(
    kind: Kind, tails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = random_rows(13, 2, 50_001, tails)
    valid = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.9
    used = x.masked_fill(~valid, 0.0)
    exact = row_errors(used, decoded(solved(x, kind, valid), kind).masked_fill(~valid, 0.0))
    monkeypatch.setattr(plane_fit, "TILE_ELEMENTS", 1000)
    binned = row_errors(used, decoded(solved(x, kind, valid), kind).masked_fill(~valid, 0.0))
    assert torch.allclose(binned, exact, rtol=2e-2)
    x[1, 7], valid[1, 7] = math.nan, True
    assert torch.equal(decoded(solved(x, kind, valid), kind).isnan().all(1), torch.tensor([False, True]))


@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_made_on_the_device_of_the_tensor(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under another default device, a tensor made without a device of its own meets the others and fails."""
    x = random_rows(17, 3, 50)
    valid = torch.ones(3, 50, dtype=torch.bool)
    expected = decoded(solved(x, kind), kind)
    with torch.device("meta"):
        assert torch.equal(decoded(solved(x, kind), kind), expected)
        monkeypatch.setattr(plane_fit, "TILE_ELEMENTS", 10)
        binned = solved(x, kind, valid)
        assert binned.codes.device == binned.coefficients.device == x.device


@pytest.mark.parametrize("kind", [HLQ2, TRIT2])
def test_shapes_without_elements(kind: Kind) -> None:
    for shape in ((0, 5), (3, 0), (0, 0)):
        found = solved(torch.zeros(shape), kind)
        assert tuple(found.codes.shape) == shape
        assert tuple(found.coefficients.shape) == (shape[0], kind[0])
        assert tuple(decoded(found, kind).shape) == shape


def test_the_digits_of_codes() -> None:
    assert digit_matrix(2, "01").tolist() == [[0, 0], [1, 0], [0, 1], [1, 1]]
    assert digit_matrix(1, "pm1").tolist() == [[-1], [1]]
    trits = digit_matrix(2, "-101")
    assert trits[0b0110].tolist() == [1, 0]
    assert trits[0b1000].tolist() == [-1, 1]
    assert bool(trits[[3, 7, 12, 15]].isnan().all())
    assert len(valid_codes(2, "-101")) == 9
    assert len(valid_codes(4, "-101")) == 81
    assert valid_codes(8, "01").tolist() == list(range(256))


def test_codes_that_stand_for_nothing_decode_to_nan() -> None:
    values = plane_values(torch.tensor([[3, 2]], dtype=torch.uint8), torch.tensor([[2.0]]), None, "-101")
    assert math.isnan(float(values[0, 0]))
    assert float(values[0, 1]) == 2.0


def test_misuse_is_refused_by_name() -> None:
    x = torch.zeros(2, 4)
    with pytest.raises(ShapeError, match="1 to 4 planes"):
        solve_planes(x, None, 5, "-101", offset=False)
    with pytest.raises(ShapeError, match="do not fit a byte"):
        solve_planes(x, None, 0, "01", offset=True)
    with pytest.raises(ShapeError, match=r"(?s)x: is torch.int64.*valid: is torch.float32"):
        solve_planes(x.long(), x, 2, "01", offset=True)
    with pytest.raises(ShapeError, match=r"(?s)coefficients: are .*offset: is "):
        assign_planes(x, torch.zeros(3, 2), torch.zeros(1), "01")
    with pytest.raises(ShapeError, match="the code 4 has bits above 2 planes"):
        plane_values(torch.full((2, 4), 4, dtype=torch.uint8), torch.zeros(2, 2), None, "01")
    with pytest.raises(ShapeError, match=r"cannot decode torch\.int8"):
        plane_values(torch.zeros(2, 4, dtype=torch.int8), torch.zeros(2, 2), None, "01")

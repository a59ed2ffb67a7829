"""Laws of outliers set aside: exact counts, ties, nothing lost, and the bits that the type promises."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcc.errors import ShapeError, UnsupportedOp
from qcc.numerics import selection, side_values
from qcc.numerics.qtype_bits import whole_share
from qcc.numerics.qtype_parts import Sparse, SparseKind
from qcc.numerics.selection import largest_mask
from qcc.numerics.sparse import CompressedRows, Coordinates, DenseColumns, split_outliers

SHAPES = st.sampled_from([(1, 1), (1, 37), (5, 64), (33, 3), (2, 3, 40), (7,), (2, 1, 2, 9), (64, 1)])
FRACTIONS = st.sampled_from([0.0, 0.01, 0.1, 1 / 3, 0.5, 0.99, 1.0])
KINDS = st.sampled_from(["csr", "coo", "columns"])


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Draw odd shapes: Gaussian, with many ties, all zero, with huge and tiny values, transposed in memory."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shape = draw(SHAPES)
    x = torch.randn(shape, generator=generator)
    match draw(st.sampled_from(["plain", "ties", "zeros", "wide", "strided", "f64", "bf16"])):
        case "ties":
            return (x * 2).round()
        case "zeros":
            return torch.zeros(shape)
        case "wide":
            return x * 10 ** torch.randint(-38, 30, shape, generator=generator).float()
        case "strided":
            return torch.randn(shape[::-1], generator=generator).permute(*range(len(shape) - 1, -1, -1))
        case "f64":
            return x.double() * 1e-300
        case "bf16":
            return x.bfloat16()
        case _:
            return x


def first_largest(score: Tensor, count: int) -> Tensor:
    """Mark the largest by a stable sort: slow, and obviously right."""
    order = score.double().reshape(-1).sort(descending=True, stable=True).indices
    mask = torch.zeros(score.numel(), dtype=torch.bool)
    mask[order[:count]] = True
    return mask.reshape(score.shape)


@given(tensors(), FRACTIONS, st.booleans())
@settings(max_examples=100)
def test_selection_equals_a_stable_sort(x: Tensor, fraction: float, magnitude: bool) -> None:
    count = round(fraction * x.numel())
    wanted = first_largest(x.double().abs() if magnitude else x, count)
    assert torch.equal(largest_mask(x, count, magnitude=magnitude), wanted)


def test_selection_sees_neither_signed_zeros_nor_chunk_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_values, "CHUNK", 3)
    assert largest_mask(torch.tensor([-0.0, 0.0, -0.0, 0.0]), 2).tolist() == [True, True, False, False]
    ties = torch.tensor([1.0, 2, 1, 2, 1, 1, 2, 1])
    assert largest_mask(ties, 5).tolist() == [True, True, True, True, False, False, True, False]
    infinite = torch.tensor([float("-inf"), 3e38, float("inf"), 0.0])
    assert largest_mask(infinite, 2).tolist() == [False, True, True, False]
    whole = torch.tensor([2**40, 2**40 + 1, -5, 7])
    assert largest_mask(whole, 1).tolist() == [False, True, False, False]
    assert selection.largest_mask(ties, 99).all()


@given(tensors(), KINDS, FRACTIONS)
@settings(max_examples=100)
def test_rest_and_outliers_make_the_tensor(x: Tensor, kind: SparseKind, fraction: float) -> None:
    side = Sparse(kind, "f32", fraction)
    if x.dtype == torch.float64:
        x = x * 1e300
    rest, outliers = split_outliers(x, side)
    dense = outliers.to_dense(x.dtype)
    assert rest.dtype == x.dtype
    assert not ((rest != 0) & (dense != 0)).any()
    assert torch.equal(outliers.add_to(rest), rest + dense)
    torch.testing.assert_close(rest + dense, x, rtol=1e-7, atol=0)
    assert not list(outliers.problems())
    if kind == "columns":
        assert isinstance(outliers, DenseColumns)
        peaks = x.reshape(-1, x.shape[-1]).double().abs().amax(0)
        wanted = first_largest(peaks, whole_share(fraction, x.shape[-1])).nonzero()[:, 0]
        assert torch.equal(outliers.columns.long(), wanted)
        assert not rest[..., wanted].any()
    else:
        assert outliers.values.numel() == whole_share(fraction, x.numel())
        mask = first_largest(x.double().abs(), outliers.values.numel())
        assert torch.equal(outliers.values, x[mask].float())
        assert not rest[mask].any()


@given(tensors(), st.sampled_from(["f16", "bf16", "e4m3", "e5m2"]), KINDS)
@settings(max_examples=50)
def test_outliers_are_rounded_once_to_their_dtype(x: Tensor, dtype: str, kind: SparseKind) -> None:
    x = x.float().clamp(-400, 400)
    stored = x.to(side_values.SIDE_DTYPES[dtype]).float()
    rest, outliers = split_outliers(x, Sparse(kind, dtype, 0.25))
    taken = rest != x
    assert torch.equal(outliers.to_dense()[taken], stored[taken])


def test_a_score_decides_instead_of_the_magnitude(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_values, "CHUNK", 4)
    x = torch.arange(1.0, 13).reshape(3, 4)
    rest, outliers = split_outliers(x, Sparse("csr", "f16", 0.25), score=-x)
    assert isinstance(outliers, CompressedRows)
    assert outliers.columns.tolist() == [0, 1, 2]
    assert outliers.offsets.tolist() == [0, 3, 3, 3]
    assert rest.flatten().tolist() == [0, 0, 0, *range(4, 13)]
    _, outliers = split_outliers(x, Sparse("coo", "f16", 2 / 12), score=torch.eye(3, 4) * x)
    assert isinstance(outliers, Coordinates)
    assert (outliers.rows.tolist(), outliers.columns.tolist()) == ([1, 2], [1, 2])
    for score in (torch.tensor([0.0, 3, 1, 2]), torch.tensor([[0.0, 3, 1, 2], [0, -1, 0, 0], [0, 0, 0, 0]])):
        _, columns = split_outliers(x, Sparse("columns", "f16", 0.5), score)
        assert columns.columns.tolist() == [1, 3]
        assert torch.equal(columns.values.float(), x[:, [1, 3]])


@pytest.mark.parametrize("kind", ["csr", "coo", "columns"])
def test_values_that_cannot_be_stored_are_refused_by_name(kind: SparseKind) -> None:
    x = torch.ones(2, 4)
    x[0, 1], x[1, 1] = 1e5, -1e6
    for dtype, lost in (("f16", 2), ("e4m3", 2), ("e5m2", 2)):
        with pytest.raises(
            ShapeError, match=rf"{lost} of \d outliers of layer.w overflow {dtype}: the largest is 1e\+06"
        ):
            split_outliers(x, Sparse(kind, dtype, 0.25), where="layer.w")
    assert torch.equal(split_outliers(x, Sparse(kind, "bf16", 0))[0], x)
    for dtype in ("i8", "u4", "e8m0", "pow2"):
        with pytest.raises(UnsupportedOp, match=f"layer.w cannot be stored in {dtype}"):
            split_outliers(x, Sparse(kind, dtype, 0.25), where="layer.w")


@pytest.mark.parametrize("kind", ["csr", "coo", "columns"])
def test_bad_input_is_refused_by_name(kind: SparseKind) -> None:
    side, x = Sparse(kind, "f16", 0.5), torch.ones(2, 3, 4)
    x[1, 0, 2], x[1, 2, 3] = math.nan, -math.inf
    with pytest.raises(ShapeError, match=r"layer.w: 2 of 24 values are not finite; the first, nan, is at \(1, 0, 2\)"):
        split_outliers(x, side, where="layer.w")
    x, score = torch.ones(2, 4), torch.ones(2, 4)
    score[1, 2] = math.nan
    with pytest.raises(ShapeError, match=r"score of layer\.w is NaN for 1 of 8"):
        split_outliers(x, side, score, "layer.w")
    with pytest.raises(ShapeError, match=r"score of layer.w has shape \(3,\), not \(2, 4\)"):
        split_outliers(x, side, torch.ones(3), "layer.w")
    for empty in (torch.ones(0, 4), torch.ones(())):
        with pytest.raises(ShapeError, match=r"layer\.w of shape .* has no elements"):
            split_outliers(empty, side, where="layer.w")
    _, outliers = split_outliers(x, side)
    with pytest.raises(ShapeError, match=r"\(2, 4\) do not fit one of shape \(4, 2\)"):
        outliers.add_to(torch.ones(4, 2))


def test_damaged_positions_are_told() -> None:
    values, columns = torch.ones(3), torch.tensor([0, 2, 1], dtype=torch.int32)

    def problems(columns: list[int], offsets: list[int]) -> list[str]:
        parts = (torch.tensor(numbers, dtype=torch.int32) for numbers in (columns, offsets))
        return list(CompressedRows(values, *parts, (2, 4)).problems())

    assert problems([0, 2, 1], [0, 2, 3]) == []
    assert problems([0, 2, 1], [0, 1, 3]) == ["columns do not ascend in every row"]
    assert problems([0, 2, 4], [0, 2, 3]) == ["columns from 0 to 4 are outside 0..3"]
    assert problems([0, 2, 1], [0, 4, 3]) == ["offsets do not rise from 0 to 3"]
    found = Coordinates(values, torch.tensor([0, 1, 0]), columns, (2, 4)).problems()
    assert list(found) == ["positions do not ascend"]
    assert list(DenseColumns(torch.ones(2, 3), columns, (2, 4)).problems()) == ["columns do not ascend"]
    with pytest.raises(ShapeError, match=r"offsets: has shape \(2,\), not \(3,\)"):
        CompressedRows(values, columns, torch.tensor([0, 3]), (2, 4))
    with pytest.raises(ShapeError, match=r"values: has shape \(3,\), not \(2, 3\)"):
        DenseColumns(values, columns, (2, 4))

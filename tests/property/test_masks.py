"""Laws of n:m and block masks: who is kept, exact round trips for every dtype of codes, and bits."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcc.errors import ShapeError, UnsupportedOp
from qcc.numerics import side_values
from qcc.numerics.masks import BlockIndex, NMIndex, block_index, block_mask, nm_index, nm_mask
from qcc.numerics.qtype_bits import whole_share
from qcc.numerics.qtype_parts import BlockMask, NMMask, block_grid

SHAPES = st.sampled_from([(1, 1), (1, 37), (5, 64), (33, 3), (2, 3, 40), (7,), (2, 1, 2, 9)])
PATTERNS = st.sampled_from([(2, 4), (1, 2), (4, 8), (1, 4), (3, 5), (7, 8), (16, 32), (1, 256)])
BLOCKS = st.sampled_from([(1, 16), (4, 4), (3, 5), (2, -1), (-1, 4), (1, 1), (1, 2, 8)])
DTYPES = st.sampled_from(
    [torch.uint8, torch.int8, torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.float8_e4m3fn]
)


def gaussian(shape: tuple[int, ...], seed: int, *, ties: bool) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (2 * x).round() if ties else x


def codes_of(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Draw every bit pattern of 8-bit codes, NaN among them."""
    raw = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return (
        raw.view(dtype)
        if dtype.itemsize == 1 and dtype != torch.bool
        else (raw.to(dtype) if dtype != torch.bool else raw > 99)
    )


def same(left: Tensor, right: Tensor) -> bool:
    if left.dtype.is_floating_point and left.dtype.itemsize == 1:
        left, right = left.view(torch.uint8), right.view(torch.uint8)
    return torch.equal(left, right)


@given(SHAPES, PATTERNS, st.integers(0, 999), st.booleans())
@settings(max_examples=100)
def test_nm_keeps_the_largest_and_the_first_of_equals(
    shape: tuple[int, ...], pattern: tuple[int, int], seed: int, ties: bool
) -> None:
    kept, group = pattern
    x = gaussian(shape, seed, ties=ties)
    mask = nm_mask(x, NMMask(kept, group))
    assert mask.shape == x.shape
    rows, marks = x.reshape(-1, shape[-1]), mask.reshape(-1, shape[-1])
    for row, marked in zip(rows.tolist()[:4], marks.tolist()[:4], strict=True):
        for start in range(0, shape[-1], group):
            part = row[start : start + group]
            order = sorted(range(len(part)), key=lambda index: (-abs(part[index]), index))
            wanted = {start + index for index in order[:kept]}
            assert {start + index for index in range(len(part)) if marked[start + index]} == wanted


def test_nm_keeps_the_most_energy_of_all_masks() -> None:
    x = gaussian((1, 8), 5, ties=False)
    best = max(sum(float(x[0, index]) ** 2 for index in chosen) for chosen in combinations(range(8), 4))
    assert math.isclose(float((x * nm_mask(x, NMMask(4, 8))).square().sum()), best, rel_tol=1e-6)


def test_nm_by_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_values, "CHUNK", 8)
    x = torch.arange(1.0, 19).reshape(3, 6)
    by_value = nm_mask(x, NMMask(2, 4))
    assert by_value.tolist() == [[False, False, True, True, True, True]] * 3
    by_score = nm_mask(x, NMMask(2, 4), score=-x)
    assert by_score.tolist() == [[True, True, False, False, True, True]] * 3
    nothing = torch.full((3, 6), -math.inf)
    assert nm_mask(x, NMMask(1, 4), nothing).tolist() == [[True, False, False, False, True, False]] * 3
    assert nm_mask(torch.zeros(1, 3), NMMask(2, 4)).tolist() == [[True, True, False]]


@given(SHAPES, PATTERNS, DTYPES, st.integers(0, 999))
@settings(max_examples=100)
def test_nm_round_trip(shape: tuple[int, ...], pattern: tuple[int, int], dtype: torch.dtype, seed: int) -> None:
    mask = nm_mask(gaussian(shape, seed, ties=True), side := NMMask(*pattern))
    index, codes = nm_index(mask, side), codes_of(shape, dtype, seed)
    assert torch.equal(index.mask(), mask)
    values = index.compact(codes)
    assert values.shape == (*shape[:-1], index.row_length)
    back = index.expand(values)
    assert back.dtype == dtype
    assert same(back[mask], codes[mask])
    assert not back.to(torch.float32)[~mask].any()
    assert same(index.compact(back), values)
    assert (index.expand(values.to(torch.float32), 3.0)[~mask] == 3).all()
    assert not list(index.problems())


@given(SHAPES, BLOCKS, DTYPES, st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.integers(0, 999))
@settings(max_examples=100)
def test_block_round_trip(
    shape: tuple[int, ...], block: tuple[int, ...], dtype: torch.dtype, density: float, seed: int
) -> None:
    side, x = BlockMask(block, density), gaussian(shape, seed, ties=seed % 2 == 0)
    kept = block_mask(x, side)
    assert tuple(kept.shape) == block_grid(block, shape)
    assert int(kept.sum()) == whole_share(density, kept.numel())
    index, codes = block_index(kept, side, shape), codes_of(shape, dtype, seed)
    assert torch.equal(index.kept(), kept)
    mask = index.mask()
    if kept.any() and not kept.all():
        energy = side_energy(x, index)
        assert energy[kept].min() >= energy[~kept].max() - 1e-9
    values = index.compact(codes)
    assert values.shape == (int(kept.sum()), *index.extents)
    back = index.expand(values)
    assert back.dtype == dtype
    assert back.shape == shape
    assert same(back[mask], codes[mask])
    assert not back.to(torch.float32)[~mask].any()
    assert same(index.compact(back), values)
    assert (index.expand(values.to(torch.float32), 3.0)[~mask] == 3).all()
    assert not list(index.problems())


def side_energy(x: Tensor, index: BlockIndex) -> Tensor:
    """Sum the squares of every block by walking the elements."""
    energy = torch.zeros(index.grid, dtype=torch.float64)
    for position in torch.ones(x.shape).nonzero().tolist():
        at = tuple(place // extent for place, extent in zip(position, index.extents, strict=True))
        energy[at] += float(x[tuple(position)]) ** 2
    return energy


def test_block_norms_neither_overflow_nor_vanish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_values, "CHUNK", 8)
    x = torch.ones(6, 4)
    x[2:4, 2:], x[5, 0] = 2, 3
    side = BlockMask((2, 2), 2 / 6)
    wanted = [[False, False], [False, True], [True, False]]
    for factor in (1.0, 1e30, 1e-35):
        assert block_mask(x * factor, side).tolist() == wanted
    assert block_mask(x.double() * 1e250, side).tolist() == wanted
    assert block_mask(torch.zeros(6, 4), side).tolist() == [[True, True], [False, False], [False, False]]


def test_bad_masks_are_refused_by_name() -> None:
    x = torch.ones(2, 8)
    x[0, 3] = math.nan
    for make in (
        lambda: nm_mask(x, NMMask(2, 4), where="layer.w"),
        lambda: block_mask(x, BlockMask((1, 4), 0.5), "layer.w"),
    ):
        with pytest.raises(
            ShapeError, match=r"layer\.w: 1 of 16 values are not finite; the first, nan, is at \(0, 3\)"
        ):
            make()
    with pytest.raises(ShapeError, match=r"score of layer\.w is NaN for 1 of 16"):
        nm_mask(torch.ones(2, 8), NMMask(2, 4), x, "layer.w")
    with pytest.raises(ShapeError, match=r"3 groups of layer\.w do not keep 2 of 4"):
        nm_index(
            torch.tensor([[True] * 4 + [False] * 4, [True, False, True, True, False, True, True, False]]),
            NMMask(2, 4),
            "layer.w",
        )
    with pytest.raises(UnsupportedOp, match="groups of 512"):
        nm_index(nm_mask(torch.ones(1, 512), NMMask(1, 512)), NMMask(1, 512))
    index = nm_index(nm_mask(torch.ones(2, 8), NMMask(2, 4)), NMMask(2, 4))
    for use in (index.compact, index.expand):
        with pytest.raises(ShapeError, match="does not fit one of shape"):
            use(torch.ones(2, 5))


def test_damaged_positions_are_told() -> None:
    twice = torch.tensor([[0b0001_0000]], dtype=torch.uint8)
    assert list(NMIndex(twice, 2, 4, (1, 8)).problems()) == ["positions of kept elements do not ascend"]
    good = torch.tensor([[0b1001_0100]], dtype=torch.uint8)
    assert list(NMIndex(good, 2, 4, (1, 8)).problems()) == []
    outside = torch.tensor([[0b0010_0100]], dtype=torch.uint8)
    assert next(NMIndex(outside, 2, 4, (1, 5)).problems()).startswith("positions of kept elements from 0 to 6")
    columns, offsets = (torch.tensor(numbers, dtype=torch.int32) for numbers in ([2, 0], [0, 2, 2]))
    assert list(BlockIndex(columns, offsets, (1, 4), (2, 9)).problems()) == ["block columns do not ascend in every row"]
    assert list(BlockIndex(columns.flip(0), offsets, (1, 4), (2, 9)).problems()) == []
    assert list(BlockIndex(columns.flip(0), offsets, (1, 4), (2, 8)).problems()) == [
        "block columns from 0 to 2 are outside 0..1"
    ]
    with pytest.raises(ShapeError, match=r"have shape \(3,\), not \(4,\)"):
        BlockIndex(columns, offsets, (1, 4), (3, 9))
    with pytest.raises(ShapeError, match=r"has shape \(1, 1\), not \(1, 2\)"):
        NMIndex(good, 2, 4, (1, 16))

"""Laws of the reduction axis: orders and their inverses, groups, expansions that keep every product, padding."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcc.errors import ShapeError
from qcc.numerics.kaxis import (
    KAxisIndex,
    expand_columns,
    group_index_of,
    group_order,
    inverse_permutation,
    pad_columns,
    permute_columns,
    require_permutation,
    residual_source,
    split_sources,
)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shuffled(size: int, seed: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 40), st.integers(0, 999), st.sampled_from([torch.int32, torch.int64]))
@settings(max_examples=50)
def test_an_order_and_its_inverse(size: int, seed: int, dtype: torch.dtype) -> None:
    order, x, w = shuffled(size, seed).to(dtype), gaussian(2, 3, size), gaussian(5, size, seed=1)
    inverse = inverse_permutation(order)
    assert inverse.dtype == dtype
    turned = permute_columns(x, order)
    assert all(torch.equal(turned[..., i], x[..., int(order[i])]) for i in range(size))
    assert torch.equal(permute_columns(turned, inverse), x)
    assert torch.equal(inverse_permutation(inverse), order)
    torch.testing.assert_close(turned @ permute_columns(w, order).T, x @ w.T, rtol=1e-12, atol=1e-12)


@given(st.integers(1, 70), st.integers(1, 16), st.integers(0, 999))
@settings(max_examples=50)
def test_groups_formed_in_an_order_become_neighbours_again(size: int, group: int, seed: int) -> None:
    index = group_index_of(shuffled(size, seed), group)
    order = group_order(index, group)
    assert torch.equal(index[order].long(), torch.arange(size) // group)
    assert torch.equal(group_index_of(order, group), index)
    for number in range(-(-size // group)):
        members = order[number * group : (number + 1) * group]
        assert torch.equal(members, members.sort().values)


def test_uneven_groups_are_refused() -> None:
    for index in ([0, 0, 1, 1, 1, 2], [0, 0, 2, 2], [1, 1, 0], [0, 0, 0]):
        with pytest.raises(ShapeError, match=r"groups of layer\.w do not have 2 columns"):
            group_order(torch.tensor(index), 2, "layer.w")


def test_orders_that_are_none_are_refused() -> None:
    for order, what in (
        ([0, 0, 1], "1 of 3"),
        ([0, 1, 3], "0 to 3"),
        ([0, 1], r"\(2,\), not \(3,\)"),
        ([-1, 0, 1], "-1 to 1"),
    ):
        with pytest.raises(ShapeError, match=f"layer.w: .*{what}"):
            require_permutation(torch.tensor(order), 3, "layer.w")
        with pytest.raises(ShapeError, match="no permutation of 3"):
            permute_columns(torch.ones(2, 3), torch.tensor(order))
    assert list(KAxisIndex(torch.tensor([1, 0]), torch.tensor([0, 2])).problems()) == [
        "group numbers from 0 to 2 are outside 0..1"
    ]
    assert list(KAxisIndex(torch.tensor([1, 1])).problems()) == ["1 of 2 channels are missing from the order"]


@given(st.integers(1, 30), st.integers(0, 20), st.integers(0, 999))
@settings(max_examples=50)
def test_split_copies_keep_every_product(size: int, count: int, seed: int) -> None:
    x, w = gaussian(3, size, seed=seed), gaussian(5, size, seed=seed + 1)
    source = split_sources(x.abs().amax(0), count)
    assert torch.equal(source[:size], torch.arange(size))
    wide, copies = expand_columns(x, source, "split"), expand_columns(w, source, "dup")
    torch.testing.assert_close(wide @ copies.T, x @ w.T, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(expand_columns(x, source, "dup") @ expand_columns(w, source, "split").T, x @ w.T)
    assert expand_columns(x, source, "none") is x


@given(st.integers(1, 5), st.integers(0, 6), st.integers(0, 999))
@settings(max_examples=50)
def test_greedy_splitting_is_the_best_of_all(size: int, count: int, seed: int) -> None:
    peaks = gaussian(size, seed=seed).abs()
    copies = torch.bincount(split_sources(peaks, count), minlength=size)

    def best(channel: int, left: int) -> float:
        if channel == size - 1:
            return float(peaks[channel]) / (1 + left)
        return min(max(float(peaks[channel]) / (1 + use), best(channel + 1, left - use)) for use in range(left + 1))

    assert float((peaks / copies).max()) == pytest.approx(best(0, count), rel=1e-12)


def test_splitting_prefers_the_lowest_channel_and_refuses_bad_magnitudes() -> None:
    assert split_sources(torch.tensor([1.0, 4, 1, 4]), 5).tolist() == [0, 1, 2, 3, 1, 3, 1, 3, 1]
    assert split_sources(torch.zeros(3), 2).tolist() == [0, 1, 2, 0, 0]
    with pytest.raises(ShapeError, match="1 of 2 magnitudes are not finite"):
        split_sources(torch.tensor([1.0, math.nan]), 1)
    for peaks, count in (([-1.0, 2], 1), ([1.0], -1)):
        with pytest.raises(ShapeError, match="cannot split"):
            split_sources(torch.tensor(peaks), count)


def test_a_residual_is_what_the_approximation_lacks() -> None:
    x, w = gaussian(4, 6), gaussian(3, 6, seed=1)
    source, approximation = torch.tensor([5, 1]), (x * 2).round() / 2
    wide = expand_columns(x, source, "residual", approximation)
    assert torch.equal(wide, torch.cat((x, (x - approximation)[:, source]), 1))
    # Quantized and exact residual together restore the chosen channels.
    restored = torch.cat((approximation, wide[:, 6:]), 1) @ expand_columns(w, residual_source(source, 6), "dup").T
    repaired = approximation.clone()
    repaired[:, source] = x[:, source]
    torch.testing.assert_close(restored, repaired @ w.T, rtol=1e-12, atol=1e-12)
    half = expand_columns(x.half(), source, "residual", approximation.half())
    assert half.dtype == torch.float16
    with pytest.raises(ShapeError, match="needs the approximation"):
        expand_columns(x, source, "residual")
    with pytest.raises(ShapeError, match=r"columns from 0 to 6 are outside 0\.\.5"):
        expand_columns(x, torch.tensor([0, 6]), "dup")


def test_padding_says_what_it_added() -> None:
    x = gaussian(2, 3, 13)
    padded, added = pad_columns(x, 8)
    assert (padded.shape, added) == ((2, 3, 16), 3)
    assert torch.equal(padded[..., :13], x)
    assert not padded[..., 13:].any()
    assert pad_columns(x, 13) == (x, 0)
    with pytest.raises(ShapeError, match="multiple of 0"):
        pad_columns(x, 0)

"""Positions in a codebook: the table over leading bits agrees with a search among the boundaries everywhere."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcc.numerics.buckets import bucket_table
from qcc.numerics.codebook import Codebook, codebook, codebook_of
from qcc.numerics.presets import PRESETS, format_of
from qcc.numerics.qtype_parts import FLOAT_VARIANTS, FloatDecode, PlanesDecode, Rounding, TableDecode

ROUNDINGS: tuple[Rounding, ...] = ("rne", "half_up", "half_down", "floor")
HALVES = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.float16).float()
SCALES = (1.0, 0.0371, 17.3, 1e-6)


def float_decodes() -> list[FloatDecode]:
    """Give every small float that no wider one explains."""
    sizes = [(exponent, mantissa) for exponent in range(1, 8) for mantissa in range(7) if 2 <= exponent + mantissa <= 7]
    return [FloatDecode(*size, variant=variant) for size in sizes for variant in FLOAT_VARIANTS]


def tables_of_presets() -> list[TableDecode]:
    """Give every table that a preset decodes by."""
    decodes = [format_of(name).decode for name in PRESETS]
    return [TableDecode((table,)) for decode in decodes if isinstance(decode, TableDecode) for table in decode.tables]


def searched(book: Codebook, values: Tensor, rounding: Rounding) -> Tensor:
    """Find positions by counting the boundaries at or below each value."""
    found = torch.bucketize(values, book.boundaries(rounding, values.dtype), right=True, out_int32=True)
    return torch.where(torch.isnan(values), book.position_of_zero, found)


def near_boundaries(book: Codebook, rounding: Rounding) -> Tensor:
    """Give every boundary and its two neighbours in float32, and what is special."""
    edges = book.boundaries(rounding, torch.float32)
    special = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 3.4e38, -3.4e38, 1e-45, -1e-45])
    below, above = (edges.nextafter(torch.tensor(end)) for end in (-math.inf, math.inf))
    return torch.cat((edges, below, above, special))


@pytest.mark.parametrize(
    "book",
    [codebook_of(decode) for decode in (*float_decodes(), *tables_of_presets())]
    + [codebook_of(PlanesDecode(8, digits, "pow2")) for digits in ("01", "pm1")]
    + [codebook_of(PlanesDecode(4, "-101", "pow2"))],
)
def test_every_number_finds_the_position_that_its_boundaries_say(book: Codebook) -> None:
    for rounding in ROUNDINGS:
        edges = tuple(book.boundaries(rounding, torch.float32).tolist())
        assert bucket_table(edges, book.position_of_zero, torch.device("cpu")) is not None
        exact = near_boundaries(book, rounding)
        assert torch.equal(book.nearest(exact, rounding), searched(book, exact, rounding))
        for scale in SCALES if rounding == "rne" else (1.0,):
            values = HALVES * (scale * book.largest)
            assert torch.equal(book.nearest(values, rounding), searched(book, values, rounding))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=40, unique=True),
    st.sampled_from(ROUNDINGS),
)
def test_tables_of_any_values_find_the_same_position(values: list[float], rounding: Rounding) -> None:
    book = codebook(tuple(values))
    exact = torch.cat((near_boundaries(book, rounding), torch.tensor(values)))
    assert torch.equal(book.nearest(exact, rounding), searched(book, exact, rounding))
    assert torch.equal(book.nearest(exact.double(), rounding), searched(book, exact.double(), rounding))


def test_boundaries_closer_than_a_bucket_are_searched() -> None:
    close = codebook((0.0, 1.0, 1.0001, 1.0002))
    edges = tuple(close.boundaries("rne", torch.float32).tolist())
    assert bucket_table(edges, 0, torch.device("cpu")) is None
    assert close.nearest(torch.tensor([[0.9, 1.00006], [1.00016, math.nan]]), "rne").tolist() == [[1, 2], [3, 0]]


def test_nearest_values_are_the_nearest() -> None:
    for decode in tables_of_presets():
        book = codebook_of(decode)
        x = torch.randn(400, generator=torch.Generator().manual_seed(0)) * book.largest
        best = torch.stack([(x - value).abs() for value in book.values]).min(0).values
        torch.testing.assert_close((book.nearest_values(x, "rne") - x).abs(), best, rtol=0, atol=0)
        assert all(low < high for low, high in itertools.pairwise(book.values))

"""Packing is the identity over all codes, widths and lengths, and has the documented layout."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.errors import ShapeError
from qcc.numerics.pack import pack, packed_bytes, unpack

WIDTHS = st.integers(1, 8)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", range(1, 9))
def test_every_code_survives_at_every_position(bits: int, signed: bool) -> None:
    low = -(1 << (bits - 1)) if signed else 0
    codes = torch.arange(low, low + (1 << bits)).to(torch.int8 if signed else torch.uint8)
    rows = torch.stack([codes.roll(shift) for shift in range(min(8, len(codes)))])
    packed = pack(rows, bits)
    assert packed.shape == (len(rows), packed_bytes(len(codes), bits))
    assert torch.equal(unpack(packed, bits, len(codes), signed), rows)


@settings(max_examples=80, deadline=None)
@given(WIDTHS, st.booleans(), st.lists(st.integers(0, 3), max_size=2), st.integers(0, 67), st.integers(0, 2**31))
def test_unpack_undoes_pack(bits: int, signed: bool, lead: list[int], length: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    low = -(1 << (bits - 1)) if signed else 0
    codes = torch.randint(low, low + (1 << bits), (*lead, length), generator=generator)
    codes = codes.to(torch.int8 if signed else torch.uint8)
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (*lead, packed_bytes(length, bits))
    again = unpack(packed, bits, length, signed)
    assert again.dtype == codes.dtype
    assert torch.equal(again, codes)


@settings(max_examples=80, deadline=None)
@given(WIDTHS, st.lists(st.integers(0, 255), min_size=1, max_size=40))
def test_a_row_is_one_little_endian_stream(bits: int, values: list[int]) -> None:
    values = [value & ((1 << bits) - 1) for value in values]
    stream = sum(value << (bits * index) for index, value in enumerate(values))
    expected = stream.to_bytes(packed_bytes(len(values), bits), "little")
    assert bytes(pack(torch.tensor(values, dtype=torch.uint8), bits).tolist()) == expected


def test_signed_codes_are_offset() -> None:
    codes = torch.tensor([-8, 7, -1, 0], dtype=torch.int8)
    assert pack(codes, 4).tolist() == [0xF0, 0x87]


def test_a_view_that_is_not_contiguous_packs_the_same() -> None:
    codes = torch.randint(0, 8, (11, 5), dtype=torch.uint8)
    assert torch.equal(pack(codes.T, 3), pack(codes.T.contiguous(), 3))


@pytest.mark.parametrize(
    ("codes", "bits"),
    [
        (torch.tensor([16], dtype=torch.uint8), 4),
        (torch.tensor([8], dtype=torch.int8), 4),
        (torch.tensor([-9], dtype=torch.int8), 4),
        (torch.tensor([1], dtype=torch.uint8), 0),
        (torch.tensor([1], dtype=torch.uint8), 9),
        (torch.tensor([1.0]), 4),
        (torch.tensor(1, dtype=torch.uint8), 4),
    ],
)
def test_codes_that_do_not_fit_are_refused(codes: torch.Tensor, bits: int) -> None:
    with pytest.raises(ShapeError):
        pack(codes, bits)


@pytest.mark.parametrize("length", [8, 11])
def test_rows_of_another_length_are_refused(length: int) -> None:
    with pytest.raises(ShapeError, match="uint8 rows of"):
        unpack(torch.zeros(2, 5, dtype=torch.uint8), 4, length, signed=False)

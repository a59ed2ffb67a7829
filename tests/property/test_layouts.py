"""Layouts give back every pattern at every position, have the documented bytes, and take the bits counted."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcc.errors import ShapeError
from qcc.numerics import layouts, pack
from qcc.numerics.layouts import (
    digits_a_byte,
    join_digits,
    pack_planes,
    pack_radix,
    radix_bytes,
    split_digits,
    stored_planes,
    unpack_planes,
    unpack_radix,
)
from qcc.numerics.pack import packed_bytes
from qcc.numerics.plane_digits import digit_matrix, valid_codes
from qcc.numerics.qtype_bits import storage_bits
from qcc.numerics.qtype_parts import DIGIT_STATES, Digits
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.tiling import tiles

PLANES: list[tuple[int, Digits]] = [
    *((count, digits) for digits in ("01", "pm1") for count in range(1, 9)),
    *((count, "-101") for count in range(1, 5)),
]
planes = st.sampled_from(PLANES)
leads = st.lists(st.integers(0, 3), max_size=2)
lengths = st.integers(0, 41)
seeds = st.integers(0, 2**31)


def random_codes(count: int, digits: Digits, shape: list[int], seed: int) -> Tensor:
    codes = valid_codes(count, digits).to(torch.uint8)
    return codes[torch.randint(len(codes), shape, generator=torch.Generator().manual_seed(seed))]


@pytest.mark.parametrize(("count", "digits"), PLANES)
def test_every_code_survives_at_every_position_in_planes(count: int, digits: Digits) -> None:
    codes = valid_codes(count, digits).to(torch.uint8)
    rows = torch.stack([codes.roll(shift) for shift in range(8)])
    packed = pack_planes(rows, count, digits)
    assert packed.shape == (8, stored_planes(count, digits), packed_bytes(len(codes), 1))
    assert torch.equal(unpack_planes(packed, count, digits, len(codes)), rows)
    assert torch.equal(join_digits(split_digits(rows, count, digits), digits), rows)


@settings(max_examples=80, deadline=None)
@given(planes, leads, lengths, seeds)
def test_unpack_planes_undoes_pack_planes(plane: tuple[int, Digits], lead: list[int], length: int, seed: int) -> None:
    count, digits = plane
    codes = random_codes(count, digits, [*lead, length], seed)
    packed = pack_planes(codes, count, digits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (*lead, stored_planes(count, digits), math.ceil(length / 8))
    assert torch.equal(unpack_planes(packed, count, digits, length), codes)


@settings(max_examples=60, deadline=None)
@given(planes, st.integers(1, 20), seeds)
def test_planes_hold_the_digits_bit_by_bit(plane: tuple[int, Digits], length: int, seed: int) -> None:
    count, digits = plane
    codes = random_codes(count, digits, [length], seed)
    values = digit_matrix(count, digits)[codes.long()].T
    assert torch.equal(split_digits(codes, count, digits), (values - values.new_tensor(LOWEST[digits])) // STEP[digits])
    streams = [
        sum(byte << (8 * index) for index, byte in enumerate(row)) for row in pack_planes(codes, count, digits).tolist()
    ]
    if digits == "-101":
        expected = [wanted for row in values for wanted in (row != 0, row == -1)]
    else:
        expected = [row == 1 for row in values]
    assert streams == [sum(int(bit) << index for index, bit in enumerate(bits)) for bits in expected]


LOWEST: dict[Digits, int] = {"01": 0, "pm1": -1, "-101": -1}
STEP: dict[Digits, int] = {"01": 1, "pm1": 2, "-101": 1}


@pytest.mark.parametrize("states", [2, 3, 5, 6, 7, 9, 15, 16, 17, 81, 255, 256])
def test_every_byte_of_digits_survives(states: int) -> None:
    fit = digits_a_byte(states)
    assert states**fit <= 256 < states ** (fit + 1)
    values = torch.arange(states**fit)
    digits = torch.stack([values // states**place % states for place in range(fit)], dim=1).to(torch.uint8)
    packed = pack_radix(digits, states)
    assert torch.equal(packed[:, 0].long(), values)
    assert torch.equal(unpack_radix(packed, states, fit), digits)


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 256), leads, lengths, st.none() | st.integers(1, 45), seeds)
def test_unpack_radix_undoes_pack_radix(
    states: int, lead: list[int], length: int, block: int | None, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(states, (*lead, length), generator=generator).to(torch.uint8)
    packed = pack_radix(codes, states, block)
    assert packed.shape == (*lead, radix_bytes(length, states, block))
    assert torch.equal(unpack_radix(packed, states, length, block), codes)


def test_the_first_digit_of_a_byte_is_the_least_significant() -> None:
    codes = torch.tensor([1, 0, 0, 0, 2, 2, 1], dtype=torch.uint8)
    assert pack_radix(codes, 3).tolist() == [1 + 2 * 81, 2 + 3]
    assert pack_radix(codes, 3, block=3).tolist() == [1, 2 * 3 + 2 * 9, 1]


@pytest.mark.parametrize("shape", [(4, 256), (3, 128), (8, 300), (5, 100), (2, 40)])
@pytest.mark.parametrize(
    "text",
    [
        "planes(2, -101, free) radix | (1,128) f16",
        "planes(3, -101, free) radix | (1,40) f16",
        "planes(1, pm1, free) radix | (1,16) f16",
        "table ternary(-1, 0, 1) radix | (1,128) f16",
        "int3[-2,2] radix | row f16",
    ],
)
def test_radix_takes_the_bits_that_the_type_counts(text: str, shape: tuple[int, int]) -> None:
    qtype = parse_qtype(text)
    extent = qtype.levels[0].block[1]
    block = None if extent == -1 else extent
    count, states = (1, 5) if "int3" in text else (1, 3)
    if text.startswith("planes"):
        count, digits = int(text[7]), "pm1" if "pm1" in text else "-101"
        states = DIGIT_STATES[digits]
        codes = split_digits(random_codes(count, digits, list(shape), 1), count, digits)
    else:
        codes = torch.zeros(shape, dtype=torch.uint8)
    blocks = shape[0] * (1 if block is None else math.ceil(shape[1] / block))
    assert (
        8 * pack_radix(codes, states, block).numel()
        == storage_bits(qtype, shape) - 16 * count ** ("free" in text) * blocks
    )


@pytest.mark.parametrize(("count", "digits"), PLANES)
def test_planes_take_the_bits_that_the_type_counts(count: int, digits: Digits) -> None:
    """Dense and plane by plane are the same number of bits where rows fill bytes."""
    shape = (6, 64)
    codes = random_codes(count, digits, list(shape), 2)
    counted = storage_bits(parse_qtype(f"planes({count}, {digits}, pow2) | tensor f16"), shape) - 16
    assert 8 * pack_planes(codes, count, digits).numel() == counted
    width = stored_planes(count, digits)
    assert 8 * pack.pack(codes, width).numel() == counted


@pytest.mark.parametrize("length", [1, 7, 8, 61, 200])
@pytest.mark.parametrize("signed", [False, True])
def test_tiles_do_not_show(length: int, signed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(rows: int, columns: int, *, multiple: int) -> list[tuple[slice, slice]]:
        return list(tiles(rows, columns, multiple=multiple, budget=32))

    generator = torch.Generator().manual_seed(length)
    for bits in range(1, 9):
        low = -(1 << (bits - 1)) if signed else 0
        codes = torch.randint(low, low + (1 << bits), (3, 2, length), generator=generator)
        codes = codes.to(torch.int8 if signed else torch.uint8)
        trits = torch.randint(3, (5, length), generator=generator).to(torch.uint8)
        whole, whole_trits = pack.pack(codes, bits), pack_radix(trits, 3)
        with monkeypatch.context() as patch:
            patch.setattr(pack, "tiles", small)
            patch.setattr(layouts, "tiles", small)
            assert torch.equal(pack.pack(codes, bits), whole)
            assert torch.equal(pack.unpack(whole, bits, length, signed), codes)
            assert torch.equal(pack_radix(trits, 3), whole_trits)
            assert torch.equal(unpack_radix(whole_trits, 3, length), trits)


@pytest.mark.parametrize("columns", [1, 31, 32, 33, 100])
@pytest.mark.parametrize(("width", "multiple"), [(0, 1), (90, 1), (0, 8), (0, 5), (0, 64)])
def test_tiles_cover_a_matrix_once(columns: int, width: int, multiple: int) -> None:
    seen = torch.zeros(7, columns)
    for row, column in tiles(7, columns, width=width, multiple=multiple, budget=32):
        seen[row, column] += 1
        assert column.start % multiple == 0
        assert seen[row, column].numel() <= max(32, multiple)
    assert bool((seen == 1).all())


def test_everything_is_made_on_the_device_of_the_tensor() -> None:
    """Under another default device, a tensor made without a device of its own meets the others and fails."""
    codes = random_codes(2, "-101", [3, 21], 5)
    digits = split_digits(codes, 2, "-101")
    with torch.device("meta"):
        assert torch.equal(unpack_planes(pack_planes(codes, 2, "-101"), 2, "-101", 21), codes)
        assert torch.equal(join_digits(unpack_radix(pack_radix(digits, 3, 8), 3, 21, 8), "-101"), codes)
        for bits in (4, 7, 8):
            assert torch.equal(pack.unpack(pack.pack(codes, bits), bits, 21, signed=False), codes)


TERNARY_NOTHING = torch.tensor([[0, 3]], dtype=torch.uint8)
BYTES = torch.zeros(2, 4, dtype=torch.uint8)


def test_misuse_is_refused_by_name() -> None:
    with pytest.raises(ShapeError, match="1 to 4 planes"):
        pack_planes(BYTES, 5, "-101")
    with pytest.raises(ShapeError, match="the digit 3 is not below 3"):
        pack_planes(TERNARY_NOTHING, 1, "-101")
    with pytest.raises(ShapeError, match="the code 3 has bits above 1 planes"):
        split_digits(TERNARY_NOTHING, 1, "01")
    with pytest.raises(ShapeError, match=r"(?s)cannot take apart torch\.int8 .*less their minimum"):
        pack_planes(BYTES.to(torch.int8), 2, "01")
    with pytest.raises(ShapeError, match=r"cannot take apart .* of shape \(\)"):
        pack_planes(BYTES[0, 0], 2, "01")
    with pytest.raises(ShapeError, match="the digit 2 is not below 2"):
        join_digits(BYTES + 2, "01")
    with pytest.raises(ShapeError, match="2 or more axes"):
        join_digits(BYTES[0], "01")
    with pytest.raises(ShapeError, match="pass uint8 2 planes of 1 bytes"):
        unpack_planes(BYTES, 2, "01", 5)
    damaged = torch.tensor([[[0b01], [0b10]]], dtype=torch.uint8)
    with pytest.raises(ShapeError, match="a digit that is 0 has a sign"):
        unpack_planes(damaged, 1, "-101", 2)


def test_misuse_of_the_radix_layout_is_refused_by_name() -> None:
    with pytest.raises(ShapeError, match="the digit 3 is not below 3"):
        pack_radix(TERNARY_NOTHING, 3)
    with pytest.raises(ShapeError, match="use 2 to 256 states"):
        pack_radix(BYTES, 1)
    with pytest.raises(ShapeError, match="use 2 to 256 states"):
        radix_bytes(4, 257)
    with pytest.raises(ShapeError, match="the block of 0 digits"):
        pack_radix(BYTES, 3, block=0)
    with pytest.raises(ShapeError, match=r"cannot pack torch\.float32"):
        pack_radix(BYTES.float(), 3)
    with pytest.raises(ShapeError, match="pass uint8 rows of 1 bytes"):
        unpack_radix(BYTES, 3, 5)
    with pytest.raises(ShapeError, match="the byte 243 does not hold 5 digits of 3 states"):
        unpack_radix(BYTES + 243, 3, 20)

"""Slicing of integer codes, over every code of every master from 1 to 8 bits."""

from __future__ import annotations

import pytest
import torch

from qcc.errors import ShapeError
from qcc.numerics.qtype_parts import IntDecode
from qcc.numerics.slicing import slice_codes, sliced_decode, sliced_view

MASTERS = [
    *(IntDecode(bits, signed) for bits in range(1, 9) for signed in (False, True)),
    *(IntDecode(bits, narrow=True) for bits in range(2, 9)),
    IntDecode(3, low=-2, high=2),
    IntDecode(8, low=-119, high=119),
]


def every_code(master: IntDecode) -> torch.Tensor:
    return torch.arange(master.minimum, master.maximum + 1).to(torch.int8 if master.signed else torch.uint8)


@pytest.mark.parametrize("master", MASTERS, ids=str)
def test_slices_of_every_code(master: IntDecode) -> None:
    codes = every_code(master)
    for bits in range(1, master.bits + 1):
        step, narrow = 1 << (master.bits - bits), sliced_decode(master, bits)
        sliced, view = slice_codes(codes, master, bits), sliced_view(codes, master, bits)
        assert sliced.dtype == view.dtype == codes.dtype
        assert torch.equal(sliced.long(), view.long() * step)
        assert set(view.tolist()) == set(range(narrow.minimum, narrow.maximum + 1))
        assert master.minimum <= int(sliced.min()) <= int(sliced.max()) <= master.maximum
        assert torch.equal(slice_codes(sliced, master, bits), sliced)
        error = (codes.long() - sliced.long()).abs()
        inside = (view > narrow.minimum) & (view < narrow.maximum)
        assert not inside.any() or int(error[inside].max()) <= step // 2
        assert int(error.max()) <= max(step - 1, step // 2)


@pytest.mark.parametrize(("bits", "worst"), [(8, 0), (7, 1), (6, 3), (4, 15), (3, 31), (2, 63), (1, 127)])
def test_error_bounds_of_an_unsigned_master(bits: int, worst: int) -> None:
    codes, master = torch.arange(256), IntDecode(8, signed=False)
    sliced = slice_codes(codes.to(torch.uint8), master, bits).long()
    wanted = ((codes >> (8 - bits)) + ((codes << 1 >> (8 - bits)) & 1)).clamp(0, 2**bits - 1) << (8 - bits)
    assert torch.equal(sliced, wanted if bits < 8 else codes)
    error = (codes - sliced).abs()
    assert int(error.max()) == worst
    top = sliced == int(sliced.max())
    assert bits == 8 or int(error[~top].max()) <= 2 ** (7 - bits)


def test_narrow_masters_stay_narrow() -> None:
    assert sliced_decode(IntDecode(8, narrow=True), 4) == IntDecode(4, narrow=True)
    assert sliced_decode(IntDecode(8), 4) == IntDecode(4)
    assert sliced_decode(IntDecode(8, low=-119, high=119), 4) == IntDecode(4, low=-7, high=7)
    lowest = torch.tensor([-127, -121, -120, -119], dtype=torch.int8)
    assert slice_codes(lowest, IntDecode(8, narrow=True), 4).tolist() == [-112, -112, -112, -112]
    assert slice_codes(lowest, IntDecode(8), 4).tolist() == [-128, -128, -112, -112]


def test_fixed_point_masters_may_be_wider_than_a_byte() -> None:
    codes = torch.tensor([-32768, -1, 127, 128, 32767], dtype=torch.int32)
    assert slice_codes(codes, IntDecode(16), 8).tolist() == [-32768, 0, 0, 256, 127 * 256]


def test_widths_that_do_not_fit_are_refused() -> None:
    codes = torch.zeros(2, dtype=torch.int8)
    for bits in (0, 9, -1):
        with pytest.raises(ShapeError, match=f"cannot keep {bits} bits of int8"):
            slice_codes(codes, IntDecode(8), bits)
    with pytest.raises(ShapeError, match="no code that 2 bits"):
        sliced_view(codes, IntDecode(8, low=1, high=5), 2)

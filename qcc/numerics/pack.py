"""Pack codes of 1 to 8 bits into bytes and back.

A row (the last axis) is one little-endian stream of bits: code i takes the bits from i·b on, counted from
the lowest bit of the first byte. Signed codes are stored with an offset of 2^(b-1). Rows end at a byte.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from qcc.errors import ShapeError
from qcc.numerics.tiling import tiles

# Eight codes of b bits fill b bytes exactly, and at most 64 bits.
CODES_A_WORD = 8


def packed_bytes(length: int, bits: int) -> int:
    """Count the bytes of a packed row of `length` codes."""
    return (length * bits + 7) // 8


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack uint8 (unsigned) or int8 (signed) codes along the last axis.

    Returns uint8 of shape `[..., ceil(length·bits / 8)]`.

    Raises:
        ShapeError: bits outside 1..8, another dtype, no axis, or a code that does not fit.
    """
    _check_bits(bits)
    if codes.dtype not in (torch.uint8, torch.int8) or codes.ndim == 0:
        raise ShapeError(
            f"cannot pack {codes.dtype} codes of shape {tuple(codes.shape)}",
            fix="pass uint8 or int8 with at least one axis",
        )
    signed = codes.dtype == torch.int8
    offset = 1 << (bits - 1) if signed else 0
    if codes.numel():
        low, high = (int(bound) for bound in codes.aminmax())
        if low + offset < 0 or high + offset >= 1 << bits:
            raise ShapeError(f"codes from {low} to {high} do not fit {bits} {'signed' if signed else 'unsigned'} bits")
    *lead, length = codes.shape
    rows = codes.reshape(math.prod(lead), length)
    packed = torch.empty(len(rows), packed_bytes(length, bits), dtype=torch.uint8, device=codes.device)
    for row, column in tiles(*rows.shape, multiple=CODES_A_WORD):
        packed[row, _octets(column, bits)] = _packed_tile(rows[row, column], bits, offset)
    return packed.reshape(*lead, packed_bytes(length, bits))


def unpack(packed: Tensor, bits: int, length: int, signed: bool) -> Tensor:
    """Undo `pack`: give `length` codes a row, int8 if `signed`, else uint8.

    Raises:
        ShapeError: bits outside 1..8, a dtype other than uint8, or rows that are not of the packed length.
    """
    _check_bits(bits)
    if packed.dtype != torch.uint8 or packed.ndim == 0 or packed.shape[-1] != packed_bytes(length, bits):
        raise ShapeError(
            f"cannot unpack {length} codes of {bits} bits from {packed.dtype} of shape {tuple(packed.shape)}",
            fix=f"pass uint8 rows of {packed_bytes(length, bits)} bytes",
        )
    lead = packed.shape[:-1]
    rows = packed.reshape(math.prod(lead), packed.shape[-1])
    codes = torch.empty(len(rows), length, dtype=torch.int8 if signed else torch.uint8, device=packed.device)
    offset = 1 << (bits - 1) if signed else 0
    for row, column in tiles(*codes.shape, multiple=CODES_A_WORD):
        codes[row, column] = _unpacked_tile(rows[row, _octets(column, bits)], bits, column.stop - column.start) - offset
    return codes.reshape(*lead, length)


def _octets(column: slice, bits: int) -> slice:
    """Give the bytes of a run of codes that starts at a whole word."""
    first = column.start * bits // 8
    return slice(first, first + packed_bytes(column.stop - column.start, bits))


def _packed_tile(codes: Tensor, bits: int, offset: int) -> Tensor:
    """Pack checked codes `[rows, length]`."""
    unsigned = codes.to(torch.int16) + offset
    if bits == 8:
        return unsigned.to(torch.uint8)
    padded = functional.pad(unsigned, (0, -unsigned.shape[1] % CODES_A_WORD))
    words = padded[:, ::CODES_A_WORD].to(torch.int64)
    for index in range(1, CODES_A_WORD):
        words |= padded[:, index::CODES_A_WORD].to(torch.int64) << (bits * index)
    octets = torch.stack([((words >> (8 * index)) & 0xFF).to(torch.uint8) for index in range(bits)], dim=-1)
    return octets.flatten(1)[:, : packed_bytes(codes.shape[1], bits)]


def _unpacked_tile(packed: Tensor, bits: int, length: int) -> Tensor:
    """Give the unsigned codes `[rows, length]` of packed rows, as int16."""
    if bits == 8:
        return packed.to(torch.int16)
    octets = functional.pad(packed, (0, -packed.shape[1] % bits)).unflatten(1, (-1, bits))
    words = octets[:, :, 0].to(torch.int64)
    for index in range(1, bits):
        words |= octets[:, :, index].to(torch.int64) << (8 * index)
    mask = (1 << bits) - 1
    codes = [((words >> (bits * index)) & mask).to(torch.int16) for index in range(CODES_A_WORD)]
    return torch.stack(codes, dim=-1).flatten(1)[:, :length]


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= 8:
        raise ShapeError(f"cannot pack codes of {bits} bits", fix="use 1 to 8 bits")

"""Pack codes of 1 to 8 bits into bytes and back.

A row (the last axis) is one little-endian stream of bits: code i takes the bits from i·b on, counted from
the lowest bit of the first byte. Signed codes are stored with an offset of 2^(b-1). Rows end at a byte.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from qcc.errors import ShapeError

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
    unsigned = codes.to(torch.int16) + offset
    if unsigned.numel() and (int(unsigned.min()) < 0 or int(unsigned.max()) >= 1 << bits):
        low, high = int(codes.min()), int(codes.max())
        raise ShapeError(f"codes from {low} to {high} do not fit {bits} {'signed' if signed else 'unsigned'} bits")
    length = codes.shape[-1]
    if bits == 8:
        return unsigned.to(torch.uint8)
    padded = functional.pad(unsigned, (0, -length % CODES_A_WORD))
    words = torch.zeros(*padded.shape[:-1], padded.shape[-1] // CODES_A_WORD, dtype=torch.int64, device=codes.device)
    for index in range(CODES_A_WORD):
        words |= padded[..., index::CODES_A_WORD].to(torch.int64) << (bits * index)
    octets = torch.stack([((words >> (8 * index)) & 0xFF).to(torch.uint8) for index in range(bits)], dim=-1)
    return octets.flatten(-2)[..., : packed_bytes(length, bits)].contiguous()


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
    if bits == 8:
        unsigned = packed.to(torch.int16)
    else:
        octets = functional.pad(packed, (0, -packed.shape[-1] % bits)).unflatten(-1, (-1, bits))
        words = torch.zeros(octets.shape[:-1], dtype=torch.int64, device=packed.device)
        for index in range(bits):
            words |= octets[..., index].to(torch.int64) << (8 * index)
        mask = (1 << bits) - 1
        codes = [((words >> (bits * index)) & mask).to(torch.int16) for index in range(CODES_A_WORD)]
        unsigned = torch.stack(codes, dim=-1).flatten(-2)[..., :length]
    if signed:
        return (unsigned - (1 << (bits - 1))).to(torch.int8)
    return unsigned.to(torch.uint8)


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= 8:
        raise ShapeError(f"cannot pack codes of {bits} bits", fix="use 1 to 8 bits")

"""Store codes other than as a dense stream of bits: plane after plane, or several digits a byte.

Both work along the last axis. Bit planes are what bit-serial and table kernels read (bit k of plane j is bit k mod 8
of byte k div 8); the radix layout is what stores digits that do not fill whole bits, such as five ternary
digits a byte.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from qcc.errors import ShapeError
from qcc.numerics.pack import pack, packed_bytes, unpack
from qcc.numerics.plane_digits import check_planes, digit_bits
from qcc.numerics.qtype_parts import DIGIT_STATES, Digits
from qcc.numerics.tiling import tiles

BYTE_STATES = 256


def split_digits(codes: Tensor, count: int, digits: Digits) -> Tensor:
    """Take codes of digit planes apart: uint8 `[..., K]` to states `[..., count, K]`, lowest plane first.

    A state is 0 or 1, or 0 to 2 for ternary digits (the digit plus 1).

    Raises:
        ShapeError: planes that do not fit a byte, another dtype, no axis, or codes that stand for nothing.
    """
    _check_plane_codes(codes, count, digits)
    states = codes.new_empty(*codes.shape[:-1], count, codes.shape[-1])
    for plane in range(count):
        states[..., plane, :] = _states_of(codes, plane, digits)
    return states


def join_digits(states: Tensor, digits: Digits) -> Tensor:
    """Undo `split_digits`: states uint8 `[..., count, K]` to codes `[..., K]`.

    Raises:
        ShapeError: planes that do not fit a byte, another dtype, fewer than two axes, or states out of range.
    """
    _check_codes(states, "join", axes=2)
    check_planes(states.shape[-2], digits)
    _check_states(states, DIGIT_STATES[digits])
    codes = torch.zeros_like(states[..., 0, :])
    for plane in range(states.shape[-2]):
        codes |= states[..., plane, :] << digit_bits(digits) * plane
    return codes


def stored_planes(count: int, digits: Digits) -> int:
    """Count the bit planes that digit planes are stored as: two for each ternary plane."""
    return count * digit_bits(digits)


def pack_planes(codes: Tensor, count: int, digits: Digits) -> Tensor:
    """Pack codes uint8 `[..., K]` as bit planes `[..., stored_planes, ceil(K / 8)]`, lowest plane first.

    The one bit of a plane of two digits is its bit in the code. A ternary plane is two bit planes: first where
    the digit is not 0, then where it is -1. The bits past the end of a row are 0.

    Raises:
        ShapeError: planes that do not fit a byte, another dtype, no axis, or codes that stand for nothing.
    """
    _check_plane_codes(codes, count, digits)
    *lead, length = codes.shape
    packed = codes.new_empty(*lead, stored_planes(count, digits), packed_bytes(length, 1))
    for plane in range(count):
        states = _states_of(codes, plane, digits)
        if digits == "-101":
            packed[..., 2 * plane, :] = pack((states != 1).view(torch.uint8), 1)
            packed[..., 2 * plane + 1, :] = pack((states == 0).view(torch.uint8), 1)
        else:
            packed[..., plane, :] = pack(states, 1)
    return packed


def unpack_planes(packed: Tensor, count: int, digits: Digits, length: int) -> Tensor:
    """Undo `pack_planes`: give codes uint8 of `length` a row.

    Raises:
        ShapeError: another dtype, another number of planes or bytes, or a ternary digit that is 0 and -1 at once.
    """
    check_planes(count, digits)
    shape = (stored_planes(count, digits), packed_bytes(length, 1))
    if packed.dtype != torch.uint8 or tuple(packed.shape[-2:]) != shape:
        raise ShapeError(
            f"cannot unpack {length} codes of {count} planes from {packed.dtype} of shape {tuple(packed.shape)}",
            fix=f"pass uint8 {shape[0]} planes of {shape[1]} bytes",
        )
    codes = packed.new_zeros(*packed.shape[:-2], length)
    for plane in range(count):
        if digits != "-101":
            codes |= unpack(packed[..., plane, :], 1, length, signed=False).bitwise_left_shift_(plane)
            continue
        used = unpack(packed[..., 2 * plane, :], 1, length, signed=False)
        negative = unpack(packed[..., 2 * plane + 1, :], 1, length, signed=False)
        positive = used.sub_(negative)
        # A sign without a digit wraps around.
        if positive.numel() and int(positive.max()) > 1:
            raise ShapeError("the planes are damaged: a digit that is 0 has a sign", fix="check where they come from")
        codes |= positive.add_(1).sub_(negative).bitwise_left_shift_(2 * plane)
    return codes


def digits_a_byte(states: int) -> int:
    """Count the digits of `states` states that fit a byte: 5 of 3 states, 3 of 5 or 6.

    Raises:
        ShapeError: states outside 2..256.
    """
    if not 2 <= states <= BYTE_STATES:
        raise ShapeError(f"cannot pack digits of {states} states into bytes", fix=f"use 2 to {BYTE_STATES} states")
    return next(fit for fit in range(8, 0, -1) if states**fit <= BYTE_STATES)


def radix_bytes(length: int, states: int, block: int | None = None) -> int:
    """Count the bytes of a row of `length` digits; every `block` of them, also a short last one, takes as many.

    Raises:
        ShapeError: states outside 2..256, or a block that is not positive.
    """
    fit = digits_a_byte(states)
    if block is None:
        return math.ceil(length / fit)
    if block < 1:
        raise ShapeError(f"the block of {block} digits is not positive", fix="pass the length of the leaf's blocks")
    return math.ceil(length / block) * math.ceil(min(block, length) / fit)


def pack_radix(codes: Tensor, states: int, block: int | None = None) -> Tensor:
    """Pack digits uint8 `[..., K]`, each below `states`, as many a byte as fit; gives `[..., radix_bytes]`.

    A byte holds sum of digit_i · states^i: the first digit is the least significant. With a `block`, every
    block of that many digits starts at a new byte. Digits that are missing at the end of a byte or of the
    last block are 0.

    Raises:
        ShapeError: another dtype, no axis, states outside 2..256, a digit out of range, or a block below 1.
    """
    _check_codes(codes, "pack")
    *lead, length = codes.shape
    width = radix_bytes(length, states, block)
    _check_states(codes, states)
    fit, span = digits_a_byte(states), length if block is None else min(block, length)
    if length == 0:
        return codes.new_zeros(*lead, 0)
    rows = codes.reshape(math.prod(lead), length)
    if length % span:
        rows = functional.pad(rows, (0, -length % span))
    rows = rows.reshape(-1, span)
    packed = torch.empty(len(rows), math.ceil(span / fit), dtype=torch.uint8, device=codes.device)
    for row, column in tiles(*rows.shape, multiple=fit):
        packed[row, _radix_octets(column, fit)] = _radix_tile(rows[row, column], states, fit)
    return packed.reshape(*lead, width)


def unpack_radix(packed: Tensor, states: int, length: int, block: int | None = None) -> Tensor:
    """Undo `pack_radix`: give digits uint8 of `length` a row.

    Raises:
        ShapeError: another dtype, rows of another length, states outside 2..256, or a byte that stands for nothing.
    """
    fit, width = digits_a_byte(states), radix_bytes(length, states, block)
    if packed.dtype != torch.uint8 or packed.ndim == 0 or packed.shape[-1] != width:
        raise ShapeError(
            f"cannot unpack {length} digits of {states} states from {packed.dtype} of shape {tuple(packed.shape)}",
            fix=f"pass uint8 rows of {width} bytes",
        )
    if packed.numel() and int(packed.max()) >= states**fit:
        raise ShapeError(f"the byte {int(packed.max())} does not hold {fit} digits of {states} states")
    lead = packed.shape[:-1]
    if length == 0:
        return packed.new_zeros(*lead, 0)
    span = length if block is None else min(block, length)
    blocks = math.ceil(length / span)
    rows = packed.reshape(math.prod(lead) * blocks, width // blocks)
    digits = torch.empty(len(rows), span, dtype=torch.uint8, device=packed.device)
    for row, column in tiles(*digits.shape, multiple=fit):
        digits[row, column] = _digits_tile(
            rows[row, _radix_octets(column, fit)], states, fit, column.stop - column.start
        )
    return digits.reshape(*lead, blocks * span)[..., :length].contiguous()


def _radix_octets(column: slice, fit: int) -> slice:
    """Give the bytes of a run of digits that starts at a whole byte."""
    return slice(column.start // fit, math.ceil(column.stop / fit))


def _radix_tile(codes: Tensor, states: int, fit: int) -> Tensor:
    digits = functional.pad(codes, (0, -codes.shape[1] % fit)).unflatten(1, (-1, fit))
    total = digits[:, :, fit - 1].clone()
    for index in range(fit - 2, -1, -1):
        total = total * states + digits[:, :, index]
    return total


def _digits_tile(packed: Tensor, states: int, fit: int, length: int) -> Tensor:
    if fit == 1:
        return packed
    parts: list[Tensor] = []
    for _ in range(fit):
        parts.append(packed % states)
        packed = packed // states
    return torch.stack(parts, dim=-1).flatten(1)[:, :length]


def _states_of(codes: Tensor, plane: int, digits: Digits) -> Tensor:
    """Take the states of one plane out of checked codes, and check them."""
    bits = digit_bits(digits)
    states = (codes >> bits * plane).bitwise_and_((1 << bits) - 1)
    _check_states(states, DIGIT_STATES[digits])
    return states


def _check_plane_codes(codes: Tensor, count: int, digits: Digits) -> None:
    check_planes(count, digits)
    _check_codes(codes, "take apart")
    if codes.numel() and int(codes.max()) >> digit_bits(digits) * count:
        raise ShapeError(f"the code {int(codes.max())} has bits above {count} planes of the digits {digits}")


def _check_codes(codes: Tensor, what: str, axes: int = 1) -> None:
    if codes.dtype != torch.uint8 or codes.ndim < axes:
        raise ShapeError(
            f"cannot {what} {codes.dtype} codes of shape {tuple(codes.shape)}",
            fix=f"pass uint8 with {axes} or more axes, signed codes less their minimum",
        )


def _check_states(codes: Tensor, states: int) -> None:
    if codes.numel() and int(codes.max()) >= states:
        raise ShapeError(f"the digit {int(codes.max())} is not below {states}", fix="check the codes")

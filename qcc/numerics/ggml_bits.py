"""Fold numbers into the bytes of a ggml block and back.

ggml interleaves: a run of consecutive bytes holds several runs of consecutive numbers, one in the lowest bits of
every byte, the next in the bits above. Wide numbers are split into low and high bits, each folded by itself.
All tensors have one block a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

TRIT_STATES = 3
_BYTE_STATES = 256
_PACKED_STATES = TRIT_STATES**5  # five ternary digits fit a byte
_SIX_BITS = 0x3F
_LOW_NIBBLE = 0x0F


@dataclass(frozen=True)
class Bits:
    """Say where `width` bits of every number are: in `part`, folded over runs of `run` bytes."""

    part: str
    width: int
    run: int


@dataclass(frozen=True)
class FoldedNumbers:
    """Numbers of a block, lowest bits first; each is stored plus `offset`, modulo its width.

    An offset of 0 is two's complement where `minimum`, the smallest number, is negative.
    """

    bits: tuple[Bits, ...]
    offset: int = 0
    minimum: int = 0

    @property
    def states(self) -> int:
        """Give how many different numbers there are."""
        return 1 << sum(field.width for field in self.bits)

    def write(self, numbers: Tensor) -> dict[str, Tensor]:
        """Give the bytes of every part from int16 numbers `[blocks, count]`."""
        stored = (numbers + self.offset).remainder(self.states)
        parts: dict[str, Tensor] = {}
        for field in self.bits:
            parts[field.part] = _fold(stored & ((1 << field.width) - 1), field.width, field.run)
            stored = stored >> field.width
        return parts

    def read(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Give int16 numbers `[blocks, count]` from the bytes of every part."""
        shift = 0
        stored: Tensor | None = None
        for field in self.bits:
            numbers = _unfold(parts[field.part], field.width, field.run) << shift
            stored = numbers if stored is None else stored | numbers
            shift += field.width
        assert stored is not None
        return (stored - self.offset - self.minimum).remainder(self.states) + self.minimum


@dataclass(frozen=True)
class TritRun:
    """Ternary digits of `part`: a byte of `run` holds `digits` of them, the first in the highest place."""

    part: str
    digits: int
    run: int


@dataclass(frozen=True)
class FoldedTrits:
    """Numbers 0 to 2 as ternary digits, in stretches one after another.

    A byte is the fraction 0.d0d1d2d3d4 in base 3, times 256, rounded up: multiplied by 3 its carry is the next digit.
    """

    stretches: tuple[tuple[TritRun, int], ...]  # each with its number of bytes

    minimum = 0
    states = TRIT_STATES

    def write(self, numbers: Tensor) -> dict[str, Tensor]:
        """Give the bytes of every part from int16 numbers `[blocks, count]`."""
        parts: dict[str, list[Tensor]] = {}
        start = 0
        for field, count in self.stretches:
            trits = numbers[:, start : start + field.digits * count]
            start += field.digits * count
            total = torch.zeros_like(trits[:, :count])
            for digit in trits.unflatten(1, (-1, field.digits, field.run)).unbind(2):
                total = total * TRIT_STATES + digit.flatten(1)
            total = total.to(torch.int32) * TRIT_STATES ** (5 - field.digits) * _BYTE_STATES
            octets = (total + _PACKED_STATES - 1) // _PACKED_STATES
            parts.setdefault(field.part, []).append(octets.to(torch.uint8))
        return {part: torch.cat(pieces, 1) for part, pieces in parts.items()}

    def read(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Give int16 numbers `[blocks, count]` from the bytes of every part."""
        pieces: list[Tensor] = []
        taken = dict.fromkeys(parts, 0)
        for field, count in self.stretches:
            start = taken[field.part]
            taken[field.part] += count
            rest = parts[field.part][:, start : start + count].to(torch.int16)
            digits: list[Tensor] = []
            for _ in range(field.digits):
                rest = rest * TRIT_STATES
                digits.append((rest // _BYTE_STATES).unflatten(1, (-1, field.run)))
                rest = rest % _BYTE_STATES
            pieces.append(torch.stack(digits, 2).flatten(1))
        return torch.cat(pieces, 1)


@dataclass(frozen=True)
class SixBitPairs:
    """Eight scales, then eight minima, of 6 bits each in the 12 bytes of `part` (Q4_K and Q5_K).

    Bytes 0-3 hold the first four scales and bytes 4-7 the first four minima, in their lower 6 bits. The last four
    of both have their lower 4 bits in the nibbles of bytes 8-11 and their upper 2 bits above the first four.
    """

    part: str

    minimum = 0
    states = 64

    def write(self, numbers: Tensor) -> dict[str, Tensor]:
        """Give the 12 bytes from int16 numbers `[blocks, 16]`."""
        scales, more_scales, minima, more_minima = numbers.split(4, 1)
        octets = (
            scales | (more_scales >> 4 << 6),
            minima | (more_minima >> 4 << 6),
            (more_scales & _LOW_NIBBLE) | ((more_minima & _LOW_NIBBLE) << 4),
        )
        return {self.part: torch.cat(octets, 1).to(torch.uint8)}

    def read(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Give int16 numbers `[blocks, 16]`: scales, then minima."""
        scales, minima, rest = parts[self.part].to(torch.int16).split(4, 1)
        more_scales = (rest & _LOW_NIBBLE) | (scales >> 6 << 4)
        more_minima = (rest >> 4) | (minima >> 6 << 4)
        return torch.cat((scales & _SIX_BITS, more_scales, minima & _SIX_BITS, more_minima), 1)


def _fold(numbers: Tensor, width: int, run: int) -> Tensor:
    layers = 8 // width
    runs = numbers.unflatten(1, (-1, layers, run))
    octets = torch.zeros_like(runs[:, :, 0])
    for layer in range(layers):
        octets |= runs[:, :, layer] << (width * layer)
    return octets.flatten(1).to(torch.uint8)


def _unfold(octets: Tensor, width: int, run: int) -> Tensor:
    runs = octets.to(torch.int16).unflatten(1, (-1, 1, run))
    mask = (1 << width) - 1
    layers = [(runs >> (width * layer)) & mask for layer in range(8 // width)]
    return torch.cat(layers, 2).flatten(1)

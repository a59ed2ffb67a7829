"""How weights are laid out for a kernel: planes in a word, blocks of K, tiles of rows.

A word of 8 bits (int8 inputs) or 16 bits (float inputs) holds one code of every plane; plane p of a block of K holds
its columns from p * width on. The unpacked planes are therefore whole slices of K: no element moves to another lane, and
each plane meets one contiguous slice of the input. Codes of 4 bits in a block of 128 columns, int8 inputs:

    byte i = code[i] | code[64 + i] << 4        i = 0..63

Blocks of one tile of `TILE_ROWS` rows lie next to one another in memory, so that a program streams through its weights:

    words [N / TILE_ROWS, K / block, TILE_ROWS, width]
    scales [K / group, N]        zero points alike; N is rounded up to whole tiles, K to whole blocks
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from qcc.backends.triton.spec import GemmSpec

TILE_ROWS = 128
CODE_COLUMNS = 256
"""Rows of int8 codes in memory are padded with zeros to a multiple of this: no kernel masks their columns."""


@dataclass(frozen=True)
class Geometry:
    """Planes of a word, columns of a plane, and columns that share one scale (None: a row)."""

    planes: int
    width: int
    word_bits: int
    group: int | None

    @property
    def block(self) -> int:
        """Columns of K that one step of the main loop takes."""
        return self.planes * self.width

    @property
    def groups(self) -> int:
        """Groups in a block; 1 where a row has one scale."""
        return 1 if self.group is None else self.block // self.group

    @property
    def code_bits(self) -> int:
        """Width of a code."""
        return self.word_bits // self.planes

    def planes_of(self, group: int) -> range:
        """Planes that belong to one group of a block."""
        each = self.planes // self.groups
        return range(group * each, (group + 1) * each)

    def blocks(self, columns: int) -> int:
        """Count the blocks of a row of `columns` weights."""
        return math.ceil(columns / self.block)

    def padded_rows(self, rows: int) -> int:
        """Round rows up to whole tiles."""
        return math.ceil(rows / TILE_ROWS) * TILE_ROWS


def geometry_of(spec: GemmSpec) -> Geometry:
    """Choose the layout of a kernel's weights: a block is one group, or as many as fill the matrix instruction.

    The matrix instruction wants 32 columns of int8 or 16 of float16 from each plane.
    """
    word_bits, least = (8, 32) if spec.integer else (16, 16)
    planes = word_bits // spec.weight_bits
    if spec.group is None:
        block = max(128, planes * 2 * least)
    else:
        block = max(spec.group, planes * least)
    return Geometry(planes, block // planes, word_bits, spec.group)

"""How weights are laid out for a kernel: planes in a word, blocks of K, tiles of rows.

A word of 8 bits (int8 inputs) or 16 bits (float inputs) holds one code of every plane; plane p of a block of K holds
its columns from p * width on. The unpacked planes are therefore whole slices of K: no element moves to another lane,
and each plane meets one contiguous slice of the input. Codes of 4 bits in a block of 128 columns, int8 inputs:

    byte i = code[i] | code[64 + i] << 4        i = 0..63

Blocks of one tile of `TILE_ROWS` rows lie next to one another in memory, so that a program streams through its weights:

    words [N / TILE_ROWS, K / block, TILE_ROWS, width]
    scales [K / group, N]        zero points alike

N is rounded up to whole tiles. K is rounded up to whole steps: a step of the main loop takes one or more blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from qcc.backends.triton.spec import GemmSpec

TILE_ROWS = 128
CODE_COLUMNS = 256
"""Rows of int8 codes in memory are padded with zeros to a multiple of this: no kernel masks their columns."""


@dataclass(frozen=True)
class Geometry:
    """Planes of a word, columns of a plane, columns that share one scale (None: a row), and blocks of a step."""

    planes: int
    width: int
    word_bits: int
    group: int | None
    parts: int

    @property
    def block(self) -> int:
        """Columns of K that one row of words holds."""
        return self.planes * self.width

    @property
    def step(self) -> int:
        """Columns of K that one step of the main loop takes."""
        return self.block * self.parts

    @property
    def groups(self) -> int:
        """Groups in a step; 1 where a row has one scale."""
        return 1 if self.group is None else self.step // self.group

    @property
    def code_bits(self) -> int:
        """Width of a code."""
        return self.word_bits // self.planes

    def planes_of(self, group: int) -> range:
        """Planes that belong to one group of a step, counted through all its blocks."""
        each = self.planes * self.parts // self.groups
        return range(group * each, (group + 1) * each)

    def steps(self, columns: int) -> int:
        """Count the steps of a row of `columns` weights."""
        return math.ceil(columns / self.step)

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
        block = 256 if spec.weight_bits == 2 else 128
    else:
        block = max(spec.group, planes * least)
    return Geometry(planes, block // planes, word_bits, spec.group, max(spec.step // block, 1))


def is_ragged(spec: GemmSpec, rows: int, columns: int) -> bool:
    """Whether a weight [rows, columns] needs the spec to be `ragged`: codes come padded, columns of floats do not."""
    return rows % 16 != 0 or (not spec.integer and columns % geometry_of(spec).step != 0)


def step_of(bits: int, group: int | None, columns: int) -> Literal[128, 256]:
    """Choose the columns of a step: the more, the less each costs, but K is rounded up to whole steps.

    Small groups stay at 128 columns, as the scales of more groups do not fit the registers, and so do 8-bit weights,
    whose stages fill the shared memory.
    """
    return 256 if columns % 256 == 0 and bits < 8 and (group is None or group >= 128) else 128

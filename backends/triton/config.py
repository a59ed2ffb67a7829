"""How a kernel is cut into blocks: tiles of a program, warps, stages of the pipeline, parts of K.

The table is what compiles without spills for compute capabilities 8.0, 9.0 and 10.0. Which entry runs is chosen by the
number of tokens alone; K is cut into parts where the tiles of the result do not fill the processors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from qcc.backends.triton.geometry import CODE_COLUMNS, geometry_of
from qcc.backends.triton.spec import MAX_ROW, GemmSpec
from qcc.errors import ShapeError

TOKEN_BLOCKS = (16, 32, 64, 128)
"""Tokens of a program, one entry of the table each."""

MAX_SPLIT = 16
STEPS_A_PART = 4
"""A part of K has at least as many steps: fewer do not fill the pipeline."""

PROGRAMS_A_PROCESSOR = 2


@dataclass(frozen=True)
class BlockConfig:
    """A program computes `block_m` tokens by `block_n` channels in one of `split_k` parts of K."""

    block_m: int
    block_n: int
    warps: int = 4
    stages: int = 4
    split_k: int = 1

    @property
    def constants(self) -> dict[str, int]:
        """The kernel's constants by name."""
        return {"BLOCK_M": self.block_m, "BLOCK_N": self.block_n, "SPLIT_K": self.split_k}


@dataclass(frozen=True)
class Variant:
    """A kernel and its blocks. The spec is the weight's but for its step, which changes no byte of the weight."""

    spec: GemmSpec
    config: BlockConfig


def variants(spec: GemmSpec) -> tuple[Variant, ...]:
    """Return the table of a spec: one entry for each number of tokens in `TOKEN_BLOCKS`.

    A zero point and scales of the input hold tokens' values in registers for every group of a step: then steps and
    tiles are smaller.
    """
    heavy = spec.integer and (spec.zero != "none" or spec.input_group is not None)
    groups = geometry_of(replace(spec, step=128)).groups
    wide, small = spec.step, min(spec.step, 128)
    least = 64 if heavy and groups > 1 else small
    tall = BlockConfig(64, 64, stages=3) if heavy and groups > 1 else BlockConfig(64, 128, stages=3)
    whole = BlockConfig(128, 64, stages=3) if heavy else BlockConfig(128, 128, warps=8, stages=3)
    table = (
        (wide, BlockConfig(16, 128, stages=3 if wide == 256 else 4)),
        (least if least == 64 else wide, BlockConfig(32, 128, stages=3)),
        (least, tall),
        (least, whole),
    )
    return tuple(Variant(replace(spec, step=step), config) for step, config in table)


def choose_variant(spec: GemmSpec, tokens: int, channels: int, columns: int, processors: int) -> Variant:
    """Choose the entry for `tokens` rows of input and as many parts of K as fill `processors`."""
    table = variants(spec)
    found = next((one for one in table if one.config.block_m >= tokens), table[-1])
    config = found.config
    tiles = -(-tokens // config.block_m) * -(-channels // config.block_n)
    steps = geometry_of(found.spec).steps(columns)
    parts = min(PROGRAMS_A_PROCESSOR * processors // tiles, steps // STEPS_A_PART, MAX_SPLIT)
    return Variant(found.spec, replace(config, split_k=max(parts, 1)))


@dataclass(frozen=True)
class RowConfig:
    """A program holds a row of up to `block` columns, a power of two, in the registers of its warps."""

    block: int
    warps: int

    @staticmethod
    def of(columns: int) -> RowConfig:
        """Choose the block of rows of `columns` columns, at least as long as a padded row of codes.

        Raises:
            ShapeError: more columns than one program can hold.
        """
        if columns > MAX_ROW:
            raise ShapeError(f"a row of {columns} columns is too long to be normalised or quantized by one program")
        block = max(CODE_COLUMNS, 1 << (columns - 1).bit_length())
        return RowConfig(block, min(max(block // 1024, 1), 16))

    @property
    def constants(self) -> dict[str, int]:
        """The kernel's constants by name."""
        return {"BLOCK": self.block}

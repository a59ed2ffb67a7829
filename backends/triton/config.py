"""How a kernel is cut into blocks: tiles of a program, warps, stages of the pipeline, parts of K."""

from __future__ import annotations

from dataclasses import dataclass

from qcc.backends.triton.geometry import CODE_COLUMNS
from qcc.backends.triton.spec import MAX_ROW
from qcc.errors import ShapeError


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

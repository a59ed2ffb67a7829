"""How a kernel is cut into blocks: tiles of a program, warps, stages of the pipeline, parts of K."""

from __future__ import annotations

from dataclasses import dataclass


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

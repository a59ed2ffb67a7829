"""Which blocks a kernel is cut into, for how many tokens, on which GPU.

Few tokens want narrow blocks, and K in parts so that every multiprocessor has work; many want large blocks. Which
blocks spill is known only after compiling: for each number of tokens there is a list, and the first that passes the
gates is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from qcc.backends.triton.architectures import Architecture
from qcc.backends.triton.config import BlockConfig
from qcc.backends.triton.geometry import geometry_of
from qcc.backends.triton.spec import GemmSpec

TOKENS = (16, 32, 64, 128)
"""Tokens of a block, in ascending order; each serves up to so many tokens, and the last any number."""
MOST_PARTS = 8
LEAST_STEPS = 4
"""Steps of the loop in a part of K: fewer would not fill its pipeline."""

_SHAPES: dict[int, tuple[tuple[int, int, int, int], ...]] = {
    16: ((16, 128, 4, 4), (16, 64, 4, 3)),
    32: ((32, 128, 4, 4), (16, 128, 4, 4), (16, 64, 4, 3)),
    64: ((64, 128, 4, 4), (64, 128, 8, 3), (32, 128, 4, 4), (16, 128, 4, 4), (16, 64, 4, 3)),
    128: ((128, 128, 8, 3), (64, 128, 8, 3), (32, 128, 4, 4), (16, 128, 4, 4), (16, 64, 4, 3)),
}
"""Tokens and channels of a block, warps and stages to be tried for so many tokens, the best first.

Small groups and epilogues with many operands leave no registers for large blocks; two small blocks do the same work.
"""


@dataclass(frozen=True)
class Sizes:
    """The sizes of one contraction: channels, columns, and the most tokens it is called with (None: any number)."""

    channels: int
    columns: int
    most_tokens: int | None = None


@dataclass(frozen=True)
class Bucket:
    """Configurations that may serve up to `most_tokens` tokens (None: any number), the best first."""

    most_tokens: int | None
    candidates: tuple[BlockConfig, ...]


def buckets(spec: GemmSpec, sizes: Sizes, arch: Architecture) -> tuple[Bucket, ...]:
    """Return the configurations of a contraction, in ascending order of tokens."""
    found: list[Bucket] = []
    for tokens in TOKENS:
        if not found or sizes.most_tokens is None or sizes.most_tokens > (found[-1].most_tokens or 0):
            found.append(Bucket(tokens, _candidates(spec, sizes, arch, tokens, split=True)))
    if sizes.most_tokens is None or sizes.most_tokens > TOKENS[-1]:
        found.append(Bucket(None, _candidates(spec, sizes, arch, TOKENS[-1], split=False)))
    return _merged(found)


def _candidates(
    spec: GemmSpec, sizes: Sizes, arch: Architecture, tokens: int, *, split: bool
) -> tuple[BlockConfig, ...]:
    steps = geometry_of(spec).steps(sizes.columns)
    found: list[BlockConfig] = []
    for height, channels, warps, stages in _SHAPES[tokens]:
        blocks = math.ceil(sizes.channels / channels) * (tokens // height)
        parts = parts_of(blocks, steps, arch.processors) if split else 1
        found.append(BlockConfig(height, channels, warps, stages, parts))
    return tuple(found)


def parts_of(blocks: int, steps: int, processors: int) -> int:
    """Return into how many parts K is cut: as many as leave no multiprocessor idle, none of them short or empty."""
    parts = 1
    while parts < MOST_PARTS and blocks * parts * 2 <= processors * 2:
        wider = parts * 2
        share = math.ceil(steps / wider)
        if share < LEAST_STEPS or (wider - 1) * share >= steps:
            break
        parts = wider
    return parts


def _merged(found: list[Bucket]) -> tuple[Bucket, ...]:
    """Join neighbours that differ in nothing but how many tokens they serve."""
    kept: list[Bucket] = []
    for one in found:
        if kept and kept[-1].candidates == one.candidates:
            kept.pop()
        kept.append(one)
    return tuple(kept)

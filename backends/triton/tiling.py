"""Which blocks serve how many tokens of a contraction on a GPU, before it is known which of them compile well.

The table of `qcc.backends.triton.config` says what is best. An epilogue with many operands, or small groups, may leave
no registers for it: then the entries for fewer tokens follow, two of which do the same work, and shorter steps of K.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from qcc.backends.triton.architectures import Architecture
from qcc.backends.triton.config import (
    MAX_SPLIT,
    PROGRAMS_A_PROCESSOR,
    STEPS_A_PART,
    TOKEN_BLOCKS,
    BlockConfig,
    Variant,
    variants,
)
from qcc.backends.triton.geometry import geometry_of
from qcc.backends.triton.spec import GemmSpec

NARROW = BlockConfig(16, 64, stages=3)
"""The last resort, which asks for the least shared memory."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of one contraction: channels, columns, and the most tokens it is called with (None: any number)."""

    channels: int
    columns: int
    most_tokens: int | None = None


@dataclass(frozen=True)
class Bucket:
    """What may serve up to `most_tokens` tokens (None: any number), the best first."""

    most_tokens: int | None
    candidates: tuple[Variant, ...]


def buckets(spec: GemmSpec, sizes: Sizes, arch: Architecture) -> tuple[Bucket, ...]:
    """Return what may serve a contraction, in ascending order of tokens."""
    table = tuple(_readable(one, spec, sizes.columns) for one in variants(spec))
    found: list[Bucket] = []
    for rank, tokens in enumerate(TOKEN_BLOCKS):
        if not found or sizes.most_tokens is None or sizes.most_tokens > (found[-1].most_tokens or 0):
            found.append(Bucket(tokens, _candidates(table[: rank + 1], sizes, arch, tokens)))
    if sizes.most_tokens is None or sizes.most_tokens > TOKEN_BLOCKS[-1]:
        found.append(Bucket(None, _candidates(table, sizes, arch, None)))
    return tuple(found)


def _readable(variant: Variant, spec: GemmSpec, columns: int) -> Variant:
    """Return a variant that reads weights packed for `spec`: its steps of K must end where the padding does."""
    own, packed = geometry_of(variant.spec), geometry_of(spec)
    same = own.steps(columns) * own.step == packed.steps(columns) * packed.step
    return variant if same else Variant(spec, variant.config)


def _candidates(
    table: tuple[Variant, ...], sizes: Sizes, arch: Architecture, tokens: int | None
) -> tuple[Variant, ...]:
    found: list[Variant] = []
    short = _readable(Variant(replace(table[0].spec, step=128), table[0].config), table[0].spec, sizes.columns)
    for one in dict.fromkeys((*reversed(table), short, Variant(table[0].spec, NARROW))):
        config, steps = one.config, geometry_of(one.spec).steps(sizes.columns)
        blocks = math.ceil(sizes.channels / config.block_n) * math.ceil((tokens or 0) / config.block_m)
        parts = parts_of(blocks, steps, arch.processors) if tokens is not None else 1
        found.append(Variant(one.spec, replace(config, split_k=parts)))
    return tuple(found)


def parts_of(blocks: int, steps: int, processors: int) -> int:
    """Return into how many parts K is cut so that no multiprocessor is idle: a power of two, no part short or empty."""
    parts = 1
    while parts < MAX_SPLIT and blocks * parts * 2 <= processors * PROGRAMS_A_PROCESSOR:
        wider = parts * 2
        share = math.ceil(steps / wider)
        if share < STEPS_A_PART or (wider - 1) * share >= steps:
            break
        parts = wider
    return parts

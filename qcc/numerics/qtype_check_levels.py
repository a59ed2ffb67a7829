"""Judge the scale levels of a quantization type, one by one and as a chain."""

from __future__ import annotations

import math
from collections.abc import Iterator

from qcc.numerics.qtype_parts import (
    Block,
    Decode,
    IntDecode,
    Level,
    PlanesDecode,
    SelectDecode,
    TableDecode,
    Zero,
    expand_block,
    is_integer_dtype,
    is_stored_dtype,
    is_whole,
)

MAX_EXPONENT = 127


def block_problems(block: Block, what: str) -> Iterator[str]:
    """Yield what is wrong with a block."""
    if not block or any(extent == 0 or extent < -1 for extent in block):
        yield f"the block {block} of the {what} must have positive extents, or -1 for a whole axis"
    elif is_whole(block) and block != (-1, -1):
        yield f"the block {block} of the {what} is the whole tensor, which is written (-1, -1)"


def levels_problems(levels: tuple[Level, ...], what: str) -> Iterator[str]:
    """Yield what is wrong with each level, and with how they nest."""
    for index, level in enumerate(levels):
        yield from _level_problems(level, f"{what} {index}")
        if level.offset == "parent" and index + 1 == len(levels):
            yield f"{what} {index} keeps its offset at a parent level, but it is the root"
        if index and not is_nested(levels[index - 1].block, level.block):
            yield f"the block of {what} {index - 1}, {levels[index - 1].block}, does not tile {level.block}"


def _level_problems(level: Level, what: str) -> Iterator[str]:
    yield from block_problems(level.block, what)
    if not is_stored_dtype(level.dtype):
        yield f"{what} has the unknown dtype {level.dtype}"
    takes = level.statistic in ("rms", "mean_abs")
    needs = level.statistic in ("constant", "percentile")
    if needs and level.constant is None:
        yield f"{what}: the statistic {level.statistic} needs a number, as in {level.statistic}(0.5)"
    if level.constant is not None:
        if not (takes or needs):
            yield f"{what}: the statistic {level.statistic} takes no number"
        elif not (math.isfinite(level.constant) and level.constant > 0):
            yield f"{what}: {level.constant} must be positive and finite"
        elif level.dtype in ("pow2", "e8m0") and level.statistic == "constant" and not _is_power_of_two(level.constant):
            yield f"{what}: {level.constant} is not a power of two from 2^-{MAX_EXPONENT} to 2^{MAX_EXPONENT}"
        elif level.statistic == "percentile" and level.constant > 100:
            yield f"{what}: the percentile {level.constant} is above 100"
    if level.offset != "none" and not is_integer_dtype(level.dtype):
        yield f"{what}: only an integer level has an offset"
    if level.rounding != "rne" and level.dtype not in ("pow2", "e8m0") and not is_integer_dtype(level.dtype):
        yield f"{what}: scales in {level.dtype} are rounded to nearest; floor and ceil are for integers and powers of 2"
    if level.protective is not None and not 1 <= level.protective <= 127:
        yield f"{what}: the protective range {level.protective} must be 1 to 127"


def is_nested(child: Block, parent: Block) -> bool:
    """Tell whether the child's blocks tile the parent's."""
    rank = max(len(child), len(parent))
    pairs = zip(expand_block(child, rank), expand_block(parent, rank), strict=True)
    return all(outer == -1 or (inner != -1 and outer % inner == 0) for inner, outer in pairs if inner != 0)


def chain_problems(decode: Decode, levels: tuple[Level, ...], zero: Zero | None) -> Iterator[str]:
    """Yield what is wrong with scale levels seen together with the decode and the zero point."""
    if not levels:
        return
    leaf = levels[0]
    if isinstance(decode, PlanesDecode) and decode.coefficients == "free":
        if len(levels) > 1 or is_integer_dtype(leaf.dtype):
            yield "planes with free coefficients take exactly one level, of floats or powers of two"
        if zero is not None and (zero.kind != "post" or zero.levels):
            yield f"planes with free coefficients take a post zero point in a float dtype, not {zero}"
    if isinstance(decode, TableDecode | SelectDecode) and decode.selector is not None:
        if not is_nested(leaf.block, decode.selector.block):
            yield f"the block of level 0, {leaf.block}, does not tile that of the selector, {decode.selector.block}"
    if zero is not None and zero.levels and zero.levels[0].block != leaf.block:
        yield f"the blocks {zero.levels[0].block} of the zero point are not those of level 0, {leaf.block}"
    yield from _offset_problems(levels, "level")
    yield from _offset_problems(zero.levels if zero else (), "zero point level")
    yield from _statistic_problems(decode, levels, zero)
    yield from _protective_problems(levels, zero)


def _offset_problems(levels: tuple[Level, ...], what: str) -> Iterator[str]:
    for index, level in enumerate(levels):
        if index and level.offset != "none":
            yield f"{what} {index} has an offset, but only the leaf can"
    if len(levels) == 1 and levels[0].offset == "tensor":
        yield f"{what} 0 has an offset and no level above it to hold its scale"


def _statistic_problems(decode: Decode, levels: tuple[Level, ...], zero: Zero | None) -> Iterator[str]:
    searched = [index for index, level in enumerate(levels) if level.statistic == "mse"]
    if len(searched) > 1:
        yield "only one level can search its scale by mse"
    if searched and any(level.protective is not None for level in levels):
        yield "the statistic mse cannot go with a protective range"
    for index, level in enumerate(levels):
        if level.statistic == "signed_amax" and not (
            index == 0 and zero is None and isinstance(decode, IntDecode) and decode.signed
        ):
            yield f"level {index}: signed_amax is for the leaf of signed integers without a zero point"
        if zero is not None and level.statistic in ("rms", "mean_abs"):
            yield f"level {index}: {level.statistic} gives no range, which a zero point needs"


def _protective_problems(levels: tuple[Level, ...], zero: Zero | None) -> Iterator[str]:
    protected = [level for level in levels if level.protective is not None]
    if protected and (len(levels) != 2 or protected != [levels[1]] or not is_integer_dtype(levels[0].dtype)):
        yield "a protective range belongs to the root, right above an integer level"
    if protected and zero is not None and (zero.kind not in ("pre", "scaled") or not is_integer_dtype(zero.dtype)):
        yield f"a protective range takes an integer zero point, pre or scaled, not {zero}"
    if zero is not None and zero.kind == "scaled" and (zero.dtype != "i8" or not protected):
        yield "a scaled zero point is i8 under a protective range"


def _is_power_of_two(value: float) -> bool:
    mantissa, exponent = math.frexp(value)
    return mantissa == 0.5 and abs(exponent - 1) <= MAX_EXPONENT

"""Judge the parts of a quantization type together and list everything that makes no sense."""

from __future__ import annotations

import math
from collections.abc import Iterator

from qcc.numerics.qtype_check_levels import block_problems, chain_problems, levels_problems
from qcc.numerics.qtype_parts import (
    BlockMask,
    CodeLayout,
    Decode,
    FloatDecode,
    FuseGroup,
    Grid,
    IntDecode,
    KAxis,
    Level,
    LowRank,
    NMMask,
    Overflow,
    PlanesDecode,
    Rotate,
    SelectDecode,
    Selector,
    Side,
    Slice,
    Sparse,
    TableDecode,
    When,
    Zero,
    decode_states,
    is_integer_dtype,
    is_stored_dtype,
    is_whole,
)

MAX_CODE_BITS = 8
MAX_TENSOR_BITS = 16
MAX_FIXED_POINT_BITS = 32


def type_problems(
    decode: Decode,
    grid: Grid,
    levels: tuple[Level, ...],
    zero: Zero | None,
    when: When,
    layout: CodeLayout,
    sides: tuple[Side, ...],
    overflow: Overflow,
) -> Iterator[str]:
    """Yield one sentence for everything wrong with a type made of these parts."""
    yield from _decode_problems(decode, grid, _widest(levels))
    yield from _layout_problems(decode, layout)
    yield from levels_problems(levels, "level")
    if not levels and not _may_be_unscaled(decode):
        yield "integer codes and digit planes need at least one scale level"
    if when == "dynamic_local" and len(levels) < 2 and not _is_chosen_by_channels(decode):
        what = "a static root level above the dynamic leaf, so at least two levels"
        yield f"dynamic_local needs {what}, or a select by blocks of channels, as by u1 (-1,128)"
    if zero is not None:
        yield from _zero_problems(zero, decode, grid, levels)
    yield from chain_problems(decode, levels, zero)
    yield from _overflow_problems(decode, overflow)
    for side in sides:
        yield from _side_problems(side, decode)
    kinds = [type(side) for side in sides]
    yield from (f"more than one side entry {kind.__name__}" for kind in set(kinds) if kinds.count(kind) > 1)


def _is_chosen_by_channels(decode: Decode) -> bool:
    return isinstance(decode, SelectDecode) and decode.selector.block[:-1] == (-1,)


def is_fixed_point(levels: tuple[Level, ...]) -> bool:
    """Tell whether the only scale is a constant power of two, as in fixed point <W,I>."""
    return len(levels) == 1 and levels[0].dtype == "pow2" and levels[0].statistic == "constant"


def _widest(levels: tuple[Level, ...]) -> int:
    """Give the bits that integer codes may have: more where one scale, or a constant one, is all there is."""
    if is_fixed_point(levels):
        return MAX_FIXED_POINT_BITS
    return MAX_TENSOR_BITS if len(levels) == 1 and is_whole(levels[0].block) else MAX_CODE_BITS


def _may_be_unscaled(decode: Decode) -> bool:
    if isinstance(decode, SelectDecode):
        return all(map(_may_be_unscaled, decode.options))
    return isinstance(decode, TableDecode | FloatDecode)


def _decode_problems(decode: Decode, grid: Grid, widest: int) -> Iterator[str]:
    match decode:
        case IntDecode():
            yield from _int_problems(decode, grid, widest)
        case FloatDecode(exponent, mantissa, bias):
            if exponent < 1 or mantissa < 0 or not 3 <= decode.bits <= MAX_CODE_BITS:
                yield f"{decode} needs an exponent bit or more and 3 to 8 bits in all, sign included"
            if bias is not None and not math.isfinite(bias):
                yield f"the bias {bias} is not finite"
        case TableDecode():
            yield from _table_problems(decode)
        case PlanesDecode(count, digits, coefficients):
            if not 1 <= count <= decode.bits <= MAX_CODE_BITS:
                most = MAX_CODE_BITS * count // max(decode.bits, 1) if count > 0 else MAX_CODE_BITS
                yield f"{count} planes of the digits {digits}, but 1 to {most} are possible"
            if coefficients == "twos" and digits != "01":
                yield f"two's complement planes have the digits 01, not {digits}"
        case SelectDecode():
            yield from _select_problems(decode, grid, widest)
    if grid == "mid_rise" and not isinstance(decode, IntDecode | PlanesDecode):
        yield "a mid_rise grid needs integer codes or digit planes"


def _int_problems(decode: IntDecode, grid: Grid, widest: int) -> Iterator[str]:
    if not 1 <= decode.bits <= widest:
        yield f"{decode} has {decode.bits} bits, but 1 to {widest} are possible"
        return
    if (decode.low is None) != (decode.high is None):
        yield f"{decode} has one bound of its range without the other"
        return
    if decode.narrow and (not decode.signed or decode.low is not None):
        yield f"{decode} cannot be narrow: only a signed integer without a range of its own can"
    whole = IntDecode(decode.bits, decode.signed)
    if not whole.minimum <= decode.minimum < decode.maximum <= whole.maximum and not decode.narrow:
        yield f"the range of {decode} is empty or does not fit its {decode.bits} bits"
    if decode.signed and decode.bits == 1 and grid == "mid_tread":
        yield f"{decode} has no positive code: use uint1 with a zero point, or int1 mid_rise for -1 and +1"
    if decode.narrow and grid == "mid_rise":
        yield f"{decode} mid_rise is not symmetric: a mid_rise grid uses every code"


def _table_problems(decode: TableDecode) -> Iterator[str]:
    if not decode.tables or any(len(table) < 2 for table in decode.tables):
        yield "a table needs at least two values"
        return
    if decode.name and not _is_word(decode.name):
        yield f"the table name {decode.name!r} is not made of letters, digits and underscores"
    if any(not math.isfinite(value) for table in decode.tables for value in table):
        yield "a table holds a value that is not finite"
    if any(tuple(sorted(set(table))) != table for table in decode.tables):
        yield "the values of a table must ascend, each once"
    if decode.bits > MAX_CODE_BITS:
        yield f"a table of {decode_states(decode)} values, but at most 256 are possible"


def _select_problems(decode: SelectDecode, grid: Grid, widest: int) -> Iterator[str]:
    for option in decode.options:
        yield from _decode_problems(option, grid, widest)
        yield from _layout_problems(option, "dense")
    yield from _selector_problems(decode.selector, len(decode.options), "decodes")
    shares = decode.fractions
    if shares and (any(share < 0 for share in shares) or not math.isclose(sum(shares), 1, abs_tol=1e-9)):
        yield f"the shares {', '.join(map(str, shares))} of the decodes do not sum to 1"


def _overflow_problems(decode: Decode, overflow: Overflow) -> Iterator[str]:
    kinds = decode.options if isinstance(decode, SelectDecode) else (decode,)
    if overflow == "wrap" and not all(isinstance(kind, IntDecode) for kind in kinds):
        yield "only integers wrap on overflow"
    if overflow == "nonsaturating" and not all(isinstance(kind, FloatDecode) for kind in kinds):
        yield "only floats overflow to infinity or NaN"


def _is_word(name: str) -> bool:
    return name.isascii() and name.isidentifier()


def _selector_problems(selector: Selector | None, count: int, what: str) -> Iterator[str]:
    if selector is None:
        if count > 1:
            yield f"{count} {what} need a selector: add e.g. by u1 (1,128)"
        return
    yield from block_problems(selector.block, "selector")
    if count < 2:
        yield f"a selector needs at least two {what}"
    if not 1 <= selector.bits <= MAX_CODE_BITS or count > 2**selector.bits:
        yield f"a selector of {selector.bits} bits cannot choose among {count} {what}"


def _layout_problems(decode: Decode, layout: CodeLayout) -> Iterator[str]:
    if layout == "ovp":
        # A reserved code marks the pair that holds an outlier, so no selector is stored.
        if not (isinstance(decode, TableDecode) and len(decode.tables) == 2 and decode.selector is None):
            yield "the outlier-victim layout needs two tables, normal values then outliers, and no selector"
        elif not len(decode.tables[1]) <= len(decode.tables[0]) < 2**decode.bits:
            counts = f"{len(decode.tables[0])} normal values and {len(decode.tables[1])} outliers"
            yield f"the outlier-victim layout keeps the code after the last normal value for victims: {counts} take it"
    elif isinstance(decode, TableDecode):
        yield from _selector_problems(decode.selector, len(decode.tables), "tables")
    if layout == "radix" and isinstance(decode, SelectDecode):
        yield "a selected decode has no radix layout"


def _zero_problems(zero: Zero, decode: Decode, grid: Grid, levels: tuple[Level, ...]) -> Iterator[str]:
    if bool(zero.dtype) == bool(zero.levels):
        yield f"the zero point {zero.kind} needs either a dtype or levels of its own"
    if zero.dtype and not is_stored_dtype(zero.dtype):
        yield f"the zero point has the unknown dtype {zero.dtype}"
    if zero.kind == "post" and is_integer_dtype(zero.dtype):
        yield f"a post zero point is a real number, which {zero.dtype} cannot hold: give it a float dtype or levels"
    yield from levels_problems(zero.levels, "zero point level")
    if not levels:
        yield "a zero point needs a scale level"
    if grid == "mid_rise":
        yield "a zero point on a mid_rise grid: its offset of one half is already fixed"
    if isinstance(decode, TableDecode | FloatDecode):
        yield f"a zero point cannot go with {type(decode).__name__}: tables and floats carry their own zero"
    if isinstance(decode, IntDecode) and decode.narrow:
        yield f"a zero point with the narrow integer {decode}: an asymmetric range uses every code"
    if zero.kind == "scaled" and len(levels) < 2:
        yield "a scaled zero point lives at the parent level, so at least two levels are needed"
    if zero.kind == "min" and not zero.levels:
        yield "a min zero point needs levels of its own"
    if zero.kind == "pre" and isinstance(decode, IntDecode) and is_integer_dtype(zero.dtype):
        stored = IntDecode(int(zero.dtype[1:]), zero.dtype[0] == "i")
        if not stored.minimum <= decode.minimum < decode.maximum <= stored.maximum:
            yield f"the zero point dtype {zero.dtype} cannot hold every code of {decode}"


def _side_problems(side: Side, decode: Decode) -> Iterator[str]:
    match side:
        case Sparse(_, dtype, fraction):
            good, needs = (
                is_stored_dtype(dtype) and 0 <= fraction <= 1,
                "a stored dtype and a fraction from 0 to 1",
            )
        case LowRank(rank, dtype):
            good, needs = rank >= 1 and is_stored_dtype(dtype), "a positive rank and a stored dtype"
        case NMMask(kept, group):
            good, needs = 1 <= kept < group, "to keep fewer than it groups, and at least one"
        case BlockMask(block, density):
            good = not is_whole(block) and 0 <= density <= 1 and not any(block_problems(block, "mask"))
            needs = "a block smaller than the tensor, with positive extents, and a density from 0 to 1"
        case KAxis(permuted, group_index, expand, count):
            good = (permuted or group_index or expand != "none") and (expand != "none") == (count > 0)
            needs = "perm, g_idx, or an expansion by one channel or more"
        case Slice(master, bits):
            good = isinstance(decode, IntDecode) and 1 <= bits <= master == decode.bits
            needs = f"integer codes of {master} bits, and at most as many to keep"
        case FuseGroup(name):
            good, needs = _is_word(name), "a name of letters, digits and underscores"
        case Rotate(block):
            good, needs = block >= 1, "a positive block"
    if not good:
        yield f"{side} needs {needs}"

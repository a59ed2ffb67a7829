"""Read the one-line text of a quantization type; `str` of a type is its inverse.

Sections are separated by `|`: decode, levels leaf to root, zero, when, then one section a side tensor.
All but the first may be left out.

    uint4 | (1,128) f16 | pre u4
    fp2_1 | (1,16) e4m3, tensor f32 | dynamic_local | fuse_group(qkv)
"""

from __future__ import annotations

import re

from qcc.numerics.qtype import QType
from qcc.numerics.qtype_lexer import TokenStream
from qcc.numerics.qtype_parts import (
    COEFFICIENTS,
    DIGIT_STATES,
    FLOAT_VARIANTS,
    GRIDS,
    LAYOUTS,
    LEVEL_ROUNDINGS,
    OFFSETS,
    OVERFLOWS,
    ROUNDINGS,
    STATISTICS,
    WHENS,
    ZERO_KINDS,
    CodeLayout,
    Decode,
    FloatDecode,
    FloatVariant,
    Grid,
    IntDecode,
    Level,
    LevelRounding,
    Offset,
    Overflow,
    PlainDecode,
    PlanesDecode,
    Rounding,
    SelectDecode,
    Selector,
    Side,
    Statistic,
    TableDecode,
    When,
    Zero,
)
from qcc.numerics.qtype_sides import BLOCK_STARTS, SIDE_READERS, read_block, read_dtype

_INT = re.compile(r"(u?)int(\d+)(n?)")
_FLOAT = re.compile(r"fp(\d+)_(\d+)|e(\d+)m(\d+)")
_DECODES = "intN, uintN, fpE_M, table, planes or select"


def parse_qtype(text: str) -> QType:
    """Read a quantization type from its text.

    Besides what `str` prints, it takes `row` and `token` for the block (1,-1), `none` for no zero point
    and `eXmY` for `fpX_Y`.

    Raises:
        RecipeError: malformed text (with the column and what was expected), or a type that makes no sense.
    """
    tokens = TokenStream(text)
    decode = _decode(tokens)
    grid, layout = _grid_and_layout(tokens)
    levels = _levels(tokens) if _section(tokens, BLOCK_STARTS) else ()
    zero = None
    if not _section(tokens, ("none",), skip=True) and _section(tokens, ZERO_KINDS):
        zero = _zero(tokens)
    when, rounding, overflow = _timing(tokens)
    sides: list[Side] = []
    while _section(tokens, tuple(SIDE_READERS)):
        sides.append(SIDE_READERS[tokens.take().text](tokens))
    _end(tokens)
    return QType(decode, levels, zero, when, tuple(sides), grid, rounding, overflow, layout)


def _section(tokens: TokenStream, heads: tuple[str, ...], *, skip: bool = False) -> bool:
    """Enter the next section if it begins with one of `heads`; `skip` takes the head as well."""
    if tokens.peek() != "|" or tokens.peek(1) not in heads:
        return False
    tokens.take()
    if skip:
        tokens.take()
    return True


def _end(tokens: TokenStream) -> None:
    """Check that nothing is left, and tell a misplaced section from a word that is no section."""
    if tokens.peek() == "":
        return
    if not tokens.accept("|"):
        tokens.fail("'|' or the end")
    if tokens.peek() in (*BLOCK_STARTS, *ZERO_KINDS, *WHENS, *ROUNDINGS, *OVERFLOWS):
        tokens.fail("another section here: their order is decode | levels | zero | when | sides, each once")
    tokens.fail(
        f"levels such as (1,128) f16, a zero ({', '.join(ZERO_KINDS)}), when ({', '.join(WHENS)}) "
        f"or a side ({', '.join(SIDE_READERS)})"
    )


def _decode(tokens: TokenStream) -> Decode:
    if not tokens.accept("select"):
        return _plain_decode(tokens)
    tokens.expect("(")
    options: list[PlainDecode] = []
    shares: list[float] = []
    while not options or tokens.accept(","):
        options.append(_plain_decode(tokens))
        if tokens.at_number():
            shares.append(tokens.number())
    if shares and len(shares) != len(options):
        tokens.fail("a share after every decode, or after none")
    tokens.expect(")")
    return SelectDecode(tuple(options), _selector(tokens), tuple(shares))


def _plain_decode(tokens: TokenStream) -> PlainDecode:
    head = tokens.peek()
    if tokens.accept("table"):
        return _table(tokens)
    if tokens.accept("planes"):
        return _planes(tokens)
    if match := _INT.fullmatch(head):
        return _int(tokens, match)
    if match := _FLOAT.fullmatch(head):
        return _float(tokens, match)
    tokens.fail(_DECODES)


def _int(tokens: TokenStream, match: re.Match[str]) -> IntDecode:
    tokens.take()
    low = high = None
    if tokens.accept("["):
        low = tokens.integer()
        tokens.expect(",")
        high = tokens.integer()
        tokens.expect("]")
    return IntDecode(int(match[2]), not match[1], bool(match[3]), low, high)


def _float(tokens: TokenStream, match: re.Match[str]) -> FloatDecode:
    tokens.take()
    bias: float | None = None
    variant: FloatVariant = "ocp_fn"
    if tokens.accept("("):
        if tokens.peek() != "bias":
            variant = tokens.choice(FLOAT_VARIANTS)
        if tokens.peek() == "bias" or tokens.accept(","):
            tokens.expect("bias")
            tokens.expect("=")
            bias = tokens.number()
        tokens.expect(")")
    return FloatDecode(int(match[1] or match[3]), int(match[2] or match[4]), bias, variant)


def _table(tokens: TokenStream) -> TableDecode:
    name = "" if tokens.peek() == "(" else tokens.name("a name or '('")
    tokens.expect("(")
    tables: list[tuple[float, ...]] = []
    while not tables or tokens.accept(";"):
        values = [tokens.number()]
        while tokens.accept(","):
            values.append(tokens.number())
        tables.append(tuple(values))
    tokens.expect(")")
    return TableDecode(tuple(tables), name, _selector(tokens) if tokens.peek() == "by" else None)


def _planes(tokens: TokenStream) -> PlanesDecode:
    tokens.expect("(")
    count = tokens.integer()
    tokens.expect(",")
    digits = tokens.choice(tuple(DIGIT_STATES))
    tokens.expect(",")
    coefficients = tokens.choice(COEFFICIENTS)
    tokens.expect(")")
    return PlanesDecode(count, digits, coefficients)


def _selector(tokens: TokenStream) -> Selector:
    tokens.expect("by")
    if not re.fullmatch(r"u\d+", tokens.peek()):
        tokens.fail("the width of the selector, e.g. u2")
    return Selector(int(tokens.take().text[1:]), read_block(tokens))


def _grid_and_layout(tokens: TokenStream) -> tuple[Grid, CodeLayout]:
    grid: Grid = tokens.choice(GRIDS) if tokens.peek() in GRIDS else "mid_tread"
    layout: CodeLayout = tokens.choice(LAYOUTS) if tokens.peek() in LAYOUTS else "dense"
    if tokens.peek() not in ("|", ""):
        tokens.fail(f"'|', the end, or one of {', '.join((*GRIDS, *LAYOUTS))}")
    return grid, layout


def _timing(tokens: TokenStream) -> tuple[When, Rounding, Overflow]:
    when: When = "static"
    rounding: Rounding = "rne"
    overflow: Overflow = "saturate"
    if _section(tokens, (*WHENS, *ROUNDINGS, *OVERFLOWS)):
        when = tokens.choice(WHENS) if tokens.peek() in WHENS else when
        rounding = tokens.choice(ROUNDINGS) if tokens.peek() in ROUNDINGS else rounding
        overflow = tokens.choice(OVERFLOWS) if tokens.peek() in OVERFLOWS else overflow
    return when, rounding, overflow


def _levels(tokens: TokenStream) -> tuple[Level, ...]:
    levels = [_level(tokens)]
    while tokens.accept(","):
        levels.append(_level(tokens))
    return tuple(levels)


def _level(tokens: TokenStream) -> Level:
    block = read_block(tokens)
    dtype = read_dtype(tokens)
    statistic: Statistic = "amax"
    rounding: LevelRounding = "rne"
    offset: Offset = "none"
    constant = protective = None
    if tokens.peek() in STATISTICS:
        statistic = tokens.choice(STATISTICS)
        if tokens.accept("("):
            constant = tokens.number()
            tokens.expect(")")
    if tokens.peek() in LEVEL_ROUNDINGS:
        rounding = tokens.choice(LEVEL_ROUNDINGS)
    if tokens.accept("offset"):
        tokens.expect("(")
        offset = tokens.choice(OFFSETS)
        tokens.expect(")")
    if tokens.accept("protect"):
        tokens.expect("(")
        protective = tokens.integer()
        tokens.expect(")")
    return Level(block, dtype, statistic, constant, rounding, offset, protective)


def _zero(tokens: TokenStream) -> Zero:
    kind = tokens.choice(ZERO_KINDS)
    if tokens.peek() in BLOCK_STARTS:
        return Zero(kind, "", _levels(tokens))
    return Zero(kind, read_dtype(tokens))

"""Hold the parts of a quantization type: decodes, scale levels, zero points and side tensors.

Every part prints itself as the piece of text that `qcc.numerics.qtype_text` reads back. Nothing here
checks itself: `qcc.numerics.qtype_check` judges the parts together, so that all faults are told at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

Block = tuple[int, ...]
Grid = Literal["mid_tread", "mid_rise"]
When = Literal["static", "dynamic", "dynamic_local"]
Rounding = Literal["rne", "half_up", "half_down", "floor", "stochastic"]
Overflow = Literal["saturate", "wrap"]
CodeLayout = Literal["dense", "radix", "ovp"]
FloatVariant = Literal["ocp_fn", "ieee", "fnuz"]
Digits = Literal["01", "pm1", "-101"]
Coefficients = Literal["pow2", "free"]
Statistic = Literal["amax", "minmax", "rms", "mean_abs", "mse", "percentile", "constant"]
LevelRounding = Literal["rne", "floor", "ceil"]
Offset = Literal["none", "parent", "tensor"]
ZeroKind = Literal["pre", "post", "scaled", "min"]
SparseKind = Literal["csr", "coo", "columns"]
Expansion = Literal["none", "dup", "split", "residual"]

GRIDS: tuple[Grid, ...] = get_args(Grid)
WHENS: tuple[When, ...] = get_args(When)
ROUNDINGS: tuple[Rounding, ...] = get_args(Rounding)
OVERFLOWS: tuple[Overflow, ...] = get_args(Overflow)
LAYOUTS: tuple[CodeLayout, ...] = get_args(CodeLayout)
FLOAT_VARIANTS: tuple[FloatVariant, ...] = get_args(FloatVariant)
COEFFICIENTS: tuple[Coefficients, ...] = get_args(Coefficients)
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)
LEVEL_ROUNDINGS: tuple[LevelRounding, ...] = get_args(LevelRounding)
OFFSETS: tuple[Offset, ...] = get_args(Offset)
ZERO_KINDS: tuple[ZeroKind, ...] = get_args(ZeroKind)
SPARSE_KINDS: tuple[SparseKind, ...] = get_args(SparseKind)
EXPANSIONS: tuple[Expansion, ...] = get_args(Expansion)
FLOAT_BITS = {"f32": 32, "f16": 16, "bf16": 16, "e8m0": 8, "e4m3": 8, "e5m2": 8, "pow2": 8}
DIGIT_STATES: dict[Digits, int] = {"01": 2, "pm1": 2, "-101": 3}


def is_integer_dtype(name: str) -> bool:
    """Tell whether `name` is a stored integer dtype: `i1`..`i8` or `u1`..`u8`."""
    return len(name) == 2 and name[0] in "iu" and name[1] in "12345678"


def is_stored_dtype(name: str) -> bool:
    """Tell whether `name` is a dtype that scales, zero points and side tensors can be stored in."""
    return name in FLOAT_BITS or is_integer_dtype(name)


def dtype_bits(name: str) -> int:
    """Give the stored width in bits of a level, zero or side dtype (a power of two stores its exponent)."""
    return FLOAT_BITS[name] if name in FLOAT_BITS else int(name[1:])


def number_text(value: float) -> str:
    """Print a number so that reading it back gives the same float64."""
    return repr(float(value) + 0.0).removesuffix(".0")


def block_text(block: Block) -> str:
    """Print a block: `tensor` for everything, else `(1,128)` with -1 for a whole axis."""
    return "tensor" if is_whole(block) else f"({','.join(map(str, block))})"


def is_whole(block: Block) -> bool:
    """Tell whether a block spans the whole tensor, whatever its rank."""
    return all(extent == -1 for extent in block)


@dataclass(frozen=True)
class Selector:
    """Choose one of several tables or decodes for every block: `bits` wide, one entry a `block`."""

    bits: int
    block: Block

    def __str__(self) -> str:
        return f"by u{self.bits} {block_text(self.block)}"


@dataclass(frozen=True)
class IntDecode:
    """Decode a code as an integer of `bits` bits.

    `narrow` drops the most negative signed code. `low` and `high` (both or neither) restrict the range
    further, as in the five levels -2..2 of ABQ-LLM.
    """

    bits: int
    signed: bool = True
    narrow: bool = False
    low: int | None = None
    high: int | None = None

    @property
    def minimum(self) -> int:
        """Give the smallest code."""
        if self.low is not None:
            return self.low
        return -(2 ** (self.bits - 1)) + self.narrow if self.signed else 0

    @property
    def maximum(self) -> int:
        """Give the largest code."""
        if self.high is not None:
            return self.high
        return 2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 1

    def __str__(self) -> str:
        name = f"{'int' if self.signed else 'uint'}{self.bits}{'n' if self.narrow else ''}"
        return name if self.low is None else f"{name}[{self.low},{self.high}]"


@dataclass(frozen=True)
class FloatDecode:
    """Decode a code as a small float with a sign, `exponent_bits` and `mantissa_bits`.

    `ocp_fn` has no infinities (OCP 8-bit floating point specification; at most one NaN code a sign),
    `ieee` keeps the top exponent for infinities and NaN, `fnuz` has no negative zero. `bias` None is
    the variant's own; it may be a real number (LLM-FP4).
    """

    exponent_bits: int
    mantissa_bits: int
    bias: float | None = None
    variant: FloatVariant = "ocp_fn"

    @property
    def bits(self) -> int:
        """Give the width of a code, sign included."""
        return 1 + self.exponent_bits + self.mantissa_bits

    def __str__(self) -> str:
        options = [] if self.variant == "ocp_fn" else [self.variant]
        if self.bias is not None:
            options.append(f"bias={number_text(self.bias)}")
        name = f"fp{self.exponent_bits}_{self.mantissa_bits}"
        return f"{name}({', '.join(options)})" if options else name


@dataclass(frozen=True)
class TableDecode:
    """Decode a code as an index into a table of values; with several tables a selector picks one a block."""

    tables: tuple[tuple[float, ...], ...]
    name: str = ""
    selector: Selector | None = None

    @property
    def bits(self) -> int:
        """Give the width of an index into the longest table."""
        return max(1, (max(map(len, self.tables)) - 1).bit_length())

    def __str__(self) -> str:
        tables = "; ".join(", ".join(map(number_text, table)) for table in self.tables)
        name = f"table {self.name}({tables})" if self.name else f"table({tables})"
        return f"{name} {self.selector}" if self.selector else name


@dataclass(frozen=True)
class PlanesDecode:
    """Decode a code as a weighted sum of `count` digit planes.

    Coefficients are 1, 2, 4, ... (`pow2`), or `free`: then the leaf level stores `count` of them a block.
    """

    count: int
    digits: Digits
    coefficients: Coefficients

    @property
    def bits(self) -> int:
        """Give the width of all digits of one element, stored as whole bits."""
        return self.count * (1 if DIGIT_STATES[self.digits] == 2 else 2)

    def __str__(self) -> str:
        return f"planes({self.count}, {self.digits}, {self.coefficients})"


PlainDecode = IntDecode | FloatDecode | TableDecode | PlanesDecode


@dataclass(frozen=True)
class SelectDecode:
    """Choose the decode of every block among `options` (COMET: int4 or int8 per 128 channels).

    `fractions` says which share of the elements takes each option; without it storage is counted at the
    widest option.
    """

    options: tuple[PlainDecode, ...]
    selector: Selector
    fractions: tuple[float, ...] = ()

    @property
    def bits(self) -> int:
        """Give the width of the widest option."""
        return max(option.bits for option in self.options)

    def __str__(self) -> str:
        shares = [f" {number_text(share)}" for share in self.fractions] or [""] * len(self.options)
        options = ", ".join(f"{option}{share}" for option, share in zip(self.options, shares, strict=True))
        return f"select({options}) {self.selector}"


Decode = PlainDecode | SelectDecode


def decode_states(decode: PlainDecode) -> int:
    """Count the different values a code can take, for storage that packs by radix or entropy."""
    match decode:
        case IntDecode():
            return decode.maximum - decode.minimum + 1
        case TableDecode():
            return max(map(len, decode.tables))
        case PlanesDecode():
            return int(DIGIT_STATES[decode.digits] ** decode.count)
        case FloatDecode():
            return int(2**decode.bits)


@dataclass(frozen=True)
class Level:
    """One level of scales: the value of every `block` of elements, stored in `dtype`.

    Blocks count elements of the trailing axes, -1 is a whole axis; axes in front of the block are whole
    when its first entry is -1, else single. `statistic` says what the scale is computed from (`amax` is
    the range left once the zero point is taken out) and `constant` is its argument: the factor of `rms`
    and `mean_abs`, the percentile, or the constant itself. `offset` stores the scales of an integer
    level relative to an offset, one per block of the parent or one for the tensor (SpQR, QLoRA).
    `protective` bounds the integers that this level leaves to the levels below (QoQ: 119).
    """

    block: Block
    dtype: str
    statistic: Statistic = "amax"
    constant: float | None = None
    rounding: LevelRounding = "rne"
    offset: Offset = "none"
    protective: int | None = None

    def __str__(self) -> str:
        words = [block_text(self.block), self.dtype]
        if self.constant is not None:
            words.append(f"{self.statistic}({number_text(self.constant)})")
        elif self.statistic != "amax":
            words.append(self.statistic)
        if self.rounding != "rne":
            words.append(self.rounding)
        if self.offset != "none":
            words.append(f"offset({self.offset})")
        if self.protective is not None:
            words.append(f"protect({self.protective})")
        return " ".join(words)


def levels_text(levels: tuple[Level, ...]) -> str:
    """Print levels from leaf to root."""
    return ", ".join(map(str, levels))


@dataclass(frozen=True)
class Zero:
    """A zero point, stored in `dtype` at the blocks of the leaf level, or with `levels` of its own.

    `pre` decodes as scale·(code − zero), `post` as scale·code + zero, `scaled` as
    root·(leaf·code + zero) and `min` as scale·code − zero (GGUF).
    """

    kind: ZeroKind
    dtype: str = ""
    levels: tuple[Level, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind} {levels_text(self.levels) if self.levels else self.dtype}"


@dataclass(frozen=True)
class Sparse:
    """Outliers kept aside in `dtype`: a `fraction` of the elements (`csr`, `coo`) or of the K columns."""

    kind: SparseKind
    dtype: str
    fraction: float

    def __str__(self) -> str:
        return f"sparse({self.kind}, {self.dtype}, {number_text(self.fraction)})"


@dataclass(frozen=True)
class LowRank:
    """A product of two thin factors of `rank`, added to the decoded tensor."""

    rank: int
    dtype: str

    def __str__(self) -> str:
        return f"lowrank({self.rank}, {self.dtype})"


@dataclass(frozen=True)
class NMMask:
    """Keep `kept` of every `group` consecutive elements along K."""

    kept: int
    group: int

    def __str__(self) -> str:
        return f"mask({self.kept}:{self.group})"


@dataclass(frozen=True)
class BlockMask:
    """Keep a `density` of all blocks, stored as block-sparse rows."""

    block: Block
    density: float

    def __str__(self) -> str:
        return f"mask(bsr{block_text(self.block)}, {number_text(self.density)})"


@dataclass(frozen=True)
class KAxis:
    """What was done to the reduction axis: permuted, grouped after a permutation, or expanded by `count`."""

    permuted: bool = False
    group_index: bool = False
    expand: Expansion = "none"
    count: int = 0

    def __str__(self) -> str:
        words = ["perm"] * self.permuted + ["g_idx"] * self.group_index
        if self.expand != "none":
            words.append(f"{self.expand}({self.count})")
        return f"kaxis({', '.join(words)})"


@dataclass(frozen=True)
class Slice:
    """Read the top `bits` of codes stored with `master_bits` (MatQuant)."""

    master_bits: int
    bits: int

    def __str__(self) -> str:
        return f"slice({self.master_bits}, {self.bits})"


@dataclass(frozen=True)
class FuseGroup:
    """Share the root level with all tensors of the same group name (q, k, v; gate, up)."""

    name: str

    def __str__(self) -> str:
        return f"fuse_group({self.name})"


@dataclass(frozen=True)
class Rotate:
    """Note that K was rotated by a block-diagonal Hadamard matrix of this `block`."""

    block: int

    def __str__(self) -> str:
        return f"rotate({self.block})"


Side = Sparse | LowRank | NMMask | BlockMask | KAxis | Slice | FuseGroup | Rotate


def expand_block(block: Block, rank: int) -> Block:
    """Give a block for a tensor of `rank` axes: missing leading axes are whole after a -1, else single."""
    if len(block) >= rank:
        return block[len(block) - rank :]
    lead = -1 if block[0] == -1 else 1
    return (lead,) * (rank - len(block)) + block


def block_grid(block: Block, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Count the blocks along every axis of `shape`; the last block of an axis may be short."""
    whole = expand_block(block, len(shape))
    return tuple(1 if extent == -1 else math.ceil(size / extent) for extent, size in zip(whole, shape, strict=True))

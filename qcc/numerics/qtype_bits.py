"""Count the bits a quantized tensor takes: codes, every scale level, zero points, selectors and sides.

Counts are of information stored, before any padding that a kernel's own layout adds. All arithmetic is
in exact fractions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from qcc.errors import ShapeError
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import (
    DIGIT_STATES,
    Block,
    BlockMask,
    CodeLayout,
    Decode,
    KAxis,
    Level,
    LowRank,
    NMMask,
    PlainDecode,
    PlanesDecode,
    SelectDecode,
    Side,
    Sparse,
    TableDecode,
    block_grid,
    decode_states,
    dtype_bits,
    expand_block,
    is_integer_dtype,
)

Packing = Literal["entropy"] | CodeLayout

OFFSET_BITS = 32
ROW_POINTER_BITS = 32
LOW_RANK_SCALE_BITS = 32


def storage_bits(qtype: QType, shape: tuple[int, ...]) -> int:
    """Count the bits of a tensor of `shape`, everything included.

    A short last block costs as much metadata as a whole one. Constant levels live in the type and cost
    nothing. Outliers, permutations and kept blocks carry indices of 16 bits (32 above 65536 positions),
    compressed rows also a pointer of 32 bits a row and one more. Low-rank factors in integers have a float32
    scale a rank each. A selected decode without shares is counted at its widest option. The radix layout
    starts every leaf block at a new byte.

    Raises:
        ShapeError: an axis without elements, or no axis at all.
    """
    if not shape or min(shape) < 1:
        raise ShapeError(f"a tensor of shape {shape} has no elements to count", fix="give every axis a size")
    return math.ceil(_total_bits(qtype, shape, entropy=False))


def bits_per_weight(qtype: QType, shape: tuple[int, ...] | None = None, *, entropy: bool = False) -> float:
    """Give the stored bits per element of the original tensor.

    Without a shape the nominal figure is given: the limit of a matrix large along both axes, where
    whatever there is once a row, a column or a tensor costs nothing. With `entropy` a code counts log2 of
    its states, as if packed ideally.

    Raises:
        ShapeError: a shape without elements.
    """
    if shape is None:
        return float(_total_bits(qtype, None, entropy=entropy))
    storage_bits(qtype, shape)
    return float(_total_bits(qtype, shape, entropy=entropy) / math.prod(shape))


def whole_share(fraction: float, total: int) -> int:
    """Give round(fraction·total) in exact arithmetic, so that a count never hangs on the last bit of a float."""
    return round(Fraction(fraction).limit_denominator(10**9) * total)


def _total_bits(qtype: QType, shape: tuple[int, ...] | None, *, entropy: bool) -> Fraction:
    count = _Count(shape and _stored_shape(qtype, shape), qtype.sides)
    leaf = qtype.levels[0].block if qtype.levels else (-1, -1)
    total = _code_bits(qtype.decode, "entropy" if entropy else qtype.layout, count, leaf)
    copies = 1
    if isinstance(qtype.decode, PlanesDecode) and qtype.decode.coefficients == "free":
        copies = qtype.decode.count
    total += _levels_bits(qtype.levels, count, copies)
    if qtype.zero is not None:
        total += _levels_bits(qtype.zero.levels, count)
        if qtype.zero.dtype:
            total += dtype_bits(qtype.zero.dtype) * count.blocks(leaf)
    if isinstance(qtype.decode, TableDecode | SelectDecode) and qtype.decode.selector is not None:
        total += qtype.decode.selector.bits * count.blocks(qtype.decode.selector.block)
    return total + sum((_side_bits(side, shape, count) for side in qtype.sides), Fraction())


@dataclass(frozen=True)
class _Count:
    """Count elements and blocks in a tensor of `shape`, or per element of an endless matrix (None)."""

    shape: tuple[int, ...] | None
    sides: tuple[Side, ...]

    def elements(self) -> Fraction:
        """Count the elements that have a code, those that a mask keeps."""
        mask = self._mask()
        if isinstance(mask, BlockMask):
            return self.kept_blocks(mask) * math.prod(self._clipped(mask.block))
        if self.shape is None:
            return Fraction(mask.kept, mask.group) if mask else Fraction(1)
        if mask is None:
            return Fraction(math.prod(self.shape))
        groups, rest = divmod(self.shape[-1], mask.group)
        return Fraction(math.prod(self.shape[:-1]) * (groups * mask.kept + min(rest, mask.kept)))

    def blocks(self, block: Block) -> Fraction:
        """Count the blocks stored; inside a block mask only those of kept blocks are."""
        mask = self._mask()
        if isinstance(mask, BlockMask):
            outer, inner = self._clipped(mask.block), self._clipped(block)
            if all(whole % part == 0 for whole, part in zip(outer, inner, strict=True) if part > 0):
                inside = [whole // part for whole, part in zip(outer, inner, strict=True)]
                if -1 not in inner:
                    return self.kept_blocks(mask) * math.prod(inside)
        return self._all_blocks(block)

    def kept_blocks(self, mask: BlockMask) -> Fraction:
        """Count the blocks that a mask keeps, rounded to a whole number when the shape is known."""
        blocks = self._all_blocks(mask.block)
        if self.shape is None:
            return blocks * Fraction(mask.density).limit_denominator(10**9)
        return Fraction(whole_share(mask.density, int(blocks)))

    def index_bits(self, size: int | None = None) -> int:
        """Give the width of an index along an axis of `size` (K by default)."""
        if self.shape is None:
            return 16
        return 16 if (size or self.shape[-1]) <= 2**16 else 32

    def leaf_elements(self, block: Block) -> int | None:
        """Count the elements of a whole block; None when it has no end."""
        extents = self._clipped(block)
        return None if -1 in extents else math.prod(extents)

    def _all_blocks(self, block: Block) -> Fraction:
        if self.shape is not None:
            return Fraction(math.prod(block_grid(block, self.shape)))
        return Fraction(0) if -1 in block else Fraction(1, math.prod(block))

    def _clipped(self, block: Block) -> Block:
        if self.shape is None:
            return expand_block(block, max(2, len(block)))
        extents = zip(expand_block(block, len(self.shape)), self.shape, strict=True)
        return tuple(size if extent == -1 else min(extent, size) for extent, size in extents)

    @property
    def masked(self) -> bool:
        """Tell whether a mask leaves elements without codes."""
        return self._mask() is not None

    def _mask(self) -> NMMask | BlockMask | None:
        return next((side for side in self.sides if isinstance(side, NMMask | BlockMask)), None)


def _stored_shape(qtype: QType, shape: tuple[int, ...]) -> tuple[int, ...]:
    added = sum(side.count for side in qtype.sides if isinstance(side, KAxis))
    return (*shape[:-1], shape[-1] + added)


def _code_bits(decode: Decode, packing: Packing, count: _Count, leaf: Block) -> Fraction:
    if isinstance(decode, SelectDecode):
        if not decode.fractions:
            return count.elements() * decode.bits
        shares = [Fraction(share).limit_denominator(10**9) for share in decode.fractions]
        widths = [_width(option, packing) for option in decode.options]
        return count.elements() * sum((share * width for share, width in zip(shares, widths, strict=True)), Fraction())
    whole = count.leaf_elements(leaf)
    if packing == "radix" and whole is not None and not count.masked:
        digits, states = _digits(decode)
        return count.blocks(leaf) * digits * 8 * math.ceil(whole / _digits_per_byte(states))
    return count.elements() * _width(decode, packing)


def _width(decode: PlainDecode, packing: Packing) -> Fraction:
    """Give the bits of one element's code, without the ends of blocks."""
    digits, states = _digits(decode)
    match packing:
        case "entropy":
            return Fraction(digits * math.log2(states))
        case "radix":
            return Fraction(digits * 8, _digits_per_byte(states))
        case "dense" | "ovp":
            return Fraction(decode.bits)


def _digits(decode: PlainDecode) -> tuple[int, int]:
    """Give how many digits a code is stored as, and how many states each of them has."""
    if isinstance(decode, PlanesDecode):
        return decode.count, DIGIT_STATES[decode.digits]
    return 1, decode_states(decode)


def _digits_per_byte(states: int) -> int:
    return max(1, int(math.log(256, states) + 1e-9))


def _levels_bits(levels: tuple[Level, ...], count: _Count, leaf_copies: int = 1) -> Fraction:
    total = Fraction(0)
    for index, level in enumerate(levels):
        if level.statistic == "constant":
            continue
        total += dtype_bits(level.dtype) * count.blocks(level.block) * (1 if index else leaf_copies)
        if level.offset == "parent" and index + 1 < len(levels):
            parent = levels[index + 1]
            total += dtype_bits(parent.dtype) * count.blocks(parent.block)
        elif level.offset == "tensor":
            total += OFFSET_BITS * count.blocks((-1, -1))
    return total


def _side_bits(side: Side, shape: tuple[int, ...] | None, count: _Count) -> Fraction:
    match side:
        case Sparse():
            return _sparse_bits(side, shape, count)
        case LowRank(rank, dtype):
            if shape is None:
                return Fraction(0)
            scales = 2 * rank * LOW_RANK_SCALE_BITS if is_integer_dtype(dtype) else 0
            return Fraction(rank * (math.prod(shape[:-1]) + shape[-1]) * dtype_bits(dtype) + scales)
        case NMMask(_, group):
            return count.elements() * (group - 1).bit_length()
        case BlockMask(block):
            pointers = block_grid(block, (*count.shape[:-1], 1)) if count.shape else ()
            rows = (math.prod(pointers) + 1) * ROW_POINTER_BITS if pointers else 0
            return count.kept_blocks(side) * count.index_bits() + rows
        case KAxis(permuted, group_index):
            if shape is None:
                return Fraction(0)
            return Fraction((permuted + group_index) * shape[-1] * count.index_bits())
        case _:
            return Fraction(0)


def _sparse_bits(side: Sparse, shape: tuple[int, ...] | None, count: _Count) -> Fraction:
    """Count outliers with their indices; the shape makes their number whole."""
    value, index = dtype_bits(side.dtype), count.index_bits()
    fraction = Fraction(side.fraction).limit_denominator(10**9)
    if shape is None:
        indices = {"csr": index, "coo": 2 * index, "columns": 0}[side.kind]
        return fraction * (value + indices)
    rows, columns = math.prod(shape[:-1]), shape[-1]
    if side.kind == "columns":
        return Fraction(whole_share(side.fraction, columns) * (rows * value + index))
    kept = whole_share(side.fraction, rows * columns)
    if side.kind == "coo":
        return Fraction(kept * (value + index + count.index_bits(rows)))
    return Fraction(kept * (value + index) + (rows + 1) * ROW_POINTER_BITS)

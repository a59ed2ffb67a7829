"""Name the tensors that a quantized tensor is stored as: packed codes, scales, offsets, zero points, selector.

A format fixes which parts there are, in which order, of which dtype and on which grid of blocks. The weight store,
the operations of the IR that hand parameters around, and the interpreter all read them off here. Importing this
module does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import (
    Block,
    Decode,
    FuseGroup,
    IntDecode,
    Level,
    PlanesDecode,
    Rotate,
    SelectDecode,
    Side,
    TableDecode,
    block_grid,
    is_integer_dtype,
)

CODES = "codes"
SELECTOR = "selector"
SIDE = "side."
"""What the names of side tensors start with."""
Role = Literal["scale", "offset", "zero", "zero_offset", "selector"]


@dataclass(frozen=True)
class StoredPart:
    """One tensor of parameters: `name` in files, what it is, its stored dtype, and the blocks it has one entry of.

    `index` counts levels from the leaf. `copies` numbers a block stand on an axis of their own behind the grid; 0
    means one number without such an axis. `level` is the level that a scale or the zero point of a chain belongs to.
    """

    name: str
    role: Role
    index: int
    dtype: str
    block: Block
    copies: int = 0
    level: Level | None = None

    @property
    def scalar(self) -> str:
        """Give the element type of the plain tensor that holds the part: `i32` for integers that are not scales."""
        whole = self.role == "selector" or (self.role == "zero" and self.level is None)
        return "i32" if whole and is_integer_dtype(self.dtype) else "f32"

    @property
    def copy_axis(self) -> tuple[int, ...]:
        """Give what stands behind the grid of blocks in the shape: nothing, or the copies."""
        return (self.copies,) if self.copies else ()

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        """Give the shape of the part in a tensor of shape `whole`."""
        return (*block_grid(self.block, whole), *self.copy_axis)


def parameter_parts(qtype: QType) -> tuple[StoredPart, ...]:
    """List the parts besides the codes: scales leaf to root, offset, zero points leaf to root, offset, selector.

    The names are `scale0`, `scale1`, ..., `offset0`, `zero`, `zero1`, ..., `zero_offset0` and `selector`.
    """
    copies = 0
    if isinstance(qtype.decode, PlanesDecode) and qtype.decode.coefficients == "free":
        copies = qtype.decode.count
    parts = [
        StoredPart(f"scale{index}", "scale", index, level.dtype, level.block, 0 if index else copies, level)
        for index, level in enumerate(qtype.levels)
    ]
    parts += _offset("offset0", "offset", qtype.levels)
    if qtype.zero is not None and qtype.zero.levels:
        parts += [
            StoredPart(f"zero{index or ''}", "zero", index, level.dtype, level.block, 0, level)
            for index, level in enumerate(qtype.zero.levels)
        ]
        parts += _offset("zero_offset0", "zero_offset", qtype.zero.levels)
    elif qtype.zero is not None:
        parts.append(StoredPart("zero", "zero", 0, qtype.zero.dtype, qtype.levels[0].block))
    if isinstance(qtype.decode, TableDecode | SelectDecode) and qtype.decode.selector is not None:
        selector = qtype.decode.selector
        parts.append(StoredPart(SELECTOR, "selector", 0, f"u{selector.bits}", selector.block))
    return tuple(parts)


def root_parts(qtype: QType) -> tuple[StoredPart, ...]:
    """List the scales above the leaf: what is static in a `dynamic_local` format."""
    return tuple(part for part in parameter_parts(qtype) if part.role == "scale" and part.index > 0)


def static_parts(qtype: QType) -> tuple[StoredPart, ...]:
    """List what is static in a `dynamic_local` format: scales above the leaf, and a `select` by blocks of channels."""
    roots, decode = root_parts(qtype), qtype.decode
    if not isinstance(decode, SelectDecode) or decode.selector.block[:-1] != (-1,):
        return roots
    return (*roots, *(part for part in parameter_parts(qtype) if part.role == "selector"))


def side_parts(qtype: QType) -> tuple[Side, ...]:
    """Give the side entries that store tensors or change what codes stand for, and are no mere notes."""
    return tuple(side for side in qtype.sides if not isinstance(side, FuseGroup | Rotate))


def has_signed_codes(decode: Decode) -> bool:
    """Tell whether codes are held as signed integers."""
    return any(isinstance(option, IntDecode) and option.signed for option in _options(decode))


def code_width(decode: Decode) -> int:
    """Give the bits that hold every code; one more than the widest where signed and unsigned codes are mixed."""
    signed = [isinstance(option, IntDecode) and option.signed for option in _options(decode)]
    return decode.bits + (any(signed) and not all(signed))


def held_bits(decode: Decode) -> int:
    """Give the bits of the integer that a code is held in, in memory: 8, 16, 32 or 64."""
    width = code_width(decode)
    if width <= 8:
        return 8
    needed = width if has_signed_codes(decode) else width + 1  # wider integers of torch are signed
    return 16 if needed <= 16 else 32 if needed <= 32 else 64


def packed_bits(decode: Decode) -> int:
    """Give the bits a code takes when stored: its width, or above 8 bits the whole integer it is held in."""
    width = code_width(decode)
    return width if width <= 8 else held_bits(decode)


def choices(decode: Decode) -> int:
    """Count what a selector chooses among; 1 without a selector."""
    if isinstance(decode, SelectDecode):
        return len(decode.options)
    return len(decode.tables) if isinstance(decode, TableDecode) and decode.selector is not None else 1


def _options(decode: Decode) -> tuple[Decode, ...]:
    return decode.options if isinstance(decode, SelectDecode) else (decode,)


def _offset(name: str, role: Role, levels: tuple[Level, ...]) -> list[StoredPart]:
    """Give the offset of the leaf, which alone can have one: a block of the parent has one, or the whole tensor."""
    if not levels or levels[0].offset == "none":
        return []
    if levels[0].offset == "tensor":
        return [StoredPart(name, role, 0, "f32", (-1, -1))]
    return [StoredPart(name, role, 0, levels[1].dtype, levels[1].block)]

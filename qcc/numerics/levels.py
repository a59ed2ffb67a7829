"""Round scales to the dtypes of their levels, and take the product of a chain of levels.

With stored values v0 (leaf) to vn (root) the scale of a leaf block is v0·v1·…·vn, multiplied from the root
down; a level with an offset stands for parent·v + offset instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qcc.numerics.blocks import amax, amin, parent_block, reduce_blocks, spread_blocks
from qcc.numerics.qtype_parts import IntDecode, Level, block_grid, is_integer_dtype
from qcc.numerics.statistics import statistic_of_scales

_LARGEST = {"e4m3": 448.0, "e5m2": 57344.0}
_SMALLEST = {"e4m3": 2.0**-9, "e5m2": 2.0**-16}
_POWERS_OF_TWO = ("e8m0", "pow2")
_EXPONENTS = 127

FLOAT_DTYPES = {
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "e4m3": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
    "e8m0": torch.float8_e8m0fnu,
    "pow2": torch.float8_e8m0fnu,
}


def stored_dtype(name: str) -> torch.dtype:
    """Give the torch dtype that holds a level, zero or side dtype; both powers of two are held as e8m0."""
    if is_integer_dtype(name):
        return torch.int8 if name[0] == "i" else torch.uint8
    return FLOAT_DTYPES[name]


@dataclass(frozen=True, eq=False)
class Chain:
    """The stored values of a chain of levels, leaf to root, and the offsets of those that have one (else None)."""

    values: tuple[Tensor, ...]
    offsets: tuple[Tensor | None, ...]


def chain_product(chain: Chain, levels: tuple[Level, ...], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Multiply a chain from its root down in `dtype`; gives one number for each leaf block of `shape`."""
    product = _with_offset(chain, len(levels) - 1, levels, shape, chain.values[-1].to(dtype))
    for index in range(len(levels) - 2, -1, -1):
        block = parent_block(levels[index].block, levels[index + 1].block, shape)
        spread = spread_blocks(product, block, block_grid(levels[index].block, shape))
        product = _with_offset(chain, index, levels, shape, chain.values[index].to(dtype) * spread)
    return product


def build_chain(
    magnitude: Tensor,
    reach: Tensor | float,
    levels: tuple[Level, ...],
    shape: tuple[int, ...],
    roots: tuple[Tensor, ...] = (),
    *,
    may_vanish: bool = False,
) -> Chain:
    """Split scales into stored levels so that their products come near `magnitude / reach`.

    `magnitude` and `reach` have one entry a leaf block. From the root down, the value of a level is the
    largest scale below it divided by the largest values of the integer or 8-bit float dtypes between, and by
    the levels above as stored. `roots` are values of the levels above the leaf where these are given. With
    `may_vanish` small integer values become zero, as zero points may.
    """
    wanted = magnitude / reach
    offset = _offset_of_leaf(wanted, levels, shape)
    if offset is not None:
        wanted = wanted - spread_blocks(offset, _offset_block(levels, shape), tuple(wanted.shape))
    values: list[Tensor] = list(roots)
    product: Tensor | None = None
    for index in range(len(levels) - 1, 0, -1):
        level = levels[index]
        block = parent_block(levels[0].block, level.block, shape)
        if not roots:
            values.insert(0, _level_value(wanted, product, index, levels, block))
        if level.statistic != "constant":
            spread = spread_blocks(values[index - len(levels)].to(wanted.dtype), block, tuple(wanted.shape))
            product = spread if product is None else product * spread
    if product is not None:
        wanted, magnitude = divide(wanted, product), divide(magnitude, product)
    may_vanish = may_vanish or offset is not None
    leaf = round_level(wanted, levels[0], magnitude, reach, may_vanish=may_vanish)
    stored = None if offset is None else offset.to(_offset_dtype(levels))
    return Chain((leaf, *values), (stored, *(None for _ in levels[1:])))


def round_level(
    values: Tensor, level: Level, magnitude: Tensor, reach: Tensor | float, *, may_vanish: bool = False
) -> Tensor:
    """Round scales to the dtype of a level.

    Integer and 8-bit float scales of a block that is not zero are never rounded down to zero, unless they
    `may_vanish`. `magnitude`, the value that `reach` stands for, decides the exponent of a power of two
    rounded by `floor`.
    """
    if level.statistic == "constant":
        values = torch.full_like(values, level.constant or 1.0)
        return power_of_two(values, "rne") if level.dtype in _POWERS_OF_TWO else values.to(stored_dtype(level.dtype))
    if level.dtype in _POWERS_OF_TWO:
        if level.rounding != "floor":
            return power_of_two(values, level.rounding)
        reaches = torch.as_tensor(reach, dtype=values.dtype, device=values.device)
        return _ldexp(_floor_log2(magnitude) - _floor_log2(reaches), magnitude)
    dtype = stored_dtype(level.dtype)
    if level.dtype in _LARGEST:
        return _round_float8(values, level.dtype)
    if not is_integer_dtype(level.dtype):
        return values.to(dtype)
    rounding = {"rne": torch.round, "floor": torch.floor, "ceil": torch.ceil}[level.rounding]
    limits = IntDecode(int(level.dtype[1:]), level.dtype[0] == "i")
    whole = rounding(torch.nan_to_num(values, nan=0.0))
    if may_vanish:
        return whole.clamp(limits.minimum, limits.maximum).to(dtype)
    whole = torch.where(values < 0, whole.clamp(limits.minimum, -1), whole.clamp(1, limits.maximum))
    return torch.where(values == 0, torch.zeros_like(whole), whole).to(dtype)


def power_of_two(values: Tensor, rounding: str) -> Tensor:
    """Round positive numbers to powers of two from 2^-127 to 2^127; `rne` is to the nearest value, ties up.

    Zero becomes 2^-127; what is not finite becomes NaN.
    """
    mantissa, exponent = torch.frexp(values)  # mantissa in [1/2, 1)
    match rounding:
        case "floor":
            exponent = exponent - 1
        case "ceil":
            exponent = torch.where(mantissa == 0.5, exponent - 1, exponent)
        case _:
            exponent = torch.where(mantissa >= 0.75, exponent, exponent - 1)
    return _ldexp(exponent, values)


def divide(values: Tensor, scale: Tensor) -> Tensor:
    """Divide by a scale, giving 0 where the scale is 0."""
    return torch.where(scale == 0, torch.zeros((), dtype=values.dtype, device=values.device), values / scale)


def largest_stored(dtype: str) -> float:
    """Give the value that the largest scale of a block should take in a level's dtype; 1 where any will do."""
    if is_integer_dtype(dtype):
        return float(IntDecode(int(dtype[1:]), dtype[0] == "i").maximum)
    return _LARGEST.get(dtype, 1.0)


def _level_value(
    wanted: Tensor, product: Tensor | None, index: int, levels: tuple[Level, ...], block: tuple[int, ...]
) -> Tensor:
    level = levels[index]
    grid = wanted if product is None else divide(wanted, product)
    peak = statistic_of_scales(grid, level, block)
    top = math.prod(largest_stored(below.dtype) for below in levels[:index] if below.statistic != "constant")
    return round_level(peak / top, level, peak / top, 1.0)


def _floor_log2(values: Tensor) -> Tensor:
    return torch.frexp(values)[1] - 1


def _ldexp(exponent: Tensor, values: Tensor) -> Tensor:
    """Give 2^exponent as e8m0: the lowest where the value is zero, NaN where it is not finite."""
    exponent = torch.where(values == 0, -_EXPONENTS, exponent).clamp(-_EXPONENTS, _EXPONENTS)
    codes = torch.where(torch.isfinite(values), exponent + _EXPONENTS, 255)
    return codes.to(torch.uint8).view(torch.float8_e8m0fnu)


def _round_float8(values: Tensor, dtype: str) -> Tensor:
    limited = torch.where(values.abs() > _LARGEST[dtype], _LARGEST[dtype] * values.sign(), values)
    lifted = torch.where((values != 0) & (values.abs() < _SMALLEST[dtype]), _SMALLEST[dtype] * values.sign(), limited)
    return lifted.to(torch.float32).to(FLOAT_DTYPES[dtype])


def _offset_block(levels: tuple[Level, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    if levels[0].offset == "tensor":
        return (-1,) * len(shape)
    return parent_block(levels[0].block, levels[1].block, shape)


def _offset_dtype(levels: tuple[Level, ...]) -> torch.dtype:
    return torch.float32 if levels[0].offset == "tensor" else stored_dtype(levels[1].dtype)


def _offset_of_leaf(wanted: Tensor, levels: tuple[Level, ...], shape: tuple[int, ...]) -> Tensor | None:
    """Give what integer scales are stored relative to: the least of them, or their middle for signed ones."""
    leaf = levels[0]
    if leaf.offset == "none":
        return None
    block = _offset_block(levels, shape)
    low = reduce_blocks(wanted, block, amin, math.inf)
    if leaf.dtype[0] == "i":
        low = (low + reduce_blocks(wanted, block, amax, -math.inf)) / 2
    return low.to(_offset_dtype(levels)).to(wanted.dtype)


def _with_offset(
    chain: Chain, index: int, levels: tuple[Level, ...], shape: tuple[int, ...], product: Tensor
) -> Tensor:
    offset = chain.offsets[index]
    if offset is None:
        return product
    block = _offset_block(levels[index:], shape)
    return product + spread_blocks(offset.to(product.dtype), block, tuple(product.shape))

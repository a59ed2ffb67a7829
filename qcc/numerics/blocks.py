"""Reduce a tensor over blocks, and spread one value a block back over the elements.

A block never reaches past the end of its axis: the last one is short, and statistics see real elements
only.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from qcc.numerics.qtype_parts import Block, expand_block


def block_extents(block: Block, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Give the extents of a block in a tensor of `shape`, whole axes and too long blocks cut to the axis."""
    whole = expand_block(block, len(shape))
    return tuple(size if extent == -1 else min(extent, size) for extent, size in zip(whole, shape, strict=True))


def reduce_blocks(
    values: Tensor, block: Block, reduce: Callable[[Tensor, list[int]], Tensor], fill: float = 0.0
) -> Tensor:
    """Reduce every block to one value; gives the grid of blocks, one axis an axis of `values`.

    `reduce` gets a tensor and the axes to reduce. `fill` stands where a short last block has no elements,
    so it must not change the result: 0 for sums and for maxima of magnitudes.
    """
    shape = tuple(values.shape)
    extents = block_extents(block, shape)
    missing = [-size % extent for size, extent in zip(shape, extents, strict=True)]
    if any(missing):
        pads = [amount for axis in reversed(missing) for amount in (0, axis)]
        values = functional.pad(values, pads, value=fill)
    pairs: list[int] = []
    for size, extent in zip(values.shape, extents, strict=True):
        pairs += [size // extent, extent]
    inner = list(range(1, len(pairs), 2))
    return reduce(values.reshape(pairs), inner) if inner else values


def block_sizes(block: Block, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Count the elements of every block, int64; gives the grid of blocks."""
    sizes = torch.ones((), dtype=torch.int64, device=device)
    for extent, size in zip(block_extents(block, shape), shape, strict=True):
        starts = torch.arange(0, size, extent, device=device)
        sizes = sizes[..., None] * (size - starts).clamp(max=extent)
    return sizes


def spread_blocks(grid: Tensor, block: Block, shape: tuple[int, ...]) -> Tensor:
    """Repeat one value a block over its elements; gives a tensor that broadcasts against `shape`."""
    for axis, (extent, size) in enumerate(zip(block_extents(block, shape), shape, strict=True)):
        if extent > 1 and grid.shape[axis] > 1:
            grid = grid.repeat_interleave(extent, dim=axis).narrow(axis, 0, size)
    return grid


def parent_block(child: Block, parent: Block, shape: tuple[int, ...]) -> Block:
    """Give the parent's block in units of the child's blocks; the child must tile the parent.

    Raises nothing: types are checked to nest when they are made.
    """
    inner = block_extents(child, shape)
    outer = expand_block(parent, len(shape))
    return tuple(-1 if extent == -1 else -(-extent // part) for extent, part in zip(outer, inner, strict=True))


def amax(values: Tensor, axes: list[int]) -> Tensor:
    """Reduce by the largest value; NaN wins."""
    return torch.amax(values, dim=axes)


def amin(values: Tensor, axes: list[int]) -> Tensor:
    """Reduce by the smallest value; NaN wins."""
    return torch.amin(values, dim=axes)


def total(values: Tensor, axes: list[int]) -> Tensor:
    """Reduce by the sum."""
    return torch.sum(values, dim=axes)


def block_grid_rows(values: Tensor, block: Block, fill: float = 0.0) -> tuple[Tensor, Tensor | None, tuple[int, ...]]:
    """Give every block as a row: `[blocks, elements]`, which elements are real (None: all), and the grid of blocks.

    A short last block is filled up with `fill`.
    """
    shape = tuple(values.shape)
    rows, grid = _block_rows(values, block, fill)
    extents = block_extents(block, shape)
    if all(size % extent == 0 for size, extent in zip(shape, extents, strict=True)):
        return rows, None, grid
    real = _block_rows(torch.ones(shape, dtype=torch.bool, device=values.device), block, 0)[0]
    return rows, real, grid


def rows_to_blocks(rows: Tensor, block: Block, shape: tuple[int, ...]) -> Tensor:
    """Undo `block_grid_rows`: put rows of elements back into a tensor of `shape`."""
    extents = block_extents(block, shape)
    counts = [-(-size // extent) for size, extent in zip(shape, extents, strict=True)]
    axes = [axis for index in range(len(shape)) for axis in (index, len(shape) + index)]
    whole = rows.reshape(*counts, *extents).permute(axes)
    joined = whole.reshape([count * extent for count, extent in zip(counts, extents, strict=True)])
    return joined[tuple(slice(size) for size in shape)]


def _block_rows(values: Tensor, block: Block, fill: float) -> tuple[Tensor, tuple[int, ...]]:
    shape = tuple(values.shape)
    extents = block_extents(block, shape)
    missing = [-size % extent for size, extent in zip(shape, extents, strict=True)]
    if any(missing):
        values = functional.pad(values, [amount for axis in reversed(missing) for amount in (0, axis)], value=fill)
    counts = [size // extent for size, extent in zip(values.shape, extents, strict=True)]
    pairs = [extent for pair in zip(counts, extents, strict=True) for extent in pair]
    order = [*range(0, len(pairs), 2), *range(1, len(pairs), 2)]
    rows = values.reshape(pairs).permute(order).reshape(math.prod(counts), math.prod(extents))
    return rows, tuple(counts)

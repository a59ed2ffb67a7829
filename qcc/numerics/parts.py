"""Read a tensor part by part along one axis, so that temporaries stay small.

Parts hold whole blocks, but for blocks that span the axis: what these reduce to is combined over all parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from qcc.numerics.qtype_parts import Block, expand_block

Index = tuple[slice, ...]

# Elements of a part: a few temporaries of this size stay inside a processor's caches.
PART_ELEMENTS = 1 << 18


def working_dtype(x: Tensor) -> torch.dtype:
    """Give the dtype of the arithmetic: float64 for float64, float32 for everything else."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def working(x: Tensor) -> Tensor:
    """Give `x` in the dtype of the arithmetic."""
    return x.to(working_dtype(x))


def cut_axis(shape: tuple[int, ...]) -> int:
    """Give the axis along which a tensor is cut: the longest but the last, or the last if the others are single."""
    lead = max(shape[:-1], default=1)
    return shape.index(lead) if lead > 1 else len(shape) - 1


def is_cut(block: Block, shape: tuple[int, ...]) -> bool:
    """Tell whether parts cut through blocks."""
    return _extent(block, shape) == -1


def part_indices(shape: tuple[int, ...], blocks: tuple[Block, ...] = (), multiple: int = 1) -> Iterator[Index]:
    """Give the indices of parts of about `PART_ELEMENTS` that hold whole blocks, or cut those that span the axis.

    The length of every part but the last is a multiple of `multiple`. The shape must have an axis.
    """
    axis = cut_axis(shape)
    step = math.lcm(multiple, *(max(_extent(block, shape), 1) for block in blocks))
    across = step * (math.prod(shape) // max(shape[axis], 1))
    step *= max(1, PART_ELEMENTS // max(1, across))
    for start in range(0, shape[axis], step):
        yield (slice(None),) * axis + (slice(start, min(start + step, shape[axis])),)


def part_of_grid(grid: Tensor, block: Block, shape: tuple[int, ...], index: Index) -> Tensor:
    """Give what a part of a tensor of `shape` has of a grid of blocks: all of it where parts cut the blocks."""
    extent = _extent(block, shape)
    if extent == -1:
        return grid
    rows = index[-1]
    if rows == slice(None):
        return grid
    return grid[(*index[:-1], slice(rows.start // extent, -(-rows.stop // extent)))]


@dataclass(frozen=True, eq=False)
class Parts:
    """A tensor, the indices of its parts, and what is made of each part as it is read."""

    x: Tensor
    indices: tuple[Index, ...]
    read: Callable[[Tensor, Index], Tensor] = lambda part, _: working(part)

    @staticmethod
    def whole(x: Tensor) -> Parts:
        """Take a tensor as one part, as it is."""
        return Parts(x, ((slice(None),),), lambda part, _: part)

    @property
    def shape(self) -> tuple[int, ...]:
        """Give the shape of the whole tensor."""
        return tuple(self.x.shape)

    def reduce(
        self,
        block: Block,
        measure: Callable[[Tensor, Index], Tensor],
        combine: Callable[[Tensor, Tensor], Tensor],
        decided: Callable[[Tensor], bool] = lambda _: False,
    ) -> Tensor:
        """Give one value a block of the whole tensor.

        `measure` gives the grid of the blocks of one part; `combine` joins two grids of blocks that parts cut. Where
        what was joined so far is `decided`, the other parts are not read.
        """
        grids: list[Tensor] = []
        for index in self.indices:
            grid = measure(self.read(self.x[index], index), index)
            if grids and is_cut(block, self.shape):
                grid = combine(grids.pop(), grid)
                if decided(grid):
                    return grid
            grids.append(grid)
        return grids[0] if len(grids) == 1 else torch.cat(grids, cut_axis(self.shape))


def _extent(block: Block, shape: tuple[int, ...]) -> int:
    return expand_block(block, len(shape))[cut_axis(shape)]

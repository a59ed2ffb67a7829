"""Cut a tensor and its parameters into slices along the first axis, so that temporaries stay small."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from qcc.numerics.levels import Chain
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import Block, Level, SelectDecode, TableDecode, expand_block
from qcc.numerics.tensor import Parameters, zero_levels

# Elements of a slice: the temporaries of a few dozen such slices stay inside a processor's caches.
SLICE_ELEMENTS = 1 << 18


def row_slices(qtype: QType, shape: tuple[int, ...]) -> Iterator[slice]:
    """Give slices of the first axis that hold whole blocks of every level, about `SLICE_ELEMENTS` each.

    Blocks that span the first axis are cut. The shape must have an axis.
    """
    step = math.lcm(*(max(_extent(block, shape), 1) for block in _blocks(qtype)), 2 if qtype.layout == "ovp" else 1)
    step *= max(1, SLICE_ELEMENTS // max(1, step * math.prod(shape[1:])))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def slice_parameters(parameters: Parameters, qtype: QType, shape: tuple[int, ...], rows: slice) -> Parameters:
    """Give the parameters of a slice of the first axis."""
    scales = _slice_chain(parameters.scales, qtype.levels, shape, rows)
    zero = None if parameters.zero is None else _slice_chain(parameters.zero, zero_levels(qtype), shape, rows)
    selector, decode = parameters.selector, qtype.decode
    if isinstance(decode, TableDecode | SelectDecode) and decode.selector is not None and selector is not None:
        selector = slice_grid(selector, decode.selector.block, shape, rows)
    return replace(parameters, scales=scales, zero=zero, selector=selector)


def slice_grid(grid: Tensor, block: Block, shape: tuple[int, ...], rows: slice) -> Tensor:
    """Give the part of a grid of blocks that lies in a slice of the first axis."""
    extent = _extent(block, shape)
    return grid if extent == -1 else grid[rows.start // extent : -(-rows.stop // extent)]


def is_cut(block: Block, shape: tuple[int, ...]) -> bool:
    """Tell whether slices of the first axis cut through blocks."""
    return _extent(block, shape) == -1


def _slice_chain(chain: Chain, levels: tuple[Level, ...], shape: tuple[int, ...], rows: slice) -> Chain:
    values = tuple(slice_grid(one, level.block, shape, rows) for one, level in zip(chain.values, levels, strict=True))
    offsets: list[Tensor | None] = []
    for index, offset in enumerate(chain.offsets):
        if offset is not None and levels[index].offset == "parent":
            offset = slice_grid(offset, levels[index + 1].block, shape, rows)
        offsets.append(offset)
    return Chain(values, tuple(offsets))


def _blocks(qtype: QType) -> Iterator[Block]:
    for level in (*qtype.levels, *zero_levels(qtype)):
        yield level.block
    if isinstance(qtype.decode, TableDecode | SelectDecode) and qtype.decode.selector is not None:
        yield qtype.decode.selector.block


def _extent(block: Block, shape: tuple[int, ...]) -> int:
    return expand_block(block, len(shape))[0]

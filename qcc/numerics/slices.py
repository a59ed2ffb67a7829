"""Cut tensors of a format, and their parameters, into parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from qcc.numerics.levels import Chain
from qcc.numerics.parts import Index, is_cut, part_indices, part_of_grid
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import Block, Level, SelectDecode, TableDecode
from qcc.numerics.tensor import Parameters, zero_levels


def row_slices(qtype: QType, shape: tuple[int, ...], *others: Block) -> Iterator[Index]:
    """Give the indices of parts that hold whole blocks, of every level and any others; those across parts are cut."""
    return part_indices(shape, (*_blocks(qtype), *others), 2 if qtype.layout == "ovp" else 1)


def cuts_parameters(qtype: QType, shape: tuple[int, ...]) -> bool:
    """Tell whether some parameter of the format belongs to several parts."""
    return any(is_cut(block, shape) for block in _blocks(qtype))


def slice_parameters(parameters: Parameters, qtype: QType, shape: tuple[int, ...], index: Index) -> Parameters:
    """Give the parameters of a part."""
    scales = _slice_chain(parameters.scales, qtype.levels, shape, index)
    zero = None if parameters.zero is None else _slice_chain(parameters.zero, zero_levels(qtype), shape, index)
    selector, decode = parameters.selector, qtype.decode
    if isinstance(decode, TableDecode | SelectDecode) and decode.selector is not None and selector is not None:
        selector = part_of_grid(selector, decode.selector.block, shape, index)
    return replace(parameters, scales=scales, zero=zero, selector=selector)


def _slice_chain(chain: Chain, levels: tuple[Level, ...], shape: tuple[int, ...], index: Index) -> Chain:
    pairs = zip(chain.values, levels, strict=True)
    values = tuple(part_of_grid(values, level.block, shape, index) for values, level in pairs)
    offsets: list[Tensor | None] = []
    for place, offset in enumerate(chain.offsets):
        if offset is not None and levels[place].offset == "parent":
            offset = part_of_grid(offset, levels[place + 1].block, shape, index)
        offsets.append(offset)
    return Chain(values, tuple(offsets))


def _blocks(qtype: QType) -> Iterator[Block]:
    for level in (*qtype.levels, *zero_levels(qtype)):
        yield level.block
    if isinstance(qtype.decode, TableDecode | SelectDecode) and qtype.decode.selector is not None:
        yield qtype.decode.selector.block

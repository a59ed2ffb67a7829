"""Encode a matrix column by column under parameters that are fixed before: what error feedback needs.

A column under the parameters of its blocks is a matrix `[N, 1]` of the same format with blocks of one element, so its
codes are, bit for bit, those that the whole matrix would get.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from qcc.numerics.blocks import block_extents
from qcc.numerics.coding import decode, encode
from qcc.numerics.levels import Chain
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import Block, Level, SelectDecode, Selector, TableDecode
from qcc.numerics.tensor import Parameters, zero_levels

_ELEMENT: Block = (1, 1)


class ColumnCoder:
    """Codes of the columns of a matrix `[N, K]` of a format, under given parameters."""

    def __init__(self, qtype: QType, parameters: Parameters, shape: tuple[int, int]) -> None:
        self._qtype, self._parameters, self._shape = qtype, parameters, shape
        self._type = _column_type(qtype)
        self._blocks = _blocks(qtype)
        self._known: dict[tuple[int, ...], Parameters] = {}

    def code(self, column: Tensor, place: int) -> tuple[Tensor, Tensor]:
        """Return the codes `[N]` of column number `place`, given as `[N]`, and what they stand for, in its dtype."""
        parameters = self._parameters_at(place)
        codes = encode(column[:, None], self._type, parameters)
        return codes[:, 0], decode(codes, self._type, parameters, column.dtype)[:, 0]

    def _parameters_at(self, place: int) -> Parameters:
        key = tuple(place // max(1, block_extents(block, self._shape)[1]) for block in self._blocks)
        if key not in self._known:
            self._known[key] = self._make(place)
        return self._known[key]

    def _make(self, place: int) -> Parameters:
        own, qtype = self._parameters, self._qtype
        scales = self._chain(own.scales, qtype.levels, place)
        zero = None if own.zero is None else self._chain(own.zero, zero_levels(qtype), place)
        selector = own.selector
        if selector is not None and isinstance(qtype.decode, TableDecode | SelectDecode):
            assert qtype.decode.selector is not None
            selector = self._spread(selector, qtype.decode.selector.block, place)
        return Parameters(scales, zero, selector)

    def _chain(self, chain: Chain, levels: tuple[Level, ...], place: int) -> Chain:
        values = [self._spread(value, level.block, place) for value, level in zip(chain.values, levels, strict=True)]
        offsets: list[Tensor | None] = []
        for index, offset in enumerate(chain.offsets):
            if offset is not None and levels[index].offset == "parent":
                offset = self._spread(offset, levels[index + 1].block, place)
            offsets.append(offset)
        return Chain(tuple(values), tuple(offsets))

    def _spread(self, grid: Tensor, block: Block, place: int) -> Tensor:
        """Return what a grid of blocks has for one column, one entry a row: `[N, 1]`, copies behind."""
        rows, columns = block_extents(block, self._shape)
        part = grid[:, place // max(1, columns)]
        index = torch.arange(self._shape[0]) // max(1, rows)
        return part[index][:, None]


def _column_type(qtype: QType) -> QType:
    levels = tuple(replace(level, block=_ELEMENT) for level in qtype.levels)
    zero, decode_ = qtype.zero, qtype.decode
    if zero is not None and zero.levels:
        zero = replace(zero, levels=tuple(replace(level, block=_ELEMENT) for level in zero.levels))
    if isinstance(decode_, TableDecode | SelectDecode) and decode_.selector is not None:
        decode_ = replace(decode_, selector=Selector(decode_.selector.bits, _ELEMENT))
    return replace(qtype, decode=decode_, levels=levels, zero=zero, sides=())


def _blocks(qtype: QType) -> list[Block]:
    blocks = [level.block for level in (*qtype.levels, *zero_levels(qtype))]
    if isinstance(qtype.decode, TableDecode | SelectDecode) and qtype.decode.selector is not None:
        blocks.append(qtype.decode.selector.block)
    return blocks

"""Take the side tensors of a type off a tensor, put them back, and name them for a file.

A tensor is encoded as: masked elements become 0, then outliers leave, then the rest is quantized, then low-rank
factors take up what that lost. It is decoded as mask·values + outliers + factors, all in the order that its
columns had when it was split.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qcc.errors import CheckpointError, Problem, ShapeError
from qcc.numerics.kaxis import KAxisIndex
from qcc.numerics.lowrank import LowRankFactors
from qcc.numerics.masks import (
    BlockIndex,
    MaskIndex,
    NMIndex,
    block_index,
    block_mask,
    nm_index,
    nm_index_bits,
    nm_mask,
    nm_row_length,
)
from qcc.numerics.pack import pack, packed_bytes, unpack
from qcc.numerics.qtype_bits import whole_share
from qcc.numerics.qtype_parts import (
    BlockMask,
    KAxis,
    LowRank,
    NMMask,
    Side,
    Sparse,
    block_grid,
    dtype_bits,
    is_integer_dtype,
)
from qcc.numerics.side_values import narrow_index, row_count, side_dtype
from qcc.numerics.sparse import CompressedRows, Coordinates, DenseColumns, SparseTensor, split_outliers

SideTensor = SparseTensor | LowRankFactors | MaskIndex | KAxisIndex
StoredSides = tuple[SideTensor | None, ...]
"""One entry a side of the type, in its order; None where a side stores no tensor, or not yet."""

_KINDS: dict[type[SideTensor], type[Side]] = {
    CompressedRows: Sparse,
    Coordinates: Sparse,
    DenseColumns: Sparse,
    LowRankFactors: LowRank,
    NMIndex: NMMask,
    BlockIndex: BlockMask,
    KAxisIndex: KAxis,
}


def split_sides(x: Tensor, sides: tuple[Side, ...], where: str = "") -> tuple[Tensor, StoredSides]:
    """Apply the masks of a type to `x` [..., K], then move its outliers out; gives the tensor to quantize.

    Low-rank factors need the quantizer and what was done to K needs its calibration: their entries stay None
    until `with_side` fills them.

    Raises:
        UnsupportedOp, ShapeError: see `nm_mask`, `block_mask` and `split_outliers`.
    """
    rest = x
    found: list[SideTensor | None] = [None] * len(sides)
    for place, side in enumerate(sides):
        if isinstance(side, NMMask):
            mask = nm_mask(rest, side, where=where)
            found[place] = nm_index(mask, side, where)
            rest = rest.masked_fill(~mask, 0)
        elif isinstance(side, BlockMask):
            index = block_index(block_mask(rest, side, where), side, tuple(x.shape))
            found[place] = index
            rest = rest.masked_fill(~index.mask(), 0)
    for place, side in enumerate(sides):
        if isinstance(side, Sparse):
            rest, found[place] = split_outliers(rest, side, where=where)
    return rest, tuple(found)


def with_side(sides: tuple[Side, ...], stored: StoredSides, tensor: SideTensor) -> StoredSides:
    """Give `stored` with `tensor` in the place of the side that it belongs to.

    Raises:
        ShapeError: a type without such a side.
    """
    places = [place for place, side in enumerate(sides) if isinstance(side, _KINDS[type(tensor)])]
    if not places:
        raise ShapeError(f"a type with the sides {', '.join(map(str, sides)) or 'none'} has no {type(tensor).__name__}")
    return (*stored[: places[0]], tensor, *stored[places[0] + 1 :])


def join_sides(values: Tensor, stored: StoredSides, dtype: torch.dtype = torch.float32) -> Tensor:
    """Give mask·values + outliers + low-rank product in `dtype`.

    Added in this order, in float64 if `dtype` or the values are, else in float32, and rounded once at the end.

    Raises:
        ShapeError: side tensors of another shape.
    """
    real = torch.float64 if torch.float64 in (dtype, values.dtype) else torch.float32
    joined = values.to(real)
    for side in stored:
        if isinstance(side, NMIndex | BlockIndex):
            if side.shape != tuple(values.shape):
                raise ShapeError(f"a mask of shape {side.shape} does not fit values of shape {tuple(values.shape)}")
            joined = joined.masked_fill(~side.mask(), 0)
    outliers = [side for side in stored if isinstance(side, SparseTensor)]
    factors = [side for side in stored if isinstance(side, LowRankFactors)]
    for side in (*outliers, *factors):
        joined = side.add_to(joined)
    return joined.to(dtype)


def named_tensors(stored: StoredSides) -> dict[str, Tensor]:
    """Name the tensors of sides as a file holds them, contiguous and with as many bits as the type counts.

    Indices are uint16 along axes of up to 65536, else int32; factors of fewer than 8 bits are packed by rows.
    """
    named: dict[str, Tensor] = {}
    for side in stored:
        if side is not None:
            named.update(_named(side))
    return {name: tensor.contiguous() for name, tensor in named.items()}


def from_named(
    sides: tuple[Side, ...], shape: tuple[int, ...], tensors: Mapping[str, Tensor], where: str = ""
) -> StoredSides:
    """Undo `named_tensors` for a tensor of `shape`, the one that was split; other names are left alone.

    Raises:
        CheckpointError: tensors that are missing, of another dtype or shape, or with positions that make no
            sense; all of them at once.
    """
    reader = _Reader(tensors, where)
    found = [_read(side, shape, reader) for side in sides]
    for name, side in zip(map(str, sides), found, strict=True):
        if side is not None and not isinstance(side, LowRankFactors):
            reader.problems += [Problem(f"{where}: {name}" if where else name, what) for what in side.problems()]
    if reader.problems:
        raise CheckpointError("side tensors are damaged", reader.problems, fix="save the model again")
    return tuple(found)


def _named(side: SideTensor) -> Iterator[tuple[str, Tensor]]:
    match side:
        case CompressedRows():
            yield "sparse.values", side.values
            yield "sparse.columns", narrow_index(side.columns, side.shape[-1])
            yield "sparse.offsets", side.offsets
        case Coordinates():
            yield "sparse.values", side.values
            yield "sparse.rows", narrow_index(side.rows, row_count(side.shape))
            yield "sparse.columns", narrow_index(side.columns, side.shape[-1])
        case DenseColumns():
            yield "sparse.values", side.values
            yield "sparse.columns", narrow_index(side.columns, side.shape[-1])
        case LowRankFactors():
            narrow = side.up_scale is not None and side.bits < 8
            yield "lowrank.up", pack(side.up, side.bits) if narrow else side.up
            yield "lowrank.down", pack(side.down, side.bits) if narrow else side.down
            if side.up_scale is not None and side.down_scale is not None:
                yield "lowrank.up_scale", side.up_scale
                yield "lowrank.down_scale", side.down_scale
        case NMIndex():
            yield "mask.index", side.index
        case BlockIndex():
            yield "mask.columns", narrow_index(side.columns, side.shape[-1])
            yield "mask.offsets", side.offsets
        case KAxisIndex(order, group_index):
            if order is not None:
                yield "kaxis.order", narrow_index(order, order.numel())
            if group_index is not None:
                yield "kaxis.group_index", narrow_index(group_index, group_index.numel())


@dataclass
class _Reader:
    """Take tensors by name and note what is wrong with them."""

    tensors: Mapping[str, Tensor]
    where: str
    problems: list[Problem] = field(default_factory=list[Problem])

    def take(self, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor | None:
        """Give a tensor if it is there and as it should be."""
        tensor = self.tensors.get(name)
        label = f"{self.where}: {name}" if self.where else name
        if tensor is None:
            self.problems.append(Problem(label, f"is missing; it should be {dtype} of shape {shape}"))
        elif (tensor.dtype, tuple(tensor.shape)) != (dtype, shape):
            found = f"{tensor.dtype} of shape {tuple(tensor.shape)}"
            self.problems.append(Problem(label, f"is {found}, not {dtype} of shape {shape}"))
        else:
            return tensor
        return None

    def take_index(self, name: str, size: int, count: int) -> Tensor | None:
        """Give indices along an axis of `size`, widened to int32."""
        tensor = self.take(name, torch.uint16 if size <= 2**16 else torch.int32, (count,))
        return None if tensor is None else tensor.to(torch.int32)


def _read(side: Side, shape: tuple[int, ...], reader: _Reader) -> SideTensor | None:
    match side:
        case Sparse():
            return _read_sparse(side, shape, reader)
        case LowRank():
            return _read_low_rank(side, shape, reader)
        case NMMask(kept, group):
            length = packed_bytes(nm_row_length(kept, group, shape[-1]), nm_index_bits(group))
            index = reader.take("mask.index", torch.uint8, (*shape[:-1], length))
            return None if index is None else NMIndex(index, kept, group, shape)
        case BlockMask(block, density):
            grid = block_grid(block, shape)
            columns = reader.take_index("mask.columns", shape[-1], whole_share(density, math.prod(grid)))
            offsets = reader.take("mask.offsets", torch.int32, (row_count(grid) + 1,))
            return None if columns is None or offsets is None else BlockIndex(columns, offsets, block, shape)
        case KAxis(permuted, group_index, _, count):
            size = shape[-1] - count
            order = reader.take_index("kaxis.order", size, size) if permuted else None
            groups = reader.take_index("kaxis.group_index", size, size) if group_index else None
            return KAxisIndex(order, groups) if permuted or group_index else None
        case _:
            return None


def _read_sparse(side: Sparse, shape: tuple[int, ...], reader: _Reader) -> SparseTensor | None:
    dtype, rows = side_dtype(side.dtype, "outliers", reader.where), row_count(shape)
    if side.kind == "columns":
        count = whole_share(side.fraction, shape[-1])
        values = reader.take("sparse.values", dtype, (rows, count))
        columns = reader.take_index("sparse.columns", shape[-1], count)
        return None if values is None or columns is None else DenseColumns(values, columns, shape)
    count = whole_share(side.fraction, rows * shape[-1])
    values = reader.take("sparse.values", dtype, (count,))
    columns = reader.take_index("sparse.columns", shape[-1], count)
    if side.kind == "coo":
        places = reader.take_index("sparse.rows", rows, count)
    else:
        places = reader.take("sparse.offsets", torch.int32 if count < 2**31 else torch.int64, (rows + 1,))
    if values is None or columns is None or places is None:
        return None
    if side.kind == "coo":
        return Coordinates(values, places, columns, shape)
    return CompressedRows(values, columns, places, shape)


def _read_low_rank(side: LowRank, shape: tuple[int, ...], reader: _Reader) -> LowRankFactors | None:
    rank, sizes = side.rank, ((row_count(shape), side.rank), (side.rank, shape[-1]))
    names = ("lowrank.up", "lowrank.down")
    if not is_integer_dtype(side.dtype):
        dtype = side_dtype(side.dtype, "low-rank factors", reader.where)
        up, down = (reader.take(name, dtype, size) for name, size in zip(names, sizes, strict=True))
        return None if up is None or down is None else LowRankFactors(up, down)
    bits = dtype_bits(side.dtype)
    if bits < 8:
        packed = [
            reader.take(name, torch.uint8, (size[0], packed_bytes(size[1], bits)))
            for name, size in zip(names, sizes, strict=True)
        ]
        up, down = (
            None if one is None else unpack(one, bits, size[1], True) for one, size in zip(packed, sizes, strict=True)
        )
    else:
        up, down = (reader.take(name, torch.int8, size) for name, size in zip(names, sizes, strict=True))
    scales = [reader.take(f"{name}_scale", torch.float32, (rank,)) for name in names]
    if up is None or down is None or scales[0] is None or scales[1] is None:
        return None
    return LowRankFactors(up, down, scales[0], scales[1], bits)

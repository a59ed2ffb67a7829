"""Choose which elements of a weight keep a code, and store the codes of those alone.

n:m sparsity keeps `kept` of every `group` neighbours along K (arXiv 2104.08378), block sparsity keeps whole
blocks in block-sparse rows (GQSA, arXiv 2412.17560).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from qcc.errors import ShapeError, UnsupportedOp
from qcc.numerics.blocks import block_extents, reduce_blocks, spread_blocks, total
from qcc.numerics.pack import pack, packed_bytes, unpack
from qcc.numerics.qtype_bits import whole_share
from qcc.numerics.qtype_parts import Block, BlockMask, NMMask, block_grid
from qcc.numerics.selection import largest_mask
from qcc.numerics.side_values import (
    BYTE_FLOATS,
    chunks,
    index_problems,
    offset_problems,
    require_finite,
    require_score,
    row_count,
    rows_of,
)

_LARGEST_GROUP = 256


def nm_mask(x: Tensor, side: NMMask, score: Tensor | None = None, where: str = "") -> Tensor:
    """Mark in every `group` along K the `kept` elements of largest magnitude, or of largest `score`.

    `x` and `score` are `[..., K]`, and so is the bool result. Ties go to the lowest index; a short last group
    of s elements keeps min(kept, s).

    Raises:
        ShapeError: no elements, values that are not finite, a score of another shape or with NaN.
    """
    rows = rows_of(x, where)
    require_finite(x, "values", where)
    if score is not None:
        require_score(score, (tuple(x.shape),), where)
        rows = rows_of(score)
    mask = torch.empty(rows.shape, dtype=torch.bool, device=x.device)
    missing = -rows.shape[1] % side.group
    for part in chunks(*rows.shape):
        ranked = rows[part].abs() if score is None else rows[part]
        ranked = ranked if ranked.dtype == torch.float64 else ranked.to(torch.float32)
        # A stable sort leaves the filling behind any element that is as small.
        groups = functional.pad(ranked, (0, missing), value=float("-inf")).unflatten(1, (-1, side.group))
        best = groups.sort(dim=-1, descending=True, stable=True).indices[..., : side.kept]
        chosen = torch.zeros(groups.shape, dtype=torch.bool, device=x.device).scatter_(-1, best, True)
        mask[part] = chosen.flatten(1)[:, : rows.shape[1]]
    return mask.reshape(x.shape)


def block_mask(x: Tensor, side: BlockMask, where: str = "") -> Tensor:
    """Mark the round(density·blocks) blocks of largest L2 norm: bool, one entry a block.

    The grid has one axis an axis of `x`; short blocks at the ends count what they hold. Norms are computed in
    float64 of values divided by the largest; ties go to the lowest index.

    Raises:
        ShapeError: no elements, or values that are not finite.
    """
    rows = rows_of(x, where)
    require_finite(x, "values", where)
    peak = max(float(rows.max()), -float(rows.min())) or 1.0
    step = block_extents(side.block, tuple(x.shape))[0]
    height = max(1, x.numel() // x.shape[0])
    norms = [
        reduce_blocks((x[part.start * step : part.stop * step].to(torch.float64) / peak).square(), side.block, total)
        for part in chunks(-(-x.shape[0] // step), step * height)
    ]
    grid = torch.cat(norms)
    return largest_mask(grid, whole_share(side.density, grid.numel()))


@dataclass(frozen=True, eq=False)
class NMIndex:
    """Hold which elements an n:m mask keeps.

    `index` [..., bytes] uint8: for the kept elements of a row in order, the position within the group, packed
    in as many bits as the largest takes. `shape` is that of the whole tensor.

    Raises:
        UnsupportedOp: groups of more than 256 elements.
        ShapeError: an index of another shape.
    """

    index: Tensor
    kept: int
    group: int
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        wanted = (*self.shape[:-1], packed_bytes(self.row_length, self.bits))
        if tuple(self.index.shape) != wanted:
            raise ShapeError(
                f"the index of a {self.kept}:{self.group} mask has shape {tuple(self.index.shape)}, not {wanted}"
            )

    @property
    def bits(self) -> int:
        """Give the width of one position within a group."""
        return nm_index_bits(self.group)

    @property
    def row_length(self) -> int:
        """Count the elements that every row keeps."""
        return nm_row_length(self.kept, self.group, self.shape[-1])

    def mask(self) -> Tensor:
        """Give the mask: bool of the whole shape."""
        mask = torch.zeros((row_count(self.shape), self.shape[-1]), dtype=torch.bool, device=self.index.device)
        for part in chunks(*mask.shape):
            mask[part] = mask[part].scatter(1, self._columns(part), True)
        return mask.reshape(self.shape)

    def compact(self, codes: Tensor) -> Tensor:
        """Give the kept elements of `codes` (of the whole shape, any dtype): [..., kept elements of a row].

        Raises:
            ShapeError: codes of another shape.
        """
        plain = _plain_bytes(_of_shape(codes, self.shape)).reshape(-1, self.shape[-1])
        out = plain.new_empty((plain.shape[0], self.row_length))
        for part in chunks(*plain.shape):
            out[part] = plain[part].gather(1, self._columns(part))
        return out.view(codes.dtype).reshape(*self.shape[:-1], self.row_length)

    def expand(self, values: Tensor, fill: float = 0) -> Tensor:
        """Undo `compact`: give a tensor of the whole shape, `fill` where nothing was kept.

        Raises:
            ShapeError: values of another shape.
        """
        values = _of_shape(values, (*self.shape[:-1], self.row_length))
        plain = _plain_bytes(values).reshape(-1, self.row_length)
        out = _plain_bytes(_filled((row_count(self.shape), self.shape[-1]), fill, values))
        for part in chunks(*out.shape):
            out[part] = out[part].scatter(1, self._columns(part), plain[part])
        return out.view(values.dtype).reshape(self.shape)

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the stored positions, as a damaged file may have them."""
        rows = row_count(self.shape)
        for part in chunks(rows, self.shape[-1]):
            columns = self._columns(part)
            bad = [
                *index_problems(columns, self.shape[-1], "positions of kept elements"),
                *["positions of kept elements do not ascend"] * bool((columns.diff() <= 0).any()),
                *["a position lies outside its group"] * bool((columns // self.group != self._groups(columns)).any()),
            ]
            if bad:
                yield from bad
                return

    def _columns(self, part: slice) -> Tensor:
        """Give the columns of the kept elements of some rows, int64 [rows, kept elements of a row]."""
        packed = self.index.reshape(-1, self.index.shape[-1])[part]
        within = unpack(packed, self.bits, self.row_length, False).to(torch.int64)
        return within + self._groups(within) * self.group

    def _groups(self, columns: Tensor) -> Tensor:
        whole = self.shape[-1] // self.group
        slots = torch.arange(self.row_length, device=columns.device)
        return (slots // self.kept).clamp(max=whole)


@dataclass(frozen=True, eq=False)
class BlockIndex:
    """Hold which blocks a block mask keeps, as block-sparse rows.

    `columns` [B] int32 ascending in every row of blocks, `offsets` [rows of blocks + 1] int32. Rows of blocks
    are all axes of the grid but the last, flattened. `shape` is that of the whole tensor.

    Raises:
        ShapeError: offsets of another shape.
    """

    columns: Tensor
    offsets: Tensor
    block: Block
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        wanted = (row_count(self.grid) + 1,)
        if tuple(self.offsets.shape) != wanted or self.columns.ndim != 1:
            raise ShapeError(f"the offsets of block rows have shape {tuple(self.offsets.shape)}, not {wanted}")

    @property
    def grid(self) -> tuple[int, ...]:
        """Count the blocks along every axis."""
        return block_grid(self.block, self.shape)

    @property
    def extents(self) -> tuple[int, ...]:
        """Give the size of a whole block along every axis."""
        return block_extents(self.block, self.shape)

    def kept(self) -> Tensor:
        """Give which blocks are kept: bool, of the grid's shape."""
        kept = torch.zeros((row_count(self.grid), self.grid[-1]), dtype=torch.bool, device=self.columns.device)
        rows = torch.arange(kept.shape[0], device=kept.device).repeat_interleave(self.offsets.diff())
        kept[rows, self.columns.to(torch.int64)] = True
        return kept.reshape(self.grid)

    def mask(self) -> Tensor:
        """Give the mask: bool of the whole shape."""
        return spread_blocks(self.kept(), self.block, self.shape).expand(self.shape).contiguous()

    def compact(self, codes: Tensor) -> Tensor:
        """Give the kept blocks of `codes` (of the whole shape, any dtype): [B, *extents].

        Where a short block at an end of the tensor has no elements, its copy is 0.

        Raises:
            ShapeError: codes of another shape.
        """
        plain = _plain_bytes(_of_shape(codes, self.shape))
        missing = [-size % extent for size, extent in zip(self.shape, self.extents, strict=True)]
        if any(missing):
            plain = functional.pad(plain, [amount for axis in reversed(missing) for amount in (0, axis)])
        return self._blocked(plain)[self.kept()].view(codes.dtype)

    def expand(self, values: Tensor, fill: float = 0) -> Tensor:
        """Undo `compact`: give a tensor of the whole shape, `fill` in the blocks that are not kept.

        Raises:
            ShapeError: values of another shape.
        """
        values = _of_shape(values, (self.columns.numel(), *self.extents))
        whole = tuple(count * extent for count, extent in zip(self.grid, self.extents, strict=True))
        out = _plain_bytes(_filled(whole, fill, values))
        self._blocked(out)[self.kept()] = _plain_bytes(values)
        return out.view(values.dtype)[tuple(slice(size) for size in self.shape)].contiguous()

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the stored positions, as a damaged file may have them."""
        bad = [
            *offset_problems(self.offsets, self.columns.numel(), "offsets"),
            *index_problems(self.columns, self.grid[-1], "block columns"),
        ]
        yield from bad
        if not bad:
            found = self.kept().reshape(-1, self.grid[-1]).nonzero()[:, 1]
            if found.numel() != self.columns.numel() or not torch.equal(found, self.columns.to(torch.int64)):
                yield "block columns do not ascend in every row"

    def _blocked(self, padded: Tensor) -> Tensor:
        """View a tensor of whole blocks as [*grid, *extents]; writing to it writes to the tensor."""
        pairs = [size for pair in zip(self.grid, self.extents, strict=True) for size in pair]
        axes = len(self.shape)
        return padded.view(pairs).permute([*range(0, 2 * axes, 2), *range(1, 2 * axes, 2)])


MaskIndex = NMIndex | BlockIndex


def nm_index(mask: Tensor, side: NMMask, where: str = "") -> NMIndex:
    """Store a mask made by `nm_mask`.

    Raises:
        UnsupportedOp: groups of more than 256 elements.
        ShapeError: a group that does not keep as many as the type says.
    """
    rows, bits = rows_of(mask, where), nm_index_bits(side.group)
    length = nm_row_length(side.kept, side.group, mask.shape[-1])
    within = (torch.arange(mask.shape[-1], device=mask.device) % side.group).to(torch.uint8)
    groups = -(-mask.shape[-1] // side.group)
    wanted = torch.full((groups,), side.kept, device=mask.device)
    wanted[-1] = length - side.kept * (groups - 1)
    index = torch.empty((rows.shape[0], packed_bytes(length, bits)), dtype=torch.uint8, device=mask.device)
    wrong = 0
    for part in chunks(*rows.shape):
        sizes = reduce_blocks(rows[part].to(torch.uint8), (1, side.group), _int_total)
        wrong += int((sizes != wanted).sum())
        if not wrong:
            positions = within.expand(sizes.shape[0], -1).masked_select(rows[part])
            index[part] = pack(positions.reshape(-1, length), bits)
    if wrong:
        name = where or f"a tensor of shape {tuple(mask.shape)}"
        what = f"{wrong} groups of {name} do not keep {side.kept} of {side.group}"
        raise ShapeError(what, fix="make the mask by nm_mask")
    return NMIndex(index.reshape(*mask.shape[:-1], -1), side.kept, side.group, tuple(mask.shape))


def block_index(kept: Tensor, side: BlockMask, shape: tuple[int, ...]) -> BlockIndex:
    """Store a grid of kept blocks made by `block_mask` from a tensor of `shape`.

    Raises:
        ShapeError: a grid of another shape.
    """
    rows = _of_shape(kept, block_grid(side.block, shape)).reshape(-1, kept.shape[-1])
    counts = rows.sum(-1)
    offsets = torch.cat((counts.new_zeros(1), counts.cumsum(0))).to(torch.int32)
    return BlockIndex(rows.nonzero()[:, 1].to(torch.int32), offsets, side.block, shape)


def nm_row_length(kept: int, group: int, columns: int) -> int:
    """Count the elements that a row of `columns` keeps."""
    groups, rest = divmod(columns, group)
    return groups * kept + min(rest, kept)


def nm_index_bits(group: int) -> int:
    """Give the width of a position within a group.

    Raises:
        UnsupportedOp: more than 256 positions.
    """
    if group > _LARGEST_GROUP:
        raise UnsupportedOp(
            f"positions in groups of {group} elements cannot be stored", fix="use groups of at most 256"
        )
    return (group - 1).bit_length()


def _int_total(values: Tensor, axes: list[int]) -> Tensor:
    return torch.sum(values, dim=axes, dtype=torch.int32)


def _of_shape(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tuple(values.shape) != shape:
        raise ShapeError(f"a mask that needs a tensor of shape {shape} does not fit one of shape {tuple(values.shape)}")
    return values.contiguous()


def _plain_bytes(values: Tensor) -> Tensor:
    """View 8-bit floats as bytes: torch moves them about only as such."""
    return values.view(torch.uint8) if values.dtype in BYTE_FLOATS else values


def _filled(shape: tuple[int, ...], fill: float, like: Tensor) -> Tensor:
    value = _plain_bytes(torch.tensor(fill).to(like.dtype)).item()
    return torch.full(shape, value, dtype=_plain_bytes(like).dtype, device=like.device).view(like.dtype)

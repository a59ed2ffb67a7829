"""Set outliers aside: a share of the elements or of the columns, kept at a higher precision.

SpQR (arXiv 2306.03078) keeps single elements in compressed rows, LLM.int8 (arXiv 2208.07339) whole columns.
The dense part is 0 where an outlier was, so that the scales of its codes never see it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from qcc.errors import Problem, ShapeError
from qcc.numerics.qtype_bits import whole_share
from qcc.numerics.qtype_parts import Sparse
from qcc.numerics.selection import largest_mask
from qcc.numerics.side_values import (
    accumulator,
    chunks,
    index_problems,
    offset_problems,
    require_finite,
    require_score,
    row_count,
    rows_of,
    store_values,
)

_LARGEST_I32 = 2**31 - 1


@dataclass(frozen=True, eq=False)
class CompressedRows:
    """Hold scattered values by rows: row r has `values[offsets[r]:offsets[r + 1]]`.

    `values` [Z] in the stored dtype, `columns` [Z] int32 ascending in every row, `offsets` [rows + 1] int32
    (int64 above 2^31 - 1 values); `shape` is that of the whole tensor.

    Raises:
        ShapeError: tensors whose sizes do not fit together.
    """

    values: Tensor
    columns: Tensor
    offsets: Tensor
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        wanted = {"columns": (self.columns, (self.values.numel(),)), "offsets": (self.offsets, _offsets(self.shape))}
        _require_shapes("compressed rows", self.values.ndim == 1, wanted)

    def to_dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Give the tensor that is 0 wherever no value is stored."""
        return self.add_to(torch.zeros(self.shape, dtype=dtype, device=self.values.device))

    def add_to(self, x: Tensor) -> Tensor:
        """Give `x` plus the stored values, each sum rounded once to the dtype of `x`.

        Raises:
            ShapeError: `x` of another shape.
        """
        out = _copy(x, self.shape)
        for part in chunks(self.values.numel()):
            slots = torch.arange(part.start, part.stop, device=self.offsets.device)
            rows = torch.bucketize(slots, self.offsets[1:].to(torch.int64), right=True)
            _add_at(out, rows * self.shape[-1] + self.columns[part], self.values[part])
        return out

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the stored positions, as a damaged file may have them."""
        bad = [
            *offset_problems(self.offsets, self.values.numel(), "offsets"),
            *index_problems(self.columns, self.shape[-1], "columns"),
        ]
        yield from bad
        if not bad and self.values.numel() > 1:
            starts = torch.zeros(self.values.numel() + 1, dtype=torch.bool, device=self.offsets.device)
            starts[self.offsets.to(torch.int64)] = True
            if bool(((self.columns.diff() <= 0) & ~starts[1:-1]).any()):
                yield "columns do not ascend in every row"


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Hold scattered values in row-major order, each with its row and column.

    `values` [Z] in the stored dtype, `rows` and `columns` [Z] int32; `shape` is that of the whole tensor.

    Raises:
        ShapeError: tensors whose sizes do not fit together.
    """

    values: Tensor
    rows: Tensor
    columns: Tensor
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        size = (self.values.numel(),)
        wanted = {"rows": (self.rows, size), "columns": (self.columns, size)}
        _require_shapes("coordinates", self.values.ndim == 1, wanted)

    def to_dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Give the tensor that is 0 wherever no value is stored."""
        return self.add_to(torch.zeros(self.shape, dtype=dtype, device=self.values.device))

    def add_to(self, x: Tensor) -> Tensor:
        """Give `x` plus the stored values, each sum rounded once to the dtype of `x`.

        Raises:
            ShapeError: `x` of another shape.
        """
        out = _copy(x, self.shape)
        for part in chunks(self.values.numel()):
            _add_at(out, self._positions(part), self.values[part])
        return out

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the stored positions, as a damaged file may have them."""
        bad = [
            *index_problems(self.rows, row_count(self.shape), "rows"),
            *index_problems(self.columns, self.shape[-1], "columns"),
        ]
        yield from bad
        if not bad and bool((self._positions(slice(None)).diff() <= 0).any()):
            yield "positions do not ascend"

    def _positions(self, part: slice) -> Tensor:
        return self.rows[part].to(torch.int64) * self.shape[-1] + self.columns[part]


@dataclass(frozen=True, eq=False)
class DenseColumns:
    """Hold whole columns: `values` [rows, C] in the stored dtype, `columns` [C] int32 ascending.

    Raises:
        ShapeError: tensors whose sizes do not fit together.
    """

    values: Tensor
    columns: Tensor
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        held = {"values": (self.values, (row_count(self.shape), self.columns.numel()))}
        _require_shapes("dense columns", self.columns.ndim == 1, held)

    def to_dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Give the tensor that is 0 in all other columns."""
        return self.add_to(torch.zeros(self.shape, dtype=dtype, device=self.values.device))

    def add_to(self, x: Tensor) -> Tensor:
        """Give `x` plus the stored columns, each sum rounded once to the dtype of `x`.

        Raises:
            ShapeError: `x` of another shape.
        """
        out = _copy(x, self.shape)
        rows, columns = out.view(-1, self.shape[-1]), self.columns.to(torch.int64)
        real = accumulator(x.dtype)
        for part in chunks(rows.shape[0], columns.numel()):
            total = rows[part][:, columns].to(real) + self.values[part].to(real)
            rows[part, columns] = total.to(x.dtype)
        return out

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the stored positions, as a damaged file may have them."""
        yield from index_problems(self.columns, self.shape[-1], "columns")
        if bool((self.columns.diff() <= 0).any()):
            yield "columns do not ascend"


SparseTensor = CompressedRows | Coordinates | DenseColumns


def split_outliers(
    x: Tensor, side: Sparse, score: Tensor | None = None, where: str = ""
) -> tuple[Tensor, SparseTensor]:
    """Move the outliers of `x` [..., K] into a sparse tensor; gives the rest, 0 where they were, and them.

    `csr` and `coo` take round(fraction·elements) elements of the largest magnitude, or of the largest
    `score` [..., K]. `columns` takes round(fraction·K) columns whose largest magnitude (or score, which may
    also be one a column, [K]) is largest. Ties go to the lowest index. Values are rounded to the stored
    dtype; what rounding loses is lost.

    Raises:
        UnsupportedOp: a stored dtype that needs a scale or has no sign.
        ShapeError: no elements, values that are not finite, outliers that overflow their dtype, a score of
            another shape or with NaN.
    """
    rows = rows_of(x, where)
    require_finite(x, "values", where)
    shape = tuple(x.shape)
    if side.kind == "columns":
        return _split_columns(x, rows, side, score, where)
    if score is not None:
        require_score(score, (shape,), where)
    count = whole_share(side.fraction, x.numel())
    chosen = largest_mask(rows, count, magnitude=True) if score is None else largest_mask(score, count)
    chosen = chosen.reshape(rows.shape)
    values, columns, counts = _gather(rows, chosen)
    values = store_values(values, side.dtype, "outliers", where)
    rest = x.masked_fill(chosen.reshape(shape), 0)
    if side.kind == "coo":
        numbers = torch.arange(rows.shape[0], dtype=torch.int32, device=x.device)
        return rest, Coordinates(values, numbers.repeat_interleave(counts), columns, shape)
    width = torch.int32 if count <= _LARGEST_I32 else torch.int64
    offsets = torch.cat((counts.new_zeros(1), counts.cumsum(0))).to(width)
    return rest, CompressedRows(values, columns, offsets, shape)


def _gather(rows: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give the chosen values row by row, their columns, and how many every row has.

    By chunks: on a whole matrix each of these steps makes a copy in int64.
    """
    parts = list(chunks(*rows.shape))
    counts = torch.empty(rows.shape[0], dtype=torch.int64, device=rows.device)
    for part in parts:
        counts[part] = chosen[part].sum(-1)
    values = rows.new_empty(int(counts.sum()))
    columns = torch.empty(values.shape, dtype=torch.int32, device=rows.device)
    start = 0
    for part in parts:
        stop = start + int(counts[part].sum())
        values[start:stop] = rows[part].masked_select(chosen[part])
        columns[start:stop] = chosen[part].nonzero()[:, 1]
        start = stop
    return values, columns, counts


def _split_columns(
    x: Tensor, rows: Tensor, side: Sparse, score: Tensor | None, where: str
) -> tuple[Tensor, DenseColumns]:
    if score is None:
        peaks = torch.maximum(rows.amax(0), -rows.amin(0))
    else:
        require_score(score, (tuple(x.shape), (x.shape[-1],)), where)
        peaks = score.reshape(-1, x.shape[-1]).amax(0)
    chosen = largest_mask(peaks, whole_share(side.fraction, x.shape[-1]))
    columns = chosen.nonzero()[:, 0]
    values = store_values(rows[:, columns], side.dtype, "outliers", where)
    return x.masked_fill(chosen, 0), DenseColumns(values, columns.to(torch.int32), tuple(x.shape))


def _add_at(out: Tensor, positions: Tensor, values: Tensor) -> None:
    """Add in place at positions of the flattened tensor, each of which occurs once."""
    flat, real = out.view(-1), accumulator(out.dtype)
    flat[positions] = (flat[positions].to(real) + values.to(real)).to(out.dtype)


def _copy(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tuple(x.shape) != shape:
        raise ShapeError(f"outliers of a tensor of shape {shape} do not fit one of shape {tuple(x.shape)}")
    return x.clone(memory_format=torch.contiguous_format)


def _offsets(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (row_count(shape) + 1,)


def _require_shapes(what: str, flat: bool, wanted: dict[str, tuple[Tensor, tuple[int, ...]]]) -> None:
    found = [
        Problem(name, f"has shape {tuple(tensor.shape)}, not {shape}")
        for name, (tensor, shape) in wanted.items()
        if tuple(tensor.shape) != shape
    ]
    if found or not flat:
        raise ShapeError(f"these tensors are no {what}", found, fix="give one position for every value")

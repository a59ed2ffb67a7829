"""Check, round and walk the plain tensors that side tensors are made of.

A tensor `[..., K]` of any rank is a matrix of rows here: everything in front of K is one axis.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from qcc.errors import Problem, ShapeError, UnsupportedOp

SIDE_DTYPES: dict[str, torch.dtype] = {
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "e4m3": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
}
"""The torch dtype of every dtype that holds signed values without a scale."""

BYTE_FLOATS = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)

# The largest number that rounds to 448. Beyond it some versions of torch saturate and some give NaN.
_E4M3_REACH = 464.0

# Temporaries of one step stay near 4 MiB of float32, whatever the size of the matrix.
CHUNK = 1 << 20


def rows_of(x: Tensor, where: str = "") -> Tensor:
    """View `[..., K]` as `[rows, K]`.

    Raises:
        ShapeError: a tensor without axes or without elements.
    """
    if x.ndim == 0 or x.numel() == 0:
        raise ShapeError(f"{where or 'a tensor'} of shape {tuple(x.shape)} has no elements to set aside")
    return x.reshape(-1, x.shape[-1])


def row_count(shape: tuple[int, ...]) -> int:
    """Count the rows of a tensor of `shape`."""
    return math.prod(shape[:-1])


def chunks(count: int, width: int = 1) -> Iterator[slice]:
    """Cut `count` rows of `width` elements into slices of at most `CHUNK` elements, one row at least."""
    step = max(1, CHUNK // max(1, width))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def accumulator(*dtypes: torch.dtype) -> torch.dtype:
    """Give the dtype to compute in: float64 if any of `dtypes` is, else float32."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


def require_finite(x: Tensor, what: str, where: str = "") -> None:
    """Raise if `x` holds NaN or infinity.

    Raises:
        ShapeError: naming the tensor, how many of its values are bad and where the first one is.
    """
    rows, bad, first = rows_of(x, where), 0, (0,)
    for part in chunks(*rows.shape):
        wrong = ~torch.isfinite(rows[part])
        if bool(wrong.any()):
            if not bad:
                row, column = (int(index) for index in wrong.nonzero()[0])
                flat = (part.start + row) * rows.shape[1] + column
                first = tuple(int(index) for index in torch.unravel_index(torch.tensor(flat), x.shape))
            bad += int(wrong.sum())
    if bad:
        problem = f"{bad} of {x.numel()} {what} are not finite; the first, {x[first].item()}, is at {first}"
        raise ShapeError(
            "cannot set parts of a tensor aside that is not finite",
            [Problem(where or f"a tensor of shape {tuple(x.shape)}", problem)],
            fix="repair the checkpoint, or leave this tensor in float",
        )


def require_score(score: Tensor, shapes: tuple[tuple[int, ...], ...], where: str = "") -> None:
    """Raise unless `score` has one of `shapes` and no NaN; infinities order well.

    Raises:
        ShapeError: naming the tensor.
    """
    name = f"the score of {where or 'a tensor'}"
    if tuple(score.shape) not in shapes:
        raise ShapeError(f"{name} has shape {tuple(score.shape)}, not {' or '.join(map(str, shapes))}")
    missing = sum(int(score.reshape(-1)[part].isnan().sum()) for part in chunks(score.numel()))
    if missing:
        raise ShapeError(
            f"{name} is NaN for {missing} of {score.numel()} values", fix="recompute the score on finite statistics"
        )


def side_dtype(name: str, what: str, where: str = "") -> torch.dtype:
    """Give the torch dtype that values of a side tensor are stored in.

    Raises:
        UnsupportedOp: a dtype that needs a scale, or has no sign.
    """
    if name not in SIDE_DTYPES:
        raise UnsupportedOp(
            f"{what} of {where or 'a tensor'} cannot be stored in {name}, which lacks a sign or a scale",
            fix=f"store them in {', '.join(SIDE_DTYPES)}",
        )
    return SIDE_DTYPES[name]


def store_values(values: Tensor, name: str, what: str, where: str = "") -> Tensor:
    """Round to nearest even in the stored dtype `name`; 8-bit floats are reached from float32.

    Raises:
        UnsupportedOp: see `side_dtype`.
        ShapeError: finite values that overflow, with their number and the largest of them.
    """
    stored = values.to(side_dtype(name, what, where))
    flat, lost = stored.reshape(-1), 0
    for part in chunks(flat.numel()):
        bad = ~torch.isfinite(flat[part].to(torch.float32))
        if name == "e4m3":
            bad |= values.reshape(-1)[part].abs() > _E4M3_REACH
        lost += int(bad.sum())
    if lost:
        peak = float(values.abs().max())
        raise ShapeError(
            f"{lost} of {values.numel()} {what} of {where or 'a tensor'} overflow {name}: the largest is {peak:g}",
            fix="store them in bf16 or f32",
        )
    return stored


def narrow_index(index: Tensor, size: int) -> Tensor:
    """Give indices along an axis of `size` as they are stored: 16 bits up to 65536 positions, else 32."""
    return index.to(torch.uint16 if size <= 2**16 else torch.int32)


def index_problems(index: Tensor, size: int, name: str) -> Iterator[str]:
    """Yield what is wrong with positions along an axis of `size`."""
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < size:
        yield f"{name} from {int(index.min())} to {int(index.max())} are outside 0..{size - 1}"


def offset_problems(offsets: Tensor, count: int, name: str) -> Iterator[str]:
    """Yield what is wrong with offsets into `count` values."""
    if int(offsets[0]) != 0 or int(offsets[-1]) != count or bool((offsets.diff() < 0).any()):
        yield f"{name} do not rise from 0 to {count}"

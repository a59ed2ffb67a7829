"""Reorder, group, repeat and pad the channels of the reduction axis K, which is the last one.

What is done to the columns of a weight is done to the columns of its input, and a product of the two stays
what it was.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from qcc.errors import Problem, ShapeError
from qcc.numerics.qtype_parts import Expansion
from qcc.numerics.side_values import accumulator, index_problems, require_finite


@dataclass(frozen=True, eq=False)
class KAxisIndex:
    """Hold what was done to K: stored column i is column `order[i]`, and belongs to group `group_index[i]`.

    Both are int32 [K], or None where the type has none.
    """

    order: Tensor | None = None
    group_index: Tensor | None = None

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the stored positions, as a damaged file may have them."""
        if self.order is not None:
            yield from _permutation_problems(self.order, self.order.numel())
        if self.group_index is not None:
            yield from index_problems(self.group_index, self.group_index.numel(), "group numbers")


def require_permutation(order: Tensor, size: int, where: str = "") -> None:
    """Raise unless `order` [size] holds every channel 0..size - 1 once.

    Raises:
        ShapeError: saying what is wrong with it.
    """
    found = [Problem(where, what) for what in _permutation_problems(order, size)]
    if found:
        raise ShapeError(f"an order is no permutation of {size} channels", found)


def inverse_permutation(order: Tensor) -> Tensor:
    """Give the order that undoes `order`: `x[order][inverse]` is x. The result has the dtype of `order`.

    Raises:
        ShapeError: no permutation.
    """
    require_permutation(order, order.numel())
    inverse = torch.empty_like(order)
    inverse[order.to(torch.int64)] = torch.arange(order.numel(), dtype=order.dtype, device=order.device)
    return inverse


def permute_columns(x: Tensor, order: Tensor) -> Tensor:
    """Reorder the columns of `x` [..., K]: `result[..., i] = x[..., order[i]]`.

    Raises:
        ShapeError: an order that is no permutation of K channels.
    """
    require_permutation(order, x.shape[-1])
    return x.index_select(-1, order.to(torch.int64))


def group_order(group_index: Tensor, group: int, where: str = "") -> Tensor:
    """Give the order of columns that makes groups neighbours: `group_index[order] == arange(K) // group`.

    `group_index` [K] is the group of every column (g_idx of GPTQ, arXiv 2210.17323, with activation order).
    Columns of one group keep their order. The result is int64.

    Raises:
        ShapeError: a group that does not have `group` columns; only the last may have fewer.
    """
    count = group_index.numel()
    order = group_index.argsort(stable=True)
    wanted = torch.arange(count, device=group_index.device) // group
    if not torch.equal(group_index.to(torch.int64)[order], wanted):
        name = where or f"{count} columns"
        raise ShapeError(f"the groups of {name} do not have {group} columns each", fix="decode with one scale a column")
    return order


def group_index_of(order: Tensor, group: int) -> Tensor:
    """Give the group of every column when groups of `group` were formed in `order`; undoes `group_order`.

    The result is int32 [K].

    Raises:
        ShapeError: no permutation.
    """
    return (inverse_permutation(order) // group).to(torch.int32)


def expand_columns(x: Tensor, source: Tensor, mode: Expansion, approximation: Tensor | None = None) -> Tensor:
    """Repeat columns of `x` [..., K] by their numbers in `source`.

    `dup` gives `x[..., source]`; `split` divides it by how often a column occurs in the source, so that copies
    of one operand and duplicates of the other have the old product (dimension reconstruction of MergeQuant,
    arXiv 2503.07654) if every column occurs; `residual` joins x with `(x - approximation)[..., source]`
    (ARCQuant), whose other operand is `dup` with `residual_source`. `none` gives x.

    Computed in float64 for float64, else in float32 and rounded once to the dtype of `x`.

    Raises:
        ShapeError: columns outside K, or a residual without an approximation of the same shape.
    """
    if mode == "none":
        return x
    found = [Problem("", what) for what in index_problems(source, x.shape[-1], "columns")]
    if found:
        raise ShapeError(f"cannot expand a tensor of shape {tuple(x.shape)}", found)
    picked = source.to(torch.int64)
    if mode == "dup":
        return x.index_select(-1, picked)
    real = accumulator(x.dtype)
    if mode == "split":
        copies = torch.bincount(picked, minlength=x.shape[-1])[picked]
        return (x.index_select(-1, picked).to(real) / copies.to(real)).to(x.dtype)
    if approximation is None or approximation.shape != x.shape:
        raise ShapeError("a residual expansion needs the approximation that it is the residual of, in the same shape")
    residual = x.index_select(-1, picked).to(real) - approximation.index_select(-1, picked).to(real)
    return torch.cat((x, residual.to(x.dtype)), -1)


def residual_source(source: Tensor, columns: int) -> Tensor:
    """Give the source that duplicates the other operand of a residual expansion: all columns, then `source`."""
    whole = torch.arange(columns, dtype=source.dtype, device=source.device)
    return torch.cat((whole, source))


def split_sources(amax: Tensor, count: int) -> Tensor:
    """Choose which channels to split, given the largest magnitude [K] of each: int64 [K + count].

    One copy at a time goes to the channel of the largest amax / copies, which leaves the smallest largest value
    that `count` more columns can give; ties go to the lowest channel. All channels come first, then copies in
    the order they were chosen.

    Raises:
        ShapeError: magnitudes that are negative or not finite, no channels, or a negative count.
    """
    require_finite(amax, "magnitudes")
    if amax.ndim != 1 or count < 0 or float(amax.min()) < 0:
        raise ShapeError(
            f"cannot split {count} of channels with magnitudes of shape {tuple(amax.shape)}",
            fix="give one magnitude of 0 or more for each channel, and a count of 0 or more",
        )
    peaks: list[float] = amax.to(torch.float64).tolist()
    heap = [(-peak, channel, 1) for channel, peak in enumerate(peaks)]
    heapq.heapify(heap)
    chosen: list[int] = []
    for _ in range(count):
        _, channel, copies = heap[0]
        chosen.append(channel)
        heapq.heapreplace(heap, (-peaks[channel] / (copies + 1), channel, copies + 1))
    extra = torch.tensor(chosen, dtype=torch.int64, device=amax.device)
    return torch.cat((torch.arange(len(peaks), device=amax.device), extra))


def pad_columns(x: Tensor, multiple: int) -> tuple[Tensor, int]:
    """Append columns of zeros up to a multiple; gives the tensor and how many were added, for the caller to say.

    Raises:
        ShapeError: a multiple below 1.
    """
    if multiple < 1:
        raise ShapeError(f"cannot pad columns to a multiple of {multiple}")
    added = -x.shape[-1] % multiple
    return (functional.pad(x, (0, added)) if added else x), added


def _permutation_problems(order: Tensor, size: int) -> Iterator[str]:
    if tuple(order.shape) != (size,):
        yield f"the order has shape {tuple(order.shape)}, not ({size},)"
        return
    seen = torch.zeros(size, dtype=torch.bool, device=order.device)
    bad = list(index_problems(order, size, "channels of the order"))
    yield from bad
    if not bad:
        seen[order.to(torch.int64)] = True
        if missing := size - int(seen.sum()):
            yield f"{missing} of {size} channels are missing from the order"

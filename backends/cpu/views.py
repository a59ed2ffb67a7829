"""Values as strided views of buffers: transposes, expansions, slices and most reshapes cost nothing.

A view is a buffer, an offset and one stride per axis, all counted in elements and all symbolic. A stride of 0
repeats an element. What a reshape cannot express as strides is reported as None, and the caller copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from qcc.ir.dims import Dim, Shape, product
from qcc.numerics.elements import ELEMENT_BYTES

ONE = Dim.of(1)
ZERO = Dim.of(0)

BufferKind = Literal["input", "output", "weight", "state", "temp", "constant"]


@dataclass(frozen=True)
class Buffer:
    """A piece of memory: `index` counts inputs, outputs and temporaries, `key` names weights, states and constants."""

    kind: BufferKind
    index: int = 0
    key: str = ""


@dataclass(frozen=True)
class View:
    """Elements of a buffer: element (i, j, ...) is at `offset + i * strides[0] + j * strides[1] + ...`."""

    buffer: Buffer
    scalar: str
    shape: Shape
    strides: Shape
    offset: Dim = ZERO

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def elements(self) -> Dim:
        """Number of elements."""
        return product(self.shape)

    @property
    def element_bytes(self) -> int:
        """Bytes of one element."""
        return ELEMENT_BYTES[self.scalar]

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements lie one after another in row-major order."""
        dense = contiguous_strides(self.shape)
        return all(
            size == ONE or stride == wanted
            for size, stride, wanted in zip(self.shape, self.strides, dense, strict=True)
        )

    @property
    def unit_last(self) -> bool:
        """Whether elements along the last axis lie side by side."""
        return not self.rank or self.shape[-1] == ONE or self.strides[-1] == ONE

    def permute(self, axes: Sequence[int]) -> View:
        """Return the view whose axis i is axis `axes[i]` of this one."""
        return replace(self, shape=tuple(self.shape[a] for a in axes), strides=tuple(self.strides[a] for a in axes))

    def expand(self, shape: Shape) -> View:
        """Return the view broadcast to `shape` by numpy's rules."""
        lead = len(shape) - self.rank
        strides = [ZERO] * lead
        for size, stride, wide in zip(self.shape, self.strides, shape[lead:], strict=True):
            strides.append(ZERO if size == ONE and wide != ONE else stride)
        return replace(self, shape=shape, strides=tuple(strides))

    def slice(self, axis: int, start: Dim, size: Dim, step: int = 1) -> View:
        """Return elements `start + step * i` along an axis."""
        shape, strides = list(self.shape), list(self.strides)
        offset = self.offset + start * strides[axis]
        shape[axis], strides[axis] = size, strides[axis] * step
        return replace(self, shape=tuple(shape), strides=tuple(strides), offset=offset)

    def drop(self, axis: int) -> View:
        """Return the view at index 0 of an axis, without that axis."""
        keep = [a for a in range(self.rank) if a != axis]
        return self.permute(keep)

    def reshape(self, shape: Shape) -> View | None:
        """Return the view with another shape, or None where that needs a copy."""
        if self.is_contiguous:
            return replace(self, shape=shape, strides=contiguous_strides(shape))
        strides = _reshaped_strides(self, shape)
        return None if strides is None else replace(self, shape=shape, strides=strides)


def contiguous_strides(shape: Shape) -> Shape:
    """Return the row-major strides of a shape."""
    strides: list[Dim] = []
    step = ONE
    for size in reversed(shape):
        strides.append(step)
        step = step * size
    return tuple(reversed(strides))


def dense(buffer: Buffer, scalar: str, shape: Shape) -> View:
    """Return the row-major view of a whole buffer."""
    return View(buffer, scalar, shape, contiguous_strides(shape))


@dataclass(frozen=True)
class Rows:
    """A view as rows: row i starts at element `i * stride`, its `length` elements lie side by side."""

    view: View
    count: Dim
    length: Dim
    stride: Dim


def as_rows(view: View, length_axes: int = 1) -> Rows | None:
    """Return the view as rows of its last `length_axes` axes, or None where that needs a copy."""
    split = view.rank - length_axes
    length = product(view.shape[split:])
    tail = _merge(view.shape[split:], view.strides[split:])
    lead = _merge(view.shape[:split], view.strides[:split])
    if tail is None or lead is None or (length != ONE and tail != ONE):
        return None
    count = product(view.shape[:split])
    return Rows(view, count, length, length if count == ONE else lead)


def _merge(shape: Shape, strides: Shape) -> Dim | None:
    """Return the stride of the one axis that a run of axes amounts to, or None if they do not merge."""
    axes = [(size, stride) for size, stride in zip(shape, strides, strict=True) if size != ONE]
    if not axes:
        return ONE
    for (_, outer), (size, inner) in pairwise(axes):
        if outer != size * inner:
            return None
    return axes[-1][1]


def _reshaped_strides(view: View, shape: Shape) -> Shape | None:
    """Match runs of old axes with runs of new axes of the same number of elements; each run must merge."""
    old = [axis for axis, size in enumerate(view.shape) if size != ONE]
    new = [axis for axis, size in enumerate(shape) if size != ONE]
    strides = [ZERO] * len(shape)
    i = j = 0
    while i < len(old) or j < len(new):
        run = _matching_run([view.shape[a] for a in old[i:]], [shape[a] for a in new[j:]])
        if run is None:
            return None
        olds, news = old[i : i + run[0]], new[j : j + run[1]]
        step = _merge(tuple(view.shape[a] for a in olds), tuple(view.strides[a] for a in olds))
        if step is None:
            return None
        for axis in reversed(news):
            strides[axis] = step
            step = step * shape[axis]
        i, j = i + run[0], j + run[1]
    return tuple(strides)


def _matching_run(old: Sequence[Dim], new: Sequence[Dim]) -> tuple[int, int] | None:
    """Return the shortest leading runs of both lists with equal products."""
    left = ONE
    for i, size in enumerate(old):
        left = left * size
        right = ONE
        for j, other in enumerate(new):
            right = right * other
            if left == right:
                return i + 1, j + 1
    return None


def collapse(views: Sequence[View]) -> list[View]:
    """Merge neighbouring axes of views of one shape wherever all of them merge, and drop axes of size 1."""
    shape = views[0].shape
    keep = [axis for axis in range(len(shape)) if shape[axis] != ONE]
    groups: list[list[int]] = []
    for axis in keep:
        if groups and all(v.strides[groups[-1][-1]] == shape[axis] * v.strides[axis] for v in views):
            groups[-1].append(axis)
        else:
            groups.append([axis])
    sizes = tuple(product(shape[a] for a in group) for group in groups)
    return [replace(v, shape=sizes, strides=tuple(v.strides[group[-1]] for group in groups)) for v in views]

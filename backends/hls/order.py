"""The order in which the elements of a tensor travel through a stream.

An order is a nest of loops, outermost first, each with an extent and a stride over the row-major index of the tensor.
Images travel with their channels innermost, so a transposition is mostly a change of this description and moves
nothing; a reshape changes nothing at all, for row-major indices stay what they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np


@dataclass(frozen=True)
class Loop:
    """`extent` steps over the row-major index, `stride` apart."""

    extent: int
    stride: int


@dataclass(frozen=True)
class Order:
    """Loops that visit every element of a tensor once, outermost first; loops of one step are left out."""

    loops: tuple[Loop, ...]

    @staticmethod
    def of(loops: Sequence[Loop]) -> Order:
        """Make an order, leaving out loops of one step and joining loops that are one."""
        kept: list[Loop] = []
        for loop in loops:
            if loop.extent == 1:
                continue
            if kept and kept[-1].stride == loop.extent * loop.stride:
                kept[-1] = Loop(kept[-1].extent * loop.extent, loop.stride)
            else:
                kept.append(loop)
        return Order(tuple(kept))

    @property
    def count(self) -> int:
        """Number of elements."""
        return prod(loop.extent for loop in self.loops)

    @property
    def is_row_major(self) -> bool:
        """Whether elements travel in row-major order."""
        return not self.loops or (len(self.loops) == 1 and self.loops[0].stride == 1)

    def indices(self) -> np.ndarray:
        """Return the row-major index of every element in the order of travel, int64 [count]."""
        found = np.zeros(1, np.int64)
        for loop in self.loops:
            found = (found[:, None] + np.arange(loop.extent) * loop.stride).ravel()
        return found

    def by_axes(self, shape: Sequence[int]) -> list[tuple[int, Loop]] | None:
        """Cut the loops so that each stays within one axis of `shape`; None where they cannot be cut.

        Returns the axis and the loop, whose stride still counts row-major elements.
        """
        strides = row_major_strides(shape)
        cut: list[tuple[int, Loop]] = []
        for loop in self.loops:
            parts: list[tuple[int, Loop]] = []
            extent, stride = loop.extent, loop.stride
            while extent > 1:
                axis = _axis_of(stride, shape, strides)
                if axis is None:
                    return None
                room = shape[axis] * strides[axis] // stride
                step = min(extent, room)
                if extent % step:
                    return None
                parts.append((axis, Loop(step, stride)))
                extent, stride = extent // step, stride * step
            cut += reversed(parts)
        return cut

    def transposed(self, shape: Sequence[int], axes: Sequence[int]) -> Order | None:
        """Return the order of the transposed tensor (result axis i is axis `axes[i]`) if elements stay in place."""
        cut = self.by_axes(shape)
        if cut is None:
            return None
        before, after = row_major_strides(shape), row_major_strides([shape[axis] for axis in axes])
        place = {axis: new for new, axis in enumerate(axes)}
        return Order.of([Loop(loop.extent, loop.stride // before[a] * after[place[a]]) for a, loop in cut])

    def rows(self, length: int) -> tuple[Order, Order] | None:
        """Split into the order of rows of `length` elements and the order inside a row; None if rows do not stay whole.

        The first order counts rows.
        """
        inner: list[Loop] = []
        left = length
        loops = list(self.loops)
        while left > 1:
            if not loops:
                return None
            loop = loops.pop()
            step = min(loop.extent, left)
            if left % step or loop.extent % step:
                return None
            inner.insert(0, Loop(step, loop.stride))
            left //= step
            if loop.extent > step:
                loops.append(Loop(loop.extent // step, loop.stride * step))
        reach = sum((loop.extent - 1) * loop.stride for loop in inner)
        if reach != length - 1 or any(loop.stride % length for loop in loops):
            return None
        return Order.of([Loop(one.extent, one.stride // length) for one in loops]), Order.of(inner)

    def spread(self, inner: Order, length: int) -> Order:
        """Put an order inside rows of `length` elements behind this order of rows: the inverse of `rows`."""
        return Order.of([*(Loop(one.extent, one.stride * length) for one in self.loops), *inner.loops])


def row_major(count: int) -> Order:
    """Return the row-major order of `count` elements."""
    return Order.of([Loop(count, 1)])


def row_major_strides(shape: Sequence[int]) -> list[int]:
    """Return the row-major stride of every axis."""
    return [prod(shape[axis + 1 :]) for axis in range(len(shape))]


def axes_order(shape: Sequence[int], axes: Sequence[int]) -> Order:
    """Return the order that visits the axes of a tensor in the given nesting, outermost first."""
    strides = row_major_strides(shape)
    return Order.of([Loop(shape[axis], strides[axis]) for axis in axes])


def channels_last(shape: Sequence[int]) -> Order:
    """Return the order of `[B, C, *S]` in which all channels of a position travel together."""
    return axes_order(shape, (0, *range(2, len(shape)), 1))


def _axis_of(stride: int, shape: Sequence[int], strides: Sequence[int]) -> int | None:
    """Return the axis along which a step of `stride` row-major elements moves."""
    for axis, size in enumerate(shape):
        if size > 1 and strides[axis] <= stride < strides[axis] * size:
            return axis if stride % strides[axis] == 0 else None
    return None

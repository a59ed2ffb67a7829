"""Where the channels of one space lie on a value, and how operations that move elements carry them along.

A *space* is a set of N channels that one transform acts on. On a value, its channels lie on some axes; every position
along these axes has an *atom*: `channel + N * copy`, or -1 where the position is no channel of the space. Copies
appear where a model repeats channels, as grouped heads do; a transform acts on every copy alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from xdsl.ir import SSAValue

from qcc.ir.dims import Dim, Shape
from qcc.ir.shape import ConcatOp, ExpandOp, ReshapeOp, SliceOp, TransposeOp
from qcc.ir.types import type_of

Atoms = NDArray[np.int64]
OUTSIDE = -1


class Misplaced(Exception):
    """The channels do not stay whole: the text says why."""


@dataclass(frozen=True, eq=False)
class Place:
    """Channels on a value: `axes` ascend, `atoms` has the sizes of these axes as its shape.

    A `dual` place carries the inverse transpose of the transform: a product of a place and its dual, summed over the
    channels, does not change.
    """

    value: SSAValue
    axes: tuple[int, ...]
    atoms: Atoms
    dual: bool = False

    def on(self, value: SSAValue, axes: tuple[int, ...] | None = None, atoms: Atoms | None = None) -> Place:
        """Return a place on another value, with the same axes and atoms where none are given."""
        return Place(value, self.axes if axes is None else axes, self.atoms if atoms is None else atoms, self.dual)


def whole(value: SSAValue, axes: tuple[int, ...]) -> Place:
    """Number the channels of a value along static axes, in row-major order.

    Raises:
        Misplaced: if an axis depends on a symbol.
    """
    sizes = sizes_of(type_of(value).shape, axes)
    return Place(value, axes, np.arange(math.prod(sizes), dtype=np.int64).reshape(sizes))


def squeezed(place: Place) -> Place:
    """Drop axes of length 1, as far as one axis is left: channels lie in one way on a value, however it was reached."""
    kept = [i for i, length in enumerate(place.atoms.shape) if length != 1] or [len(place.axes) - 1]
    if len(kept) == len(place.axes):
        return place
    atoms = place.atoms.reshape([place.atoms.shape[i] for i in kept])
    return place.on(place.value, tuple(place.axes[i] for i in kept), atoms)


def sizes_of(shape: Shape, axes: Sequence[int]) -> tuple[int, ...]:
    """Return the static sizes of some axes."""
    sizes = [shape[axis].constant for axis in axes]
    if any(size is None for size in sizes):
        raise Misplaced(f"the size of axis {list(axes)} is not fixed")
    return tuple(size for size in sizes if size is not None)


def same(one: Atoms, other: Atoms) -> bool:
    """Say whether two layouts are equal."""
    return one.shape == other.shape and bool(np.array_equal(one, other))


def settle(held: list[Place], new: Place, size: int) -> Place | None:
    """Put a place among those of one value; return what is new to follow, or None if it was known.

    Places on one value are disjoint: queries and keys that lie side by side in one tensor are two places, so that
    each holds every channel of a copy once.

    Raises:
        Misplaced: if a position would be two channels, carry the transform and its inverse, or a channel would lie on
            two positions of one place.
    """
    inside = new.atoms != OUTSIDE
    met: Place | None = None
    for one in held:
        if one.axes != new.axes:
            if one.dual == new.dual and _says_the_same(one, new, size):
                return None
            raise Misplaced("the channels lie on it in two ways")
        shared = inside & (one.atoms != OUTSIDE)
        if not bool(shared.any()):
            continue
        if one.dual != new.dual:
            raise Misplaced("it would carry the transform and its inverse at once")
        if met is not None or bool((one.atoms[shared] != new.atoms[shared]).any()):
            raise Misplaced("two different channels would lie on one position")
        met = one
    if met is not None:
        atoms = np.where(inside, new.atoms, met.atoms)
        if same(atoms, met.atoms):
            return None
        held.remove(met)
        new = new.on(new.value, None, atoms)
    present = new.atoms[new.atoms != OUTSIDE]
    if len(np.unique(present)) < len(present):
        raise Misplaced("one channel would lie on two positions")
    held.append(new)
    return new


def _says_the_same(one: Place, other: Place, size: int) -> bool:
    """Say whether one place is the other with the copies along some axes written out."""
    narrow, wide = sorted((one, other), key=lambda place: len(place.axes))
    if not set(narrow.axes) < set(wide.axes):
        return False
    atoms, axes = narrow.atoms, list(narrow.axes)
    for axis, length in zip(wide.axes, wide.atoms.shape, strict=True):
        if axis not in axes:
            at = sum(held < axis for held in axes)
            atoms = np.moveaxis(copied(atoms, length, size), -1, at)
            axes.insert(at, axis)
    return same(atoms, wide.atoms)


def copied(atoms: Atoms, copies: int, size: int) -> Atoms:
    """Repeat a layout along a new last axis; each repetition is a copy of its own. `size` is that of the space."""
    channel, copy = atoms % size, atoms // size
    copy = copy[..., None] * copies + np.arange(copies, dtype=np.int64)
    return np.where(atoms[..., None] == OUTSIDE, OUTSIDE, channel[..., None] + size * copy)


def transposed(op: TransposeOp, place: Place, *, forward: bool) -> Place:
    """Carry channels through a transpose."""
    position = {axis: index for index, axis in enumerate(op.axes)} if forward else dict(enumerate(op.axes))
    moved = [position[axis] for axis in place.axes]
    order = sorted(range(len(moved)), key=lambda index: moved[index])
    axes = tuple(moved[index] for index in order)
    return place.on(op.result if forward else op.input, axes, place.atoms.transpose(order))


def reshaped(op: ReshapeOp, place: Place, size: int, *, forward: bool) -> Place:
    """Carry channels through a reshape, which may split and join them, but not tear them from their axis.

    Raises:
        Misplaced: if channels are joined with an axis whose size is not fixed.
    """
    source, target = (op.input, op.result) if forward else (op.result, op.input)
    before, after = type_of(source).shape, type_of(target).shape
    atoms, axes = place.atoms, list(place.axes)
    new_axes: list[int] = []
    new_sizes: list[int] = []
    for old, new in _groups(before, after):
        held = [axis for axis in old if axis in axes]
        if not held:
            continue
        for axis in old:
            length = before[axis].constant
            if axis in held or length == 1:
                continue
            if length is None:
                raise Misplaced(f"it joins the channels with axis {axis}, whose size is not fixed")
            at = sum(one < axis for one in axes)
            atoms = np.moveaxis(copied(atoms, length, size), -1, at)
            axes.insert(at, axis)
        new_axes += new
        new_sizes += sizes_of(after, new)
    return place.on(target, tuple(new_axes), atoms.reshape(new_sizes))


def _groups(before: Shape, after: Shape) -> list[tuple[list[int], list[int]]]:
    """Split the axes of two shapes of equal size into runs that hold the same elements."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) and j < len(after):
        old, new, left, right = [i], [j], before[i], after[j]
        while left != right:
            if _is_shorter(left, right) and i + 1 < len(before):
                i += 1
                old.append(i)
                left = left * before[i]
            elif j + 1 < len(after):
                j += 1
                new.append(j)
                right = right * after[j]
            elif i + 1 < len(before):
                i += 1
                old.append(i)
                left = left * before[i]
            else:
                break
        groups.append((old, new))
        i, j = i + 1, j + 1
    if groups:
        groups[-1][0].extend(range(i, len(before)))
        groups[-1][1].extend(range(j, len(after)))
    return groups


def _is_shorter(left: Dim, right: Dim) -> bool:
    """Say whether more axes must join the left run: its product is a part of the right one's."""
    if left.constant is not None and right.constant is not None:
        return left.constant < right.constant
    return right.exact_div(left) is not None if left.terms else False


def expanded(op: ExpandOp, place: Place, *, forward: bool) -> Place:
    """Carry channels through a broadcast; the broadcast axes hold no channels.

    Raises:
        Misplaced: if an axis of channels is broadcast.
    """
    offset = type_of(op.result).rank - type_of(op.input).rank
    short, wide = type_of(op.input).shape, type_of(op.result).shape
    inner = [axis if forward else axis - offset for axis in place.axes]
    if any(axis < 0 or short[axis] != wide[axis + offset] for axis in inner):
        raise Misplaced("it repeats channels")
    axes = tuple(axis + offset for axis in inner) if forward else tuple(inner)
    return place.on(op.result if forward else op.input, axes)


def sliced(op: SliceOp, place: Place, *, forward: bool) -> Place:
    """Carry channels through a slice: a part of them forward, their place among others backward."""
    axis = op.axis.value.data
    target = op.result if forward else op.input
    if axis not in place.axes:
        return place.on(target)
    at = place.axes.index(axis)
    start = op.start.data.constant
    if start is None:
        raise Misplaced("it begins at a position that is not fixed")
    count, total = sizes_of(type_of(op.result).shape, [axis])[0], sizes_of(type_of(op.input).shape, [axis])[0]
    taken = start + op.step.value.data * np.arange(count)
    if forward:
        return place.on(target, None, place.atoms.take(taken, at))
    atoms = np.full((*place.atoms.shape[:at], total, *place.atoms.shape[at + 1 :]), OUTSIDE, dtype=np.int64)
    np.moveaxis(atoms, at, 0)[taken] = np.moveaxis(place.atoms, at, 0)
    return place.on(target, None, atoms)


def joined(op: ConcatOp, place: Place, index: int | None) -> list[tuple[int | None, Place]]:
    """Carry channels through a concatenation: `index` is the operand they lie on, None the result.

    Gives the other operands and the result, each with its number (None for the result).
    """
    axis = op.axis.value.data
    everything: list[int | None] = [*range(len(op.inputs)), None]
    values = {one: op.result if one is None else op.inputs[one] for one in everything}
    if axis not in place.axes:
        return [(one, place.on(values[one])) for one in everything if one != index]
    at = place.axes.index(axis)
    sizes = [sizes_of(type_of(one).shape, [axis])[0] for one in op.inputs]
    starts = np.cumsum([0, *sizes])
    if index is None:
        parts = [place.atoms.take(range(starts[i], starts[i + 1]), at) for i in range(len(sizes))]
        return [(i, place.on(values[i], None, part)) for i, part in enumerate(parts)]
    shape = (*place.atoms.shape[:at], int(starts[-1]), *place.atoms.shape[at + 1 :])
    atoms = np.full(shape, OUTSIDE, dtype=np.int64)
    np.moveaxis(atoms, at, 0)[starts[index] : starts[index + 1]] = np.moveaxis(place.atoms, at, 0)
    return [(None, place.on(values[None], None, atoms))]

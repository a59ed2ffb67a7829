"""The parameters of a quantized tensor as plain tensors: their types, and who may be given which.

A format fixes its parameters and their order (`qcc.numerics.stored_parts`): scales leaf to root, the offset of the
leaf, zero points leaf to root, their offset, and the selector. Scales, offsets and real zero points are `f32`, integer
zero points and selectors `i32`; rounding them to the dtypes that the format stores is part of what uses them.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.ir import Operation, SSAValue

from qcc.ir.base import refuse
from qcc.ir.dims import Dim, Shape
from qcc.ir.types import TensorType, tensor, type_of
from qcc.numerics.qtype import QType
from qcc.numerics.stored_parts import StoredPart, parameter_parts, static_parts


def block_grid(shape: Shape, block: Sequence[int]) -> Shape:
    """Return the shape of the scales of a level: one per block, blocks aligned at the last axis.

    -1 spans a whole axis. Axes in front of the block are whole where its first entry is -1, else single.
    """
    lead = max(len(shape) - len(block), 0)
    grid = [Dim.of(1) if block[0] == -1 else dim for dim in shape[:lead]]
    for dim, size in zip(shape[len(grid) :], block[max(len(block) - len(shape), 0) :], strict=True):
        grid.append(Dim.of(1) if size == -1 else (dim + size - 1) // size if size != 1 else dim)
    return tuple(grid)


def part_type(shape: Shape, part: StoredPart) -> TensorType:
    """Return the plain type of one parameter of a quantized tensor of `shape`."""
    return tensor((*block_grid(shape, part.block), *map(Dim.of, part.copy_axis)), part.scalar)


def parameter_types(shape: Shape, qtype: QType) -> list[TensorType]:
    """Return the plain types of all parameters of a quantized tensor, in the format's order."""
    return [part_type(shape, part) for part in parameter_parts(qtype)]


def given_parts(qtype: QType) -> tuple[StoredPart, ...]:
    """Return what may be given to an operation that quantizes: all, or what is static in a `dynamic_local` format."""
    return static_parts(qtype) if qtype.when == "dynamic_local" else parameter_parts(qtype)


def check_given(op: Operation, shape: Shape, qtype: QType, values: Sequence[SSAValue]) -> None:
    """Refuse given parameters that are not those of the format, and a `dynamic_local` format without what is static."""
    if values or qtype.when == "dynamic_local":
        check_parameters(op, shape, qtype, given_parts(qtype), values)


def check_parameters(
    op: Operation, shape: Shape, qtype: QType, parts: Sequence[StoredPart], values: Sequence[SSAValue]
) -> None:
    """Refuse values whose number or types are not those of `parts`."""
    names = ", ".join(part.name for part in parts) or "none"
    if len(values) != len(parts):
        raise refuse(op, f"{len(values)} parameters where '{qtype}' takes {len(parts)}: {names}")
    wrong = [
        f"{part.name} is {value.type}, not {wanted}"
        for part, value in zip(parts, values, strict=True)
        if type_of(value) != (wanted := part_type(shape, part))
    ]
    if wrong:
        raise refuse(op, f"parameters do not fit '{qtype}': {'; '.join(wrong)}")

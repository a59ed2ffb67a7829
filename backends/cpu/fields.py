"""Members of the kernels' argument structs, written from views."""

from __future__ import annotations

from collections.abc import Mapping

from qcc.backends.cpu.ctext import C_DTYPES, C_TYPES
from qcc.backends.cpu.statements import Array, Pointer, Raw, Struct, Value
from qcc.backends.cpu.views import View
from qcc.ir.dims import Shape


def read(view: View, ctype: str | None = None) -> Pointer:
    """Point to a view that is read."""
    return Pointer(view, ctype or C_TYPES[view.scalar])


def write(view: View, ctype: str | None = None) -> Pointer:
    """Point to a view that is written."""
    return Pointer(view, ctype or C_TYPES[view.scalar], writable=True)


def dtype(view: View) -> Raw:
    """Name the element type of a view in the kernels' interface."""
    return Raw(C_DTYPES[view.scalar])


def shape_struct(shape: Shape) -> Struct:
    """Write a `qcc_shape`."""
    return Struct({"rank": len(shape), "shape": Array(shape)} if shape else {"rank": 0})


def nd_fields(strides: Mapping[str, View]) -> dict[str, Value]:
    """Write the shape and strides of views of one shape."""
    first = next(iter(strides.values()))
    fields: dict[str, Value] = {"shape": shape_struct(first.shape)}
    if first.rank:
        fields |= {name: Array(view.strides) for name, view in strides.items()}
    return fields

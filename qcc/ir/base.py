"""What all operations of the dialect share: where they come from, and how a verifier speaks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from xdsl.dialects.builtin import DenseArrayBase, FloatAttr, IntegerAttr, StringAttr, f64, i64
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.irdl import IRDLOperation, ParsePropInAttrDict
from xdsl.utils.exceptions import VerifyException

from qcc.ir.dims import Dim, Shape
from qcc.ir.types import INTEGER_RANGES, DimAttr, TensorType, type_of

LOCATION = "at"
"""Name of the attribute that says which line and module of the user's model an operation comes from."""

LAYER = "layer"
"""Name of the attribute that keeps the name of a layer once its weight goes by another."""

FUSE_GROUP = "fuse_group"
"""Name of the attribute with the name of the group of layers that read one value."""

SOLVER = "solver"
"""Name of the attribute that says how the codes of a weight are chosen, where it is not by rounding to nearest."""

RESIDUAL = "residual_channels"
"""Name of the attribute of a contraction that counts its last columns that read what quantizing the others loses."""

OUTLIERS = "outliers"
"""Name of the attribute that says how the outliers of a weight are chosen, where it is not by magnitude."""

LOW_RANK = "low_rank"
"""Name of the attribute that says how the low-rank factors of a weight are found, where not of what codes lost."""

LEFT_IN_FLOAT = "left_in_float"
"""Name of the attribute that says why a layer was not quantized."""

KEPT_BY_RECIPE = "the recipe keeps its weights in float"
"""The one reason that is the user's own: every other one is a fallback."""


class QccOperation(IRDLOperation):
    """Base of every operation: properties are printed in the attribute dictionary."""

    irdl_options = (ParsePropInAttrDict(),)

    @property
    def where(self) -> str:
        """The place in the user's model, else the operation's own name."""
        return location_of(self) or self.name


def location_of(op: Operation) -> str:
    """Return `module.path (file.py:12)` of the user's model, or an empty text."""
    attribute = op.attributes.get(LOCATION)
    return attribute.data if isinstance(attribute, StringAttr) else ""


def set_location(op: Operation, text: str) -> None:
    """Note where in the user's model an operation comes from."""
    if text:
        op.attributes[LOCATION] = StringAttr(text)


def refuse(op: Operation, what: str) -> VerifyException:
    """Make the exception of a verifier: it names the operation and its place in the user's model."""
    place = location_of(op)
    return VerifyException(f"{op.name}{f' at {place}' if place else ''}: {what}")


def integer(value: int) -> IntegerAttr:
    """Make a 64-bit integer attribute."""
    return IntegerAttr(value, i64)


def real(value: float) -> FloatAttr:
    """Make a float64 attribute, so that an epsilon keeps all its digits."""
    return FloatAttr(value, f64)


def integers(values: Iterable[int]) -> DenseArrayBase:
    """Make an array of 64-bit integers."""
    return DenseArrayBase.from_list(i64, list(values))


def dim_attr(value: Dim | int | str) -> DimAttr:
    """Make a symbolic dimension attribute."""
    return DimAttr(Dim.of(value))


def expect_shape(op: Operation, result: SSAValue, shape: Shape) -> None:
    """Refuse a result whose shape is not `shape`."""
    found = type_of(result).shape
    if found != shape:
        raise refuse(op, f"result has shape {show(found)}, its operands give {show(shape)}")


def expect_same_element(op: Operation, values: Sequence[SSAValue]) -> None:
    """Refuse operands and results whose element types differ."""
    elements = {type_of(value).element for value in values}
    if len(elements) > 1:
        raise refuse(op, f"element types differ: {', '.join(sorted(map(str, elements)))}")


def expect_float(op: Operation, value: SSAValue, role: str) -> TensorType:
    """Return the type of an operand that must be plain floating point."""
    kind = type_of(value)
    if not kind.is_float:
        raise refuse(op, f"{role} must be a floating-point tensor, got {kind}")
    return kind


def expect_integer(op: Operation, value: SSAValue, role: str) -> TensorType:
    """Return the type of an operand that must be plain integers, truth values not among them."""
    kind = type_of(value)
    if kind.qtype is not None or kind.scalar not in INTEGER_RANGES:
        raise refuse(op, f"{role} must be an integer tensor, got {kind}")
    return kind


def expect_numbers(op: Operation, value: SSAValue, role: str) -> TensorType:
    """Return the type of an operand that must be plain floats or integers."""
    kind = type_of(value)
    return kind if kind.is_float else expect_integer(op, value, role)


def expect_axis(op: Operation, axis: int, rank: int) -> int:
    """Refuse an axis outside `0..rank-1`."""
    if not 0 <= axis < rank:
        raise refuse(op, f"axis {axis} is outside a tensor of rank {rank}")
    return axis


def show(shape: Shape) -> str:
    """Write a shape as `[s0, 384]`."""
    return f"[{', '.join(map(str, shape))}]"


Operand = SSAValue | Operation
OptionalOperand = SSAValue | Operation | None


def operand_type(operand: Operand) -> TensorType:
    """Return the tensor type of an operand given as a value or as the operation that makes it."""
    return type_of(SSAValue.get(operand))


def optional(value: OptionalOperand) -> list[Operand]:
    """Make the segment of an optional operand."""
    return [] if value is None else [value]


def present(properties: Mapping[str, Attribute | None]) -> dict[str, Attribute]:
    """Drop the properties that were not given."""
    return {name: attribute for name, attribute in properties.items() if attribute is not None}

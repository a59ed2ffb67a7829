"""Types of the dialect: symbolic shapes, the format type, tensors and symbol ranges."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from xdsl.dialects import builtin
from xdsl.dialects.builtin import ArrayAttr, IntAttr, StringAttr
from xdsl.ir import Attribute, Data, ParametrizedAttribute, SSAValue, TypeAttribute
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

from qcc.errors import QccError
from qcc.ir.dims import UNBOUNDED, Dim, Shape, parse_dim, shape_of
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_text import parse_qtype

SCALARS: dict[str, Attribute] = {
    "f64": builtin.f64,
    "f32": builtin.f32,
    "f16": builtin.f16,
    "bf16": builtin.bf16,
    "i64": builtin.i64,
    "i32": builtin.i32,
    "i8": builtin.i8,
    "u8": builtin.IntegerType(8, builtin.Signedness.UNSIGNED),
    "i1": builtin.i1,
}
"""Element types of plain tensors by name; `i1` is a truth value stored in one byte."""

_NAMES = {attribute: name for name, attribute in SCALARS.items()}
FLOATS = ("f64", "f32", "f16", "bf16")
INTEGER_RANGES = {"i64": (-(2**63), 2**63 - 1), "i32": (-(2**31), 2**31 - 1), "i8": (-128, 127), "u8": (0, 255)}
"""Least and largest value of every integer element type; `i1` is a truth value, not one of them."""


@irdl_attr_definition
class DimAttr(Data[Dim]):
    """A symbolic dimension, `#qcc.dim<"s0*s1">`."""

    name = "qcc.dim"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Dim:
        """Parse `<"expression">`."""
        with parser.in_angle_brackets():
            return _parse_dim(parser)

    def print_parameter(self, printer: Printer) -> None:
        """Print `<"expression">`."""
        with printer.in_angle_brackets():
            printer.print_string_literal(str(self.data))


def _parse_dim(parser: AttrParser) -> Dim:
    if (number := parser.parse_optional_integer(allow_boolean=False, allow_negative=False)) is not None:
        return Dim.of(number)
    if (symbol := parser.parse_optional_identifier()) is not None:
        return Dim.symbol(symbol)
    text = parser.parse_str_literal("a dimension: an integer, a symbol, or an expression in quotes")
    try:
        return parse_dim(text)
    except QccError as error:
        parser.raise_error(error.message)


@irdl_attr_definition
class QTypeAttr(Data[QType]):
    """A quantized format as an attribute, `#qcc.qtype<"int8 | (1,-1) f32 | dynamic">`.

    The five facts (decode, grid, levels, zero, when) are fields of the `QType` it holds.
    """

    name = "qcc.qtype"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> QType:
        """Parse `<"text">`."""
        with parser.in_angle_brackets():
            return _parse_qtype(parser)

    def print_parameter(self, printer: Printer) -> None:
        """Print `<"text">`."""
        with printer.in_angle_brackets():
            printer.print_string_literal(str(self.data))


def _parse_qtype(parser: AttrParser) -> QType:
    text = parser.parse_str_literal("a quantized format in quotes")
    try:
        return parse_qtype(text)
    except QccError as error:
        parser.raise_error(error.message)


@irdl_attr_definition
class TensorType(ParametrizedAttribute, TypeAttribute):
    """A tensor of symbolic shape whose elements are scalars or codes of a quantized format.

    `!qcc.tensor<[s0, 384], f32>` is plain, `!qcc.tensor<[1536, 384], "uint4 | (1,32) f16 | pre u4">` is quantized:
    one value that stands for codes, scales, zero points and side tensors together.
    """

    name = "qcc.tensor"

    dims: ArrayAttr[DimAttr]
    element: Attribute

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        """Parse `<[dims], element>`."""
        with parser.in_angle_brackets():
            dims = parser.parse_comma_separated_list(
                parser.Delimiter.SQUARE, lambda: DimAttr(_parse_dim(parser)), " in a shape"
            )
            parser.parse_punctuation(",")
            if (text := parser.parse_optional_str_literal()) is not None:
                try:
                    element: Attribute = QTypeAttr(parse_qtype(text))
                except QccError as error:
                    parser.raise_error(error.message)
            elif parser.parse_optional_keyword("u8"):
                element = SCALARS["u8"]
            else:
                element = parser.parse_type()
        return ArrayAttr(dims), element

    def print_parameters(self, printer: Printer) -> None:
        """Print `<[dims], element>`."""
        with printer.in_angle_brackets():
            printer.print_string("[")
            printer.print_list(self.dims.data, lambda dim: _print_dim(dim.data, printer))
            printer.print_string("], ")
            if isinstance(self.element, QTypeAttr):
                printer.print_string_literal(str(self.element.data))
            elif self.element == SCALARS["u8"]:
                printer.print_string("u8")
            else:
                printer.print_attribute(self.element)

    def verify(self) -> None:
        """Refuse element types that no operation knows."""
        if not isinstance(self.element, QTypeAttr) and self.element not in _NAMES:
            known = ", ".join(SCALARS)
            raise VerifyException(f"element type {self.element} is neither a quantized format nor one of {known}")
        if any((size := dim.data.constant) is not None and size < 0 for dim in self.dims):
            raise VerifyException(f"a dimension of [{', '.join(str(d.data) for d in self.dims)}] is negative")

    @property
    def shape(self) -> Shape:
        """The symbolic shape."""
        return tuple(dim.data for dim in self.dims)

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.dims)

    @property
    def qtype(self) -> QType | None:
        """The format of the elements, or None for a plain tensor."""
        return self.element.data if isinstance(self.element, QTypeAttr) else None

    @property
    def scalar(self) -> str:
        """Name of a plain tensor's element type (`f32`); raises ShapeError on a quantized tensor."""
        if isinstance(self.element, QTypeAttr):
            raise VerifyException(f"{self} holds quantized codes where plain numbers are needed")
        return _NAMES[self.element]

    @property
    def is_float(self) -> bool:
        """Whether the elements are plain floating-point numbers."""
        return self.qtype is None and self.scalar in FLOATS

    @property
    def static_shape(self) -> tuple[int, ...] | None:
        """The shape as integers, or None if a dimension depends on a symbol."""
        sizes = [dim.constant for dim in self.shape]
        return None if None in sizes else cast(tuple[int, ...], tuple(sizes))

    def with_shape(self, shape: Iterable[Dim | int | str]) -> TensorType:
        """Return the type with another shape and the same elements."""
        return TensorType(ArrayAttr([DimAttr(dim) for dim in shape_of(shape)]), self.element)

    def with_element(self, element: str | QType) -> TensorType:
        """Return the type with other elements and the same shape."""
        return tensor(self.shape, element)


def _print_dim(dim: Dim, printer: Printer) -> None:
    text = str(dim)
    if text.isidentifier() or text.isdigit():
        printer.print_string(text)
    else:
        printer.print_string_literal(text)


def tensor(shape: Iterable[Dim | int | str], element: str | QType) -> TensorType:
    """Make a tensor type from a shape and a scalar's name (`f32`) or a format."""
    attribute = SCALARS[element] if isinstance(element, str) else QTypeAttr(element)
    return TensorType(ArrayAttr([DimAttr(dim) for dim in shape_of(shape)]), attribute)


def type_of(value: SSAValue) -> TensorType:
    """Return the tensor type of a value.

    Raises:
        VerifyException: if the value is no tensor of this dialect.
    """
    if not isinstance(value.type, TensorType):
        raise VerifyException(f"expected a !qcc.tensor, got {value.type}")
    return value.type


@irdl_attr_definition
class SymbolAttr(ParametrizedAttribute):
    """A shape symbol and the closed range of its values, `#qcc.symbol<s0 in [1, 512]>`; `inf` has no bound."""

    name = "qcc.symbol"

    symbol: StringAttr
    low: IntAttr
    high: IntAttr

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        """Parse `<s0 in [low, high]>`."""
        with parser.in_angle_brackets():
            symbol = parser.parse_identifier(" as the symbol's name")
            parser.parse_keyword("in")
            parser.parse_punctuation("[")
            low = parser.parse_integer()
            parser.parse_punctuation(",")
            high = UNBOUNDED if parser.parse_optional_keyword("inf") else parser.parse_integer()
            parser.parse_punctuation("]")
        return StringAttr(symbol), IntAttr(low), IntAttr(high)

    def print_parameters(self, printer: Printer) -> None:
        """Print `<s0 in [low, high]>`."""
        high = "inf" if self.high.data == UNBOUNDED else str(self.high.data)
        printer.print_string(f"<{self.symbol.data} in [{self.low.data}, {high}]>")

    def verify(self) -> None:
        """Refuse an empty range."""
        if not 0 <= self.low.data <= self.high.data:
            raise VerifyException(f"symbol {self.symbol.data} has the empty range [{self.low.data}, {self.high.data}]")

    @staticmethod
    def make(symbol: str, low: int, high: int = UNBOUNDED) -> SymbolAttr:
        """Make a symbol with the range `low..high`, both included."""
        return SymbolAttr(StringAttr(symbol), IntAttr(low), IntAttr(high))

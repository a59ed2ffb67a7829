"""Structure of a module: the program, its weights, its state and its constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xdsl.dialects.builtin import (
    ArrayAttr,
    DenseArrayBase,
    FloatAttr,
    IntegerAttr,
    ModuleOp,
    StringAttr,
    SymbolNameConstraint,
)
from xdsl.ir import Attribute, Block, Region
from xdsl.irdl import (
    irdl_op_definition,
    operand_def,
    prop_def,
    region_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import ConstantLike, HasParent, IsolatedFromAbove, IsTerminator, Pure, SymbolOpInterface

from qcc.errors import QccError
from qcc.ir.base import Operand, QccOperation, dim_attr, integer, real, refuse, show
from qcc.ir.dims import Dim
from qcc.ir.types import DimAttr, SymbolAttr, TensorType, type_of


@irdl_op_definition
class ProgramOp(QccOperation):
    """One callable graph: named inputs and outputs over shape symbols with ranges.

    `inputs[i]` names block argument i, `outputs[i]` operand i of the `qcc.return`. A symbol takes its value
    from the input dimensions that mention it.
    """

    name = "qcc.program"

    sym_name = prop_def(SymbolNameConstraint())
    inputs = prop_def(ArrayAttr[StringAttr])
    outputs = prop_def(ArrayAttr[StringAttr])
    symbols = prop_def(ArrayAttr[SymbolAttr])
    body = region_def("single_block")

    traits = traits_def(IsolatedFromAbove(), SymbolOpInterface())

    def __init__(
        self,
        name: str,
        inputs: Sequence[tuple[str, TensorType]],
        symbols: Sequence[SymbolAttr] = (),
        outputs: Sequence[str] = (),
        body: Region | None = None,
    ) -> None:
        if body is None:
            body = Region(Block(arg_types=[kind for _, kind in inputs]))
        super().__init__(
            properties={
                "sym_name": StringAttr(name),
                "inputs": ArrayAttr([StringAttr(one) for one, _ in inputs]),
                "outputs": ArrayAttr([StringAttr(one) for one in outputs]),
                "symbols": ArrayAttr(list(symbols)),
            },
            regions=[body],
        )
        for (one, _), argument in zip(inputs, self.body.block.args, strict=True):
            if one.isidentifier():
                argument.name_hint = one

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs, in order."""
        return [one.data for one in self.inputs]

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs, in order."""
        return [one.data for one in self.outputs]

    @property
    def symbol_ranges(self) -> dict[str, tuple[int, int]]:
        """Closed range of each shape symbol."""
        return {one.symbol.data: (one.low.data, one.high.data) for one in self.symbols}

    @property
    def terminator(self) -> ReturnOp:
        """The `qcc.return` at the end."""
        last = self.body.block.last_op
        if not isinstance(last, ReturnOp):
            raise refuse(self, "does not end in qcc.return")
        return last

    def verify_(self) -> None:
        """Refuse names that do not match values, and dimensions over unknown symbols."""
        arguments = self.body.block.args
        if len(self.inputs) != len(arguments):
            raise refuse(self, f"names {len(self.inputs)} inputs, has {len(arguments)}")
        if len(self.outputs) != len(self.terminator.values):
            raise refuse(self, f"names {len(self.outputs)} outputs, returns {len(self.terminator.values)}")
        for names, role in ((self.input_names, "input"), (self.output_names, "output")):
            if len(set(names)) != len(names):
                raise refuse(self, f"{role} names are not unique: {', '.join(names)}")
        known = set(self.symbol_ranges)
        bound: set[str] = set()
        for argument in arguments:
            for dim in type_of(argument).shape:
                bound |= dim.symbols
        if unbound := known - bound:
            raise refuse(self, f"no input dimension mentions symbol {', '.join(sorted(unbound))}")
        for value in (*arguments, *(result for op in self.body.walk() for result in op.results)):
            if isinstance(value.type, TensorType):
                unknown = {name for dim in value.type.shape for name in dim.symbols} - known
                if unknown:
                    raise refuse(self, f"{value.type} uses unknown symbol {', '.join(sorted(unknown))}")

    def print(self, printer: Printer) -> None:
        """Print `@name(%x : type, ...) -> ["y"] symbols [...] { ... }`."""
        printer.print_string(" ")
        printer.print_symbol_name(self.sym_name.data)
        with printer.in_parens():
            pairs = list(zip(self.inputs, self.body.block.args, strict=True))
            for index, (name, argument) in enumerate(pairs):
                if index:
                    printer.print_string(", ")
                printer.print_string_literal(name.data)
                printer.print_string(" ")
                printer.print_block_argument(argument)
        printer.print_string(" -> ")
        printer.print_attribute(self.outputs)
        printer.print_string(" symbols ")
        printer.print_attribute(self.symbols)
        printer.print_op_attributes(self.attributes, print_keyword=True)
        printer.print_string(" ")
        printer.print_region(self.body, print_entry_block_args=False)

    @classmethod
    def parse(cls, parser: Parser) -> ProgramOp:
        """Parse what `print` prints."""
        name = parser.parse_symbol_name().data

        def argument() -> tuple[str, Parser.Argument]:
            label = parser.parse_str_literal("the name of an input")
            return label, parser.parse_argument()

        arguments = parser.parse_comma_separated_list(parser.Delimiter.PAREN, argument, " in the inputs")
        parser.parse_punctuation("->")
        outputs = parser.parse_attribute()
        parser.parse_keyword("symbols")
        symbols = parser.parse_attribute()
        extra = parser.parse_optional_attr_dict_with_keyword()
        body = parser.parse_region([one for _, one in arguments])
        program = cls.create(
            properties={
                "sym_name": StringAttr(name),
                "inputs": ArrayAttr([StringAttr(label) for label, _ in arguments]),
                "outputs": outputs,
                "symbols": symbols,
            },
            attributes=dict(extra.data) if extra else {},
            regions=[body],
        )
        return program


@irdl_op_definition
class ReturnOp(QccOperation):
    """End a program with its output values."""

    name = "qcc.return"

    values = var_operand_def(TensorType)

    traits = traits_def(IsTerminator(), HasParent(ProgramOp))
    assembly_format = "($values^ `:` type($values))? attr-dict"

    def __init__(self, values: Sequence[Operand]) -> None:
        super().__init__(operands=[list(values)])


@irdl_op_definition
class WeightOp(QccOperation):
    """A constant tensor of the weight store. Tied weights are one entry named by several operations."""

    name = "qcc.weight"

    key = prop_def(StringAttr)
    result = result_def(TensorType)

    traits = traits_def(Pure(), ConstantLike())
    assembly_format = "$key attr-dict `:` type($result)"

    def __init__(self, key: str, kind: TensorType) -> None:
        super().__init__(properties={"key": StringAttr(key)}, result_types=[kind])

    def verify_(self) -> None:
        """Refuse a weight of symbolic shape."""
        if type_of(self.result).static_shape is None:
            raise refuse(self, f"weight '{self.key.data}' has the dynamic shape {show(type_of(self.result).shape)}")


@irdl_op_definition
class StateOp(QccOperation):
    """The value of a mutable buffer when the program is entered. Its first value is in the weight store."""

    name = "qcc.state"

    key = prop_def(StringAttr)
    result = result_def(TensorType)

    assembly_format = "$key attr-dict `:` type($result)"

    def __init__(self, key: str, kind: TensorType) -> None:
        super().__init__(properties={"key": StringAttr(key)}, result_types=[kind])


@irdl_op_definition
class UpdateStateOp(QccOperation):
    """Give a mutable buffer its value for the next call; takes effect when the program returns."""

    name = "qcc.update_state"

    key = prop_def(StringAttr)
    value = operand_def(TensorType)

    assembly_format = "$key `,` $value attr-dict `:` type($value)"

    def __init__(self, key: str, value: Operand) -> None:
        super().__init__(properties={"key": StringAttr(key)}, operands=[value])


@irdl_op_definition
class ConstantOp(QccOperation):
    """A tensor filled with one number. Rank 0 is the scalar operand of elementwise operations."""

    name = "qcc.constant"

    value = prop_def(FloatAttr | IntegerAttr)
    result = result_def(TensorType)

    traits = traits_def(Pure(), ConstantLike())
    assembly_format = "$value attr-dict `:` type($result)"

    def __init__(self, value: float | int | bool, kind: TensorType) -> None:
        attribute: Attribute = real(float(value)) if kind.is_float else integer(int(value))
        super().__init__(properties={"value": attribute}, result_types=[kind])

    @property
    def number(self) -> float | int:
        """The number the tensor is filled with."""
        return self.value.value.data

    def verify_(self) -> None:
        """Refuse a float for an integer tensor."""
        if type_of(self.result).is_float != isinstance(self.value, FloatAttr):
            raise refuse(self, f"{self.value} is no element of {self.result.type}")


@irdl_op_definition
class DimOp(QccOperation):
    """A symbolic dimension as an `i64` scalar tensor."""

    name = "qcc.dim"

    dim = prop_def(DimAttr)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$dim attr-dict `:` type($result)"

    def __init__(self, dim: Dim | int | str, kind: TensorType) -> None:
        super().__init__(properties={"dim": dim_attr(dim)}, result_types=[kind])


@irdl_op_definition
class IotaOp(QccOperation):
    """`start + step * i` for i in 0..n-1, a tensor of rank 1."""

    name = "qcc.iota"

    start = prop_def(DimAttr)
    step = prop_def(IntegerAttr)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "attr-dict `:` type($result)"

    def __init__(self, start: Dim | int | str, step: int, kind: TensorType) -> None:
        super().__init__(properties={"start": dim_attr(start), "step": integer(step)}, result_types=[kind])

    def verify_(self) -> None:
        """Refuse a result of rank other than 1."""
        if type_of(self.result).rank != 1:
            raise refuse(self, f"result must have rank 1, got {self.result.type}")


def program_of(module: ModuleOp) -> ProgramOp:
    """Return the one program of a module.

    Raises:
        QccError: if there is none, or more than one.
    """
    programs = [op for op in module.body.ops if isinstance(op, ProgramOp)]
    if len(programs) != 1:
        raise QccError(f"the module has {len(programs)} programs, expected one")
    return programs[0]


def int_array(values: DenseArrayBase[Any]) -> tuple[int, ...]:
    """Read an array property as integers."""
    return tuple(int(value) for value in values.get_values())

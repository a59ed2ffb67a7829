"""Kernels: a contraction and what is computed with it, as one operation with a region.

Fusion is this operation and nothing else. A pass decides what goes into a region; a backend prints regions by their
parts and never decides. Removing every kernel (its region in its place) leaves the function as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from xdsl.dialects.builtin import IntegerAttr, StringAttr
from xdsl.ir import Attribute, Block, BlockArgument, Operation, OpResult, Region, SSAValue, Use
from xdsl.irdl import (
    irdl_op_definition,
    opt_prop_def,
    prop_def,
    region_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.rewriter import InsertPoint, Rewriter
from xdsl.traits import HasParent, IsolatedFromAbove, IsTerminator, Pure

from qcc.ir.base import Operand, QccOperation, integer, present, refuse
from qcc.ir.kernel_parts import KernelParts, check_structure, parts_of
from qcc.ir.quant import ContractOp
from qcc.ir.types import TensorType, type_of

WIDTHS = (32, 64)
"""Bits of the integers that the sums of a kernel may be proved to fit."""


@irdl_op_definition
class KernelOp(QccOperation):
    """Compute a region as one step: prologue, at most one root, and the chain of operations after the root.

    `%y = qcc.kernel "up" (%input = %x : type, %weight = %w : type) -> (type) accumulator 32 why "..." { ... }`

    Operand i, weights included, is argument i of the region, whose `qcc.yield` gives the results. `label` is a name for
    people and for generated code. `accumulator` is the width (32 or 64 bits) that the integer sums of the root are
    proved to fit; `why` says why the root has its plan. `kernel_parts` reads the structure.
    """

    name = "qcc.kernel"

    label = prop_def(StringAttr)
    accumulator = opt_prop_def(IntegerAttr)
    why = opt_prop_def(StringAttr)
    inputs = var_operand_def(TensorType)
    outputs = var_result_def(TensorType)
    body = region_def("single_block")

    traits = traits_def(Pure(), IsolatedFromAbove())

    def __init__(
        self,
        label: str,
        inputs: Sequence[Operand],
        body: Region | None = None,
        *,
        accumulator: int | None = None,
        why: str = "",
    ) -> None:
        """Make a kernel of a region that ends in `qcc.yield`; without one, the region is empty and has no results."""
        values = [SSAValue.get(one) for one in inputs]
        if body is None:
            body = Region(Block(arg_types=[one.type for one in values]))
        last = body.block.last_op
        super().__init__(
            operands=[values],
            properties=present(
                {
                    "label": StringAttr(label),
                    "accumulator": None if accumulator is None else integer(accumulator),
                    "why": StringAttr(why) if why else None,
                }
            ),
            regions=[body],
            result_types=[[one.type for one in last.values] if isinstance(last, YieldOp) else []],
        )

    @property
    def terminator(self) -> YieldOp:
        """The `qcc.yield` at the end."""
        last = self.body.block.last_op
        if not isinstance(last, YieldOp):
            raise refuse(self, "does not end in qcc.yield")
        return last

    def verify_(self) -> None:
        """Refuse a region whose types are not the operands' and results', or that has not the form of a kernel."""
        arguments, yielded = self.body.block.args, self.terminator.values
        for role, outside, inside in (("input", self.inputs, arguments), ("output", self.outputs, yielded)):
            if [one.type for one in outside] != [one.type for one in inside]:
                raise refuse(self, f"its {role}s are not the {role}s of its region")
        if self.accumulator is not None and self.accumulator.value.data not in WIDTHS:
            raise refuse(self, f"an accumulator of {self.accumulator.value.data} bits is neither of 32 nor of 64")
        parts = check_structure(self, self.body.block)
        if parts.root is None and (self.accumulator is not None or self.why is not None):
            raise refuse(self, "has no root that an accumulator or a plan could be said of")

    def print(self, printer: Printer) -> None:
        """Print `"label" (%inside = %outside : type, ...) -> (type) accumulator 32 why "..." { ... }`."""
        printer.print_string(" ")
        printer.print_string_literal(self.label.data)
        printer.print_string(" (")
        with printer.indented():
            for index, (argument, operand) in enumerate(zip(self.body.block.args, self.inputs, strict=True)):
                printer.print_string(",\n" if index else "\n")
                printer.print_ssa_value(argument)
                printer.print_string(" = ")
                printer.print_operand(operand)
                printer.print_string(" : ")
                printer.print_attribute(operand.type)
        printer.print_string("\n) -> ")
        with printer.in_parens():
            printer.print_list(self.result_types, printer.print_attribute)
        if self.accumulator is not None:
            printer.print_string(f" accumulator {self.accumulator.value.data}")
        if self.why is not None:
            printer.print_string(" why ")
            printer.print_string_literal(self.why.data)
        printer.print_op_attributes(self.attributes, print_keyword=True)
        printer.print_string(" ")
        printer.print_region(self.body, print_entry_block_args=False)

    @classmethod
    def parse(cls, parser: Parser) -> KernelOp:
        """Parse what `print` prints."""
        label = parser.parse_str_literal("the label of a kernel")
        pairs = parser.parse_comma_separated_list(
            parser.Delimiter.PAREN, lambda: _parse_input(parser), " in the inputs of a kernel"
        )
        parser.parse_punctuation("->")
        results = parser.parse_comma_separated_list(parser.Delimiter.PAREN, parser.parse_type, " in the results")
        accumulator = parser.parse_integer() if parser.parse_optional_keyword("accumulator") else None
        why = parser.parse_str_literal("a reason") if parser.parse_optional_keyword("why") else None
        extra = parser.parse_optional_attr_dict_with_keyword()
        body = parser.parse_region([argument for argument, _ in pairs])
        properties: dict[str, Attribute | None] = {
            "label": StringAttr(label),
            "accumulator": None if accumulator is None else integer(accumulator),
            "why": None if why is None else StringAttr(why),
        }
        return cls.create(
            operands=[operand for _, operand in pairs],
            result_types=results,
            properties=present(properties),
            attributes=dict(extra.data) if extra else {},
            regions=[body],
        )


def _parse_input(parser: Parser) -> tuple[Parser.Argument, SSAValue]:
    """Parse `%inside = %outside : type`."""
    argument = parser.parse_argument(expect_type=False)
    parser.parse_punctuation("=")
    operand = parser.parse_unresolved_operand()
    parser.parse_punctuation(":")
    kind = parser.parse_type()
    return argument.resolve(kind), parser.resolve_operand(operand, kind)


@irdl_op_definition
class YieldOp(QccOperation):
    """End the region of a kernel with its results."""

    name = "qcc.yield"

    values = var_operand_def(TensorType)

    traits = traits_def(IsTerminator(), HasParent(KernelOp))
    assembly_format = "$values `:` type($values) attr-dict"

    def __init__(self, values: Sequence[Operand]) -> None:
        super().__init__(operands=[list(values)])

    def verify_(self) -> None:
        """Refuse a value that is yielded twice."""
        if len(set(self.values)) != len(self.values):
            raise refuse(self, f"yields a value twice: {', '.join(str(type_of(one)) for one in self.values)}")


def kernel_parts(op: KernelOp) -> KernelParts:
    """Return prologue, root and epilogue of a kernel: the one place that reads its structure.

    Raises:
        VerifyException: if the region has not the form of a kernel.
    """
    return parts_of(op, op.body.block)


def outer_value(value: SSAValue) -> SSAValue:
    """Return the operand that an argument of a kernel's region stands for; any other value is returned as it is."""
    if isinstance(value, BlockArgument) and isinstance(kernel := value.block.parent_op(), KernelOp):
        return kernel.inputs[value.index]
    return value


def inner_value(value: SSAValue) -> SSAValue:
    """Return what a kernel yields for one of its results; any other value is returned as it is."""
    if isinstance(value, OpResult) and isinstance(value.op, KernelOp):
        return value.op.terminator.values[value.index]
    return value


def origin_of(value: SSAValue) -> SSAValue:
    """Follow a value to where it is computed, through the borders of kernels.

    The result is an argument of the program, or the result of an operation that is no kernel: two values that are
    one in memory have one origin.
    """
    while (source := inner_value(outer_value(value))) is not value:
        value = source
    return value


def uses_of(value: SSAValue) -> Iterator[Use]:
    """Iterate over the uses of a value by operations that are no kernels, inside kernels and behind them."""
    for use in value.uses:
        if isinstance(use.operation, KernelOp):
            yield from uses_of(use.operation.body.block.args[use.index])
        elif isinstance(use.operation, YieldOp):
            kernel = use.operation.parent_op()
            assert isinstance(kernel, KernelOp)  # the yield's trait
            yield from uses_of(kernel.outputs[use.index])
        else:
            yield use


def flat_operations(block: Block) -> list[Operation]:
    """Return the operations of a block in order, those of a kernel's region in the place of the kernel."""
    operations: list[Operation] = []
    for op in block.ops:
        inside = (
            [one for one in op.body.block.ops if not isinstance(one, YieldOp)] if isinstance(op, KernelOp) else [op]
        )
        operations += inside
    return operations


def contracts_of(within: Operation) -> list[ContractOp]:
    """Return every quantized contraction of a module or program in order, in kernels and by itself."""
    return [op for op in within.walk() if isinstance(op, ContractOp)]


def kernel_of(op: Operation) -> KernelOp | None:
    """Return the kernel whose region holds an operation, if any."""
    parent = op.parent_op()
    return parent if isinstance(parent, KernelOp) else None


def dissolve(kernel: KernelOp) -> list[Operation]:
    """Put the operations of a kernel in its place and return them; the kernel is gone."""
    parts = kernel_parts(kernel)
    operations = [*parts.prologue, *([] if parts.root is None else [parts.root]), *parts.epilogue]
    block = kernel.body.block
    for argument, value in zip(block.args, kernel.inputs, strict=True):
        argument.name_hint = None  # or the value outside would take it over
        argument.replace_all_uses_with(value)
    yielded = list(kernel.terminator.values)
    for op in operations:
        op.detach()
        Rewriter.insert_op(op, InsertPoint.before(kernel))
    for result, value in zip(kernel.outputs, yielded, strict=True):
        result.replace_all_uses_with(value)
    Rewriter.erase_op(kernel)
    return operations

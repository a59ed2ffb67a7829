"""How operations get into kernels and out of them. Nothing here decides whether that is legal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from xdsl.dialects.builtin import StringAttr
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.irdl import IRDLOperation
from xdsl.rewriter import InsertPoint, Rewriter

from qcc.ir.base import LAYER, LOCATION, location_of, set_location
from qcc.ir.elementwise import BinaryOp
from qcc.ir.kernel import KernelOp, YieldOp, kernel_of, origin_of
from qcc.ir.program import ProgramOp, WeightOp


class Order:
    """Where the operations of a program stand; kernels stand where they were put."""

    def __init__(self, program: ProgramOp) -> None:
        self._place: dict[Operation, int] = {op: index for index, op in enumerate(program.body.block.ops)}

    def of(self, op: Operation) -> int:
        """Return the place of an operation."""
        return self._place[op]

    def put(self, op: Operation, at: Operation) -> None:
        """Note that a new operation stands where another one stood."""
        self._place[op] = self._place[at]

    def is_known_before(self, value: SSAValue, op: Operation) -> bool:
        """Say whether a value of the program is computed before an operation (arguments always are)."""
        owner = value.owner
        return not isinstance(owner, Operation) or self._place[owner] < self._place[op]


def enclose(
    operations: Sequence[Operation],
    outputs: Sequence[SSAValue],
    label: str,
    at: Operation,
    properties: Mapping[str, Attribute] | None = None,
) -> KernelOp:
    """Move operations of one block into a new kernel that stands in front of `at`, one of them.

    They must be in order. `outputs` are the values that are read outside; `properties` are what a kernel that held
    some of them had noted.
    """
    inside = set(operations)
    outer = dict.fromkeys(value for op in operations for value in op.operands if value.owner not in inside)
    block = Block(arg_types=[value.type for value in outer])
    after = at
    while after in inside:
        assert after.next_op is not None  # a program ends in its return, which no kernel holds
        after = after.next_op
    for value, argument in zip(outer, block.args, strict=True):
        argument.name_hint = _role(value, operations)
        value.replace_uses_with_if(argument, lambda use: use.operation in inside)
    for op in operations:
        op.detach()
        block.add_op(op)
    block.add_op(last := YieldOp(outputs))
    kernel = KernelOp(label, list(outer), Region(block))
    kernel.properties.update(properties or {})
    set_location(kernel, next((place for op in reversed(operations) if (place := location_of(op))), ""))
    Rewriter.insert_op(kernel, InsertPoint.before(after))
    for value, result in zip(outputs, kernel.outputs, strict=True):
        result.name_hint = value.name_hint
        value.replace_uses_with_if(result, lambda use: use.operation not in inside and use.operation is not last)
    return kernel


def _role(value: SSAValue, operations: Sequence[Operation]) -> str | None:
    """Return what the first of some operations that reads a value calls it, as a name to print."""
    for op in operations:
        if value in op.operands and isinstance(op, IRDLOperation):
            names = [name for name, _ in op.get_irdl_definition().operands if _is_part(value, getattr(op, name))]
            return None if not names else "other" if isinstance(op, BinaryOp) else names[0]
    return None


def _is_part(value: SSAValue, operand: object) -> bool:
    return value is operand or (isinstance(operand, Sequence) and value in operand)


def label_of(op: Operation) -> str:
    """Name a kernel after its root: the layer, else its weight, else the module of the user's model."""
    noted = op.attributes.get(LAYER)
    if isinstance(noted, StringAttr):
        return noted.data
    for value in op.operands[1:]:
        if isinstance(weight := origin_of(value).owner, WeightOp):
            return weight.key.data.split(":")[0].split("/")[0].removesuffix(".weight")
    place = op.attributes.get(LOCATION)
    return place.data.split(" ")[0] if isinstance(place, StringAttr) and place.data else op.name.removeprefix("qcc.")


def place_of(op: Operation) -> str:
    """Name a root for messages: the layer, and its line in the user's model."""
    label, place = label_of(kernel_of(op) or op), location_of(op)
    return f"{label} at {place}" if place else label

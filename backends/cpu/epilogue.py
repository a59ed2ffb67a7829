"""Let a linear take over the activation and the residual addition that follow it.

    add(activation(linear(x, w, b)), r)  ->  one call with an epilogue

Legal where every intermediate value has this one reader, and the residual is known before the linear.
"""

from __future__ import annotations

from xdsl.ir import Operation, SSAValue

from qcc.backends.cpu.fields import read
from qcc.backends.cpu.lowering import Lowering
from qcc.backends.cpu.statements import Raw, Struct, Value
from qcc.backends.cpu.views import as_rows
from qcc.ir.elementwise import BinaryFunction, BinaryOp, UnaryFunction, UnaryOp
from qcc.ir.types import type_of

ACTIVATIONS = {
    UnaryFunction.RELU: "QCC_RELU",
    UnaryFunction.SILU: "QCC_SILU",
    UnaryFunction.GELU: "QCC_GELU",
    UnaryFunction.GELU_TANH: "QCC_GELU_TANH",
    UnaryFunction.SIGMOID: "QCC_SIGMOID",
    UnaryFunction.TANH: "QCC_TANH",
    UnaryFunction.HARDSWISH: "QCC_HARD_SWISH",
    UnaryFunction.HARDSIGMOID: "QCC_HARD_SIGMOID",
}
"""Functions that an epilogue applies."""


def absorb_activation(low: Lowering, value: SSAValue) -> tuple[str, SSAValue]:
    """Take over the activation that is a value's only reader; return its name and the value after it."""
    reader = only_reader(value)
    if not isinstance(reader, UnaryOp) or reader.function.data not in ACTIVATIONS:
        return "QCC_ACT_NONE", value
    low.absorb(reader)
    return ACTIVATIONS[reader.function.data], reader.result


def absorb_epilogue(low: Lowering, value: SSAValue, bias: SSAValue | None) -> tuple[Struct, SSAValue]:
    """Take over activation and residual; return the epilogue's fields and the value that the call computes."""
    fields: dict[str, Value] = {}
    if bias is not None:
        fields["bias"] = read(low.contiguous(low.view(bias)))
    activation, value = absorb_activation(low, value)
    reader = only_reader(value)
    if isinstance(reader, BinaryOp) and reader.function.data is BinaryFunction.ADD:
        other = reader.rhs if reader.lhs is value else reader.lhs
        rows = as_rows(low.views[other]) if other in low.views else None
        if rows is not None and type_of(other) == type_of(value):
            low.absorb(reader)
            fields |= {"residual": read(rows.view), "residual_stride": rows.stride}
            value = reader.result
    fields["activation"] = Raw(activation)
    return Struct(fields), value


def only_reader(value: SSAValue) -> Operation | None:
    """Return the operation that reads a value, if there is exactly one and it reads it once."""
    uses = list(value.uses)
    return uses[0].operation if len(uses) == 1 else None

"""Lower kernels: their parts in order, with the first steps of the epilogue inside the root's own call.

What is in a kernel is decided in the IR. Here the steps of an epilogue become members of the root's argument struct as
far as its struct goes; what it has no member for is lowered as a call of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from xdsl.ir import Operation, SSAValue

from qcc.backends.cpu.fields import read
from qcc.backends.cpu.lowering import Lowering
from qcc.backends.cpu.statements import Raw, Struct, Value
from qcc.ir.elementwise import BinaryFunction, BinaryOp, UnaryFunction, UnaryOp
from qcc.ir.kernel import KernelOp, kernel_of, kernel_parts
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

OPERANDS = {BinaryFunction.MUL: "gate", BinaryFunction.ADD: "residual"}
"""Members of `qcc_epilogue` that a second operand becomes, in the order of their effect."""

_NAMES = "|".join(sorted(one.value for one in ACTIVATIONS))
_QUANTIZE = "quantize_static|quantize_token|quantize_block"
EPILOGUES = (f"contract: {_NAMES} > mul > add", f"linear: {_NAMES} > mul > add", f"conv: {_NAMES}")
"""What a call takes over after its root; see `qcc.ir.fusion`."""
PROLOGUES = (f"contract: norm > {_QUANTIZE}", f"rows: norm > {_QUANTIZE}")
"""What is computed before a root, and by itself."""


def emit_kernel(low: Lowering, op: KernelOp) -> None:
    """Lower `qcc.kernel`: prologue, root with as much of the epilogue as its call takes, the rest of the epilogue."""
    parts = kernel_parts(op)
    for one in parts.prologue:
        low.lower(one)
    if parts.root is not None:
        low.lower(parts.root)
        for step in parts.epilogue:
            if step not in low.joined:
                low.lower(step)


def join_activation(low: Lowering, root: Operation) -> tuple[str, SSAValue]:
    """Let a root's call apply the activation after it, if there is one; return its name and the value then reached."""
    name, value, _ = _join_activation(low, root)
    return name, value


def join_epilogue(low: Lowering, root: Operation, bias: SSAValue | None) -> tuple[Struct, SSAValue]:
    """Let a root's call take the steps after it that `qcc_epilogue` has members for.

    Returns the struct and the value that the call computes.
    """
    activation, value, steps = _join_activation(low, root)
    fields: dict[str, Value] = {}
    if bias is not None:
        fields["bias"] = read(low.contiguous(low.view(bias)))
    for function, member in OPERANDS.items():
        if not steps or not isinstance(step := steps[0], BinaryOp) or step.function.data is not function:
            continue
        other = step.rhs if step.lhs is value else step.lhs
        if type_of(other) != type_of(value):
            break
        rows = low.rows(low.view(other))
        fields |= {member: read(rows.view), f"{member}_stride": rows.stride}
        low.join(step)
        value, steps = step.result, steps[1:]
    fields["activation"] = Raw(activation)
    return Struct(fields), value


def _join_activation(low: Lowering, root: Operation) -> tuple[str, SSAValue, Sequence[Operation]]:
    kernel = kernel_of(root)
    steps = () if kernel is None else kernel_parts(kernel).epilogue
    first = steps[0] if steps else None
    if not isinstance(first, UnaryOp) or first.function.data not in ACTIVATIONS:
        return "QCC_ACT_NONE", root.results[0], steps
    low.join(first)
    return ACTIVATIONS[first.function.data], first.result, steps[1:]


LOWERINGS: dict[type[Operation], Callable[..., None]] = {KernelOp: emit_kernel}

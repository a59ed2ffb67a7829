"""Hold a quantized module to what a target says it can take, before anything is solved or written."""

from __future__ import annotations

from collections.abc import Iterator

from xdsl.dialects.builtin import ModuleOp

from qcc.backends.base import Capabilities
from qcc.errors import Problem, UnsupportedOp
from qcc.ir.kernel import contracts_of
from qcc.ir.quant import ContractOp
from qcc.ir.types import TensorType, type_of
from qcc.numerics.qtype_parts import IntDecode


def admit(module: ModuleOp, capabilities: Capabilities) -> None:
    """Check plans and bits of every contraction.

    Raises:
        UnsupportedOp: listing every contraction that the target cannot take.
    """
    problems = [problem for op in contracts_of(module) for problem in _problems(op, capabilities)]
    if problems:
        raise UnsupportedOp(f"target {capabilities.name} cannot take {len(problems)} of the formats", problems)


def _problems(op: ContractOp, target: Capabilities) -> Iterator[Problem]:
    if op.plan is not None and op.plan.data.value not in target.plans:
        yield Problem(op.where, f"has no plan {op.plan.data.value}", f"plans: {', '.join(sorted(target.plans))}")
    sides = (("weights", op.weight, target.weight_bits), ("activations", op.input, target.activation_bits))
    for role, value, bits in sides:
        if (found := _bits(type_of(value))) is not None and found not in bits:
            yield Problem(op.where, f"{role} of {found} bits", f"use {bits[0]} to {bits[-1]} bits, or a float format")


def _bits(kind: TensorType) -> int | None:
    return kind.qtype.decode.bits if kind.qtype is not None and isinstance(kind.qtype.decode, IntDecode) else None

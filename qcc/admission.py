"""Hold a quantized module to what a target says it can take, before anything is solved or written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

from qcc.backends.base import Capabilities
from qcc.errors import Problem, QccError, UnsupportedOp
from qcc.ir.base import QccOperation
from qcc.ir.nn import EmbeddingOp
from qcc.ir.quant import ContractOp
from qcc.ir.types import type_of
from qcc.numerics.qtype_parts import FloatDecode, IntDecode, PlanesDecode, SelectDecode, TableDecode

_KINDS: dict[type, str] = {
    IntDecode: "integers",
    FloatDecode: "floats",
    TableDecode: "indices of a table",
    PlanesDecode: "digit planes",
    SelectDecode: "of a decode chosen for every block",
}


def admit(module: ModuleOp, capabilities: Capabilities) -> None:
    """Check plans, kinds of codes and bits of every contraction, and the codes of every embedding table.

    Raises:
        UnsupportedOp: listing every operation that the target cannot take.
    """
    problems: list[Problem] = []
    for op in module.walk():
        if isinstance(op, ContractOp):
            problems += _contract_problems(op, capabilities)
        elif isinstance(op, EmbeddingOp):
            bits = capabilities.weight_bits
            problems += _format_problems(op, "its table", op.table, capabilities, bits, of_weight=True)
    if problems:
        raise UnsupportedOp(f"target {capabilities.name} cannot take {len(problems)} of the formats", problems)


def _contract_problems(op: ContractOp, target: Capabilities) -> Iterator[Problem]:
    if op.plan is not None and op.plan.data.value not in target.plans:
        yield Problem(op.where, f"has no plan {op.plan.data.value}", f"plans: {', '.join(sorted(target.plans))}")
    yield from _format_problems(op, "weights", op.weight, target, target.weight_bits, of_weight=True)
    found = list(_format_problems(op, "activations", op.input, target, target.activation_bits))
    qtype = type_of(op.input).qtype
    if not found and qtype is not None and target.activation_problem and (what := target.activation_problem(qtype)):
        found = [Problem(op.where, what, "use int8 with one scale per token or group, or f32 to leave it in float")]
    yield from found


def _format_problems(
    op: QccOperation, role: str, value: SSAValue, target: Capabilities, bits: range, *, of_weight: bool = False
) -> Iterator[Problem]:
    qtype = type_of(value).qtype
    decodes = (target.weight_decodes or target.decodes) if of_weight else target.decodes
    if qtype is None:
        return
    if not isinstance(qtype.decode, decodes):
        known = ", ".join(_KINDS[kind] for kind in decodes)
        what = f"{role} in '{qtype}', whose codes are {_KINDS[type(qtype.decode)]}"
        yield Problem(op.where, what, f"use codes that are {known}, or f32 to leave it in float")
    elif isinstance(qtype.decode, IntDecode) and qtype.decode.bits not in bits:
        fix = f"use {bits[0]} to {bits[-1]} bits, or a float format"
        yield Problem(op.where, f"{role} of {qtype.decode.bits} bits", fix)


def check_architectures(target: Capabilities, names: Sequence[str]) -> None:
    """Hold the GPU architectures that a user lists to those of a target; `sm_90a` is `sm_90`.

    Raises:
        QccError: if the target has none, or listing every name that it does not know.
    """
    if names and not target.architectures:
        raise QccError(f"--arch names GPU architectures, and target {target.name} has none", fix="leave it away")
    unknown = [name for name in names if name.removesuffix("a") not in target.architectures]
    if unknown:
        problems = [Problem(f"--arch {name}", f"is no architecture of target {target.name}") for name in unknown]
        raise QccError(
            "some GPU architectures are not known", problems, fix=f"use of: {', '.join(target.architectures)}"
        )

"""Which operations a target computes in one kernel, as data: rules that a backend states and a pass reads.

A rule is one line of text:

    contract: relu|gelu|silu > mul > add       after a contraction: an activation, a multiply, an addition, in this
                                               order, each at most once
    contract: relu|gelu|mul|add *              any of these, any number of times
    rows: norm > rotate > quantize_token       a kernel without a root

A name before the colon is that of a root (`contract`, `linear`, `matmul`, `conv`, `attention`) or `rows`. Names after
it are kinds of steps, as `step_kind` gives them. Each stage may be left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from xdsl.ir import Operation, SSAValue

from qcc.errors import Problem, QccError
from qcc.ir.dims import Dim, Shape
from qcc.ir.elementwise import BinaryFunction, BinaryOp, UnaryFunction, UnaryOp
from qcc.ir.kernel_parts import EPILOGUE, PROLOGUE, ROOTS
from qcc.ir.quant import QuantizeOp
from qcc.ir.transform import RotateOp, RotationKind
from qcc.ir.types import TensorType, type_of
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import expand_block

ROWS = "rows"
"""Name of the rule of kernels without a root."""

QUANTIZE_KINDS = ("quantize_static", "quantize_token", "quantize_block", "quantize_tensor")
OPERAND_KINDS = ("", "_number", "_channel", "_broadcast")


@dataclass(frozen=True)
class Stage:
    """Kinds of steps of which one may be taken, or any number where `many`."""

    kinds: frozenset[str]
    many: bool = False


@dataclass(frozen=True)
class FusionRule:
    """What may stand before or after a root, in order."""

    root: str
    stages: tuple[Stage, ...]

    def accepts(self, kinds: Sequence[str]) -> bool:
        """Say whether steps of these kinds, in this order, fit the stages; every stage may be left out."""
        at = 0
        for kind in kinds:
            while at < len(self.stages) and kind not in self.stages[at].kinds:
                at += 1
            if at == len(self.stages):
                return False
            at += not self.stages[at].many
        return True


def step_kind(op: Operation, running: SSAValue | None = None) -> str:
    """Name what an operation of a prologue or epilogue does to the value `running` that flows through it.

    A unary operation is named by its function. A binary one by its function if both operands have one shape, else with
    `_number` (the other operand is one number), `_channel` (one per channel of the last axis) or `_broadcast`; with
    `_reversed` where the order of operands matters and the running value is the second. A quantization is
    `quantize_static`, or by what shares a computed scale: `quantize_token` (a row), `quantize_block` (a part of a row)
    or `quantize_tensor` (more than a row). All others have the operation's name without its dialect.
    """
    match op:
        case UnaryOp():
            return op.function.data.value
        case BinaryOp():
            return _binary_kind(op, running)
        case QuantizeOp():
            return _quantize_kind(op)
        case RotateOp() if op.kind.data is RotationKind.DENSE:
            return "rotate_dense"
        case _:
            return op.name.removeprefix("qcc.")


def _binary_kind(op: BinaryOp, running: SSAValue | None) -> str:
    first = op.rhs if running is op.rhs and running is not op.lhs else op.lhs
    other = op.rhs if first is op.lhs else op.lhs
    whole, part = type_of(op.result).shape, type_of(other).shape
    function = op.function.data
    turned = "_reversed" if first is op.rhs and function not in ("add", "mul", "max", "min") else ""
    return f"{function.value}{turned}{_operand_kind(whole, part)}"


def _operand_kind(whole: Shape, part: Shape) -> str:
    one = Dim.of(1)
    if part == whole:
        return ""
    if all(dim == one for dim in part):
        return "_number"
    return "_channel" if part[-1] == whole[-1] and all(dim == one for dim in part[:-1]) else "_broadcast"


def _quantize_kind(op: QuantizeOp) -> str:
    kind = type_of(op.result)
    if op.scales or kind.qtype is None or kind.qtype.when == "static":
        return "quantize_static"
    if not scales_stay_in_rows(kind.qtype, kind):
        return "quantize_tensor"
    return "quantize_token" if scales_span_rows(kind.qtype, kind) else "quantize_block"


def scales_span_rows(qtype: QType, kind: TensorType) -> bool:
    """Say whether all columns of a row of a tensor have one scale at every level of a format.

    Such a scale may cross the sum over K of a contraction: it is a factor of every term.
    """
    columns = kind.shape[-1].constant
    widths = [expand_block(level.block, 2)[1] for level in qtype.levels]
    return all(width == -1 or (columns is not None and width >= columns) for width in widths)


def scales_stay_in_rows(qtype: QType, kind: TensorType) -> bool:
    """Say whether no scale of a format is shared by two rows (last axes) of a tensor."""
    leads = [expand_block(level.block, kind.rank)[:-1] for level in qtype.levels]
    return all(
        extent == 1 or dim == Dim.of(1) for lead in leads for extent, dim in zip(lead, kind.shape[:-1], strict=True)
    )


def parse_rules(texts: Iterable[str]) -> dict[str, FusionRule]:
    """Read rules by the name of their root.

    Raises:
        QccError: listing every rule that names an unknown root or step, or the root of another rule.
    """
    rules: dict[str, FusionRule] = {}
    problems: list[Problem] = []
    for text in texts:
        rule = _parse_rule(text)
        known = {*ROOT_NAMES, ROWS}
        if rule.root not in known:
            problems.append(Problem(f"rule '{text}'", "names no root", f"roots: {', '.join(sorted(known))}"))
        if rule.root in rules:
            problems.append(Problem(f"rule '{text}'", f"is the second of '{rule.root}'", "write one rule for a root"))
        if unknown := {kind for stage in rule.stages for kind in stage.kinds} - STEP_KINDS:
            problems.append(Problem(f"rule '{text}'", f"names unknown steps: {', '.join(sorted(unknown))}"))
        rules[rule.root] = rule
    if problems:
        raise QccError("fusion rules cannot be read", problems)
    return rules


def _parse_rule(text: str) -> FusionRule:
    root, _, rest = text.partition(":")
    stages: list[Stage] = []
    for part in rest.split(">") if rest.strip() else []:
        body = part.strip()
        many = body.endswith("*")
        stages.append(Stage(frozenset(one.strip() for one in body.removesuffix("*").split("|")), many))
    return FusionRule(root.strip(), tuple(stages))


ROOT_NAMES = frozenset(root.name.removeprefix("qcc.") for root in ROOTS)
"""Names of roots in rules."""

STEP_KINDS: frozenset[str] = frozenset(
    {
        *(one.value for one in UnaryFunction),
        *(
            f"{one.value}{turned}{kind}"
            for one in BinaryFunction
            for turned in ("", "_reversed")
            for kind in OPERAND_KINDS
        ),
        *QUANTIZE_KINDS,
        "rotate_dense",
        *(op.name.removeprefix("qcc.") for op in (*PROLOGUE, *EPILOGUE) if op not in (UnaryOp, BinaryOp, QuantizeOp)),
    }
)
"""Every kind of step that `step_kind` gives."""

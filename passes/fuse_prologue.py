"""Let a kernel compute what its input is made by.

    n = norm(x); q = quantize(n)           kernel (x, w) { n = norm(x); q = quantize(n); y = contract(q, w); .. }
    y = contract(q, w)                ->       where only the contraction reads q, and only the quantize reads n

    n = norm(x); q = quantize(n)           n, q = kernel (x) { n = norm(x); q = quantize(n); yield n, q }
    contract(q, v); contract(q, w)    ->   contract(q, v); contract(q, w)
    add(.., n)                                 where several read one of them: computed once, in a kernel without a root

Steps are norms, rotations, quantization: what `rules` say the target prints before each root, and under `rows` in a
kernel without one (`qcc.ir.fusion`).

Legal where the value that flows to the root is read by this kernel alone, or, in a kernel without a root, where the
kernel can stand so that everything it reads is computed before and everything that reads it comes after. The
operations stay the same ones on the same values, so results are the same bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass

from qcc.ir.fusion import ROWS, FusionRule, parse_rules, step_kind
from qcc.ir.kernel import KernelOp, dissolve, kernel_of, outer_value
from qcc.ir.kernel_parts import PROLOGUE, ROOTS
from qcc.ir.program import ConstantOp, ProgramOp, WeightOp
from qcc.passes.regions import Order, enclose, label_of

QUANTIZE = "quantize_static|quantize_token|quantize_block"
RULES = (
    f"contract: norm > rotate > {QUANTIZE}",
    "linear: norm > rotate",
    f"rows: norm > rotate > {QUANTIZE}",
)
"""What is fused where no target says otherwise."""

Rules = Mapping[str, FusionRule]


@dataclass(frozen=True)
class FusePrologue(ModulePass):
    """The pass; `rules` are what the target prints before a root, and without one."""

    name: ClassVar[str] = "fuse-prologue"

    rules: tuple[str, ...] = RULES

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module.

        Raises:
            QccError: if a rule cannot be read.
        """
        rules = parse_rules(self.rules)
        for program in [one for one in op.ops if isinstance(one, ProgramOp)]:
            order, seen = Order(program), set[Operation]()
            for one in reversed(list(program.body.block.ops)):
                if isinstance(one, PROLOGUE) and one not in seen:
                    seen.update(_gather_rows(one, rules, order))
            for root in [one for one in program.walk() if isinstance(one, ROOTS)]:
                _extend(root, rules)


def _gather_rows(last: Operation, rules: Rules, order: Order) -> list[Operation]:
    """Make a kernel without a root of the steps that end in an operation, if there are several; return the steps."""
    steps = _steps_to(last.results[0], rules[ROWS], None) if ROWS in rules else []
    if len(steps) < 2 or _joins_a_root(steps, rules):
        return steps
    outer = [one for step in steps for one in step.operands if one.owner not in steps]
    early = [use.operation for step in steps[:-1] for use in step.results[0].uses if use.operation not in steps]
    if all(order.is_known_before(one, steps[0]) for one in outer):
        at = steps[0]
    elif all(order.of(one) > order.of(last) for one in early):
        at = last
    else:
        return steps
    read = [step.results[0] for step in steps if any(use.operation not in steps for use in step.results[0].uses)]
    order.put(enclose(steps, read, label_of(steps[0]), at), at)
    return steps


def _joins_a_root(steps: list[Operation], rules: Rules) -> bool:
    """Say whether a kernel with a root will take all these steps."""
    readers = {use.operation for use in steps[-1].results[0].uses}
    roots = [root for one in readers if (root := _root_of(one)) is not None]
    if len(readers) != 1 or not roots or outer_value(roots[0].operands[0]) is not steps[-1].results[0]:
        return False
    rule = rules.get(roots[0].name.removeprefix("qcc."))
    return rule is not None and set(steps) <= set(_steps_to(steps[-1].results[0], rule, readers.pop()))


def _root_of(op: Operation) -> Operation | None:
    inside = op.body.block.ops if isinstance(op, KernelOp) else [op]
    return next((one for one in inside if isinstance(one, ROOTS)), None)


def _extend(root: Operation, rules: Rules) -> None:
    """Let the kernel of a root, new if it has none, take the steps that make the root's input."""
    kernel = kernel_of(root)
    rule, flow = rules.get(root.name.removeprefix("qcc.")), outer_value(root.operands[0])
    has_prologue = isinstance(flow.owner, Operation) and kernel_of(flow.owner) is not None
    if rule is None or has_prologue or not (steps := _steps_to(flow, rule, kernel or root)):
        return
    label, properties = (kernel.label.data, kernel.properties) if kernel else (label_of(root), {})
    inside = dissolve(kernel) if kernel else [root]
    enclose([*steps, *inside], [*inside[-1].results], label, root, properties)


def _steps_to(value: SSAValue, rule: FusionRule, reader: Operation | None) -> list[Operation]:
    """Return the steps, in order, that make a value and fit a rule; only `reader` and themselves may read them."""
    steps: list[Operation] = []
    kinds: list[str] = []
    while isinstance(step := value.owner, PROLOGUE) and not _is_stored(step.operands[0]):
        kinds.insert(0, step_kind(step))
        others = {use.operation for use in value.uses} - {reader, *steps}
        if (reader is not None and others) or not rule.accepts(kinds):
            break
        steps.insert(0, step)
        value = step.operands[0]
    return steps


def _is_stored(value: SSAValue) -> bool:
    return isinstance(value.owner, WeightOp | ConstantOp)

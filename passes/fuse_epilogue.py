"""Let a contraction compute what follows it, in one kernel.

    y = contract(x, w, b)              kernel (x, w, b, r) {
    z = add(gelu(y), r)           ->     y = contract(x, w, b); a = gelu(y); z = add(a, r); yield z
                                       }

Steps are activations, the multiply by a gate, the addition of a residual, quantization of the result: what `rules` say
the target prints after each root (`qcc.ir.fusion`). Zero correction, scales and bias are part of the contraction.
Every `contract` gets a kernel, also where nothing follows it; other roots only with an epilogue.

Legal where, for each step: the value before it has this one reader and is read once; the step keeps the shape, and a
second operand has exactly that shape unless the rule names it as a number or a channel vector; what it reads besides is
a constant, or computed before the root, so that the kernel can stand where the root stood. The operations stay the same
ones in the same order, so results are the same bit for bit.

With `scales_after_sum` the kernels of the target scale a sum once, at its end, and correct it by a zero point once. A
scale of a token or a row is a factor of every term of the sum over K and may cross it, and a zero point of a token or a
row goes into the sum over the other side (s (q - z) w = s q w - s z w); what changes inside the sum may not, and is
refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from qcc.errors import IllegalFold, Problem
from qcc.ir.fusion import FusionRule, parse_rules, step_kind
from qcc.ir.kernel import contracts_of
from qcc.ir.kernel_parts import EPILOGUE, ROOTS, continues
from qcc.ir.program import ConstantOp, ProgramOp, WeightOp
from qcc.ir.quant import ContractOp
from qcc.ir.types import TensorType, type_of
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import expand_block
from qcc.numerics.stored_parts import parameter_parts
from qcc.passes.regions import Order, enclose, label_of, place_of

ACTIVATIONS = "relu|silu|gelu|gelu_tanh|sigmoid|tanh|hardswish|hardsigmoid"
RULES = (
    f"contract: {ACTIVATIONS}|mul|add * > quantize_static",
    f"linear: {ACTIVATIONS}|mul|add * > quantize_static",
    f"conv: {ACTIVATIONS}|add *",
)
"""What is fused where no target says otherwise."""


@dataclass(frozen=True)
class FuseEpilogue(ModulePass):
    """The pass; `rules` are what the target prints after a root."""

    name: ClassVar[str] = "fuse-epilogue"

    rules: tuple[str, ...] = RULES
    scales_after_sum: bool = False

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module.

        Raises:
            QccError: if a rule cannot be read.
            IllegalFold: listing every contraction whose scales change inside the sum, where `scales_after_sum`.
        """
        rules = parse_rules(self.rules)
        if self.scales_after_sum:
            _refuse_inner_scales(op)
        for program in [one for one in op.ops if isinstance(one, ProgramOp)]:
            order = Order(program)
            for root in [one for one in program.body.block.ops if isinstance(one, ROOTS)]:
                rule = rules.get(root.name.removeprefix("qcc."), FusionRule("", ()))
                steps = _epilogue(root, rule, order)
                if steps or isinstance(root, ContractOp):
                    _bring_constants(steps, root, order)
                    kernel = enclose([root, *steps], [*[root, *steps][-1].results], label_of(root), root)
                    order.put(kernel, root)


def _epilogue(root: Operation, rule: FusionRule, order: Order) -> list[Operation]:
    """Return the steps that may join a root, in order."""
    steps: list[Operation] = []
    kinds: list[str] = []
    value: SSAValue = root.results[0]
    while (step := _only_reader(value)) is not None:
        others = [one for one in step.operands if one is not value]
        kinds.append(step_kind(step, value))
        if not rule.accepts(kinds) or not all(order.is_known_before(one, root) or _is_constant(one) for one in others):
            break
        steps.append(step)
        value = step.results[0]
    return steps


def _is_constant(value: SSAValue) -> bool:
    return isinstance(value.owner, WeightOp | ConstantOp)


def _bring_constants(steps: Sequence[Operation], root: Operation, order: Order) -> None:
    """Put constants that steps read in front of the root, where the kernel will stand."""
    owners = dict.fromkeys(value.owner for step in steps for value in step.operands)
    for owner in owners:
        if isinstance(owner, WeightOp | ConstantOp) and order.of(owner) > order.of(root):
            owner.detach()
            Rewriter.insert_op(owner, InsertPoint.before(root))
            order.put(owner, root)


def _only_reader(value: SSAValue) -> Operation | None:
    """Return the operation that alone reads a value, once, and gives a value of the same shape instead."""
    if not value.has_one_use():
        return None
    step = next(iter(value.uses)).operation
    if not isinstance(step, EPILOGUE) or not continues(step, value):
        return None
    return step if type_of(step.results[0]).shape == type_of(value).shape else None


def _refuse_inner_scales(module: ModuleOp) -> None:
    problems: list[Problem] = []
    for op in contracts_of(module):
        for role, value, fix in (
            ("activations", op.input, "give them one scale per token (granularity: token)"),
            ("weights", op.weight, "give them one scale per row (group: row)"),
        ):
            kind = type_of(value)
            if kind.qtype is not None and (parts := _inside_sum(kind.qtype, kind)):
                what = f"{parts} of its {role} '{kind.qtype}' change inside the sum over K"
                problems.append(Problem(place_of(op), f"{what}, and this target scales a sum once, at its end", fix))
    if problems:
        raise IllegalFold("a scale of a block of K cannot leave the sum over K", problems)


def _inside_sum(qtype: QType, kind: TensorType) -> str:
    """Name the parameters of a format that are not the same for all columns of a row."""
    columns = kind.shape[-1].constant
    inner = [
        part.role.removesuffix("_offset")
        for part in parameter_parts(qtype)
        if (width := expand_block(part.block, 2)[1]) != -1 and (columns is None or width < columns)
    ]
    names = {"scale": "the scales", "offset": "the scales", "zero": "the zero points", "selector": "the decodes"}
    return " and ".join(dict.fromkeys(names[one] for one in inner))

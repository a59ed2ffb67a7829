"""The structure of a kernel's region: which operations it holds, and where.

A region reads from top to bottom:

    prologue    row-wise operations on the arguments: norm, rotate, quantize, ...
    root        at most one contraction, or attention
    epilogue    a chain: each operation reads the one before it, and otherwise arguments or values of the prologue

A region without a root is a row-wise kernel: a prologue by itself, of which any values may be yielded. A region with a
root yields the end of its chain.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.ir import Block, BlockArgument, Operation, SSAValue

from qcc.ir.base import refuse, show
from qcc.ir.elementwise import BinaryOp, CastOp, UnaryOp
from qcc.ir.integer import IntegerContractOp, IntegerMatmulOp, LookupOp
from qcc.ir.integer_rows import IntegerNormOp, IntegerSoftmaxOp
from qcc.ir.nn import ConvOp, LinearOp, MatmulOp, UnfoldOp
from qcc.ir.quant import ContractOp, DequantizeOp, QuantizeOp, RequantOp
from qcc.ir.transform import AddLowrankOp, AddSparseOp, ExpandKOp, PermuteOp, RotateOp, ScaleAxisOp
from qcc.ir.transformer import AttentionOp, NormOp, RopeOp
from qcc.ir.types import type_of

ROOTS: tuple[type[Operation], ...] = (
    ContractOp,
    LinearOp,
    MatmulOp,
    ConvOp,
    AttentionOp,
    IntegerContractOp,
    IntegerMatmulOp,
)
"""Operations that a kernel has at most one of."""

PROLOGUE: tuple[type[Operation], ...] = (
    NormOp,
    RotateOp,
    PermuteOp,
    ScaleAxisOp,
    ExpandKOp,
    QuantizeOp,
    DequantizeOp,
    UnaryOp,
    BinaryOp,
    CastOp,
    RopeOp,
    UnfoldOp,
    RequantOp,
    LookupOp,
    IntegerNormOp,
    IntegerSoftmaxOp,
)
"""Operations that may stand before the root, or in a kernel without one."""

EPILOGUE: tuple[type[Operation], ...] = (
    UnaryOp,
    BinaryOp,
    CastOp,
    ScaleAxisOp,
    AddLowrankOp,
    AddSparseOp,
    RequantOp,
    QuantizeOp,
    NormOp,
    RotateOp,
    LookupOp,
    IntegerNormOp,
    IntegerSoftmaxOp,
)
"""Operations that may stand in the chain after the root."""


@dataclass(frozen=True)
class KernelParts:
    """What a kernel computes, in order. `epilogue[i]` reads the result of the operation before it."""

    prologue: tuple[Operation, ...]
    root: Operation | None
    epilogue: tuple[Operation, ...]

    @property
    def chain(self) -> tuple[SSAValue, ...]:
        """The values of the chain: the root's result, then that of each epilogue step; empty without a root."""
        steps = () if self.root is None else (self.root, *self.epilogue)
        return tuple(one.results[0] for one in steps)

    def others(self, index: int) -> tuple[SSAValue, ...]:
        """Return what epilogue step `index` reads besides the chain, in the order of its operands."""
        running = self.chain[index]
        return tuple(one for one in self.epilogue[index].operands if one is not running)


def parts_of(op: Operation, block: Block) -> KernelParts:
    """Split the block of the kernel `op` into prologue, root and epilogue; see the head of this file.

    Raises:
        VerifyException: if the block holds operations that a kernel may not hold, or two roots.
    """
    operations = [one for one in block.ops if one is not block.last_op]
    places = [index for index, one in enumerate(operations) if isinstance(one, ROOTS)]
    if len(places) > 1:
        names = ", ".join(operations[index].name for index in places)
        raise refuse(op, f"has {len(places)} roots ({names}), and a kernel has at most one")
    at = places[0] if places else len(operations)
    prologue, root, epilogue = operations[:at], operations[at : at + 1], operations[at + 1 :]
    for role, allowed, found in (("prologue", PROLOGUE, prologue), ("epilogue", EPILOGUE, epilogue)):
        for one in found:
            if not isinstance(one, allowed):
                raise refuse(op, f"{one.name} cannot stand in the {role} of a kernel")
    return KernelParts(tuple(prologue), root[0] if root else None, tuple(epilogue))


def check_structure(op: Operation, block: Block) -> KernelParts:
    """Hold the block of the kernel `op` to the form at the head of this file, and return its parts.

    Raises:
        VerifyException: if it has another form.
    """
    parts = parts_of(op, block)
    yielded = () if block.last_op is None else tuple(block.last_op.operands)
    if not yielded:
        raise refuse(op, "yields nothing")
    if any(isinstance(value, BlockArgument) for value in yielded):
        raise refuse(op, "yields an argument as it is")
    for one in parts.prologue:
        if not any(result.uses for result in one.results):
            raise refuse(op, f"nothing reads the result of {one.name} in its region")
    if parts.root is not None:
        _check_chain(op, parts)
        if yielded != parts.chain[-1:]:
            raise refuse(op, "does not yield the end of the chain after its root, and that alone")
    return parts


def _check_chain(op: Operation, parts: KernelParts) -> None:
    for index, step in enumerate(parts.epilogue):
        running = parts.chain[index]
        if not (continues(step, running) and running.has_one_use()):
            raise refuse(op, f"{step.name} does not read the value before it, which nothing else may read")
        before, after = (type_of(one).shape for one in (running, step.results[0]))
        if before != after:
            raise refuse(op, f"{step.name} leads from {show(before)} to {show(after)}; an epilogue keeps its shape")


def continues(step: Operation, running: SSAValue) -> bool:
    """Say whether an operation reads a value as the one it changes: its first operand, or either of a binary one."""
    operands = list(step.operands)
    return running in (operands if isinstance(step, BinaryOp) else operands[:1])

"""A program as steps: launches of kernels, and operations that torch computes.

Quantized contractions, and the row-wise steps in front of them, are kernels. What stays in float (attention, embedding,
elementwise operations that no pass fused) is torch's; a quantized step is never handed to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from xdsl.ir import Operation

from qcc.backends.triton.lower import GemmStep, RowStep, contract_spec, lower_kernel, lower_rows
from qcc.backends.triton.spec import GemmSpec, Requantize
from qcc.backends.triton.tiling import Sizes
from qcc.errors import Problem, UnsupportedOp
from qcc.ir.base import location_of
from qcc.ir.dims import UNBOUNDED, product
from qcc.ir.kernel import KernelOp, YieldOp, kernel_parts, uses_of
from qcc.ir.program import ConstantOp, DimOp, ProgramOp, ReturnOp, StateOp, UpdateStateOp, WeightOp
from qcc.ir.quant import ContractOp, QuantizeOp
from qcc.ir.shape import ExpandOp, ReshapeOp, SliceOp, TransposeOp
from qcc.ir.types import TensorType, type_of


@dataclass(frozen=True, eq=False)
class LaunchStep:
    """Launches of one operation, in order. `labels` name them in the launch plan, `origin` is the operation's text."""

    op: Operation
    parts: tuple[RowStep | GemmStep, ...]
    labels: tuple[str, ...]
    origin: str

    def __iter__(self) -> Iterator[tuple[str, RowStep | GemmStep]]:
        return iter(zip(self.labels, self.parts, strict=True))


@dataclass(frozen=True, eq=False)
class TorchStep:
    """An operation that torch computes; a kernel stands for the operations in its region."""

    op: Operation


Step = LaunchStep | TorchStep


def steps_of(program: ProgramOp) -> tuple[Step, ...]:
    """Part a program into steps, in program order.

    Raises:
        UnsupportedOp: listing everything quantized that no kernel covers.
    """
    found: list[Step] = []
    problems: list[Problem] = []
    labels: dict[str, int] = {}
    for op in program.body.block.ops:
        if isinstance(op, ReturnOp):
            continue
        if not _is_launched(op):
            found.append(TorchStep(op))
            continue
        try:
            parts = _parts(op)
        except UnsupportedOp as error:
            problems += error.problems
            continue
        computed = [one for one in parts if isinstance(one, GemmStep) and not isinstance(one.weight.owner, WeightOp)]
        where = location_of(op) or op.name
        problems += [Problem(where, "the weight is computed, and not stored") for _ in computed]
        if any(map(_lacks_scale, parts)):
            problems.append(Problem(where, "a static quantization without its scale: it was not calibrated"))
        found.append(LaunchStep(op, parts, tuple(_label(op, one, labels) for one in parts), str(op)))
    if problems:
        raise UnsupportedOp(f"target triton cannot take {len(problems)} parts of the program", problems)
    return tuple(found)


def _lacks_scale(part: RowStep | GemmStep) -> bool:
    if isinstance(part, RowStep):
        return part.spec.scale == "tensor" and part.scale is None
    return part.out_scale is None and any(isinstance(one, Requantize) for one in part.spec.steps)


_VIEWS = (WeightOp, StateOp, UpdateStateOp, ConstantOp, DimOp, ReshapeOp, TransposeOp, ExpandOp, SliceOp)
"""Operations that name values or look at them otherwise, and compute none."""


def torch_operations(program: ProgramOp) -> list[Operation]:
    """Return the operations that torch computes; of a kernel that is taken apart, those in its region."""
    found: list[Operation] = []
    for op in program.body.block.ops:
        if not _is_launched(op):
            found += op.body.block.ops if isinstance(op, KernelOp) else [op]
    return [one for one in found if not isinstance(one, (*_VIEWS, ReturnOp, YieldOp))]


def launches_of(steps: tuple[Step, ...]) -> Iterator[tuple[str, RowStep | GemmStep]]:
    """Iterate over all launches with their labels, in program order."""
    for step in steps:
        if isinstance(step, LaunchStep):
            yield from step


def _is_launched(op: Operation) -> bool:
    if isinstance(op, KernelOp):
        parts = kernel_parts(op)
        return isinstance(parts.root, ContractOp) or any(isinstance(one, QuantizeOp) for one in op.body.walk())
    return isinstance(op, ContractOp | QuantizeOp)


def _parts(op: Operation) -> tuple[RowStep | GemmStep, ...]:
    match op:
        case KernelOp():
            lowered = lower_kernel(op)
            return tuple(one for one in (lowered.rows, lowered.gemm) if one is not None)
        case ContractOp():
            spec = contract_spec(op)
            if isinstance(spec, list):
                where = f"{op.name} at {location_of(op)}"
                raise UnsupportedOp("no kernel", [Problem(where, one) for one in spec])
            return (GemmStep(spec, op.input, op.weight, op.bias, (), None, op.result),)
        case _:
            return (lower_rows([op]),)


def _label(op: Operation, part: RowStep | GemmStep, taken: dict[str, int]) -> str:
    """Name a launch: the kernel's label, or where the operation comes from; a number where that is taken."""
    name = op.label.data if isinstance(op, KernelOp) else location_of(op) or op.name
    name = name.split(" ")[0] + (".rows" if isinstance(part, RowStep) else "")
    taken[name] = taken.get(name, 0) + 1
    return name if taken[name] == 1 else f"{name}.{taken[name]}"


def sizes_of(step: GemmStep, program: ProgramOp) -> Sizes:
    """Return channels, columns and the most tokens of a contraction."""
    channels, columns = (dim.constant or 0 for dim in type_of(step.weight).shape)
    return Sizes(channels, columns, most_rows(type_of(step.source), program.symbol_ranges))


def most_rows(kind: TensorType, ranges: Mapping[str, tuple[int, int]]) -> int | None:
    """Return the most rows that a tensor has in any call; None where its symbols have no upper bound."""
    rows = product(kind.shape[:-1])
    grows = all(factor > 0 and all(isinstance(one, str) for one in atoms) for atoms, factor in rows.terms)
    if not grows or any(ranges[name][1] >= UNBOUNDED for name in rows.symbols):
        return None
    return rows.evaluate({name: ranges[name][1] for name in rows.symbols})


def packed_key(step: GemmStep) -> str:
    """Return the name of a contraction's packed weight: the weight's key, and the layout that it is packed in."""
    return f"{weight_key(step)}/{layout_name(step.spec)}"


def weight_key(step: GemmStep) -> str:
    """Return the key of a contraction's weight in the store."""
    assert isinstance(step.weight.owner, WeightOp)  # held by `steps_of`
    return step.weight.owner.key.data


def is_packed_only(op: Operation) -> bool:
    """Say whether contractions are all that reads a weight: then it is stored as they read it, and in no other form."""
    if not isinstance(op, WeightOp):
        return False
    readers = [(use.operation, use.operation.operands[use.index]) for use in uses_of(op.result)]
    return bool(readers) and all(isinstance(one, ContractOp) and value is one.weight for one, value in readers)


def layout_name(spec: GemmSpec) -> str:
    """Name what a packed weight depends on."""
    group = "row" if spec.group is None else f"g{spec.group}"
    return f"{spec.plan}_{spec.input}_{group}_{spec.scale}_{spec.zero}_k{spec.step}"

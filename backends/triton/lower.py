"""Read kernels of the IR as specs, and which values of the program their arguments are.

Nothing is decided here: what is in a kernel was decided by the passes that fused it. A kernel becomes a row-wise step,
a contraction, or both in this order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

from xdsl.ir import Operation, SSAValue

from qcc.backends.triton.formats import InputFormat, WeightFormat, input_format, weight_format
from qcc.backends.triton.geometry import is_ragged, step_of
from qcc.backends.triton.spec import (
    Activation,
    Combine,
    Float,
    GemmSpec,
    Input,
    KernelSpec,
    Norm,
    Output,
    Requantize,
    RowSpec,
    Step,
    Unary,
)
from qcc.errors import Problem, UnsupportedOp
from qcc.ir.base import location_of
from qcc.ir.elementwise import BinaryOp, CastOp, UnaryOp
from qcc.ir.fusion import step_kind
from qcc.ir.kernel import KernelOp, kernel_parts, outer_value, uses_of
from qcc.ir.parameters import given_parts
from qcc.ir.quant import ContractOp, QuantizeOp
from qcc.ir.transform import RotateOp, RotationKind
from qcc.ir.transformer import NormOp
from qcc.ir.types import type_of

ACTIVATIONS: tuple[Activation, ...] = ("relu", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh")
COMBINATIONS: dict[str, tuple[Literal["add", "mul"], Literal["full", "channel", "scalar"]]] = {
    "add": ("add", "full"),
    "mul": ("mul", "full"),
    "add_channel": ("add", "channel"),
    "mul_channel": ("mul", "channel"),
    "add_number": ("add", "scalar"),
    "mul_number": ("mul", "scalar"),
}
"""Kinds of binary steps by what they do, and the shape of their other operand."""

_QUANTIZE = "quantize_static|quantize_token|quantize_block"
EPILOGUES = (f"contract: {'|'.join((*ACTIVATIONS, *COMBINATIONS))}|cast * > quantize_static",)
"""What is printed after a contraction; see `qcc.ir.fusion`."""
PROLOGUES = (f"contract: norm > rotate > {_QUANTIZE}", f"rows: norm > rotate > {_QUANTIZE}")
"""What is printed before a contraction, and by itself."""


@dataclass(frozen=True, eq=False)
class RowStep:
    """A row-wise kernel: values of the program that it reads, and what it computes.

    `scale` is the stored scale of a static quantization. `values` and `codes` are the results that it writes.
    """

    spec: RowSpec
    source: SSAValue
    norm_weight: SSAValue | None
    norm_bias: SSAValue | None
    eps: float
    scale: SSAValue | None
    values: SSAValue | None
    codes: SSAValue | None


@dataclass(frozen=True, eq=False)
class GemmStep:
    """A contraction: values of the program that it reads; `operands` are those of its `Combine` steps in order."""

    spec: GemmSpec
    source: SSAValue
    weight: SSAValue
    bias: SSAValue | None
    operands: tuple[SSAValue, ...]
    out_scale: SSAValue | None
    result: SSAValue


@dataclass(frozen=True, eq=False)
class LoweredKernel:
    """What a kernel becomes: a row-wise step, a contraction, or one after the other."""

    rows: RowStep | None
    gemm: GemmStep | None

    @property
    def specs(self) -> tuple[KernelSpec, ...]:
        """The specs in the order of their launches."""
        return tuple(one.spec for one in (self.rows, self.gemm) if one is not None)


def lower_kernel(op: KernelOp) -> LoweredKernel:
    """Read a kernel. Values that are the kernel's arguments are given as the values outside.

    Raises:
        UnsupportedOp: listing everything in the kernel that no Triton kernel covers.
    """
    found: list[Problem] = []
    parts, where = kernel_parts(op), _where(op)
    gemm = None
    if isinstance(parts.root, ContractOp):
        gemm = _lower_contract(parts.root, parts.epilogue, where, found)
    elif parts.root is not None:
        found.append(Problem(where, f"'{parts.root.name}' has no Triton kernel; contractions have"))
    outside = set(op.terminator.values) | {one for index in range(len(parts.epilogue)) for one in parts.others(index)}
    rows = _lower_rows(parts.prologue, outside, where, found) if parts.prologue else None
    if found:
        raise UnsupportedOp(f"kernel '{op.label.data}' cannot be printed as Triton", found)
    return LoweredKernel(rows, gemm)


def lower_rows(operations: Sequence[Operation]) -> RowStep:
    """Read operations outside of any kernel (a norm, a rotation, a quantization, each fed by the one before).

    Raises:
        UnsupportedOp: listing everything that no row-wise kernel covers.
    """
    found: list[Problem] = []
    inside = set(operations)
    read = {one for op in operations for one in op.results if any(use.operation not in inside for use in uses_of(one))}
    rows = _lower_rows(operations, read, _where(operations[-1]), found)
    if rows is None or found:
        raise UnsupportedOp("a row-wise step cannot be printed as Triton", found)
    return rows


def spec_of(op: KernelOp) -> KernelSpec:
    """Return the spec of a kernel that is one launch: a contraction without prologue, or a row-wise step.

    Raises:
        UnsupportedOp: if it is two launches (see `lower_kernel`), or no Triton kernel covers it.
    """
    specs = lower_kernel(op).specs
    if len(specs) != 1:
        raise UnsupportedOp(f"kernel '{op.label.data}' is {len(specs)} launches", fix="use lower_kernel")
    return specs[0]


def contract_spec(op: ContractOp, epilogue: Sequence[Operation] = ()) -> GemmSpec | list[str]:
    """Read a contraction and the steps after it as a spec, or list what no kernel covers."""
    kind, weight = type_of(op.input), type_of(op.weight)
    rows, columns = (dim.constant for dim in weight.shape)
    if weight.qtype is None or rows is None or columns is None:
        return [f"a weight of {weight}, whose shape is not known"]
    packed = weight_format(weight.qtype, columns)
    given = InputFormat(0, 0, "none", None) if kind.qtype is None else input_format(kind.qtype, columns)
    faults = [one for part in (packed, given) if isinstance(part, list) for one in part]
    if kind.qtype is None and kind.scalar not in ("f16", "bf16"):
        faults.append(f"a float input of {kind.scalar}; float16, bfloat16 or quantized inputs are taken")
    steps, output = _steps(op, epilogue, faults)
    if not isinstance(packed, WeightFormat) or not isinstance(given, InputFormat) or faults:
        return faults
    group = _common_group(packed.group, given.group)
    if group == 0:
        return [f"inputs in groups of {given.group} columns and weights in groups of {packed.group}"]
    try:
        spec = GemmSpec(
            weight_bits=packed.bits,
            group=group,
            input=cast(Input, kind.scalar if kind.qtype is None else "i8"),
            zero=packed.zero,
            scale=packed.scale,
            input_scale=given.scale,
            input_group=given.group,
            bias=None if op.bias is None else cast(Float, type_of(op.bias).scalar),
            steps=tuple(steps),
            output=cast(Output, output),
            step=step_of(packed.bits, group, columns),
        )
    except UnsupportedOp as error:
        return [one.what for one in error.problems]
    return replace(spec, ragged=is_ragged(spec, rows, columns))


def _common_group(weights: int | None, inputs: int | None) -> int | None:
    """Return how many columns share one scale on both sides; None for a row, 0 if neither divides the other."""
    if weights is None or inputs is None:
        return weights or inputs
    small, large = min(weights, inputs), max(weights, inputs)
    return small if large % small == 0 else 0


def _steps(root: ContractOp, epilogue: Sequence[Operation], faults: list[str]) -> tuple[list[Step], str]:
    """Read the steps after a contraction, and the element type that they end in.

    Between steps everything is float32: a cast says only what the last value is.
    """
    running, found = root.result, list[Step]()
    for op in epilogue:
        kind = step_kind(op, running)
        match op:
            case UnaryOp() if kind in ACTIVATIONS:
                found.append(Unary(kind))
            case BinaryOp() if kind in COMBINATIONS:
                function, shape = COMBINATIONS[kind]
                found.append(Combine(function, cast(Float, type_of(_other(op, running)).scalar), shape))
            case CastOp() if type_of(op.result).is_float:
                pass
            case QuantizeOp():
                found += _requantize(op, faults)
            case _:
                faults.append(f"the step '{kind}' after a contraction")
        running = op.results[0]
    last = type_of(running)
    return found, "i8" if last.qtype is not None else last.scalar or ""


def _requantize(op: QuantizeOp, faults: list[str]) -> list[Step]:
    kind = type_of(op.result)
    columns = kind.shape[-1].constant
    assert kind.qtype is not None
    found = input_format(kind.qtype, columns or 0)
    if isinstance(found, list):
        faults += found
        return []
    if found.scale != "tensor" or not _takes_one_scale(op):
        faults.append("a quantization after a contraction that is not static, with one given scale for the tensor")
        return []
    return [Requantize(found.low, found.high)]


def _takes_one_scale(op: QuantizeOp) -> bool:
    """Whether the one parameter that a static quantization is given, or will be by calibration, is a scale."""
    qtype = type_of(op.result).qtype
    return qtype is not None and [part.role for part in given_parts(qtype)] == ["scale"]


def _given_scale(op: QuantizeOp) -> SSAValue | None:
    """Return the scale of a static quantization; None while it is not calibrated."""
    return outer_value(op.scales[0]) if op.scales else None


def _other(op: BinaryOp, running: SSAValue) -> SSAValue:
    return op.rhs if op.lhs is running else op.lhs


def _lower_contract(
    root: ContractOp, epilogue: Sequence[Operation], where: str, found: list[Problem]
) -> GemmStep | None:
    spec = contract_spec(root, epilogue)
    if isinstance(spec, list):
        found += [Problem(where, one) for one in spec]
        return None
    operands: list[SSAValue] = []
    running, out_scale = root.result, None
    for op in epilogue:
        if isinstance(op, BinaryOp):
            operands.append(outer_value(_other(op, running)))
        elif isinstance(op, QuantizeOp):
            out_scale = _given_scale(op)
        running = op.results[0]
    return GemmStep(
        spec,
        outer_value(root.input),
        outer_value(root.weight),
        None if root.bias is None else outer_value(root.bias),
        tuple(operands),
        out_scale,
        running,
    )


@dataclass(frozen=True, eq=False)
class _RowOps:
    """The operations of a row-wise step by their places."""

    norm: NormOp | None = None
    rotate: RotateOp | None = None
    quantize: QuantizeOp | None = None


def _row_ops(operations: Sequence[Operation], where: str, found: list[Problem]) -> _RowOps:
    """Sort operations into norm, rotation and quantization, each fed by the one before."""
    places = _RowOps()
    running: SSAValue | None = None
    for op in operations:
        if running is not None and (not op.operands or op.operands[0] is not running):
            found.append(Problem(where, f"'{op.name}' does not read the value of the step before it"))
        match op:
            case NormOp() if op is operations[0]:
                places = _RowOps(norm=op)
            case RotateOp() if places.rotate is None and places.quantize is None:
                places = replace(places, rotate=op)
            case QuantizeOp() if places.quantize is None:
                places = replace(places, quantize=op)
            case _:
                found.append(Problem(where, f"the step '{step_kind(op)}' at this place of a row-wise kernel"))
        running = op.results[0]
    return places


def _lower_rows(
    operations: Sequence[Operation], read: Iterable[SSAValue], where: str, found: list[Problem]
) -> RowStep | None:
    """Read a row-wise step; `read` are values that something else reads."""
    before = len(found)
    places = _row_ops(operations, where, found)
    norm, rotate, quantize = places.norm, places.rotate, places.quantize
    floats = [one.results[0] for one in (norm, rotate) if one is not None]
    wanted = set(read)
    values = floats[-1] if floats and floats[-1] in wanted else None
    if hidden := [one for one in floats[:-1] if one in wanted]:
        found.append(Problem(where, f"{len(hidden)} values before a rotation that others read"))
    source = operations[0].operands[0]
    kind = type_of(source)
    columns = kind.shape[-1].constant
    if columns is None:
        found.append(Problem(where, f"rows of {kind.shape[-1]} columns; their number must be known"))
    if columns is None or len(found) > before:
        return None
    spec = _row_spec(places, kind.scalar or str(kind), columns, values is not None)
    if isinstance(spec, list):
        found += [Problem(where, one) for one in spec]
        return None
    stored = quantize is not None and spec.scale == "tensor"
    return RowStep(
        spec,
        outer_value(source),
        None if norm is None or norm.weight is None else outer_value(norm.weight),
        None if norm is None or norm.bias is None else outer_value(norm.bias),
        0.0 if norm is None else norm.eps.value.data,
        _given_scale(quantize) if quantize is not None and stored else None,
        values,
        None if quantize is None else quantize.result,
    )


def _row_spec(places: _RowOps, source: str, columns: int, values: bool) -> RowSpec | list[str]:
    norm, rotate, quantize = places.norm, places.rotate, places.quantize
    faults = _rotation_faults(rotate, columns)
    given = InputFormat(-128, 127, "none", None)
    sums: int | None = None
    if quantize is not None:
        qtype = type_of(quantize.result).qtype
        assert qtype is not None
        found = input_format(qtype, columns)
        faults += found if isinstance(found, list) else []
        given = given if isinstance(found, list) else found
        if given.scale == "tensor" and not _takes_one_scale(quantize):
            faults.append("a static quantization without one given scale")
        sums = _sums(quantize, faults)
    if faults:
        return faults
    try:
        return RowSpec(
            input=cast(Float, source),
            norm="none" if norm is None else cast(Norm, norm.kind.data.value),
            norm_weight=norm is not None and norm.weight is not None,
            norm_bias=norm is not None and norm.bias is not None,
            hadamard=None if rotate is None else _rotation_size(rotate, columns),
            scale=given.scale,
            group=given.group,
            low=given.low,
            high=given.high,
            values=values,
            sums=sums,
            ragged=columns % 16 != 0,
        )
    except UnsupportedOp as error:
        return [one.what for one in error.problems]


def _rotation_size(rotate: RotateOp, columns: int) -> int:
    return columns if rotate.block is None else rotate.block.value.data


def _rotation_faults(rotate: RotateOp | None, columns: int) -> list[str]:
    if rotate is None:
        return []
    axis = rotate.axis.value.data % type_of(rotate.input).rank
    faults = [] if axis == type_of(rotate.input).rank - 1 else [f"a rotation along axis {axis}; the last one is taken"]
    if rotate.kind.data is RotationKind.DENSE:
        return [*faults, "a rotation by a stored matrix; Hadamard rotations are taken"]
    return faults if columns % _rotation_size(rotate, columns) == 0 else [*faults, "a rotation that cuts the row"]


def _sums(quantize: QuantizeOp, faults: list[str]) -> int | None:
    """Return over how many columns the readers of codes want sums (0: a row); None if none does."""
    wanted: set[int] = set()
    for use in uses_of(quantize.result):
        if isinstance(use.operation, ContractOp):
            spec = contract_spec(use.operation)
            if isinstance(spec, GemmSpec) and spec.zero != "none":
                wanted.add(spec.group or 0)
    if len(wanted) > 1:
        faults.append(f"codes that contractions in groups of {', '.join(map(str, sorted(wanted)))} columns read")
    return min(wanted, default=None)


def _where(op: Operation) -> str:
    label = f"'{op.label.data}'" if isinstance(op, KernelOp) else ""
    return " at ".join(part for part in (label, location_of(op)) if part)

"""Run a compiled program: our kernels for everything quantized, torch for the float operations between them.

What torch computes follows the meanings of the operations in `qcc.interpreter.table`, on the device of the tensors:
one operation, one meaning, wherever it runs.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from xdsl.ir import Block, Operation, SSAValue

from qcc.backends.triton.config import BlockConfig, Variant
from qcc.backends.triton.launch import Codes, Launch, Scratch, code_stride, gemm_launch, row_launch, scratch_sizes
from qcc.backends.triton.lower import GemmStep, RowStep
from qcc.backends.triton.pack import DTYPES, PackedWeight
from qcc.backends.triton.signature import needs_sums
from qcc.backends.triton.spec import Combine, GemmSpec
from qcc.backends.triton.steps import LaunchStep, Step, is_packed_only, launches_of, packed_key, steps_of
from qcc.errors import CheckpointError, Problem, QccError, ShapeError
from qcc.interpreter.table import MEANING
from qcc.interpreter.values import Frame
from qcc.ir.base import location_of
from qcc.ir.binding import bind_symbols
from qcc.ir.kernel import KernelOp, YieldOp
from qcc.ir.program import ProgramOp, ReturnOp, StateOp, WeightOp
from qcc.ir.store import WeightStore
from qcc.ir.types import type_of
from qcc.numerics.qtype_parts import block_grid
from qcc.numerics.tensor import Parameters, QuantizedTensor
from qcc.numerics.torch_dtypes import TORCH_DTYPES

Value = Tensor | QuantizedTensor | Codes


class Runner(Protocol):
    """Who runs launches: a GPU with cubins, or an emulator."""

    @property
    def device(self) -> torch.device:
        """Where the tensors of a launch must be."""
        ...

    def variant(self, label: str, tokens: int) -> Variant:
        """Return the kernel and the blocks that serve so many tokens in the contraction of a label."""
        ...

    def run(self, launch: Launch) -> None:
        """Run a launch; it may still be under way when this returns, on the stream that torch uses."""
        ...


@dataclass
class _Memory:
    """Scratch memory of split contractions, which grows to the largest need."""

    device: torch.device
    workspace: Tensor
    counters: Tensor

    def scratch(self, spec: GemmSpec, config: BlockConfig, tokens: int, channels: int) -> Scratch:
        """Return scratch memory for a launch: sums of four bytes, and counters that are zero."""
        space, count = scratch_sizes(config, tokens, channels)
        if self.workspace.numel() < space:
            self.workspace = torch.empty(space, dtype=torch.float32, device=self.device)
        if self.counters.numel() < count:
            self.counters = torch.zeros(count, dtype=torch.int32, device=self.device)
        exact = spec.integer and spec.group is None
        return Scratch(self.workspace.view(torch.int32) if exact else self.workspace, self.counters)


class TritonProgram:
    """A program in this process; see `qcc.backends.base.LoadedProgram`. Calls take turns."""

    def __init__(self, program: ProgramOp, store: WeightStore, runner: Runner) -> None:
        """Move weights to the device.

        Raises:
            UnsupportedOp: listing everything quantized that no kernel covers.
            CheckpointError: if weights are missing.
        """
        self._program, self._runner = program, runner
        self._steps = steps_of(program)
        self._labels = {step.op: step for step in self._steps if isinstance(step, LaunchStep)}
        device = runner.device
        self._packed = _packed_weights(self._steps, store, device)
        self._weights = _plain_weights(program, WeightOp, store, device)
        self._first = _plain_weights(program, StateOp, store, device)
        self._state = dict(self._first)
        empty = torch.empty(1, dtype=torch.float32, device=device)
        self._memory = _Memory(device, empty, torch.zeros(1, dtype=torch.int32, device=device))
        self._turn = threading.Lock()

    @torch.no_grad()
    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run on inputs by name; outputs are new tensors on the device of the first input.

        Raises:
            ShapeError: listing every input that is missing or does not fit.
        """
        symbols = self._checked(inputs)
        home = next((one.device for one in inputs.values()), torch.device("cpu"))
        device = self._runner.device
        with self._turn, torch.device(device):
            frame = Frame(symbols, None, self._weights, self._state)
            values: dict[SSAValue, Value] = {
                argument: inputs[name].to(device)
                for name, argument in zip(self._program.input_names, self._program.body.block.args, strict=True)
            }
            results = self._block(self._program.body.block, values, frame)
            self._state = {**self._state, **(frame.next_state or {})}
        return {name: _tensor(one).to(home) for name, one in zip(self._program.output_names, results, strict=True)}

    def _checked(self, inputs: Mapping[str, Tensor]) -> dict[str, int]:
        known = dict(zip(self._program.input_names, self._program.body.block.args, strict=True))
        problems: list[Problem] = []
        for name, tensor in inputs.items():
            if name not in known:
                problems.append(Problem(f"input '{name}'", "is not an input of the program"))
            elif tensor.dtype != (wanted := TORCH_DTYPES[type_of(known[name]).scalar]):
                problems.append(
                    Problem(f"input '{name}'", f"has dtype {tensor.dtype}, expected {wanted}", f"use .to({wanted})")
                )
        if problems:
            raise ShapeError("the inputs do not fit the compiled program", problems)
        return bind_symbols(self._program, {name: tuple(one.shape) for name, one in inputs.items()})

    def _block(self, block: Block, values: dict[SSAValue, Value], frame: Frame) -> list[Value]:
        """Execute a block and return what its last operation ends it with; values go when nothing reads them."""
        remaining = Counter(operand for op in block.ops for operand in op.operands)
        for op in block.ops:
            if isinstance(op, ReturnOp | YieldOp):
                return [values[one] for one in op.operands]
            if isinstance(op, WeightOp) and op.key.data not in frame.weights:
                continue  # packed for the kernels that read it
            self._operation(op, values, frame)
            for operand in op.operands:
                remaining[operand] -= 1
                if not remaining[operand]:
                    values.pop(operand, None)
        raise QccError("the program has no qcc.return")

    def _operation(self, op: Operation, values: dict[SSAValue, Value], frame: Frame) -> None:
        step = self._labels.get(op)
        if step is not None:
            results = self._launch(step, values, frame)
        elif isinstance(op, KernelOp):
            inside: dict[SSAValue, Value] = dict(
                zip(op.body.block.args, map(values.__getitem__, op.inputs), strict=True)
            )
            results = self._block(op.body.block, inside, frame)
        else:
            operands = [_plain(one, values[one], frame) for one in op.operands]
            found = MEANING[type(op)](op, operands, frame)
            results = list(found) if isinstance(found, tuple) else [found]
        values.update(zip(op.results, results, strict=True))

    def _launch(self, step: LaunchStep, values: Mapping[SSAValue, Value], frame: Frame) -> list[Value]:
        """Run the launches of one operation and return its results."""
        inside = dict(values)
        for label, part in step:
            if isinstance(part, RowStep):
                self._rows(part, inside, frame)
            else:
                inside[part.result] = self._contract(label, part, inside, frame)
        op = step.op
        return [inside[one] for one in (op.terminator.values if isinstance(op, KernelOp) else op.results)]

    def _rows(self, step: RowStep, values: dict[SSAValue, Value], frame: Frame) -> None:
        source = _tensor(values[step.source])
        rows = _aligned(source.reshape(-1, source.shape[-1]))
        outcome = torch.empty_like(rows) if step.values is not None else None
        codes = None if step.codes is None else _fresh_codes(step, rows, values)
        if len(rows):
            self._runner.run(
                row_launch(
                    step.spec,
                    rows,
                    norm_weight=_optional(step.norm_weight, values),
                    norm_bias=_optional(step.norm_bias, values),
                    eps=step.eps,
                    values=outcome,
                    codes=codes,
                )
            )
        if step.values is not None and outcome is not None:
            values[step.values] = outcome.reshape(source.shape)
        if step.codes is not None and codes is not None:
            values[step.codes] = codes

    def _contract(self, label: str, step: GemmStep, values: Mapping[SSAValue, Value], frame: Frame) -> Value:
        spec, weight = step.spec, self._packed[packed_key(step)]
        source = _rows_of(values[step.source], step)
        tokens = len(source.codes if isinstance(source, Codes) else source)
        scale = _optional(step.out_scale, values)
        out = _fresh_output(spec, tokens, weight.rows, self._runner.device)
        if tokens:
            variant = self._runner.variant(label, tokens)
            spec, config = variant.spec, variant.config
            scratch = self._memory.scratch(spec, config, tokens, weight.rows)
            operands = [
                _operand(_tensor(values[one]), combine, weight.rows)
                for one, combine in zip(step.operands, _combines(spec), strict=True)
            ]
            bias = _optional(step.bias, values)
            self._runner.run(
                gemm_launch(spec, config, source, weight, out, scratch, bias=bias, operands=operands, out_scale=scale)
            )
        if scale is not None:
            return Codes(out, scale, None, weight.rows)
        return out.reshape(frame.sizes(type_of(step.result)))

    def reset(self) -> None:
        """Give all state its first value again."""
        with self._turn:
            self._state = dict(self._first)

    def close(self) -> None:
        """Let go of all memory on the device."""
        self._packed.clear()
        self._weights.clear()


def _packed_weights(steps: tuple[Step, ...], store: WeightStore, device: torch.device) -> dict[str, PackedWeight]:
    found: dict[str, PackedWeight] = {}
    for _, part in launches_of(steps):
        if not isinstance(part, GemmStep) or (key := packed_key(part)) in found:
            continue
        rows, columns = (dim.constant or 0 for dim in type_of(part.weight).shape)
        zeros = store.tensor(f"{key}/zeros").to(device) if part.spec.zero == "integer" else None
        words, scales = (store.tensor(f"{key}/{name}").to(device) for name in ("words", "scales"))
        found[key] = PackedWeight(words, scales, zeros, rows, columns)
    return found


def _plain_weights(
    program: ProgramOp, kind: type[WeightOp] | type[StateOp], store: WeightStore, device: torch.device
) -> dict[str, Tensor | QuantizedTensor]:
    """Move the weights that torch or an epilogue reads to the device.

    Raises:
        CheckpointError: listing those that are missing.
    """
    ops = [op for op in program.body.walk() if isinstance(op, kind) and not is_packed_only(op)]
    if missing := [op for op in ops if op.key.data not in store]:
        problems = [Problem(location_of(op) or op.name, f"there is no weight '{op.key.data}'") for op in missing]
        raise CheckpointError("weights of the program are missing", problems, fix="compile the model again")
    return {op.key.data: _moved(store[op.key.data], device) for op in ops}


def _moved(value: Any, device: torch.device) -> Any:
    """Move every tensor inside a value to a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(_moved(one, device) for one in cast(tuple[object, ...], value))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{one.name: _moved(getattr(value, one.name), device) for one in fields(value)})
    return value


def _tensor(value: Value) -> Tensor:
    if not isinstance(value, Tensor):
        raise QccError("a quantized tensor reaches an operation of floats")  # the dialect's types say otherwise
    return value


def _plain(name: SSAValue, value: Value, frame: Frame) -> Tensor | QuantizedTensor:
    """Give codes that a kernel wrote the form in which operations outside of kernels take them."""
    if not isinstance(value, Codes):
        return value
    kind = type_of(name)
    assert kind.qtype is not None
    shape = frame.sizes(kind)
    grid = block_grid(kind.qtype.levels[0].block, shape)
    scales = value.scales if value.scales.dim() == 1 else value.scales[:, : grid[-1]]
    codes = value.codes[:, : value.columns].reshape(shape)
    return QuantizedTensor(kind.qtype, shape, codes, Parameters.of((scales.reshape(grid),)))


def _optional(name: SSAValue | None, values: Mapping[SSAValue, Value]) -> Tensor | None:
    """Return a vector or a number that a kernel reads."""
    return None if name is None else _aligned(_tensor(values[name]).reshape(-1))


def _aligned(tensor: Tensor) -> Tensor:
    """Return a tensor that is contiguous and starts at a multiple of 16 bytes."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


def _combines(spec: GemmSpec) -> list[Combine]:
    return [one for one in spec.steps if isinstance(one, Combine)]


def _operand(tensor: Tensor, step: Combine, channels: int) -> Tensor:
    """Return the tensor of an epilogue step in the shape that the kernel reads."""
    return _aligned(tensor.reshape(-1, channels) if step.shape == "full" else tensor.reshape(-1))


def _rows_of(value: Value, step: GemmStep) -> Tensor | Codes:
    """Return the input of a contraction as rows; codes get the sums that zero points of the weights ask for."""
    if isinstance(value, Codes) and needs_sums(step.spec) and value.sums is None:
        rows = len(value.codes)
        sums = value.codes.reshape(rows, -1, step.spec.group or value.codes.shape[1]).sum(-1, dtype=torch.int32)
        return replace(value, sums=sums if step.spec.group else sums.reshape(-1))
    if isinstance(value, Codes):
        return value
    tensor = _tensor(value)
    return _aligned(tensor.reshape(-1, tensor.shape[-1]))


def _fresh_codes(step: RowStep, rows: Tensor, values: Mapping[SSAValue, Value]) -> Codes:
    """Make room for the codes, scales and sums of a row-wise step; groups reach over the padding, too."""
    spec, (tokens, columns) = step.spec, rows.shape
    stride = code_stride(columns)
    codes = torch.empty(tokens, stride, dtype=torch.int8, device=rows.device)
    if step.scale is not None:
        scales = _tensor(values[step.scale]).reshape(1).to(torch.float32)
    else:
        shape = (tokens,) if spec.group is None else (tokens, stride // spec.group)
        scales = torch.empty(shape, dtype=torch.float32, device=rows.device)
    sums = None
    if spec.sums is not None:
        shape = (tokens, stride // spec.sums) if spec.sums else (tokens,)
        sums = torch.empty(shape, dtype=torch.int32, device=rows.device)
    return Codes(codes, scales, sums, columns)


def _fresh_output(spec: GemmSpec, tokens: int, channels: int, device: torch.device) -> Tensor:
    """Make room for the result of a contraction; rows of codes are padded with zeros."""
    if spec.output == "i8":
        return torch.zeros(tokens, code_stride(channels), dtype=torch.int8, device=device)
    return torch.empty(tokens, channels, dtype=DTYPES[spec.output], device=device)

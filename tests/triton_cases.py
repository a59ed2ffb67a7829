"""Run Triton kernels in the emulated device, and what they should give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue

from qcc.backends.triton import jit
from qcc.backends.triton.config import BlockConfig
from qcc.backends.triton.emulate import EmulatedDevice
from qcc.backends.triton.launch import Codes, Scratch, code_stride, gemm_launch, row_launch, scratch_sizes
from qcc.backends.triton.lower import GemmStep, RowStep
from qcc.backends.triton.pack import DTYPES, PackedWeight, pack_weight
from qcc.backends.triton.spec import GemmSpec, RowSpec
from qcc.interpreter import Interpreter
from qcc.ir.program import program_of
from qcc.ir.store import WeightStore
from qcc.numerics.qtype import QType, int_qtype
from qcc.numerics.quantize import quantize
from qcc.numerics.tensor import QuantizedTensor

SMALL = BlockConfig(16, 32)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weight_qtype(spec: GemmSpec, group: int | None = None) -> QType:
    """The usual format that a spec's kernel takes."""
    group = group or spec.group
    if spec.zero == "integer":
        return int_qtype(spec.weight_bits, symmetric=False, group=group or "row", scale=spec.scale)
    kind = int_qtype(spec.weight_bits, group=group or "row", scale=spec.scale)
    return QType(kind.decode, kind.levels, grid="mid_rise") if spec.zero == "half" else kind


def int8_input(x: Tensor, group: int | Literal["row"] = "row") -> QuantizedTensor:
    return quantize(x, int_qtype(8, group=group, scale="f32", when="dynamic"))


def codes_of(source: QuantizedTensor, spec: GemmSpec) -> Codes:
    """A quantized input as a row-wise kernel leaves it: padded, with sums where the spec reads them."""
    columns = source.shape[-1]
    given = source.codes.reshape(-1, columns)
    rows, scales = len(given), source.scales[0].reshape(-1, source.scales[0].shape[-1])
    codes = torch.zeros(rows, code_stride(columns), dtype=torch.int8)
    codes[:, :columns] = given
    scales = scales if spec.input_scale == "group" else scales.reshape(-1)
    return Codes(codes, scales, sums_of(codes, spec), columns)


def sums_of(codes: Tensor, spec: GemmSpec) -> Tensor | None:
    """The sums of padded codes that a contraction reads for the zero points of its weight."""
    if spec.zero == "none":
        return None
    group = codes.shape[1] if spec.group is None else spec.group
    return codes.int().reshape(len(codes), -1, group).sum(-1).int()


def run_gemm(
    device: EmulatedDevice,
    spec: GemmSpec,
    source: Tensor | QuantizedTensor | Codes,
    weight: QuantizedTensor | PackedWeight,
    *,
    bias: Tensor | None = None,
    operands: Sequence[Tensor] = (),
    out_scale: Tensor | None = None,
    config: BlockConfig = SMALL,
) -> Tensor:
    """Run a contraction; the result is [M, N] without padding, and NaN wherever the kernel wrote nothing."""
    packed = weight if isinstance(weight, PackedWeight) else pack_weight(weight, spec)
    tokens, channels = len(source.codes) if isinstance(source, Codes) else source.shape[0], packed.rows
    out = torch.full((tokens, channels), 77 if spec.output == "i8" else torch.nan).to(
        torch.int8 if spec.output == "i8" else DTYPES[spec.output]
    )
    space, count = scratch_sizes(config, tokens, channels)
    exact = spec.integer and spec.group is None
    workspace = torch.full((max(space, 1),), 123, dtype=torch.int32 if exact else torch.float32)
    scratch = Scratch(workspace, torch.zeros(max(count, 1), dtype=torch.int32))
    rows = codes_of(source, spec) if isinstance(source, QuantizedTensor) else source
    launch = gemm_launch(spec, config, rows, packed, out, scratch, bias=bias, operands=operands, out_scale=out_scale)
    device.run(launch)
    assert not scratch.counters.any()
    return out


def run_rows(
    device: EmulatedDevice, spec: RowSpec, x: Tensor, *, static: float | None = None, **parameters: Tensor | float
) -> tuple[Tensor | None, Codes | None]:
    """Run a row-wise kernel; outputs hold rubbish before it."""
    rows, columns = x.shape
    stride = code_stride(columns)
    values = torch.full_like(x, 3.0) if spec.values else None
    codes = None
    if spec.scale != "none":
        each = stride // spec.group if spec.group else 1
        scales = torch.full((rows, each) if spec.group else (rows,), -1.0)
        scales = torch.tensor([static]) if static is not None else scales
        sums = None
        if spec.sums is not None:
            sums = torch.full((rows, stride // spec.sums) if spec.sums else (rows,), -7, dtype=torch.int32)
        codes = Codes(torch.full((rows, stride), 99, dtype=torch.int8), scales, sums, columns)
    device.run(row_launch(spec, x, values=values, codes=codes, **parameters))  # type: ignore[arg-type]
    return values, codes


class Observed:
    """Values of every operation of a program, as the interpreter gives them."""

    def __init__(self, module: ModuleOp, store: WeightStore, inputs: dict[str, Tensor]) -> None:
        self.values: dict[SSAValue, Tensor | QuantizedTensor] = {}
        program = program_of(module)
        arguments = dict(zip(program.input_names, program.body.block.args, strict=True))
        self.values.update({arguments[name]: value for name, value in inputs.items()})
        Interpreter(module, store).run_with(inputs, self._see)

    def _see(self, op: Operation, results: tuple[Tensor | QuantizedTensor, ...]) -> None:
        self.values.update(zip(op.results, results, strict=True))

    def tensor(self, value: SSAValue | None) -> Tensor | None:
        """A float value; None for none."""
        if value is None:
            return None
        found = self.values[value]
        assert isinstance(found, Tensor)
        return found

    def rows(self, value: SSAValue) -> Tensor:
        """A float value as a matrix."""
        found = self.tensor(value)
        assert found is not None
        return found.reshape(-1, found.shape[-1]).contiguous()


def run_row_step(step: RowStep, seen: Observed) -> tuple[Tensor | None, Codes | None]:
    """Run a lowered row-wise step on the interpreter's values."""
    scale = seen.tensor(step.scale)
    return jit.rows(
        step.spec,
        seen.rows(step.source),
        norm_weight=seen.tensor(step.norm_weight),
        norm_bias=seen.tensor(step.norm_bias),
        eps=step.eps,
        scale=None if scale is None else scale.reshape(1),
    )


def run_gemm_step(step: GemmStep, seen: Observed, values: Tensor | None, codes: Codes | None) -> Tensor:
    """Run a lowered contraction on the interpreter's values, or on what the row-wise step before it gave."""
    source = seen.values[step.source]
    if codes is None and isinstance(source, QuantizedTensor):
        codes = codes_of(source, step.spec)
    weight = seen.values[step.weight]
    assert isinstance(weight, QuantizedTensor)
    out_scale = seen.tensor(step.out_scale)
    return jit.gemm(
        step.spec,
        seen.rows(step.source) if codes is None else codes,
        pack_weight(weight, step.spec),
        bias=seen.tensor(step.bias),
        operands=[_operand(seen, one) for one in step.operands],
        out_scale=None if out_scale is None else out_scale.reshape(1),
    )


def _operand(seen: Observed, value: SSAValue) -> Tensor:
    found = seen.tensor(value)
    assert found is not None
    return found.reshape(-1, found.shape[-1]).contiguous() if found.dim() > 1 else found.reshape(-1)

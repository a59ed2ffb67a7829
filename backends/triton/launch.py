"""One launch of a kernel: its source, arguments in order, constants and grid, whoever runs it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qcc.backends.triton.config import BlockConfig, RowConfig
from qcc.backends.triton.geometry import CODE_COLUMNS, TILE_ROWS, geometry_of, is_ragged
from qcc.backends.triton.pack import PackedWeight
from qcc.backends.triton.signature import Argument, signature
from qcc.backends.triton.spec import GemmSpec, KernelSpec, RowSpec
from qcc.errors import Problem, ShapeError

TORCH_TYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "i8": torch.int8,
    "i16": torch.int16,
    "i32": torch.int32,
}
"""Element types of pointers by Triton's spelling."""

Value = Tensor | int | float


@dataclass(frozen=True, eq=False)
class Launch:
    """A kernel with everything it is launched with. Tensors named `out`, `codes`, ... are written."""

    spec: KernelSpec
    arguments: Mapping[str, Value]
    constants: Mapping[str, int]
    grid: tuple[int, int, int]
    warps: int
    stages: int


@dataclass(frozen=True, eq=False)
class Codes:
    """A quantized input of `columns` columns: what a row-wise kernel makes and a contraction reads.

    `codes` int8 [M, stride] with zeros past the columns, stride a multiple of `CODE_COLUMNS`; `scales` float32 [M],
    [1] or [M, groups]; `sums` int32 [M] or [M, groups], of the codes.
    """

    codes: Tensor
    scales: Tensor
    sums: Tensor | None
    columns: int


@dataclass(frozen=True, eq=False)
class Scratch:
    """Memory for sums of parts of K, and counters that are zero before and after every launch."""

    workspace: Tensor
    counters: Tensor


def code_stride(columns: int) -> int:
    """Return the length of a row of codes in memory."""
    return math.ceil(columns / CODE_COLUMNS) * CODE_COLUMNS


def gemm_grid(config: BlockConfig, tokens: int, channels: int) -> tuple[int, int, int]:
    """Return how many programs a contraction has along channels, tokens and K."""
    return math.ceil(channels / config.block_n), math.ceil(tokens / config.block_m), config.split_k


def scratch_sizes(config: BlockConfig, tokens: int, channels: int) -> tuple[int, int]:
    """Return the elements of the workspace and the counters that a launch needs."""
    if config.split_k == 1:
        return 0, 0
    wide, tall, parts = gemm_grid(config, tokens, channels)
    return wide * tall * parts * config.block_m * config.block_n, wide * tall


def gemm_launch(
    spec: GemmSpec,
    config: BlockConfig,
    source: Tensor | Codes,
    weight: PackedWeight,
    out: Tensor,
    scratch: Scratch,
    *,
    bias: Tensor | None = None,
    operands: Sequence[Tensor] = (),
    out_scale: Tensor | None = None,
) -> Launch:
    """Make the launch of a contraction: `source` [M, K] floats or codes, `out` [M, stride].

    `operands` are the tensors of the spec's `Combine` steps in order.

    Raises:
        ShapeError: listing every tensor that is missing, too many, or of another dtype or length than the spec's.
    """
    rows = source.codes if isinstance(source, Codes) else source
    tensors: dict[str, Tensor | None] = {
        "inputs": rows,
        "words": weight.words,
        "scales": weight.scales,
        "zeros": weight.zeros,
        "bias": bias,
        "out_scale": out_scale,
        "out": out,
        "workspace": scratch.workspace,
        "counters": scratch.counters,
    }
    numbers = {
        "m": rows.shape[0],
        "n": weight.rows,
        "k": weight.columns,
        "steps": weight.words.shape[1] // geometry_of(spec).parts,
        "stride_inputs": rows.stride(0),
        "stride_out": out.stride(0),
    }
    if isinstance(source, Codes):
        tensors |= {"input_scales": source.scales, "input_sums": source.sums}
        numbers["stride_input_scales"] = source.scales.stride(0)
        numbers["stride_input_sums"] = 0 if source.sums is None else source.sums.stride(0)
    names = [one.name for one in signature(spec) if one.name.startswith("operand")]
    tensors |= dict(zip(names, operands, strict=False))
    found = _gemm_problems(spec, config, source, weight, scratch, len(names), len(operands))
    arguments = _collect(signature(spec), tensors, numbers, found)
    if found:
        raise ShapeError("the arguments of a contraction do not fit its kernel", found)
    grid = gemm_grid(config, rows.shape[0], weight.rows)
    return Launch(spec, arguments, config.constants, grid, config.warps, config.stages)


def _gemm_problems(
    spec: GemmSpec,
    config: BlockConfig,
    source: Tensor | Codes,
    weight: PackedWeight,
    scratch: Scratch,
    wanted: int,
    given: int,
) -> list[Problem]:
    found: list[Problem] = []
    rows, columns = (
        (source.codes, source.columns)
        if isinstance(source, Codes)
        else (source, source.shape[-1] if source.dim() else 0)
    )
    if rows.dim() != 2 or columns != weight.columns:
        found.append(Problem("inputs", f"have {columns} columns in {rows.dim()} axes, the weight {weight.columns}"))
    if isinstance(source, Codes) and rows.dim() == 2 and rows.stride(0) % CODE_COLUMNS:
        found.append(Problem("inputs", f"rows of codes are {rows.stride(0)} long, no multiple of {CODE_COLUMNS}"))
    if is_ragged(spec, weight.rows, weight.columns) and not spec.ragged:
        found.append(Problem("words", f"a weight of {weight.rows} x {weight.columns} is ragged, and the spec is not"))
    if wanted != given:
        found.append(Problem("operands", f"{given} are given for {wanted} steps"))
    geometry = geometry_of(spec)
    if weight.words.shape[1] % geometry.parts or weight.words.shape[3] != geometry.width:
        found.append(Problem("words", f"of shape {tuple(weight.words.shape)} were packed for another kernel"))
    if TILE_ROWS % config.block_n:
        found.append(Problem("block_n", f"{config.block_n} channels do not tile the {TILE_ROWS} rows of a tile"))
    space, count = scratch_sizes(config, rows.shape[0], weight.rows)
    if scratch.workspace.numel() < space or scratch.counters.numel() < count:
        found.append(Problem("scratch", f"{space} sums and {count} counters are needed"))
    return found


def row_launch(
    spec: RowSpec,
    source: Tensor,
    *,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    eps: float = 0.0,
    values: Tensor | None = None,
    codes: Codes | None = None,
) -> Launch:
    """Make the launch of a row-wise kernel: `source` [M, K]; `values` [M, K] and `codes` are written.

    Raises:
        ShapeError: listing every tensor that is missing, or of another dtype than the spec's; K too long for a row.
    """
    config = RowConfig.of(source.shape[-1])
    tensors: dict[str, Tensor | None] = {
        "inputs": source,
        "norm_weight": norm_weight,
        "norm_bias": norm_bias,
        "values": values,
    }
    numbers: dict[str, int | float] = {"k": source.shape[-1], "stride_inputs": source.stride(0), "eps": eps}
    if values is not None:
        numbers["stride_values"] = values.stride(0)
    if codes is not None:
        tensors |= {"codes": codes.codes, "scales": codes.scales, "sums": codes.sums}
        numbers["stride_codes"] = codes.codes.stride(0)
        numbers["stride_scales"] = codes.scales.stride(0)
        numbers["stride_sums"] = 0 if codes.sums is None else codes.sums.stride(0)
    found: list[Problem] = []
    arguments = _collect(signature(spec), tensors, numbers, found)
    if found:
        raise ShapeError("the arguments of a row-wise step do not fit its kernel", found)
    return Launch(spec, arguments, config.constants, (source.shape[0], 1, 1), config.warps, 1)


def _collect(
    arguments: Sequence[Argument],
    tensors: Mapping[str, Tensor | None],
    numbers: Mapping[str, int | float],
    found: list[Problem],
) -> dict[str, Value]:
    """Put arguments in order; note what is missing, not contiguous in its last axis, or of another dtype."""
    values: dict[str, Value] = {}
    for one in arguments:
        if not one.is_pointer:
            values[one.name] = numbers[one.name]
            continue
        tensor = tensors.get(one.name)
        dtype = TORCH_TYPES[one.dtype[1:]]
        if tensor is None:
            found.append(Problem(one.name, "is missing"))
        elif tensor.dtype != dtype:
            found.append(Problem(one.name, f"is {tensor.dtype}, not {dtype}"))
        elif tensor.numel() and tensor.stride(-1) != 1 and tensor.shape[-1] != 1:
            found.append(Problem(one.name, "is not contiguous in its last axis"))
        else:
            values[one.name] = tensor
    return values

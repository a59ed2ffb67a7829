"""The kernels as operations of torch: no graph break in `torch.compile`, kept by `torch.export`, compiled at first use.

Two operations, `qcc::triton_gemm` and `qcc::triton_rows`, take tensors and the text of a spec. On CUDA tensors Triton
compiles the rendered source and launches it. Tensors of the CPU are refused, but inside `emulating(device)`, where
Triton interprets the same source: that is for tests.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch import Tensor

from qcc.backends.triton.config import choose_variant
from qcc.backends.triton.emulate import EmulatedDevice, load_kernel, write_kernel
from qcc.backends.triton.launch import Codes, Launch, Scratch, code_stride, gemm_launch, row_launch, scratch_sizes
from qcc.backends.triton.pack import DTYPES, PackedWeight
from qcc.backends.triton.render import kernel_name, kernel_source, ptx_source
from qcc.backends.triton.spec import GemmSpec, KernelSpec, RowSpec
from qcc.backends.triton.spec_text import parse_spec, spec_text
from qcc.cache import Cache, digest_of
from qcc.errors import BuildError, CheckpointError

EMULATED_PROCESSORS = 4
"""What a tile count is held against where there is no GPU."""

_emulated: ContextVar[EmulatedDevice | None] = ContextVar("qcc_triton_emulated", default=None)


@contextmanager
def emulating(device: EmulatedDevice) -> Generator[None]:
    """Run the operations on CPU tensors in `device`, for tests."""
    token = _emulated.set(device)
    try:
        yield
    finally:
        _emulated.reset(token)


def gemm(
    spec: GemmSpec | str,
    source: Tensor | Codes,
    weight: PackedWeight,
    *,
    bias: Tensor | None = None,
    operands: Sequence[Tensor] = (),
    out_scale: Tensor | None = None,
) -> Tensor:
    """Contract [M, K] floats or codes with a packed weight [N, K]; returns [M, N], int8 codes padded to a stride.

    `operands` are those of the spec's `Combine` steps, full ones [M, N] and contiguous. Code that `torch.compile` sees
    passes the spec as `spec_text` gives it, made once: the compiler cannot trace the making.

    Raises:
        BuildError: without a GPU or Triton.
        ShapeError: listing every tensor that does not fit the spec.
    """
    codes = source if isinstance(source, Codes) else None
    return torch.ops.qcc.triton_gemm(
        source if codes is None else codes.codes,  # type: ignore[union-attr]
        None if codes is None else codes.scales,
        None if codes is None else codes.sums,
        weight.words,
        weight.scales,
        weight.zeros,
        bias,
        list(operands),
        out_scale,
        weight.rows,
        weight.columns,
        spec if isinstance(spec, str) else spec_text(spec),
    )


def rows(
    spec: RowSpec | str,
    source: Tensor,
    *,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    eps: float = 0.0,
    scale: Tensor | None = None,
) -> tuple[Tensor | None, Codes | None]:
    """Normalise, rotate and quantize rows [M, K]; returns the float values and the codes that the spec asks for.

    `scale` [1] is the stored scale of a static quantization. The spec may be its text, as for `gemm`.

    Raises:
        BuildError: without a GPU or Triton.
        ShapeError: listing every tensor that does not fit the spec.
    """
    text = spec if isinstance(spec, str) else spec_text(spec)
    found = list(torch.ops.qcc.triton_rows(source, norm_weight, norm_bias, scale, eps, text))
    values, codes, scales, sums = (found.pop(0) if one else None for one in _row_results(text))
    if codes is None:
        return values, None
    scales = scale if scales is None else scales
    assert scales is not None
    return values, Codes(codes, scales, sums, source.shape[1])


@torch.compiler.assume_constant_result
def _row_results(text: str) -> tuple[bool, bool, bool, bool]:
    """Say whether a row-wise kernel gives values, codes, scales and sums."""
    spec = _row_spec(text)
    return spec.values, spec.scale != "none", spec.scale in ("token", "group"), spec.sums is not None


def launch(one: Launch) -> None:
    """Run a launch where its tensors are.

    Raises:
        BuildError: tensors on a CPU outside of `emulating`, or Triton is missing.
    """
    tensors = [value for value in one.arguments.values() if isinstance(value, Tensor)]
    if all(tensor.is_cuda for tensor in tensors):
        kernel = _compiled(one.spec)
        options = {"num_warps": one.warps, "num_stages": one.stages, "enable_fp_fusion": True}
        with torch.cuda.device(tensors[0].device):
            kernel[one.grid](*one.arguments.values(), **one.constants, **options)
    elif (device := _emulated.get()) is not None and all(tensor.device.type == "cpu" for tensor in tensors):
        device.run(one)
    else:
        places = ", ".join(sorted({str(tensor.device) for tensor in tensors}))
        raise BuildError(
            f"the kernel {kernel_name(one.spec)} runs on a CUDA device, its tensors are on {places}",
            fix="move the model and its inputs to the GPU, or compile with --target cpu",
        )


@cache
def _compiled(spec: KernelSpec) -> Any:
    """Import a kernel's source from a cache folder, where Triton can read it."""
    try:
        import triton  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise BuildError("triton is not installed", fix="pip install 'qcc[triton]'") from error
    name, source, ptx = kernel_name(spec), kernel_source(spec), ptx_source()
    entry = Cache().get("triton", digest_of([name, source, ptx]), lambda out: write_kernel(out, name, source, ptx))
    return load_kernel(entry, name)


@cache
def _parsed(text: str) -> KernelSpec:
    return parse_spec(text)


def _gemm_spec(text: str) -> GemmSpec:
    if not isinstance(spec := _parsed(text), GemmSpec):
        raise CheckpointError("this is the spec of a row-wise kernel, not of a contraction")
    return spec


def _row_spec(text: str) -> RowSpec:
    if not isinstance(spec := _parsed(text), RowSpec):
        raise CheckpointError("this is the spec of a contraction, not of a row-wise kernel")
    return spec


def _processors(tensor: Tensor) -> int:
    if not tensor.is_cuda:
        return EMULATED_PROCESSORS
    return torch.cuda.get_device_properties(tensor.device).multi_processor_count


def _output(spec: GemmSpec, inputs: Tensor, rows: int) -> Tensor:
    if spec.output != "i8":
        return inputs.new_empty(inputs.shape[0], rows, dtype=DTYPES[spec.output])
    return inputs.new_zeros(inputs.shape[0], code_stride(rows), dtype=torch.int8)


@torch.library.custom_op("qcc::triton_gemm", mutates_args=())
def _gemm_op(
    inputs: Tensor,
    input_scales: Tensor | None,
    input_sums: Tensor | None,
    words: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bias: Tensor | None,
    operands: list[Tensor],
    out_scale: Tensor | None,
    rows: int,
    columns: int,
    spec: str,
) -> Tensor:
    kernel = _gemm_spec(spec)
    out = _output(kernel, inputs, rows)
    if inputs.shape[0] == 0:
        return out
    variant = choose_variant(kernel, inputs.shape[0], rows, columns, _processors(inputs))
    space, count = scratch_sizes(variant.config, inputs.shape[0], rows)
    exact = kernel.integer and kernel.group is None
    # Without parts of K nothing is read or written there, but a kernel takes no missing tensor.
    workspace = inputs.new_empty(max(space, 1), dtype=torch.int32 if exact else torch.float32)
    counters = (inputs.new_zeros if count else inputs.new_empty)(max(count, 1), dtype=torch.int32)
    source = inputs if input_scales is None else Codes(inputs, input_scales, input_sums, columns)
    weight = PackedWeight(words, scales, zeros, rows, columns)
    one = gemm_launch(
        variant.spec,
        variant.config,
        source,
        weight,
        out,
        Scratch(workspace, counters),
        bias=bias,
        operands=operands,
        out_scale=out_scale,
    )
    launch(one)
    return out


@_gemm_op.register_fake
def _gemm_fake(
    inputs: Tensor,
    input_scales: Tensor | None,
    input_sums: Tensor | None,
    words: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bias: Tensor | None,
    operands: list[Tensor],
    out_scale: Tensor | None,
    rows: int,
    columns: int,
    spec: str,
) -> Tensor:
    return _output(_gemm_spec(spec), inputs, rows)


def _row_outputs(spec: RowSpec, inputs: Tensor) -> list[Tensor]:
    """Allocate what a row-wise kernel writes: values, codes, scales and sums, as far as the spec has them."""
    tokens, columns = inputs.shape
    stride = code_stride(int(columns))
    found = [torch.empty_like(inputs, memory_format=torch.contiguous_format)] if spec.values else []
    if spec.scale != "none":
        found.append(inputs.new_empty(tokens, stride, dtype=torch.int8))
    if spec.scale in ("token", "group"):
        shape = (tokens,) if spec.group is None else (tokens, stride // spec.group)
        found.append(inputs.new_empty(shape, dtype=torch.float32))
    if spec.sums is not None:
        shape = (tokens, stride // spec.sums) if spec.sums else (tokens,)
        found.append(inputs.new_empty(shape, dtype=torch.int32))
    return found


@torch.library.custom_op("qcc::triton_rows", mutates_args=())
def _rows_op(
    inputs: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    scale: Tensor | None,
    eps: float,
    spec: str,
) -> list[Tensor]:
    kernel = _row_spec(spec)
    found = _row_outputs(kernel, inputs)
    if inputs.shape[0] == 0:
        return found
    rest = list(found)
    values = rest.pop(0) if kernel.values else None
    codes = None
    if kernel.scale != "none":
        place = rest.pop(0)
        scales = scale if kernel.scale == "tensor" else rest.pop(0)
        if scales is None:
            raise BuildError("a static quantization needs its stored scale")
        codes = Codes(place, scales, rest.pop(0) if kernel.sums is not None else None, inputs.shape[1])
    one = row_launch(kernel, inputs, norm_weight=norm_weight, norm_bias=norm_bias, eps=eps, values=values, codes=codes)
    launch(one)
    return found


@_rows_op.register_fake
def _rows_fake(
    inputs: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    scale: Tensor | None,
    eps: float,
    spec: str,
) -> list[Tensor]:
    return _row_outputs(_row_spec(spec), inputs)

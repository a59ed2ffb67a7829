"""The arguments of a kernel: names, element types in Triton's spelling, and what may be assumed of them."""

from __future__ import annotations

from dataclasses import dataclass

from qcc.backends.triton.spec import Combine, GemmSpec, KernelSpec, Requantize, RowSpec

TYPES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "i8", "i32": "i32"}
"""Element types of the IR in Triton's spelling."""


@dataclass(frozen=True)
class Argument:
    """One argument: a pointer `*fp16` or a number `i32`; `divisible` by 16, in bytes for a pointer."""

    name: str
    dtype: str
    what: str = ""
    divisible: bool = False

    @property
    def is_pointer(self) -> bool:
        """Whether a tensor is passed."""
        return self.dtype.startswith("*")


def _pointer(name: str, dtype: str, what: str) -> Argument:
    return Argument(name, "*" + TYPES[dtype], what, divisible=True)


def _number(name: str, what: str, *, divisible: bool = False) -> Argument:
    return Argument(name, "i32", what, divisible)


def signature(spec: KernelSpec) -> tuple[Argument, ...]:
    """Return the arguments of a kernel in order; its constants (`BLOCK_M`, ...) follow them.

    Pointers are aligned to 16 bytes. Numbers marked `divisible` are multiples of 16.
    """
    return _gemm(spec) if isinstance(spec, GemmSpec) else _rows(spec)


def _gemm(spec: GemmSpec) -> tuple[Argument, ...]:
    word = "i8" if spec.integer else "i16"
    found = [
        _pointer("inputs", spec.input, "[m, stride_inputs]" + (" codes" if spec.integer else "")),
        Argument("words", f"*{word}", "[n / TILE, steps * PARTS, TILE, WIDTH]", divisible=True),
        _pointer("scales", spec.scale, "[groups, n], n in whole tiles" if spec.group else "[n] in whole tiles"),
    ]
    if spec.zero == "integer":
        found.append(_pointer("zeros", "i8" if spec.integer else spec.input, "as scales"))
    found += _input_arguments(spec)
    if spec.bias is not None:
        found.append(_pointer("bias", spec.bias, "[n]"))
    found += _step_arguments(spec)
    found.append(_pointer("out", spec.output, "[m, stride_out]"))
    exact = spec.integer and spec.group is None
    found.append(_pointer("workspace", "i32" if exact else "f32", "[tiles, SPLIT_K, BLOCK_N, BLOCK_M]"))
    found.append(_pointer("counters", "i32", "[tiles], zeros"))
    found += [_number("m", ""), _number("n", "", divisible=not spec.ragged)]
    if masks_columns(spec):
        found.append(_number("k", ""))
    found.append(_number("steps", "steps of K"))
    found.append(_number("stride_inputs", "", divisible=spec.integer or not spec.ragged))
    if spec.input_group is not None:
        found.append(_number("stride_input_scales", ""))
    if needs_sums(spec):
        found.append(_number("stride_input_sums", ""))
    found.append(_number("stride_out", "", divisible=spec.output == "i8" or not spec.ragged))
    return tuple(found)


def _input_arguments(spec: GemmSpec) -> list[Argument]:
    shapes = {"token": "[m]", "tensor": "[1]", "group": "[m, stride_input_scales]"}
    found: list[Argument] = []
    if spec.input_scale in shapes:
        found.append(_pointer("input_scales", "f32", shapes[spec.input_scale]))
    if needs_sums(spec):
        found.append(_pointer("input_sums", "i32", "[m, stride_input_sums] sums of codes"))
    return found


def _step_arguments(spec: GemmSpec) -> list[Argument]:
    shapes = {"full": "[m, n]", "channel": "[n]", "scalar": "[1]"}
    found: list[Argument] = []
    for index, step in enumerate(spec.steps):
        if isinstance(step, Combine):
            found.append(_pointer(f"operand{index}", step.dtype, shapes[step.shape]))
        elif isinstance(step, Requantize):
            found.append(_pointer("out_scale", "f32", "[1]"))
    return found


def needs_sums(spec: GemmSpec) -> bool:
    """Whether the sums of input codes over each group are read, for a zero point of the weights."""
    return spec.integer and spec.zero != "none"


def masks_columns(spec: GemmSpec) -> bool:
    """Whether columns of the input past K are masked: codes come padded with zeros, floats as they are."""
    return spec.ragged and not spec.integer


def _rows(spec: RowSpec) -> tuple[Argument, ...]:
    found = [_pointer("inputs", spec.input, "[m, stride_inputs]")]
    found += [_pointer("norm_weight", spec.input, "[k]")] if spec.norm_weight else []
    found += [_pointer("norm_bias", spec.input, "[k]")] if spec.norm_bias else []
    found += [_pointer("values", spec.input, "[m, stride_values]")] if spec.values else []
    strides = ["stride_inputs"] + (["stride_values"] if spec.values else [])
    if spec.scale != "none":
        found.append(_pointer("codes", "i8", "[m, stride_codes], zeros past k"))
        strides.append("stride_codes")
        shapes = {"tensor": "[1], given", "token": "[m]", "group": "[m, stride_scales]"}
        found.append(_pointer("scales", "f32", shapes[spec.scale]))
        strides += ["stride_scales"] if spec.scale == "group" else []
    if spec.sums is not None:
        found.append(_pointer("sums", "i32", f"[m, stride_sums] of {spec.sums} codes" if spec.sums else "[m]"))
        strides += ["stride_sums"] if spec.sums else []
    found.append(_number("k", "", divisible=not spec.ragged))
    if spec.norm != "none":
        found.append(Argument("eps", "fp32"))
    padded = {"stride_inputs": not spec.ragged, "stride_values": not spec.ragged, "stride_codes": True}
    found += [_number(one, "", divisible=padded.get(one, False)) for one in strides]
    return tuple(found)

"""Quantize and dequantize tensors with integer codes of 1 to 8 bits.

The formulas are exact: IEEE float32 with one rounding an operation, divisions true divisions by the stored
scale. A kernel that follows them gives the same codes and the same values, bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qcc.errors import Problem, ShapeError
from qcc.numerics.blocks import spread_blocks
from qcc.numerics.presets import format_of
from qcc.numerics.qtype import QType
from qcc.numerics.scales import (
    Scales,
    combined_scale,
    compute_qparams,
    divide,
    int_decode,
    protected_integers,
    working,
)
from qcc.numerics.support import require_supported
from qcc.numerics.tensor import QuantizedTensor, parameter_problems


def quantize(
    x: Tensor,
    qtype: QType,
    scales: Scales | None = None,
    zero: Tensor | None = None,
    *,
    where: str = "",
) -> QuantizedTensor:
    """Encode a float tensor of any shape.

    Scales and zero point are computed from `x` (see `compute_qparams`) unless given, as for static
    activations. Then, with q0..q1 the range of codes:

    - symmetric: code = clamp(rne(x / scale), q0, q1);
    - mid_rise: code = clamp(floor(x / scale), q0, q1), standing for (code + 1/2)·scale; `int1 mid_rise`
      has the values -max|x| and +max|x|;
    - `pre`: code = clamp(rne(x / scale) + zero, q0, q1);
    - `post`: code = clamp(rne((x - zero) / scale), q0, q1).

    Where the scale is 0 the code is 0 (or the zero point). Where x / scale is NaN the code is 0 as well,
    and the scale carries the NaN or infinity to the decoded value; with given scales a NaN is lost.

    Raises:
        UnsupportedOp: numerics that are not there yet.
        ShapeError: no elements, parameters of a wrong shape; static types: values that are not finite.
    """
    require_supported(qtype)
    shape = tuple(x.shape)
    if scales is None:
        if zero is not None:
            raise ShapeError(f"{where or 'a tensor'}: a zero point is given without scales")
        scales, zero = compute_qparams(x, qtype, where)
    found = parameter_problems(qtype, shape, scales, zero)
    if found:
        raise ShapeError(f"{where or 'a tensor'} of shape {shape} does not fit {qtype}", found)
    codes = _encode(working(x), qtype, scales, zero)
    dtype = torch.int8 if int_decode(qtype).signed else torch.uint8
    return QuantizedTensor(qtype, shape, codes.to(dtype), scales, zero)


def dequantize(quantized: QuantizedTensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Decode to real values of `dtype`.

    scale = product of the levels, leaf first; then scale·(code - zero), scale·code + zero for a `post`
    zero, root·(leaf·code + zero) for a `scaled` one. Computed in float64 for float64, else in float32 and
    rounded once to `dtype`.

    Raises:
        UnsupportedOp: numerics that are not there yet.
    """
    qtype, shape = quantized.qtype, quantized.shape
    require_supported(qtype)
    real = torch.float64 if dtype == torch.float64 else torch.float32
    leaf = qtype.levels[0].block
    codes = quantized.codes.to(real)
    if qtype.grid == "mid_rise":
        codes = codes + 0.5
    zero = None if quantized.zero is None else spread_blocks(quantized.zero.to(real), leaf, shape)
    if zero is not None and qtype.zero is not None and qtype.zero.kind == "scaled":
        steps = spread_blocks(quantized.scales[0].to(real), leaf, shape)
        root = spread_blocks(quantized.scales[1].to(real), qtype.levels[1].block, shape)
        return (root * (steps * codes + zero)).to(dtype)
    scale = spread_blocks(combined_scale(quantized.scales, qtype, shape, real), leaf, shape)
    if zero is None or qtype.zero is None:
        return (scale * codes).to(dtype)
    if qtype.zero.kind == "post":
        return (scale * codes + zero).to(dtype)
    return (scale * (codes - zero)).to(dtype)


def fake_quantize(x: Tensor, qtype: QType | str) -> Tensor:
    """Encode and decode at once, in the dtype of `x`; takes a type, its text, or the name of a preset.

    Raises:
        RecipeError: a text that is neither a preset nor a type.
        UnsupportedOp: numerics that are not there yet.
        ShapeError: see `quantize`.
    """
    return dequantize(quantize(x, format_of(qtype)), x.dtype)


def signal_to_quantization_noise_db(x: Tensor, approximation: Tensor) -> float:
    """Give 10·log10(sum x² / sum (x - approximation)²) in decibels, computed in float64.

    Infinite when both are equal (also when both are zero), NaN when either holds a NaN.

    Raises:
        ShapeError: tensors of different shapes.
    """
    if x.shape != approximation.shape:
        shapes = f"{tuple(x.shape)} and {tuple(approximation.shape)}"
        raise ShapeError("cannot compare tensors", [Problem("", f"their shapes are {shapes}")])
    signal = x.to(torch.float64)
    noise = (signal - approximation.to(torch.float64)).square().sum()
    if float(noise) == 0.0:
        return float("inf")
    return float(10 * torch.log10(signal.square().sum() / noise))


def _encode(x: Tensor, qtype: QType, scales: Scales, zero: Tensor | None) -> Tensor:
    decode, shape, leaf = int_decode(qtype), tuple(x.shape), qtype.levels[0].block
    offset = None if zero is None else spread_blocks(zero.to(x.dtype), leaf, shape)
    if qtype.levels[-1].protective is not None:
        x = protected_integers(x, scales[-1], qtype.levels[-1])
        scale = spread_blocks(scales[0].to(x.dtype), leaf, shape)
    else:
        scale = spread_blocks(combined_scale(scales, qtype, shape, x.dtype), leaf, shape)
    if offset is None or qtype.zero is None:
        steps = divide(x, scale)
        if qtype.grid == "mid_rise":
            return torch.nan_to_num(steps, nan=0.0).floor().clamp(decode.minimum, decode.maximum)
        return _limited(_to_integers(steps, qtype), qtype)
    if qtype.zero.kind == "post":
        return _limited(_to_integers(divide(x - offset, scale), qtype), qtype)
    if qtype.zero.kind == "scaled":
        # The stored zero is -leaf·zero with an integer zero, so this division is exact.
        offset = divide(-offset, scale)
    if qtype.zero.dtype.startswith(("i", "u")):
        return _limited(_to_integers(divide(x, scale), qtype) + offset, qtype)
    return _limited(_to_integers(divide(x, scale) + offset, qtype), qtype)


def _to_integers(steps: Tensor, qtype: QType) -> Tensor:
    """Round by the rule of the type; ties are decided on the exact remainder."""
    steps = torch.nan_to_num(steps, nan=0.0)
    match qtype.rounding:
        case "floor":
            return steps.floor()
        case "half_up":
            below = steps.floor()
            return torch.where(steps - below >= 0.5, below + 1, below)
        case "half_down":
            above = steps.ceil()
            return torch.where(above - steps >= 0.5, above - 1, above)
        case _:
            return steps.round()


def _limited(integers: Tensor, qtype: QType) -> Tensor:
    decode = int_decode(qtype)
    if qtype.overflow == "saturate":
        return integers.clamp(decode.minimum, decode.maximum)
    states = decode.maximum - decode.minimum + 1
    return (integers - decode.minimum).remainder(states) + decode.minimum

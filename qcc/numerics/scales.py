"""Compute scales and zero points from the values of a tensor.

Everything is IEEE float32 arithmetic, one rounding an operation (float64 for float64 input, as an oracle),
so that a compiled kernel can reproduce it bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qcc.errors import Problem, ShapeError
from qcc.numerics.blocks import amax, amin, parent_block, reduce_blocks, spread_blocks, total
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import (
    IntDecode,
    Level,
    block_grid,
    is_integer_dtype,
)
from qcc.numerics.support import require_supported
from qcc.numerics.tensor import stored_dtype

Scales = tuple[Tensor, ...]


def working(x: Tensor) -> Tensor:
    """Give `x` in the dtype of the arithmetic: float64 stays, everything else becomes float32."""
    return x if x.dtype == torch.float64 else x.to(torch.float32)


def compute_qparams(x: Tensor, qtype: QType, where: str = "") -> tuple[Scales, Tensor | None]:
    """Compute the scales (leaf to root, in their stored dtypes) and the zero point of `x`.

    With q0..q1 the range of codes and one level of scales:

    - symmetric: scale = max|x| / q1, on a mid_rise grid max|x| / (q1 + 1/2);
    - `pre`: lo = min(x, 0), hi = max(x, 0), scale = (hi - lo) / (q1 - q0), rounded to its dtype, then
      zero = clamp(rne(-lo / scale) + q0, q0, q1); a zero point in a float dtype is not rounded to integers;
    - `post`: lo and hi of the block itself, zero = lo - scale·q0.

    With two levels the scales above are what the product of both should be: root = max of them / top,
    where top is the largest integer of the leaf's dtype (1 for a float leaf), and leaf = scale / root,
    never rounded down to 0 unless the block is all zero. Under a protective range p (QoQ), root =
    max|x| / p, and the leaf's parameters are computed from the integers clamp(rne(x / root), -p, p).

    A dynamic type lets NaN and infinity through to the scale. `where` names the tensor in errors.

    Raises:
        UnsupportedOp: numerics that are not there yet.
        ShapeError: a tensor without elements; for a static type, values that are not finite, or scales
            that overflow their dtype.
    """
    require_supported(qtype)
    if x.numel() == 0:
        raise ShapeError(f"{where or 'a tensor'} of shape {tuple(x.shape)} has no elements to quantize")
    if qtype.when == "static":
        check_finite(x, where)
    if qtype.levels[-1].protective is not None:
        scales, zero = _protected(working(x), qtype)
    else:
        scales, zero = _plain(working(x), qtype)
    if qtype.when == "static":
        _check_scales(scales, zero, qtype, where)
    return scales, zero


def check_finite(x: Tensor, where: str) -> None:
    """Raise if `x` holds NaN or infinity.

    Raises:
        ShapeError: naming the tensor and the first offender.
    """
    bad = ~torch.isfinite(x)
    if not bool(bad.any()):
        return
    first = tuple(int(index) for index in bad.nonzero()[0])
    what = f"{int(bad.sum())} of {x.numel()} values are not finite; the first, {x[first].item()}, is at {first}"
    raise ShapeError(
        "cannot quantize a tensor that is not finite",
        [Problem(where or f"a tensor of shape {tuple(x.shape)}", what)],
        fix="repair the checkpoint, or leave this tensor in float",
    )


def combined_scale(scales: Scales, qtype: QType, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Multiply the levels, leaf first, in `dtype`; gives one scale for each leaf block."""
    leaf = qtype.levels[0].block
    grid = block_grid(leaf, shape)
    scale = scales[0].to(dtype)
    for level, values in zip(qtype.levels[1:], scales[1:], strict=True):
        scale = scale * spread_blocks(values.to(dtype), parent_block(leaf, level.block, shape), grid)
    return scale


def integer_codes(values: Tensor, low: int, high: int) -> Tensor:
    """Round half to even and clamp; NaN becomes 0."""
    return torch.nan_to_num(values, nan=0.0).round().clamp(low, high)


def divide(values: Tensor, scale: Tensor) -> Tensor:
    """Divide by a scale, giving 0 where the scale is 0."""
    return torch.where(scale == 0, torch.zeros((), dtype=values.dtype), values / scale)


def int_decode(qtype: QType) -> IntDecode:
    """Give the decode of a type that `require_supported` let through."""
    assert isinstance(qtype.decode, IntDecode)
    return qtype.decode


def _plain(x: Tensor, qtype: QType) -> tuple[Scales, Tensor | None]:
    decode = int_decode(qtype)
    leaf = qtype.levels[0]
    low = high = None
    if qtype.zero is None:
        reach = decode.maximum + (0.5 if qtype.grid == "mid_rise" else 0)
        wanted = _magnitude(x, leaf) / reach
    else:
        low, high = _range(x, leaf, through_zero=qtype.zero.kind != "post")
        wanted = (high - low) / (decode.maximum - decode.minimum)
    scales = _split(wanted, qtype, tuple(x.shape))
    scale = combined_scale(scales, qtype, tuple(x.shape), x.dtype)
    return scales, None if low is None else _zero(low, scale, qtype)


def _magnitude(x: Tensor, level: Level) -> Tensor:
    """Give the magnitude that the largest code stands for, in every block."""
    factor = 1.0 if level.constant is None else level.constant
    match level.statistic:
        case "rms":
            squares = reduce_blocks(x.square(), level.block, total)
            return (squares / _sizes(x, level)).sqrt() * factor
        case "mean_abs":
            return reduce_blocks(x.abs(), level.block, total) / _sizes(x, level) * factor
        case _:
            return reduce_blocks(x.abs(), level.block, amax)


def _sizes(x: Tensor, level: Level) -> Tensor:
    return reduce_blocks(torch.ones_like(x), level.block, total)


def _range(x: Tensor, level: Level, *, through_zero: bool) -> tuple[Tensor, Tensor]:
    if through_zero:
        return (
            reduce_blocks(x.clamp(max=0), level.block, amin),
            reduce_blocks(x.clamp(min=0), level.block, amax),
        )
    infinity = float("inf")
    return reduce_blocks(x, level.block, amin, infinity), reduce_blocks(x, level.block, amax, -infinity)


def _split(wanted: Tensor, qtype: QType, shape: tuple[int, ...]) -> Scales:
    """Turn the wanted scales into the stored levels."""
    leaf, *roots = qtype.levels
    if not roots:
        return (_rounded(wanted, leaf),)
    root = roots[0]
    block = parent_block(leaf.block, root.block, shape)
    top = 1.0
    if is_integer_dtype(leaf.dtype):
        top = float(IntDecode(int(leaf.dtype[1:]), leaf.dtype[0] == "i").maximum)
    peak = torch.full_like(wanted, 0.0) if leaf.statistic == "constant" else wanted
    root_scale = _rounded(reduce_blocks(peak, block, amax) / top, root)
    spread = spread_blocks(root_scale.to(wanted.dtype), block, tuple(wanted.shape))
    return _rounded(divide(wanted, spread), leaf), root_scale


def _rounded(values: Tensor, level: Level) -> Tensor:
    """Round scales to their stored dtype; an integer scale of a block that is not zero is at least 1."""
    if level.statistic == "constant":
        values = torch.full_like(values, level.constant or 1.0)
    dtype = stored_dtype(level.dtype)
    if not is_integer_dtype(level.dtype):
        return values.to(dtype)
    rounding = {"rne": torch.round, "floor": torch.floor, "ceil": torch.ceil}[level.rounding]
    top = IntDecode(int(level.dtype[1:]), level.dtype[0] == "i").maximum
    whole = rounding(torch.nan_to_num(values, nan=0.0)).clamp(1, top)
    return torch.where(values == 0, torch.zeros_like(whole), whole).to(dtype)


def _zero(low: Tensor, scale: Tensor, qtype: QType) -> Tensor:
    assert qtype.zero is not None
    decode, dtype = int_decode(qtype), stored_dtype(qtype.zero.dtype)
    if qtype.zero.kind == "post":
        return (low - scale * decode.minimum).to(dtype)
    steps = divide(-low, scale)
    if is_integer_dtype(qtype.zero.dtype):
        zero = integer_codes(steps, 2**15 * -1, 2**15) + decode.minimum
        zero = zero.clamp(decode.minimum, decode.maximum)
        return torch.where(scale == 0, torch.zeros_like(zero), zero).to(dtype)
    return (torch.nan_to_num(steps, nan=0.0) + decode.minimum).to(dtype)


def protected_integers(x: Tensor, root: Tensor, level: Level) -> Tensor:
    """Give clamp(rne(x / root), -p, p): the integers that a protective root leaves to the leaf."""
    bound = level.protective or 127
    spread = spread_blocks(root.to(x.dtype), level.block, tuple(x.shape))
    return integer_codes(divide(x, spread), -bound, bound)


def _protected(x: Tensor, qtype: QType) -> tuple[Scales, Tensor | None]:
    decode, (leaf, root) = int_decode(qtype), qtype.levels
    root_scale = _rounded(reduce_blocks(x.abs(), root.block, amax) / float(root.protective or 127), root)
    integers = protected_integers(x, root_scale, root)
    if qtype.zero is None:
        return (_rounded(_magnitude(integers, leaf) / decode.maximum, leaf), root_scale), None
    low, high = _range(integers, leaf, through_zero=True)
    leaf_scale = _rounded((high - low) / (decode.maximum - decode.minimum), leaf)
    steps = leaf_scale.to(x.dtype)
    zero = integer_codes(divide(-low, steps), 0, decode.maximum - decode.minimum) + decode.minimum
    if qtype.zero.kind == "scaled":
        zero = -steps * zero
    return (leaf_scale, root_scale), zero.to(stored_dtype(qtype.zero.dtype))


def _check_scales(scales: Scales, zero: Tensor | None, qtype: QType, where: str) -> None:
    found = [
        Problem(where, f"{int((~torch.isfinite(scale)).sum())} scales overflow {level.dtype} at level {level}")
        for scale, level in zip(scales, qtype.levels, strict=True)
        if scale.is_floating_point() and not bool(torch.isfinite(scale).all())
    ]
    if zero is not None and zero.is_floating_point() and not bool(torch.isfinite(zero).all()):
        found.append(Problem(where, f"zero points overflow {zero.dtype}"))
    if found:
        raise ShapeError("values too large for the format", found, fix="store scales in bf16 or f32")

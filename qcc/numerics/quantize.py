"""Quantize and dequantize tensors in any format.

The formulas are exact: IEEE float32 with one rounding an operation, divisions true divisions by the stored
scale. A kernel that follows them gives the same codes and the same values, bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from qcc.errors import Problem, ShapeError
from qcc.numerics.blocks import block_extents, block_grid_rows
from qcc.numerics.coding import decode, encode
from qcc.numerics.kaxis import KAxisIndex, group_index_of
from qcc.numerics.levels import Chain, round_level
from qcc.numerics.lowrank import low_rank
from qcc.numerics.parameters import parameters_of, statistics_of
from qcc.numerics.parts import Parts, cut_axis, is_cut, part_indices, working
from qcc.numerics.plane_fit import fit_planes
from qcc.numerics.presets import format_of
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import (
    IntDecode,
    KAxis,
    LowRank,
    PlanesDecode,
    SelectDecode,
    Slice,
    TableDecode,
)
from qcc.numerics.search import searched_factors, selected_parameters
from qcc.numerics.sides import StoredSides, join_sides, mask_of, split_sides, with_side
from qcc.numerics.slices import row_slices, slice_parameters
from qcc.numerics.slicing import slice_codes
from qcc.numerics.tensor import Parameters, QuantizedTensor, code_dtype, parameter_problems, stored_dtype


def compute_qparams(
    x: Tensor, qtype: QType, where: str = "", *, roots: tuple[Tensor, ...] = (), selector: Tensor | None = None
) -> Parameters:
    """Compute the scales (leaf to root, in their stored dtypes), zero point and selector of `x`.

    With q0..q1 the range of codes and one level of scales:

    - symmetric: scale = max|x| / q1, on a mid_rise grid max|x| / (q1 + 1/2);
    - `pre`: lo = min(x, 0), hi = max(x, 0), scale = (hi - lo) / (q1 - q0), rounded to its dtype, then
      zero = clamp(rne(-lo / scale) + q0, q0, q1); a zero point in a float dtype is not rounded to integers;
    - `min`: the same scale, zero = -lo;
    - `post`: lo and hi of the block itself, zero = lo - scale·q0.

    With several levels the scales above are what the product of all should be: see `build_chain`. Under a
    protective range p (QoQ), root = max|x| / p, and the leaf's parameters are computed from the integers
    clamp(rne(x / root), -p, p). Given `roots` (the levels above the leaf, as for `dynamic_local`) stay, and
    so does a given `selector`.

    A dynamic type lets NaN and infinity through to the scale. `where` names the tensor in errors.

    Raises:
        ShapeError: a tensor without elements; for a static type, values that are not finite, or scales
            that overflow their dtype.
        RecipeError: a selected decode without shares.
    """
    if x.numel() == 0 or x.dim() == 0:
        what = "no elements" if x.numel() == 0 else "no axis"
        raise ShapeError(f"{where or 'a tensor'} of shape {tuple(x.shape)} has {what} to quantize")
    if qtype.when == "static":
        check_finite(x, where)
    parameters = _parameters(x, qtype, roots, selector)
    if qtype.when == "static":
        _check_parameters(parameters, qtype, where)
    return parameters


def quantize(
    x: Tensor, qtype: QType, parameters: Parameters | None = None, *, where: str = "", seed: int = 0
) -> QuantizedTensor:
    """Encode a float tensor of any shape.

    Parameters are computed from `x` (see `compute_qparams`) unless given, as for static activations. Then,
    with q0..q1 the range of codes:

    - symmetric: code = clamp(rne(x / scale), q0, q1);
    - mid_rise: code = clamp(floor(x / scale), q0, q1), standing for (code + 1/2)·scale; `int1 mid_rise`
      has the values -max|x| and +max|x|;
    - `pre`: code = clamp(rne(x / scale) + zero, q0, q1);
    - `post`: code = clamp(rne((x - zero) / scale), q0, q1), `min`: with x + zero.

    Floats, tables and planes take the code whose value is nearest to x / scale in place of rne and clamp.
    Where the scale is 0 the code is 0 (or the zero point). Where x / scale is NaN the code is that of 0 as
    well (of NaN, where a float has it), and the scale carries the NaN or infinity to the decoded value; with
    given scales a NaN is lost. `seed` feeds stochastic rounding.

    Sides of the type are split off first (see `split_sides`), and what the codes lose goes into low-rank
    factors. A type that reads slices of its codes is encoded like the master.

    Raises:
        ShapeError: no elements, parameters of a wrong shape; static types: values that are not finite.
        RecipeError: a selected decode without shares.
    """
    whole, shape = x, tuple(x.shape)
    x, sides = split_sides(x, qtype.sides, where) if qtype.sides else (x, ())
    sides = _with_own_order(sides, qtype, shape, where)
    if parameters is None:
        parameters = compute_qparams(x, qtype, where)
    found = parameter_problems(qtype, shape, parameters)
    if found:
        raise ShapeError(f"{where or 'a tensor'} of shape {shape} does not fit {qtype}", found)
    codes = torch.empty(shape, dtype=code_dtype(qtype.decode), device=x.device)
    for count, index in enumerate(row_slices(qtype, shape)):
        own = slice_parameters(parameters, qtype, shape, index)
        codes[index] = encode(working(x[index]), qtype, own, seed + count)
    mask = mask_of(sides)
    if mask is not None:
        codes.masked_fill_(~mask.mask(), 0)
    quantized = QuantizedTensor(qtype, shape, codes, parameters, sides)
    return replace(quantized, sides=_with_factors(whole, quantized, where))


def dequantize(quantized: QuantizedTensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Decode to real values of `dtype`.

    scale = product of the levels, root first; then scale·(code - zero), scale·code + zero for a `post`
    zero, scale·code - zero for `min`, root·(leaf·code + zero) for a `scaled` one. Computed in float64 for
    float64, else in float32 and rounded once to `dtype`. Then the sides: masked elements are zero, outliers
    and low-rank factors are added. Of a sliced type only the top bits of the codes are read.
    """
    qtype, shape = quantized.qtype, quantized.shape
    real = torch.float64 if dtype == torch.float64 else torch.float32
    stored = any(side is not None for side in quantized.sides)
    values = torch.empty(shape, dtype=real if stored else dtype, device=quantized.codes.device)
    for index in row_slices(qtype, shape):
        own = slice_parameters(quantized.parameters, qtype, shape, index)
        values[index] = decode(_read_codes(quantized.codes[index], qtype), qtype, own, real)
    return join_sides(values, quantized.sides, dtype) if stored else values


def fake_quantize(x: Tensor, qtype: QType | str) -> Tensor:
    """Encode and decode at once, in the dtype of `x`; takes a type, its text, or the name of a preset.

    Raises:
        RecipeError: a text that is neither a preset nor a type.
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
    signal = noise = torch.zeros((), dtype=torch.float64, device=x.device)
    for index in part_indices(tuple(x.shape)) if x.dim() else [()]:
        part = x[index].to(torch.float64)
        signal = signal + part.square().sum()
        noise = noise + (part - approximation[index].to(torch.float64)).square().sum()
    return float("inf") if float(noise) == 0.0 else float(10 * torch.log10(signal / noise))


def check_finite(x: Tensor, where: str) -> None:
    """Raise if `x` holds NaN or infinity.

    Raises:
        ShapeError: naming the tensor and the first offender.
    """
    indices = tuple(part_indices(tuple(x.shape)))
    if bool(torch.stack([torch.isfinite(x[index]).all() for index in indices]).all()):
        return
    count, first = 0, (0,) * x.dim()
    for index in indices:
        bad = (~torch.isfinite(x[index])).nonzero()
        if count == 0 and len(bad):
            start = (*(along.start or 0 for along in index), *(0,) * (x.dim() - len(index)))
            first = tuple(int(at) + begin for at, begin in zip(bad[0], start, strict=True))
        count += len(bad)
    what = f"{count} of {x.numel()} values are not finite; the first, {x[first].item()}, is at {first}"
    raise ShapeError(
        "cannot quantize a tensor that is not finite",
        [Problem(where or f"a tensor of shape {tuple(x.shape)}", what)],
        fix="repair the checkpoint, or leave this tensor in float",
    )


def _read_codes(codes: Tensor, qtype: QType) -> Tensor:
    """Give the codes as decoding reads them: of a sliced type only their top bits."""
    for side in qtype.sides:
        if isinstance(side, Slice) and isinstance(qtype.decode, IntDecode):
            return slice_codes(codes, qtype.decode, side.bits)
    return codes


def _with_own_order(sides: StoredSides, qtype: QType, shape: tuple[int, ...], where: str) -> StoredSides:
    """Fill in the order of the columns of a type that has one: columns are coded as they come."""
    for side in qtype.sides:
        if isinstance(side, KAxis) and shape[-1] <= side.count:
            what = f"{shape[-1]} columns cannot be what {side} expanded: it adds {side.count} to those there were"
            raise ShapeError(f"a tensor of shape {shape} does not fit {qtype}", [Problem(where, what)])
        if isinstance(side, KAxis) and (side.permuted or side.group_index):
            order = torch.arange(shape[-1] - side.count)
            extent = block_extents(qtype.levels[0].block, shape)[-1] if qtype.levels else shape[-1]
            groups = group_index_of(order, extent) if side.group_index else None
            sides = with_side(qtype.sides, sides, KAxisIndex(order if side.permuted else None, groups))
    return sides


def _with_factors(x: Tensor, quantized: QuantizedTensor, where: str) -> StoredSides:
    """Give the sides with low-rank factors of what quantization lost of `x`."""
    sides = quantized.sides
    for side in quantized.qtype.sides:
        if isinstance(side, LowRank):
            lost = working(x) - dequantize(quantized, working(x).dtype)
            sides = with_side(quantized.qtype.sides, sides, low_rank(lost, side, where=where))
    return sides


def _parameters(x: Tensor, qtype: QType, roots: tuple[Tensor, ...], selector: Tensor | None) -> Parameters:
    decode = qtype.decode
    if isinstance(decode, SelectDecode) or (isinstance(decode, TableDecode) and decode.selector is not None):
        return selected_parameters(x, qtype, roots, selector)
    if isinstance(decode, PlanesDecode) and decode.coefficients == "free":
        return _plane_parameters(x, qtype, decode)
    statistics = statistics_of(Parts(x, tuple(row_slices(qtype, tuple(x.shape)))), qtype, roots)
    return parameters_of(statistics.shrunk(searched_factors(x, qtype, statistics)), qtype, tuple(x.shape))


def _plane_parameters(x: Tensor, qtype: QType, decode: PlanesDecode) -> Parameters:
    leaf, shape = qtype.levels[0], tuple(x.shape)
    parts = ((slice(None),),) if is_cut(leaf.block, shape) else row_slices(qtype, shape)
    coefficients: list[Tensor] = []
    offsets: list[Tensor] = []
    for part in parts:
        rows, valid, grid = block_grid_rows(working(x[part]), leaf.block)
        found, offset = fit_planes(rows, valid, decode.count, decode.digits, offset=qtype.zero is not None)
        coefficients.append(found.reshape(*grid, decode.count))
        if offset is not None:
            offsets.append(offset.reshape(grid))
    sizes = torch.cat(coefficients, cut_axis(shape))
    scales = Chain((round_level(sizes, leaf, sizes, 1.0),), (None,))
    if qtype.zero is None:
        return Parameters(scales)
    zero = torch.cat(offsets, cut_axis(shape)).to(stored_dtype(qtype.zero.dtype))
    return Parameters(scales, Chain((zero,), (None,)))


def _check_parameters(parameters: Parameters, qtype: QType, where: str) -> None:
    found = [
        Problem(where, f"{int((~torch.isfinite(scale.float())).sum())} scales overflow {level.dtype} at level {level}")
        for scale, level in zip(parameters.scales.values, qtype.levels, strict=True)
        if scale.is_floating_point() and not bool(torch.isfinite(scale.float()).all())
    ]
    zeros = parameters.zero.values if parameters.zero is not None else ()
    found += [
        Problem(where, f"zero points overflow {zero.dtype}")
        for zero in zeros
        if zero.is_floating_point() and not math.isfinite(float(zero.float().abs().max()))
    ]
    if found:
        raise ShapeError("values too large for the format", found, fix="store scales in bf16 or f32")

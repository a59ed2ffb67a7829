"""Turn values into codes under given parameters, and back.

Everything here is elementwise but for pairs of the outlier-victim layout, so a tensor may be coded in slices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qcc.numerics.blocks import block_grid_rows, rows_to_blocks, spread_blocks
from qcc.numerics.codebook import code_values, codebook_of
from qcc.numerics.levels import chain_product, divide
from qcc.numerics.minifloat import nan_code, overflow_code, overflow_threshold
from qcc.numerics.ovp import decode_pairs, encode_pairs
from qcc.numerics.parameters import member_types, plain_decode, protected_integers
from qcc.numerics.planes import assign_planes, plane_values
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import FloatDecode, IntDecode, PlainDecode, PlanesDecode, SelectDecode, TableDecode
from qcc.numerics.tensor import Parameters, code_dtype, zero_levels


@dataclass(frozen=True, eq=False)
class _Spread:
    """The parameters of a slice, spread to broadcast against its elements."""

    scale: Tensor | None
    zero: Tensor | None
    root: Tensor | None


def encode(x: Tensor, qtype: QType, parameters: Parameters, seed: int = 0) -> Tensor:
    """Give the codes of `x`, in the dtype of `code_dtype`.

    `x` is float32 or float64, its parameters those of the same shape. `seed` feeds stochastic rounding.
    """
    if parameters.selector is not None:
        return _encode_selected(x, qtype, parameters, seed)
    decode = plain_decode(qtype)
    if _has_free_planes(decode):
        return _encode_planes(x, qtype, parameters)
    spread = _spread(qtype, parameters, tuple(x.shape), x.dtype)
    if qtype.layout == "ovp":
        assert isinstance(decode, TableDecode)
        return encode_pairs(_steps(x, spread), decode)
    if isinstance(decode, IntDecode):
        return _encode_integers(x, qtype, spread, parameters, seed).to(code_dtype(decode))
    return _encode_values(_target(x, qtype, spread), qtype, decode, seed)


def decode(codes: Tensor, qtype: QType, parameters: Parameters, dtype: torch.dtype) -> Tensor:
    """Give the values that codes stand for, in `dtype` (float32 or float64)."""
    shape = tuple(codes.shape)
    if parameters.selector is not None:
        return _decode_selected(codes, qtype, parameters, dtype)
    plain = plain_decode(qtype)
    if _has_free_planes(plain):
        return _decode_planes(codes, qtype, parameters, dtype)
    elements = element_values(codes, qtype, dtype)
    spread = _spread(qtype, parameters, shape, dtype)
    if spread.scale is None:
        return elements
    if spread.zero is None or qtype.zero is None:
        return spread.scale * elements
    match qtype.zero.kind:
        case "pre":
            return spread.scale * (elements - spread.zero)
        case "post":
            return spread.scale * elements + spread.zero
        case "min":
            return spread.scale * elements - spread.zero
        case "scaled":
            assert spread.root is not None
            return spread.root * (spread.scale * elements + spread.zero)


def element_values(codes: Tensor, qtype: QType, dtype: torch.dtype) -> Tensor:
    """Give what codes stand for before any scale, of a type whose values do not differ by block."""
    plain = plain_decode(qtype)
    if qtype.layout == "ovp":
        assert isinstance(plain, TableDecode)
        return decode_pairs(codes, plain, dtype)
    if isinstance(plain, IntDecode):
        values = codes.to(dtype)
        return values + 0.5 if qtype.grid == "mid_rise" else values
    table = torch.tensor(code_values(plain, qtype.grid), dtype=dtype, device=codes.device)
    return table[codes.to(torch.int32)]


def _spread(qtype: QType, parameters: Parameters, shape: tuple[int, ...], dtype: torch.dtype) -> _Spread:
    if not qtype.levels:
        return _Spread(None, None, None)
    leaf = qtype.levels[0].block
    zero = root = None
    if parameters.zero is not None:
        zero = spread_blocks(chain_product(parameters.zero, zero_levels(qtype), shape, dtype), leaf, shape)
    if qtype.levels[-1].protective is not None:
        scale = parameters.scales.values[0].to(dtype)
        root = spread_blocks(parameters.scales.values[-1].to(dtype), qtype.levels[-1].block, shape)
        if qtype.zero is None or qtype.zero.kind != "scaled":
            scale = chain_product(parameters.scales, qtype.levels, shape, dtype)
    else:
        scale = chain_product(parameters.scales, qtype.levels, shape, dtype)
    return _Spread(spread_blocks(scale, leaf, shape), zero, root)


def _encode_integers(x: Tensor, qtype: QType, spread: _Spread, parameters: Parameters, seed: int) -> Tensor:
    root = qtype.levels[-1] if qtype.levels else None
    if root is not None and root.protective is not None:
        # Codes are computed from the protected integers by the leaf's own scale, as a two-stage kernel does.
        leaf = spread_blocks(parameters.scales.values[0].to(x.dtype), qtype.levels[0].block, tuple(x.shape))
        x, spread = protected_integers(x, parameters.scales.values[-1], root), replace(spread, scale=leaf)
    if qtype.grid == "mid_rise":
        return _limited(torch.nan_to_num(_steps(x, spread), nan=0.0).floor(), qtype)
    if qtype.zero is not None and qtype.zero.kind in ("pre", "scaled"):
        assert spread.zero is not None
        # A stored scaled zero is -leaf·zero with an integer zero, so this division is exact.
        zero = spread.zero if qtype.zero.kind == "pre" else divide(-spread.zero, _scale(spread))
        if qtype.zero.kind == "scaled" or qtype.zero.dtype.startswith(("i", "u")):
            return _limited(_to_integers(_steps(x, spread), qtype, seed) + zero, qtype)
    return _limited(_to_integers(_target(x, qtype, spread), qtype, seed), qtype)


def _target(x: Tensor, qtype: QType, spread: _Spread) -> Tensor:
    """Give what the decoded codes should be near."""
    if spread.zero is None or qtype.zero is None:
        return _steps(x, spread)
    match qtype.zero.kind:
        case "post":
            return divide(x - spread.zero, _scale(spread))
        case "min":
            return divide(x + spread.zero, _scale(spread))
        case _:
            return _steps(x, spread) + spread.zero


def _scale(spread: _Spread) -> Tensor:
    assert spread.scale is not None
    return spread.scale


def _steps(x: Tensor, spread: _Spread) -> Tensor:
    return x if spread.scale is None else divide(x, spread.scale)


def _to_integers(steps: Tensor, qtype: QType, seed: int) -> Tensor:
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
        case "stochastic":
            below = steps.floor()
            return torch.where(_noise(steps, seed) < steps - below, below + 1, below)
        case "rne":
            return steps.round()


def _limited(integers: Tensor, qtype: QType) -> Tensor:
    plain = plain_decode(qtype)
    assert isinstance(plain, IntDecode)
    if qtype.overflow != "wrap":
        return integers.clamp(plain.minimum, plain.maximum)
    states = plain.maximum - plain.minimum + 1
    return (integers - plain.minimum).remainder(states) + plain.minimum


def _encode_values(target: Tensor, qtype: QType, plain: PlainDecode, seed: int) -> Tensor:
    book = codebook_of(plain, qtype.grid)
    position = book.nearest(target, qtype.rounding)
    if qtype.rounding == "stochastic":
        values = torch.tensor((*book.values, book.values[-1]), dtype=target.dtype, device=target.device)
        low, high = values[position], values[position + 1]
        position = position + (_noise(target, seed) * (high - low) < target - low).int()
        position = position.clamp(max=len(book.values) - 1)
    codes = torch.tensor(book.codes, dtype=torch.uint8, device=target.device)[position]
    if isinstance(plain, FloatDecode):
        return _with_special_codes(codes, target, qtype, plain)
    return codes


def _with_special_codes(codes: Tensor, target: Tensor, qtype: QType, plain: FloatDecode) -> Tensor:
    """Write NaN, where the format has it, and without saturation what a cast makes of values out of range."""
    code = nan_code(plain)
    if code is not None:
        codes = torch.where(torch.isnan(target), code, codes)
    if qtype.overflow != "nonsaturating":
        return codes
    limit, tie_leaves = overflow_threshold(plain)
    for negative in (False, True):
        special, size = overflow_code(plain, negative), -target if negative else target
        if special is not None:
            codes = torch.where(size >= limit if tie_leaves else size > limit, special, codes)
    return codes


def _noise(values: Tensor, seed: int) -> Tensor:
    generator = torch.Generator(device=values.device).manual_seed(seed)
    return torch.rand(values.shape, dtype=values.dtype, device=values.device, generator=generator)


def _encode_selected(x: Tensor, qtype: QType, parameters: Parameters, seed: int) -> Tensor:
    choice, plain = _choice(qtype, parameters, tuple(x.shape)), replace(parameters, selector=None)
    codes = torch.zeros(x.shape, dtype=code_dtype(qtype.decode), device=x.device)
    for index, member in enumerate(member_types(qtype)):
        coded = encode(x, member, plain, seed).to(codes.dtype)
        codes = torch.where(choice == index, coded, codes)
    return codes


def _decode_selected(codes: Tensor, qtype: QType, parameters: Parameters, dtype: torch.dtype) -> Tensor:
    choice, plain = _choice(qtype, parameters, tuple(codes.shape)), replace(parameters, selector=None)
    values = torch.zeros(codes.shape, dtype=dtype, device=codes.device)
    for index, member in enumerate(member_types(qtype)):
        values = torch.where(choice == index, decode(_own_codes(codes, member), member, plain, dtype), values)
    return values


def _own_codes(codes: Tensor, member: QType) -> Tensor:
    """Bring the codes of other members into the range of a table, where they are not used."""
    plain = member.decode
    return codes.clamp(max=len(plain.tables[0]) - 1) if isinstance(plain, TableDecode) else codes


def _choice(qtype: QType, parameters: Parameters, shape: tuple[int, ...]) -> Tensor:
    assert isinstance(qtype.decode, TableDecode | SelectDecode)
    assert qtype.decode.selector is not None
    assert parameters.selector is not None
    return spread_blocks(parameters.selector, qtype.decode.selector.block, shape)


def _has_free_planes(plain: PlainDecode) -> bool:
    return isinstance(plain, PlanesDecode) and plain.coefficients == "free"


def _encode_planes(x: Tensor, qtype: QType, parameters: Parameters) -> Tensor:
    plain, block = qtype.decode, qtype.levels[0].block
    assert isinstance(plain, PlanesDecode)
    rows, _, _ = block_grid_rows(x, block)
    codes = assign_planes(rows, *_plane_parameters(qtype, parameters, x.dtype), plain.digits)
    return rows_to_blocks(codes, block, tuple(x.shape))


def _decode_planes(codes: Tensor, qtype: QType, parameters: Parameters, dtype: torch.dtype) -> Tensor:
    plain, block = qtype.decode, qtype.levels[0].block
    assert isinstance(plain, PlanesDecode)
    rows, _, _ = block_grid_rows(codes, block)
    values = plane_values(rows, *_plane_parameters(qtype, parameters, dtype), plain.digits)
    return rows_to_blocks(values, block, tuple(codes.shape))


def _plane_parameters(qtype: QType, parameters: Parameters, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    assert isinstance(qtype.decode, PlanesDecode)
    coefficients = parameters.scales.values[0].to(dtype).reshape(-1, qtype.decode.count)
    offset = None if parameters.zero is None else parameters.zero.values[0].to(dtype).reshape(-1)
    return coefficients, offset

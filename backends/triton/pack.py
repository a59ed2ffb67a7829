"""Lay weights out for the kernels, and back; `qcc.backends.triton.geometry` describes the layout."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from qcc.backends.triton.geometry import TILE_ROWS, Geometry, geometry_of
from qcc.backends.triton.spec import GemmSpec
from qcc.errors import Problem, ShapeError
from qcc.numerics.blocks import block_extents
from qcc.numerics.levels import chain_product
from qcc.numerics.qtype_parts import Block, IntDecode
from qcc.numerics.tensor import QuantizedTensor

DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}
MAX_SCALES = 2**31
"""Scales of a weight that a kernel can count in 32 bits."""

# Zero points of float inputs are stored as the kernels use them: see `qcc.backends.triton.ptx`.
_FLOAT16_OFFSET, _BFLOAT16_OFFSET = 1024, -128


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A weight [rows, columns] as a kernel reads it.

    - `words` [tiles, blocks, TILE_ROWS, width], int8 for integer inputs and int16 for floats;
    - `scales` [groups, padded rows] or [padded rows] in the spec's dtype;
    - `zeros` alike, where the spec has them: int8 `zero * 2^(8 - bits)`, or 1024 + zero in float16, -128 - zero in
      bfloat16, for the codes 0..15.
    """

    words: Tensor
    scales: Tensor
    zeros: Tensor | None
    rows: int
    columns: int


@dataclass(frozen=True, eq=False)
class PlainWeight:
    """A weight as signed codes [rows, columns], and scales and zero points [rows, groups]: (code - zero) * scale.

    On a mid-rise grid a code stands for code + 1/2.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor | None


def pack_weight(weight: QuantizedTensor, spec: GemmSpec, where: str = "") -> PackedWeight:
    """Pack a weight [N, K] for the kernel of a spec, on the weight's device.

    Raises:
        ShapeError: a weight that is no matrix, or whose codes, zero points or groups are not those of the spec.
    """
    plain = plain_weight(weight, spec, where)
    geometry = geometry_of(spec)
    rows, columns = plain.codes.shape
    padded, steps = geometry.padded_rows(rows), geometry.steps(columns)
    if padded * steps * geometry.groups >= MAX_SCALES:
        raise ShapeError(f"{where or 'a weight'} of {rows} x {columns} has too many scales", fix="use a larger group")
    codes = functional.pad(plain.codes, (0, steps * geometry.step - columns, 0, padded - rows))
    zeros = None if plain.zeros is None else _grid(_stored_zeros(plain.zeros, spec), geometry, steps, padded)
    scales = _grid(plain.scales, geometry, steps, padded)
    return PackedWeight(_pack_words(codes, spec, geometry), scales, zeros, rows, columns)


def unpack_weight(packed: PackedWeight, spec: GemmSpec) -> PlainWeight:
    """Undo `pack_weight`."""
    geometry = geometry_of(spec)
    codes = _unpack_words(packed.words, spec, geometry)[: packed.rows, : packed.columns]
    scales, zeros = (_ungrid(one, geometry, packed) for one in (packed.scales, packed.zeros))
    assert scales is not None
    return PlainWeight(codes.to(torch.int8), scales, None if zeros is None else _plain_zeros(zeros, spec))


def plain_weight(weight: QuantizedTensor, spec: GemmSpec, where: str = "") -> PlainWeight:
    """Read a quantized weight as signed codes of the spec's width, with scales and zero points for its groups.

    Raises:
        ShapeError: a weight that is no matrix, or whose codes, zero points or groups are not those of the spec.
    """
    decode, (rows, columns) = weight.qtype.decode, weight.shape if len(weight.shape) == 2 else (0, 0)
    found: list[Problem] = []
    if not rows or not columns:
        found.append(Problem(where, f"its shape {weight.shape} is no matrix with elements"))
    if not isinstance(decode, IntDecode) or decode.bits > spec.weight_bits:
        found.append(Problem(where, f"its codes '{decode}' are no integers of {spec.weight_bits} bits"))
    if found or not isinstance(decode, IntDecode):
        raise ShapeError(f"cannot pack a weight '{weight.qtype}' for {spec.plan}", found)
    leaf = weight.qtype.levels[0].block
    scales = chain_product(weight.parameters.scales, weight.qtype.levels, weight.shape, torch.float32)
    # Unsigned codes move down by half their range; so do their zero points.
    half = 0 if decode.signed else 1 << (spec.weight_bits - 1)
    codes = (weight.codes.to(torch.int16) - half).to(torch.int8)
    zeros = None
    if spec.zero == "integer":
        stored = torch.zeros((), dtype=torch.int16, device=codes.device) if weight.zero is None else weight.zero
        zeros = _groups(stored.to(torch.int16) - half, leaf, weight.shape, spec.group, where)
        low, high = -(1 << (spec.weight_bits - 1)), (1 << (spec.weight_bits - 1)) - 1
        if int(zeros.min()) < low or int(zeros.max()) > high:
            raise ShapeError(f"{where or 'a weight'}: zero points do not fit {spec.weight_bits} bits")
    return PlainWeight(codes, _groups(scales, leaf, weight.shape, spec.group, where).to(DTYPES[spec.scale]), zeros)


def _groups(grid: Tensor, block: Block, shape: tuple[int, ...], group: int | None, where: str) -> Tensor:
    """Repeat what belongs to blocks for every row and group: [rows, groups]."""
    (rows, columns), (tall, wide) = shape, block_extents(block, shape)
    group = columns if group is None else min(group, columns)
    if wide % group and wide < columns:
        raise ShapeError(f"{where or 'a weight'}: groups of {group} columns cut blocks of {wide}")
    grid = grid.expand(-(-rows // tall), -(-columns // wide)) if grid.dim() == 2 else grid.reshape(1, 1)
    row = torch.arange(rows, device=grid.device) // tall
    column = torch.arange(0, columns, group, device=grid.device) // wide
    if grid.numel() == 1:
        return grid.expand(rows, len(column))
    return grid[row][:, column]


def _pack_words(codes: Tensor, spec: GemmSpec, geometry: Geometry) -> Tensor:
    """Pack signed codes [rows, columns] of whole tiles and steps."""
    wide = torch.int16 if spec.integer else torch.int32
    fields = codes.to(wide) + (0 if spec.integer else 1 << (spec.weight_bits - 1))
    fields = (fields & ((1 << spec.weight_bits) - 1)).reshape(
        len(codes) // TILE_ROWS, TILE_ROWS, -1, geometry.planes, geometry.width
    )
    words = fields[:, :, :, 0]
    for plane in range(1, geometry.planes):
        words = words | fields[:, :, :, plane] << (plane * spec.weight_bits)
    # A word with its top bit set is negative in the dtype it is stored in.
    words = words - ((words >> (geometry.word_bits - 1)) << geometry.word_bits)
    return words.transpose(1, 2).to(torch.int8 if spec.integer else torch.int16).contiguous()


def _unpack_words(words: Tensor, spec: GemmSpec, geometry: Geometry) -> Tensor:
    bits, wide = spec.weight_bits, words.to(torch.int32).transpose(1, 2)
    fields = [(wide >> (plane * bits)) & ((1 << bits) - 1) for plane in range(geometry.planes)]
    codes = torch.stack(fields, 3).flatten(2).flatten(0, 1)
    if not spec.integer:
        return codes - (1 << (bits - 1))
    return codes - ((codes >> (bits - 1)) << bits)


def _stored_zeros(zeros: Tensor, spec: GemmSpec) -> Tensor:
    if spec.integer:
        return (zeros << (8 - spec.weight_bits)).to(torch.int8)
    unsigned = zeros + (1 << (spec.weight_bits - 1))
    stored = _FLOAT16_OFFSET + unsigned if spec.input == "f16" else _BFLOAT16_OFFSET - unsigned
    return stored.to(DTYPES[spec.input])


def _plain_zeros(stored: Tensor, spec: GemmSpec) -> Tensor:
    if spec.integer:
        return stored.to(torch.int16) >> (8 - spec.weight_bits)
    whole = stored.to(torch.int16)
    unsigned = whole - _FLOAT16_OFFSET if spec.input == "f16" else _BFLOAT16_OFFSET - whole
    return unsigned - (1 << (spec.weight_bits - 1))


def _grid(values: Tensor, geometry: Geometry, steps: int, rows: int) -> Tensor:
    """Lay [rows, groups] out as [groups, padded rows]; a row's own as [padded rows]."""
    groups = 1 if geometry.group is None else steps * geometry.groups
    laid = functional.pad(values.T, (0, rows - values.shape[0], 0, groups - values.shape[1])).contiguous()
    return laid[0] if geometry.group is None else laid


def _ungrid(stored: Tensor | None, geometry: Geometry, packed: PackedWeight) -> Tensor | None:
    if stored is None:
        return None
    groups = 1 if geometry.group is None else -(-packed.columns // geometry.group)
    return stored.reshape(-1, stored.shape[-1])[:groups, : packed.rows].T

"""Write quantized tensors as the blocks of ggml, the tensor library of llama.cpp and its GGUF files, and read them.

A block holds the codes of 32 to 256 neighbours along the last axis together with their scales. Blocks are exact:
what they decode to is what the format decodes to, bit for bit (but for the sign of a zero).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from functools import lru_cache
from types import MappingProxyType

import torch
from torch import Tensor

from qcc.errors import CheckpointError, Problem, ShapeError
from qcc.numerics.ggml_layouts import LAYOUTS, REFUSED, BlockLayout
from qcc.numerics.levels import Chain
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import Decode, FuseGroup, IntDecode, Level, Rotate, TableDecode, block_grid, decode_states
from qcc.numerics.tensor import Parameters, QuantizedTensor, code_dtype, stored_dtype, zero_levels

GGML_FORMATS: Mapping[str, str] = MappingProxyType({kind: layout.text for kind, layout in LAYOUTS.items()})
"""The format, in text, that the blocks of every kind of ggml mean."""

_LARGEST_UNSIGNED_E4M3 = 0x7E  # 448; the code above is NaN, those from 0x80 on are negative


def ggml_kind(qtype: QType) -> str | None:
    """Give the kind of ggml blocks that hold tensors of a type, None where there is none.

    Only what decoding depends on has to agree: how scales were chosen and values rounded does not matter.
    """
    return _kinds().get(_meaning(qtype)) if _is_plain(qtype) else None


def ggml_row_bytes(kind: str, length: int) -> int:
    """Count the bytes of a row of `length` elements.

    Raises:
        CheckpointError: a kind that no format means.
        ShapeError: a length that is not a multiple of the block.
    """
    layout = layout_of(kind)
    if length < 1 or length % layout.elements:
        what = f"rows of {length} elements do not fill blocks of {layout.elements}"
        raise ShapeError(f"{kind} cannot hold this tensor", [Problem("", what)], fix="choose a kind of smaller blocks")
    return length // layout.elements * layout.size


def to_ggml(quantized: QuantizedTensor) -> Tensor:
    """Write a tensor `[..., K]` as uint8 blocks `[..., bytes]`, of the kind that `ggml_kind` gives.

    Raises:
        ShapeError: a type without a kind, a K that is not a multiple of the block, or codes or scales out of range.
    """
    kind = ggml_kind(quantized.qtype)
    if kind is None:
        raise ShapeError(
            f"no kind of ggml blocks holds {quantized.qtype}",
            fix=f"quantize to one of {', '.join(GGML_FORMATS)}",
        )
    layout = LAYOUTS[kind]
    ggml_row_bytes(kind, quantized.shape[-1])
    _check_ranges(quantized, kind)
    count = math.prod(quantized.shape) // layout.elements
    scales, zero = quantized.parameters.scales, quantized.parameters.zero
    parts = dict(layout.codes.write(quantized.codes.reshape(count, -1).to(torch.int16)))
    parts["scale"] = scales.values[-1].contiguous().view(torch.uint8).reshape(count, -1)
    if zero is not None:
        parts["zero"] = zero.values[-1].contiguous().view(torch.uint8).reshape(count, -1)
    if layout.leaf is not None:
        chains = (scales,) if zero is None else (scales, zero)
        numbers = [chain.values[0].reshape(count, -1).to(torch.int16) for chain in chains]
        parts.update(layout.leaf.write(torch.cat(numbers, 1)))
    blocks = torch.cat([parts[name] for name, _ in layout.parts], 1)
    return blocks.reshape(*quantized.shape[:-1], -1)


def from_ggml(blocks: Tensor, kind: str, shape: tuple[int, ...]) -> QuantizedTensor:
    """Read a tensor of `shape` `[..., K]` from its uint8 blocks, of any shape themselves.

    The type is the one of `GGML_FORMATS`.

    Raises:
        CheckpointError: a kind that no format means, too few or too many bytes, a code without a value, or scales
            that are not finite.
        ShapeError: blocks that are not uint8, or a K that is not a multiple of the block.
    """
    layout = layout_of(kind)
    if blocks.dtype != torch.uint8:
        raise ShapeError(f"{kind} blocks are uint8, not {blocks.dtype}")
    wanted = ggml_row_bytes(kind, shape[-1] if shape else 0) * math.prod(shape[:-1])
    if blocks.numel() != wanted:
        what = f"{blocks.numel()} bytes, but a tensor of shape {shape} takes {wanted}"
        raise CheckpointError(f"damaged {kind} blocks", [Problem("", what)])
    octets = blocks.reshape(-1, layout.size)
    pieces = octets.split([size for _, size in layout.parts], 1)
    parts = {name: piece for (name, _), piece in zip(layout.parts, pieces, strict=True)}
    qtype = layout.qtype
    quantized = QuantizedTensor(
        qtype,
        shape,
        layout.codes.read(parts).to(code_dtype(qtype.decode)).reshape(shape),
        _read_parameters(layout, qtype, parts, shape),
    )
    _check_read(quantized, kind)
    return quantized


def layout_of(kind: str) -> BlockLayout:
    """Give the layout of a kind of blocks.

    Raises:
        CheckpointError: a kind that no format means.
    """
    if kind in LAYOUTS:
        return LAYOUTS[kind]
    if kind in REFUSED:
        raise CheckpointError(f"no format holds ggml blocks of kind {kind}: {REFUSED[kind]}")
    near = get_close_matches(kind, LAYOUTS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(LAYOUTS)}"
    raise CheckpointError(f"ggml has no blocks of kind '{kind}'", fix=hint)


def _read_parameters(
    layout: BlockLayout, qtype: QType, parts: Mapping[str, Tensor], shape: tuple[int, ...]
) -> Parameters:
    levels, zeros = qtype.levels, zero_levels(qtype)
    lower: list[Tensor] = []
    if layout.leaf is not None:
        lower = list(layout.leaf.read(parts).chunk(1 + bool(zeros), 1))

    def chain(part: str, levels: tuple[Level, ...], index: int) -> Chain:
        tensors = [parts[part].contiguous().view(stored_dtype(levels[-1].dtype))]
        if len(levels) > 1:
            tensors.insert(0, lower[index].to(stored_dtype(levels[0].dtype)))
        grids = [block_grid(level.block, shape) for level in levels]
        values = tuple(tensor.reshape(grid) for tensor, grid in zip(tensors, grids, strict=True))
        return Chain(values, (None,) * len(values))

    return Parameters(chain("scale", levels, 0), chain("zero", zeros, 1) if zeros else None)


@lru_cache(maxsize=1)
def _kinds() -> dict[QType, str]:
    return {_meaning(layout.qtype): kind for kind, layout in LAYOUTS.items()}


def _is_plain(qtype: QType) -> bool:
    """Tell whether codes and scales are all there is: names of groups and notes of rotations add no values."""
    return all(isinstance(side, FuseGroup | Rotate) for side in qtype.sides)


def _meaning(qtype: QType) -> QType:
    """Give a type without what decoding does not depend on."""
    zero = qtype.zero
    if zero is not None and zero.levels:
        zero = replace(zero, levels=_stored(zero.levels))
    decode = _whole_decode(qtype.decode)
    return QType(decode, _stored(qtype.levels), zero, grid=qtype.grid, layout=qtype.layout)


def _stored(levels: tuple[Level, ...]) -> tuple[Level, ...]:
    return tuple(replace(level, statistic="amax", constant=None, rounding="rne") for level in levels)


def _whole_decode(decode: Decode) -> Decode:
    if isinstance(decode, IntDecode):
        return IntDecode(decode.bits, decode.signed)
    return replace(decode, name="") if isinstance(decode, TableDecode) else decode


def _check_ranges(quantized: QuantizedTensor, kind: str) -> None:
    """Check that nothing spills over into the bits of a neighbour."""
    layout = LAYOUTS[kind]
    found = _out_of_range("codes", quantized.codes, layout.codes.minimum, layout.codes.states)
    if layout.leaf is not None:
        chains = (("scales", quantized.parameters.scales), ("minima", quantized.parameters.zero))
        for name, chain in chains:
            if chain is not None:
                found += _out_of_range(name, chain.values[0], layout.leaf.minimum, layout.leaf.states)
    if kind == "NVFP4" and bool((quantized.scales[0].view(torch.uint8) > _LARGEST_UNSIGNED_E4M3).any()):
        found.append(Problem("scales", "are negative or NaN, but NVFP4 stores neither"))
    if found:
        raise ShapeError(f"a tensor of type {quantized.qtype} does not fit {kind} blocks", found)


def _out_of_range(name: str, numbers: Tensor, minimum: int, states: int) -> list[Problem]:
    low, high = int(numbers.min()), int(numbers.max())
    if minimum <= low and high < minimum + states:
        return []
    return [Problem(name, f"go from {low} to {high}, outside {minimum} to {minimum + states - 1}")]


def _check_read(quantized: QuantizedTensor, kind: str) -> None:
    found: list[Problem] = []
    decode = quantized.qtype.decode
    if isinstance(decode, TableDecode) and int(quantized.codes.max()) >= decode_states(decode):
        found.append(Problem("codes", f"{int(quantized.codes.max())} stands for nothing in {decode}"))
    scales, zero = quantized.parameters.scales.values, quantized.parameters.zero
    for name, tensor in (("scales", scales[-1]), ("zero points", zero.values[-1] if zero else scales[-1])):
        bad = int((~torch.isfinite(tensor.float())).sum())
        if bad:
            found.append(Problem(name, f"{bad} of {tensor.numel()} are not finite"))
    if kind == "NVFP4" and bool((scales[0].float() < 0).any()):
        found.append(Problem("scales", "some are negative"))
    if found:
        raise CheckpointError(f"damaged {kind} blocks", found)

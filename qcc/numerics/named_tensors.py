"""Take a quantized tensor apart into named plain tensors for a file, and put it together again, bit for bit.

`codes` are packed as `qcc.numerics.pack` does, codes above 8 bits as little-endian bytes of the integers they are
held in. The other names are those of `parameter_parts`; parameters keep their stored dtypes. Side tensors follow
under `side.`, by the names that `qcc.numerics.sides` gives them. Under a mask only the codes it keeps are stored, and
under a block mask only the parameters of blocks it keeps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from qcc.errors import CheckpointError, Problem
from qcc.numerics.blocks import block_extents, spread_blocks
from qcc.numerics.levels import Chain, stored_dtype
from qcc.numerics.masks import BlockIndex, MaskIndex
from qcc.numerics.pack import pack, packed_bytes, unpack
from qcc.numerics.plane_digits import valid_codes
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import (
    BlockMask,
    Decode,
    IntDecode,
    NMMask,
    PlanesDecode,
    TableDecode,
    is_integer_dtype,
)
from qcc.numerics.sides import StoredSides, mask_of, stored_shape
from qcc.numerics.sides import from_named as sides_from_named
from qcc.numerics.sides import named_tensors as named_sides
from qcc.numerics.stored_parts import (
    CODES,
    SELECTOR,
    SIDE,
    StoredPart,
    choices,
    code_width,
    has_signed_codes,
    packed_bits,
    parameter_parts,
)
from qcc.numerics.tensor import Parameters, QuantizedTensor, code_dtype


def named_tensors(quantized: QuantizedTensor) -> dict[str, Tensor]:
    """Give the parts of a quantized tensor by name: packed `codes`, scales, offset, zero points, selector, sides."""
    mask = mask_of(quantized.sides)
    codes = quantized.codes if mask is None else mask.compact(quantized.codes)
    named = {CODES: pack_codes(codes, quantized.qtype.decode)}
    for part in parameter_parts(quantized.qtype):
        tensor = _tensor_of(quantized.parameters, part)
        named[part.name] = _kept_values(tensor, part, mask)
    return named | {f"{SIDE}{name}": tensor for name, tensor in named_sides(quantized.sides).items()}


def from_named(qtype: QType, shape: tuple[int, ...], tensors: Mapping[str, Tensor]) -> QuantizedTensor:
    """Put together what `named_tensors` took apart.

    Raises:
        CheckpointError: with a problem for every part that is missing, unknown, of another shape or dtype, or that
            holds what the format has no meaning for.
    """
    if not shape or min(shape) < 1:
        raise CheckpointError("a quantized tensor is damaged", [Problem("shape", f"{shape} has no elements")])
    stored, problems = _sides_from(qtype, shape, tensors)
    mask, parts = mask_of(stored), parameter_parts(qtype)
    known = {CODES, *(part.name for part in parts)}
    problems += [
        Problem(name, "is no part of this format")
        for name in tensors
        if name not in known and not name.startswith(SIDE)
    ]
    if mask is None and any(isinstance(side, NMMask | BlockMask) for side in qtype.sides):
        raise CheckpointError(f"a tensor of the format '{qtype}' is damaged", problems)
    coded = stored_shape(mask, shape)
    problems += _code_problems(qtype.decode, coded, tensors.get(CODES))
    for part in parts:
        wanted = _kept_shape(part, mask, shape)
        problems += _part_problems(part, qtype.decode, wanted, tensors.get(part.name))
    if problems:
        raise CheckpointError(f"a tensor of the format '{qtype}' is damaged", problems)
    codes = unpack_codes(tensors[CODES], qtype.decode, coded[-1])
    if meaningless := _meaningless(codes, qtype):
        raise CheckpointError(f"a tensor of the format '{qtype}' is damaged", [Problem(CODES, meaningless)])
    whole = {part.name: _whole_grid(tensors[part.name], part, mask, shape) for part in parts}
    codes = codes if mask is None else mask.expand(codes)
    return QuantizedTensor(qtype, shape, codes, parameters_from(qtype, whole), stored)


def named_parameters(qtype: QType, parameters: Parameters) -> dict[str, Tensor]:
    """Give the tensors of parameters by the names of their parts, in the order of `parameter_parts`."""
    return {part.name: _tensor_of(parameters, part) for part in parameter_parts(qtype)}


def parameters_from(qtype: QType, tensors: Mapping[str, Tensor]) -> Parameters:
    """Undo `named_parameters`."""
    scales = Chain(
        tuple(tensors[f"scale{index}"] for index in range(len(qtype.levels))),
        tuple(tensors["offset0"] if level.offset != "none" else None for level in qtype.levels),
    )
    selector = tensors.get(SELECTOR)
    if qtype.zero is None:
        return Parameters(scales, None, selector)
    levels = qtype.zero.levels
    values = tuple(tensors[f"zero{index or ''}"] for index in range(max(1, len(levels))))
    offsets = tuple(tensors["zero_offset0"] if level.offset != "none" else None for level in levels) or (None,)
    return Parameters(scales, Chain(values, offsets), selector)


def pack_codes(codes: Tensor, decode: Decode) -> Tensor:
    """Pack codes along the last axis into uint8 `[..., ceil(K·bits / 8)]`, with bits as `packed_bits` says.

    Raises:
        ShapeError: a code that does not fit.
    """
    if code_width(decode) <= 8:
        return pack(codes, code_width(decode))
    return codes.contiguous().view(torch.uint8)


def unpack_codes(packed: Tensor, decode: Decode, length: int) -> Tensor:
    """Undo `pack_codes`: give `length` codes a row.

    Raises:
        ShapeError: rows that are not of the packed length.
    """
    if code_width(decode) <= 8:
        return unpack(packed, code_width(decode), length, has_signed_codes(decode))
    return packed.contiguous().clone().view(code_dtype(decode))


def _sides_from(
    qtype: QType, shape: tuple[int, ...], tensors: Mapping[str, Tensor]
) -> tuple[StoredSides, list[Problem]]:
    """Read the side tensors, and list what is wrong with them; damaged ones are None."""
    named = {name.removeprefix(SIDE): tensor for name, tensor in tensors.items() if name.startswith(SIDE)}
    try:
        stored = sides_from_named(qtype.sides, shape, named)
    except CheckpointError as error:
        return (), [Problem(f"{SIDE}{one.where}", one.what) for one in error.problems]
    unknown = sorted(set(named) - set(named_sides(stored)))
    return stored, [Problem(f"{SIDE}{name}", "is no part of this format") for name in unknown]


def _tensor_of(parameters: Parameters, part: StoredPart) -> Tensor:
    chain = parameters.scales if part.role in ("scale", "offset") else parameters.zero
    tensor = parameters.selector
    if part.role != "selector":
        assert chain is not None
        tensor = chain.values[part.index] if part.role in ("scale", "zero") else chain.offsets[part.index]
    assert tensor is not None  # a quantized tensor has all parts of its type
    return tensor


def _code_problems(decode: Decode, shape: tuple[int, ...], packed: Tensor | None) -> Iterator[Problem]:
    wanted = (*shape[:-1], packed_bytes(shape[-1], packed_bits(decode)))
    if packed is None:
        yield Problem(CODES, "are missing")
    elif packed.dtype != torch.uint8 or tuple(packed.shape) != wanted:
        found = f"{packed.dtype} of shape {tuple(packed.shape)}"
        yield Problem(CODES, f"are {found}; {shape} codes of {packed_bits(decode)} bits are bytes of shape {wanted}")


def _kept_grid(part: StoredPart, mask: MaskIndex | None, shape: tuple[int, ...]) -> Tensor | None:
    """Give which blocks of a part a block mask keeps, bool of the part's grid; None where all are stored."""
    if not isinstance(mask, BlockIndex) or part.copies:
        return None
    outer, inner = block_extents(mask.block, shape), block_extents(part.block, shape)
    if any(whole % one for whole, one in zip(outer, inner, strict=True)):
        return None
    block = tuple(whole // one for whole, one in zip(outer, inner, strict=True))
    return spread_blocks(mask.kept(), block, part.shape(shape)).expand(part.shape(shape))


def _kept_values(tensor: Tensor, part: StoredPart, mask: MaskIndex | None) -> Tensor:
    kept = None if mask is None else _kept_grid(part, mask, mask.shape)
    return tensor if kept is None else tensor[kept]


def _kept_shape(part: StoredPart, mask: MaskIndex | None, shape: tuple[int, ...]) -> tuple[int, ...]:
    kept = _kept_grid(part, mask, shape)
    return part.shape(shape) if kept is None else (int(kept.sum()),)


def _whole_grid(tensor: Tensor, part: StoredPart, mask: MaskIndex | None, shape: tuple[int, ...]) -> Tensor:
    """Put kept parameters back in their places; a block without codes has what a block of zeros has: no bit set."""
    kept = _kept_grid(part, mask, shape)
    if kept is None:
        return tensor
    grid = torch.zeros((*kept.shape, tensor.element_size()), dtype=torch.uint8, device=tensor.device)
    grid[kept] = tensor.contiguous().view(torch.uint8).reshape(-1, tensor.element_size())
    return grid.view(tensor.dtype).squeeze(-1)


def _part_problems(
    part: StoredPart, decode: Decode, wanted: tuple[int, ...], tensor: Tensor | None
) -> Iterator[Problem]:
    if tensor is None:
        yield Problem(part.name, "is missing")
        return
    if tensor.dtype != stored_dtype(part.dtype) or tuple(tensor.shape) != wanted:
        found = f"{tensor.dtype} of shape {tuple(tensor.shape)}"
        yield Problem(part.name, f"is {found}, not {stored_dtype(part.dtype)} of shape {wanted}")
        return
    if not is_integer_dtype(part.dtype) or not tensor.numel():  # a mask may keep nothing
        return
    whole = IntDecode(int(part.dtype[1:]), part.dtype[0] == "i")
    most = choices(decode) - 1 if part.role == "selector" else whole.maximum
    low, high = int(tensor.min()), int(tensor.max())
    if low < whole.minimum or high > most:
        yield Problem(part.name, f"has values from {low} to {high}, outside {whole.minimum} to {most}")


def _meaningless(codes: Tensor, qtype: QType) -> str:
    """Say which codes stand for nothing, where not every pattern of bits stands for something."""
    decode = qtype.decode
    if not codes.numel():
        return ""
    match decode:
        case IntDecode(bits, signed):
            whole = IntDecode(bits, signed)
            least, most = decode.minimum, decode.maximum
            if (least, most) == (whole.minimum, whole.maximum) and bits <= 8:
                return ""
        case TableDecode(tables):
            least, most = 0, max(map(len, tables)) - 1
            if qtype.layout == "ovp":  # the code after those of normal values marks a victim
                most = max(most, len(tables[0]))
        case PlanesDecode(count, "-101"):
            known = torch.zeros(2**decode.bits, dtype=torch.bool, device=codes.device)
            known[valid_codes(count, "-101", codes.device)] = True
            wrong = int((~known[codes.to(torch.int32)]).sum())
            return f"{wrong} stand for no digits" if wrong else ""
        case _:
            return ""
    low, high = int(codes.min()), int(codes.max())
    return "" if least <= low and high <= most else f"reach from {low} to {high}, outside {least} to {most}"

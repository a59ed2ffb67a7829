"""Take a quantized tensor apart into named plain tensors for a file, and put it together again, bit for bit.

`codes` are packed as `qcc.numerics.pack` does, codes above 8 bits as little-endian bytes of the integers they are
held in. The other names are those of `parameter_parts`; parameters keep their stored dtypes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from qcc.errors import CheckpointError, Problem
from qcc.numerics.levels import Chain, stored_dtype
from qcc.numerics.pack import pack, packed_bytes, unpack
from qcc.numerics.plane_digits import valid_codes
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import Decode, IntDecode, PlanesDecode, TableDecode, is_integer_dtype
from qcc.numerics.stored_parts import (
    CODES,
    SELECTOR,
    StoredPart,
    choices,
    code_width,
    has_signed_codes,
    packed_bits,
    parameter_parts,
)
from qcc.numerics.tensor import Parameters, QuantizedTensor, code_dtype


def named_tensors(quantized: QuantizedTensor) -> dict[str, Tensor]:
    """Give the parts of a quantized tensor by name: packed `codes`, then scales, offset, zero points, selector."""
    packed = pack_codes(quantized.codes, quantized.qtype.decode)
    return {CODES: packed, **named_parameters(quantized.qtype, quantized.parameters)}


def from_named(qtype: QType, shape: tuple[int, ...], tensors: Mapping[str, Tensor]) -> QuantizedTensor:
    """Put together what `named_tensors` took apart.

    Raises:
        CheckpointError: with a problem for every part that is missing, unknown, of another shape or dtype, or that
            holds what the format has no meaning for.
    """
    if not shape or min(shape) < 1:
        raise CheckpointError("a quantized tensor is damaged", [Problem("shape", f"{shape} has no elements")])
    parts = parameter_parts(qtype)
    known = {CODES, *(part.name for part in parts)}
    problems = [Problem(name, "is no part of this format") for name in tensors if name not in known]
    problems += _code_problems(qtype.decode, shape, tensors.get(CODES))
    for part in parts:
        problems += _part_problems(part, qtype.decode, shape, tensors.get(part.name))
    if problems:
        raise CheckpointError(f"a tensor of the format '{qtype}' is damaged", problems)
    codes = unpack_codes(tensors[CODES], qtype.decode, shape[-1])
    if meaningless := _meaningless(codes, qtype.decode):
        raise CheckpointError(f"a tensor of the format '{qtype}' is damaged", [Problem(CODES, meaningless)])
    return QuantizedTensor(qtype, shape, codes, parameters_from(qtype, tensors))


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


def _part_problems(
    part: StoredPart, decode: Decode, shape: tuple[int, ...], tensor: Tensor | None
) -> Iterator[Problem]:
    if tensor is None:
        yield Problem(part.name, "is missing")
        return
    if tensor.dtype != stored_dtype(part.dtype) or tuple(tensor.shape) != part.shape(shape):
        found = f"{tensor.dtype} of shape {tuple(tensor.shape)}"
        yield Problem(part.name, f"is {found}, not {stored_dtype(part.dtype)} of shape {part.shape(shape)}")
        return
    if not is_integer_dtype(part.dtype):
        return
    whole = IntDecode(int(part.dtype[1:]), part.dtype[0] == "i")
    most = choices(decode) - 1 if part.role == "selector" else whole.maximum
    low, high = int(tensor.min()), int(tensor.max())
    if low < whole.minimum or high > most:
        yield Problem(part.name, f"has values from {low} to {high}, outside {whole.minimum} to {most}")


def _meaningless(codes: Tensor, decode: Decode) -> str:
    """Say which codes stand for nothing, where not every pattern of bits stands for something."""
    match decode:
        case IntDecode(bits, signed):
            whole = IntDecode(bits, signed)
            least, most = decode.minimum, decode.maximum
            if (least, most) == (whole.minimum, whole.maximum) and bits <= 8:
                return ""
        case TableDecode(tables):
            least, most = 0, max(map(len, tables)) - 1
        case PlanesDecode(count, "-101"):
            known = torch.zeros(2**decode.bits, dtype=torch.bool, device=codes.device)
            known[valid_codes(count, "-101", codes.device)] = True
            wrong = int((~known[codes.to(torch.int32)]).sum())
            return f"{wrong} stand for no digits" if wrong else ""
        case _:
            return ""
    low, high = int(codes.min()), int(codes.max())
    return "" if least <= low and high <= most else f"reach from {low} to {high}, outside {least} to {most}"

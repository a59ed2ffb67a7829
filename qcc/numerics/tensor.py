"""Hold a quantized tensor: its type, codes, scales and zero points, unpacked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qcc.errors import Problem, ShapeError
from qcc.numerics.levels import Chain, stored_dtype
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import (
    Decode,
    Level,
    PlanesDecode,
    SelectDecode,
    TableDecode,
    block_grid,
)
from qcc.numerics.sides import StoredSides
from qcc.numerics.stored_parts import has_signed_codes, held_bits

__all__ = ["Parameters", "QuantizedTensor", "code_dtype", "parameter_problems", "stored_dtype", "zero_levels"]


@dataclass(frozen=True, eq=False)
class Parameters:
    """What turns codes into values: scales, zero points and selectors, in their stored dtypes.

    Every tensor has the shape of its grid of blocks. The coefficients of free digit planes have one axis more,
    of the number of planes. A zero point without levels of its own is a chain of one at the leaf blocks.
    """

    scales: Chain
    zero: Chain | None = None
    selector: Tensor | None = None

    @staticmethod
    def of(scales: tuple[Tensor, ...], zero: Tensor | None = None) -> Parameters:
        """Make parameters of scales leaf to root, without offsets, and of a plain zero point."""
        chain = Chain(scales, (None,) * len(scales))
        return Parameters(chain, None if zero is None else Chain((zero,), (None,)))


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """A tensor as codes.

    `codes` has the shape of the tensor and the dtype `code_dtype` gives: integers as they are, for all other
    decodes the unsigned code. `sides` has one entry a side of the type, None where a side stores no tensor.

    Raises:
        ShapeError: codes or parameters of another shape than the type asks for.
    """

    qtype: QType
    shape: tuple[int, ...]
    codes: Tensor
    parameters: Parameters
    sides: StoredSides = ()

    def __post_init__(self) -> None:
        found = parameter_problems(self.qtype, self.shape, self.parameters)
        if tuple(self.codes.shape) != self.shape:
            found.append(Problem("codes", f"have shape {tuple(self.codes.shape)}, not {self.shape}"))
        if len(self.sides) not in (0, len(self.qtype.sides)):
            found.append(Problem("sides", f"{len(self.sides)} given for {len(self.qtype.sides)}"))
        if found:
            raise ShapeError(f"a tensor of shape {self.shape} does not fit {self.qtype}", found)

    @property
    def scales(self) -> tuple[Tensor, ...]:
        """Give the stored scales, leaf to root."""
        return self.parameters.scales.values

    @property
    def zero(self) -> Tensor | None:
        """Give the stored zero points of the leaf blocks; None where the type has none."""
        return None if self.parameters.zero is None else self.parameters.zero.values[0]


def code_dtype(decode: Decode) -> torch.dtype:
    """Give the dtype codes are held in: int8 for signed integers, uint8 for the rest, wider above 8 bits."""
    if held_bits(decode) == 8:
        return torch.int8 if has_signed_codes(decode) else torch.uint8
    return {16: torch.int16, 32: torch.int32, 64: torch.int64}[held_bits(decode)]


def zero_levels(qtype: QType) -> tuple[Level, ...]:
    """Give the levels of the zero point; a plain one has its dtype at the leaf blocks of the scales."""
    if qtype.zero is None:
        return ()
    return qtype.zero.levels or (Level(qtype.levels[0].block, qtype.zero.dtype),)


def parameter_problems(qtype: QType, shape: tuple[int, ...], parameters: Parameters) -> list[Problem]:
    """List what is wrong with the shapes of parameters for a tensor of `shape`."""
    copies = ()
    if isinstance(qtype.decode, PlanesDecode) and qtype.decode.coefficients == "free":
        copies = (qtype.decode.count,)
    found = _chain_problems("scales", parameters.scales, qtype.levels, shape, copies)
    if (parameters.zero is None) != (qtype.zero is None):
        found.append(Problem("zero", "is missing" if parameters.zero is None else "is given, but the type has none"))
    elif parameters.zero is not None:
        found += _chain_problems("zero", parameters.zero, zero_levels(qtype), shape, ())
    decode = qtype.decode
    selector = decode.selector if isinstance(decode, TableDecode | SelectDecode) else None
    if (selector is None) != (parameters.selector is None):
        missing = parameters.selector is None
        found.append(Problem("selector", "is missing" if missing else "is given, but the type has none"))
    elif selector is not None and parameters.selector is not None:
        found += _grid_problem("selector", parameters.selector, block_grid(selector.block, shape))
    return found


def _chain_problems(
    what: str, chain: Chain, levels: tuple[Level, ...], shape: tuple[int, ...], copies: tuple[int, ...]
) -> list[Problem]:
    found: list[Problem] = []
    if len(chain.values) != len(levels):
        found.append(Problem(what, f"{len(chain.values)} given for {len(levels)} levels"))
    for index, (values, level) in enumerate(zip(chain.values, levels, strict=False)):
        name = what if what == "zero" and len(levels) == 1 else f"{what}[{index}]"
        found += _grid_problem(name, values, (*block_grid(level.block, shape), *(copies if index == 0 else ())))
    for index, (level, offset) in enumerate(zip(levels, chain.offsets, strict=False)):
        if (level.offset == "none") != (offset is None):
            missing = offset is None
            found.append(Problem(f"{what}[{index}]", f"{'lacks its' if missing else 'has no'} offset"))
    return found


def _grid_problem(name: str, tensor: Tensor, grid: tuple[int, ...]) -> list[Problem]:
    if tuple(tensor.shape) == grid:
        return []
    return [Problem(name, f"has shape {tuple(tensor.shape)}, not {grid}")]

"""Hold a quantized tensor: its type, codes, scales and zero points, unpacked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qcc.errors import Problem, ShapeError
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import block_grid, is_integer_dtype

FLOAT_DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "pow2": torch.float32}


def stored_dtype(name: str) -> torch.dtype:
    """Give the torch dtype that holds a level or zero dtype; a power of two is held as its value."""
    if is_integer_dtype(name):
        return torch.int8 if name[0] == "i" else torch.uint8
    return FLOAT_DTYPES[name]


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """A tensor as codes.

    `codes` has the shape of the tensor, int8 for signed codes and uint8 for unsigned. `scales` run from
    leaf to root and each has the shape of its grid of blocks; `zero` has the grid of the leaf.

    Raises:
        ShapeError: codes, scales or zero of another shape than the type asks for.
    """

    qtype: QType
    shape: tuple[int, ...]
    codes: Tensor
    scales: tuple[Tensor, ...]
    zero: Tensor | None = None

    def __post_init__(self) -> None:
        found = parameter_problems(self.qtype, self.shape, self.scales, self.zero)
        if tuple(self.codes.shape) != self.shape:
            found.append(Problem("codes", f"have shape {tuple(self.codes.shape)}, not {self.shape}"))
        if found:
            raise ShapeError(f"a tensor of shape {self.shape} does not fit {self.qtype}", found)


def parameter_problems(
    qtype: QType, shape: tuple[int, ...], scales: tuple[Tensor, ...], zero: Tensor | None
) -> list[Problem]:
    """List what is wrong with the shapes of scales and zero point for a tensor of `shape`."""
    found: list[Problem] = []
    if len(scales) != len(qtype.levels):
        found.append(Problem("scales", f"{len(scales)} given for {len(qtype.levels)} levels"))
    for index, (scale, level) in enumerate(zip(scales, qtype.levels, strict=False)):
        grid = block_grid(level.block, shape)
        if tuple(scale.shape) != grid:
            found.append(Problem(f"scales[{index}]", f"has shape {tuple(scale.shape)}, not {grid}"))
    if (zero is None) != (qtype.zero is None):
        found.append(Problem("zero", "is missing" if zero is None else "is given, but the type has none"))
    elif zero is not None:
        grid = block_grid(qtype.levels[0].block, shape)
        if tuple(zero.shape) != grid:
            found.append(Problem("zero", f"has shape {tuple(zero.shape)}, not {grid}"))
    return found

"""What operations compute on: values, and the frame of one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from xdsl.ir import Operation

from qcc.errors import CheckpointError, ShapeError
from qcc.ir.base import location_of
from qcc.ir.dims import Dim
from qcc.ir.types import FLOATS, TensorType
from qcc.numerics.tensor import QuantizedTensor
from qcc.numerics.torch_dtypes import TORCH_DTYPES


class Weights(Protocol):
    """What the interpreter needs of a weight store."""

    def __getitem__(self, key: str, /) -> torch.Tensor | QuantizedTensor: ...

    def __contains__(self, key: object, /) -> bool: ...


@dataclass
class Frame:
    """One call of a program: symbol values, the dtype rule, weights, and the state before and after."""

    symbols: Mapping[str, int]
    dtype: str | None
    weights: Weights
    state: Mapping[str, torch.Tensor | QuantizedTensor]
    next_state: dict[str, torch.Tensor | QuantizedTensor] = field(default_factory=lambda: {})

    def torch_dtype(self, kind: TensorType) -> torch.dtype:
        """Return the dtype that values of a plain type are held in (floats become `dtype` if one is asked for)."""
        return dtype_of(kind.scalar, self.dtype)

    def size(self, dim: Dim) -> int:
        """Return the value of a dimension in this call."""
        return dim.evaluate(self.symbols)

    def sizes(self, kind: TensorType) -> tuple[int, ...]:
        """Return the shape of a type in this call."""
        return tuple(self.size(dim) for dim in kind.shape)


Evaluate = Callable[[Any, list[Any], Frame], Any]
"""An operation's meaning: (operation, operand values, frame) -> its result, a tuple if it has not exactly one."""


def dtype_of(scalar: str, override: str | None) -> torch.dtype:
    """Return the torch dtype of an element type; float ones become `override` if that is given."""
    return TORCH_DTYPES[override if override is not None and scalar in FLOATS else scalar]


def wide(value: torch.Tensor) -> torch.Tensor:
    """Widen float16 and bfloat16 to float32, the dtype that arithmetic on them is done in."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def fail(op: Operation, what: str, fix: str = "") -> ShapeError:
    """Make the error of an operation whose operands cannot be computed with; it says where the operation is from."""
    return ShapeError(f"{op.name} at {location_of(op) or 'an unknown place'}: {what}", fix=fix)


def convert_weight(
    key: str, kind: TensorType, weight: torch.Tensor | QuantizedTensor, override: str | None
) -> torch.Tensor | QuantizedTensor:
    """Return a weight in the dtype it is computed with.

    Raises:
        CheckpointError: if its shape or element type is not the one the program declares.
    """
    shape = kind.static_shape
    if shape != tuple(weight.shape):
        raise CheckpointError(f"weight '{key}' has shape {list(weight.shape)}, the program declares {kind}")
    if kind.qtype is not None or not isinstance(weight, torch.Tensor):
        found = "plain" if isinstance(weight, torch.Tensor) else f"'{weight.qtype}'"
        if kind.qtype is None or isinstance(weight, torch.Tensor) or weight.qtype != kind.qtype:
            raise CheckpointError(f"weight '{key}' is {found}, the program declares {kind}")
        return weight
    if weight.dtype not in (TORCH_DTYPES[kind.scalar], dtype_of(kind.scalar, override)):
        raise CheckpointError(f"weight '{key}' is {weight.dtype}, the program declares {kind}")
    return weight.to(dtype_of(kind.scalar, override))

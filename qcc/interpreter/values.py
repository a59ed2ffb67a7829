"""What operations compute on: values, and the frame of one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from xdsl.ir import Operation

from qcc.errors import CheckpointError, ShapeError
from qcc.ir.base import location_of
from qcc.ir.dims import Dim
from qcc.ir.on_disk import OnDisk, Weight
from qcc.ir.types import FLOATS, TensorType
from qcc.numerics.tensor import QuantizedTensor
from qcc.numerics.torch_dtypes import TORCH_DTYPES


class Weights(Protocol):
    """What the interpreter needs of a weight store."""

    def __getitem__(self, key: str, /) -> torch.Tensor | QuantizedTensor: ...

    def __contains__(self, key: object, /) -> bool: ...


@dataclass
class Frame:
    """One call of a program: symbol values, the dtype rule, weights, the state before and, where kept, after."""

    symbols: Mapping[str, int]
    dtype: str | None
    weights: Weights
    state: Mapping[str, torch.Tensor | QuantizedTensor]
    next_state: dict[str, torch.Tensor | QuantizedTensor] | None = field(default_factory=lambda: {})

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


@runtime_checkable
class HasEntries(Protocol):
    """A store that can say where a weight is without reading it."""

    def entry(self, key: str, /) -> Weight | OnDisk:
        """Return a weight, or where it is."""
        ...


def entry_of(store: Weights, key: str) -> Weight | OnDisk:
    """Return a weight, or where it is in a file if the store knows that."""
    return store.entry(key) if isinstance(store, HasEntries) else store[key]


def convert_weight(key: str, kind: TensorType, weight: Weight | OnDisk, override: str | None) -> Weight | OnDisk:
    """Return a weight in the dtype it is computed with; what is in a file is checked and stays there.

    Raises:
        CheckpointError: if its shape or element type is not the one the program declares.
    """
    shape = kind.static_shape
    if shape != tuple(weight.shape):
        raise CheckpointError(f"weight '{key}' has shape {list(weight.shape)}, the program declares {kind}")
    qtype = None if isinstance(weight, torch.Tensor) else weight.qtype
    if kind.qtype != qtype:
        found = "plain" if qtype is None else f"'{qtype}'"
        raise CheckpointError(f"weight '{key}' is {found}, the program declares {kind}")
    if isinstance(weight, QuantizedTensor) or qtype is not None:
        return weight
    if weight.dtype not in (TORCH_DTYPES[kind.scalar], dtype_of(kind.scalar, override)):
        raise CheckpointError(f"weight '{key}' is {weight.dtype}, the program declares {kind}")
    return weight if isinstance(weight, OnDisk) else weight.to(dtype_of(kind.scalar, override))


class HeldWeights:
    """The weights of an interpreter by name: what is in a file is read whenever it is asked for."""

    def __init__(self, weights: Mapping[str, Weight | OnDisk], dtype: str | None) -> None:
        self._weights = dict(weights)
        self._dtype = dtype

    def __getitem__(self, key: str) -> Weight:
        found = self._weights[key]
        if not isinstance(found, OnDisk):
            return found
        weight = found.read()
        if isinstance(weight, QuantizedTensor) or not weight.is_floating_point():
            return weight
        return weight if self._dtype is None else weight.to(TORCH_DTYPES[self._dtype])

    def __setitem__(self, key: str, weight: Weight) -> None:
        self._weights[key] = weight

    def __delitem__(self, key: str) -> None:
        del self._weights[key]

    def __contains__(self, key: object) -> bool:
        return key in self._weights

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

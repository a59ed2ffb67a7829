"""One call of an ATen operator: its arguments by name, and the types of its results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch.fx import Node
from xdsl.ir import SSAValue

from qcc.frontend.builder import Builder
from qcc.frontend.dtypes import Number
from qcc.frontend.refusal import Refusal
from qcc.ir.dims import Dim
from qcc.ir.types import TensorType, type_of
from qcc.numerics.torch_dtypes import SCALAR_NAMES

Values = SSAValue | tuple[SSAValue | None, ...]
"""What a handler gives: one value, or one per result with None for those that qcc does not compute."""


@dataclass(frozen=True)
class Call:
    """Arguments by their names in the operator's schema, defaults filled in.

    Tensors are SSA values, symbolic integers are dimensions. `results` holds the exported type of each result, None
    for what is no tensor.
    """

    node: Node
    arguments: Mapping[str, object]
    results: tuple[TensorType | None, ...]

    @property
    def result(self) -> TensorType:
        """Type of the first result."""
        first = self.results[0] if self.results else None
        if first is None:
            raise Refusal("its result is no tensor")
        return first

    def raw(self, name: str) -> object:
        """Return an argument as it is."""
        return self.arguments[name]

    def given(self, name: str) -> bool:
        """Whether an argument is there and not None."""
        return self.arguments.get(name) is not None

    def value(self, name: str) -> SSAValue:
        """Return a tensor argument."""
        value = self.arguments[name]
        if not isinstance(value, SSAValue):
            raise Refusal(f"argument '{name}' is no tensor")
        return value

    def optional(self, name: str) -> SSAValue | None:
        """Return a tensor argument that may be None."""
        return self.value(name) if self.given(name) else None

    def values(self, name: str) -> list[SSAValue]:
        """Return a list of tensors."""
        values = self.sequence(name)
        if not all(isinstance(value, SSAValue) for value in values):
            raise Refusal(f"argument '{name}' is no list of tensors")
        return cast(list[SSAValue], list(values))

    def sequence(self, name: str) -> Sequence[object]:
        """Return a list argument; a single element counts as a list of one."""
        values = self.arguments[name]
        return cast(Sequence[object], values) if isinstance(values, list | tuple) else [values]

    def number(self, name: str) -> Number:
        """Return a number that does not depend on shapes."""
        return _number(self.arguments[name], name)

    def real(self, name: str) -> float:
        """Return a number as a float."""
        return float(self.number(name))

    def integer(self, name: str) -> int:
        """Return an integer that does not depend on shapes."""
        return int(self.number(name))

    def integers(self, name: str, count: int | None = None) -> list[int]:
        """Return a list of integers; one element stands for `count` equal ones."""
        found = [int(_number(one, name)) for one in self.sequence(name)]
        return found * count if count is not None and len(found) == 1 else found

    def flag(self, name: str) -> bool:
        """Return a truth value."""
        return bool(self.arguments[name])

    def text(self, name: str) -> str:
        """Return a text."""
        return str(self.arguments[name])

    def dim(self, name: str) -> Dim:
        """Return an integer that may depend on shapes."""
        return _dim(self.arguments[name], name)

    def dims(self, name: str) -> list[Dim]:
        """Return a list of integers that may depend on shapes."""
        return [_dim(one, name) for one in self.sequence(name)]

    def axis(self, name: str, of: SSAValue | int) -> int:
        """Return an axis, counted from the front, of a tensor or of a rank."""
        return self.axes(name, of)[0]

    def axes(self, name: str, of: SSAValue | int) -> list[int]:
        """Return a list of axes counted from the front; None or an empty list stand for all."""
        rank = of if isinstance(of, int) else type_of(of).rank
        if not self.given(name) or self.arguments[name] == []:
            return list(range(rank))
        return [axis % rank if rank else 0 for axis in self.integers(name)]

    def scalar(self, name: str = "dtype") -> str | None:
        """Return the element type that a dtype argument names, None if it was not given."""
        dtype = self.arguments.get(name)
        if dtype is None:
            return None
        if not isinstance(dtype, torch.dtype) or dtype not in SCALAR_NAMES:
            raise Refusal(f"qcc has no element type {dtype}")
        return SCALAR_NAMES[dtype]


Handler = Callable[[Builder, Call], Values]


def _number(value: object, name: str) -> Number:
    if isinstance(value, Dim) and value.constant is not None:
        return value.constant
    if not isinstance(value, int | float):
        raise Refusal(f"argument '{name}' depends on {'shapes' if isinstance(value, Dim) else 'data'}")
    return value


def _dim(value: object, name: str) -> Dim:
    if isinstance(value, Dim | int):
        return Dim.of(value)
    raise Refusal(f"argument '{name}' is no integer")

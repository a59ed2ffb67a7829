"""Small modules built by hand, for tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from xdsl.builder import ImplicitBuilder
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue

from qcc.interpreter import Interpreter
from qcc.ir.program import ConstantOp, ProgramOp, ReturnOp, WeightOp
from qcc.ir.store import WeightStore
from qcc.ir.types import SymbolAttr, TensorType, tensor, type_of
from qcc.numerics.tensor import QuantizedTensor

SCALARS = {
    torch.float64: "f64",
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "i1",
}

Made = SSAValue | Operation


def make(
    inputs: Mapping[str, TensorType], build: Callable[..., Made | Sequence[Made]], symbols: Sequence[SymbolAttr] = ()
) -> ModuleOp:
    """Build a module: `build` gets the inputs and makes operations, which land in the program in order."""
    program = ProgramOp("main", list(inputs.items()), symbols)
    with ImplicitBuilder(program.body.block) as arguments:
        made = build(*arguments)
        values = list(made) if isinstance(made, Sequence) else [made]
        ReturnOp(values)
    outputs = [f"y{index}" if index else "y" for index in range(len(values))]
    program = ProgramOp("main", list(inputs.items()), symbols, outputs, program.detach_region(program.body))
    module = ModuleOp([program])
    module.verify()
    return module


def kind_of(value: torch.Tensor | QuantizedTensor) -> TensorType:
    """Return the type of a tensor, all its dimensions static."""
    if isinstance(value, QuantizedTensor):
        return tensor(value.shape, value.qtype)
    return tensor(tuple(value.shape), SCALARS[value.dtype])


def scalar(number: float, like: Made) -> ConstantOp:
    """Make a rank-0 constant of another value's element type."""
    return ConstantOp(number, type_of(SSAValue.get(like)).with_shape(()))


def weights(**values: torch.Tensor | QuantizedTensor) -> tuple[WeightStore, dict[str, TensorType]]:
    """Make a store and the types of its weights."""
    return WeightStore(values), {name: kind_of(value) for name, value in values.items()}


def run(
    build: Callable[..., Made | Sequence[Made]],
    *inputs: torch.Tensor,
    dtype: str | None = None,
    **stored: torch.Tensor | QuantizedTensor,
) -> Any:
    """Interpret a module whose inputs have the shapes of `inputs`; `build` gets inputs, then weights by name."""

    def with_weights(*arguments: SSAValue) -> Made | Sequence[Made]:
        return build(*arguments, **{name: WeightOp(name, kind_of(value)) for name, value in stored.items()})

    kinds = {f"x{index}": kind_of(value) for index, value in enumerate(inputs)}
    module = make(kinds, with_weights)
    named = {f"x{index}": value for index, value in enumerate(inputs)}
    results = list(Interpreter(module, WeightStore(stored), dtype).run(named).values())
    return results[0] if len(results) == 1 else results

"""Meaning of the operations of structure: weights, state, constants."""

from __future__ import annotations

import torch

from qcc.errors import CheckpointError
from qcc.interpreter.values import Evaluate, Frame
from qcc.ir import program as ir
from qcc.ir.types import type_of
from qcc.numerics.tensor import QuantizedTensor


def _weight(op: ir.WeightOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor | QuantizedTensor:
    return frame.weights[op.key.data]


def _state(op: ir.StateOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor | QuantizedTensor:
    key = op.key.data
    if key not in frame.state:
        raise CheckpointError(f"the program reads state '{key}', which has no first value in the weight store")
    return frame.state[key]


def _update_state(op: ir.UpdateStateOp, args: list[torch.Tensor], frame: Frame) -> tuple[()]:
    if frame.next_state is not None:
        frame.next_state[op.key.data] = args[0]
    return ()


def _constant(op: ir.ConstantOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    kind = type_of(op.result)
    return torch.full(frame.sizes(kind), op.number, dtype=frame.torch_dtype(kind))


def _dim(op: ir.DimOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    return torch.tensor(frame.size(op.dim.data), dtype=frame.torch_dtype(type_of(op.result)))


def _iota(op: ir.IotaOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    kind = type_of(op.result)
    (count,) = frame.sizes(kind)
    values = torch.arange(count) * op.step.value.data + frame.size(op.start.data)
    return values.to(frame.torch_dtype(kind))


TABLE: dict[type, Evaluate] = {
    ir.WeightOp: _weight,
    ir.StateOp: _state,
    ir.UpdateStateOp: _update_state,
    ir.ConstantOp: _constant,
    ir.DimOp: _dim,
    ir.IotaOp: _iota,
}

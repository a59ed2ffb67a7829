"""The float model beside the quantized one, in one module.

    contract(quantize(x), w) [+ side tensors]    ->    linear(x, float w), which everything else reads

The quantized layer stays where it is and reads the float input too, so one run gives for every layer both what it
should compute and what it computes. Where a weight has no float original, what its codes stand for takes its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, StringAttr
from xdsl.ir import Operation, OpResult, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from qcc.interpreter.values import Weights, entry_of
from qcc.ir.base import LAYER, LEFT_IN_FLOAT, RESIDUAL, location_of, set_location
from qcc.ir.elementwise import BinaryOp, CastOp
from qcc.ir.kernel import KernelOp, dissolve
from qcc.ir.nn import ConvOp, EmbeddingOp, LinearOp
from qcc.ir.on_disk import OnDisk, Weight
from qcc.ir.program import WeightOp
from qcc.ir.quant import ContractOp, DequantizeOp, QuantizeOp
from qcc.ir.shape import SliceOp
from qcc.ir.store import Plain
from qcc.ir.transform import AddLowrankOp, AddSparseOp
from qcc.ir.types import type_of
from qcc.numerics.tensor import QuantizedTensor
from qcc.numerics.torch_dtypes import TORCH_DTYPES

ORIGINAL = "float:"
"""What the key of a float original starts with, beside the weights of the artifact."""

Layer = ContractOp | LinearOp | ConvOp


def flattened(module: ModuleOp) -> ModuleOp:
    """Copy a module and put the operations of every kernel in its place; the function stays the same."""
    copy = module.clone()
    for kernel in [op for op in copy.walk() if isinstance(op, KernelOp)]:
        dissolve(kernel)
    return copy


def layers_of(module: ModuleOp) -> list[Layer]:
    """List the layers of a module in order: contractions, and what was left in float."""
    return [op for op in module.walk() if _is_layer(op)]  # type: ignore[misc]


def _is_layer(op: Operation) -> bool:
    return isinstance(op, ContractOp) or (isinstance(op, LinearOp | ConvOp) and LEFT_IN_FLOAT in op.attributes)


def layer_names(layers: list[Layer]) -> list[str]:
    """Name layers as the coverage does."""
    return [name.data if isinstance(name := op.attributes.get(LAYER), StringAttr) else _place(op) for op in layers]


def _place(op: Operation) -> str:
    return location_of(op) or op.name


def end_of(layer: Layer) -> SSAValue:
    """Return the value of a layer with its outliers and low-rank factors added."""
    value: SSAValue = layer.result
    while True:
        uses = [use.operation for use in value.uses]
        if len(uses) != 1 or not isinstance(uses[0], AddSparseOp | AddLowrankOp) or uses[0].base is not value:
            return value
        value = uses[0].result


@dataclass(frozen=True, eq=False)
class Twin:
    """The values of one layer: what it computes, what it should, and its float input; `weight` is a key, if known."""

    name: str
    where: str
    quantized: SSAValue
    exact: SSAValue
    input: SSAValue
    codes: SSAValue | None
    weight: str | None
    original: str | None


class Originals:
    """Finds the float original of every quantized weight, and holds both."""

    def __init__(self, store: Weights, floats: Mapping[str, torch.Tensor]) -> None:
        self._store, self._floats = store, floats

    def __getitem__(self, key: str, /) -> torch.Tensor | QuantizedTensor:
        return self._floats[key.removeprefix(ORIGINAL)] if key.startswith(ORIGINAL) else self._store[key]

    def entry(self, key: str, /) -> Weight | OnDisk:
        """Return a weight, or where it is in a file."""
        if not key.startswith(ORIGINAL):
            return entry_of(self._store, key)
        name = key.removeprefix(ORIGINAL)
        return self._floats.entry(name) if isinstance(self._floats, Plain) else self._floats[name]

    def __contains__(self, key: object, /) -> bool:
        if isinstance(key, str) and key.startswith(ORIGINAL):
            return key.removeprefix(ORIGINAL) in self._floats
        return key in self._store

    def of(self, weight: WeightOp) -> str | None:
        """Return the key of the float original of a quantized weight, None where it is not known."""
        shape = type_of(weight.result).static_shape
        key = weight.key.data.split(":")[0]
        found = self._floats.get(key)
        return key if found is not None and tuple(found.shape) == shape else None


def twin_module(
    module: ModuleOp, weights: Originals, keep: frozenset[int] = frozenset(), *, float_rest: bool = True
) -> tuple[ModuleOp, list[Twin]]:
    """Copy a module and put a float layer beside every quantized one; layers `keep`, by index, stay as they are.

    Returns the copy and its layers in order. With `float_rest`, tables become float, and so does whatever else is
    quantized between layers.
    """
    copy = flattened(module)
    layers = layers_of(copy)
    twins: list[Twin] = []
    for index, (layer, name) in enumerate(zip(layers, layer_names(layers), strict=True)):
        if isinstance(layer, ContractOp):
            twins.append(_kept(layer, name) if index in keep else _split(layer, name, weights))
        else:
            twins.append(Twin(name, location_of(layer), layer.result, layer.result, layer.input, None, None, None))
    if float_rest:
        _float_rest(copy, weights, {twin.codes for twin in twins if twin.codes is not None})
    return copy, twins


def _kept(layer: ContractOp, name: str) -> Twin:
    end = end_of(layer)
    return Twin(name, location_of(layer), end, end, layer.input, None, None, None)


def _split(layer: ContractOp, name: str, weights: Originals) -> Twin:
    """Put the float layer behind a quantized one, and let everything else read that."""
    end = end_of(layer)
    assert isinstance(end, OpResult)
    made: list[Operation] = []
    value, codes = _float_input(layer, made)
    scalar = type_of(value).scalar
    owner = layer.weight.owner
    original = weights.of(owner) if isinstance(owner, WeightOp) else None
    weight = _weight(layer, weights, original, scalar, made)
    source, weight = _plain(layer, value, weight, made)
    exact = LinearOp(source, weight, None if layer.bias is None else _as(layer.bias, scalar, made))
    set_location(exact, location_of(layer))
    made.append(exact)
    result = _as(exact.result, type_of(end).scalar, made)
    Rewriter.insert_op(made, InsertPoint.after(end.op))
    new = set(made)
    end.replace_uses_with_if(result, lambda use: use.operation not in new)
    key = owner.key.data if isinstance(owner, WeightOp) else None
    return Twin(name, location_of(layer), end, result, value, codes, key, original)


def _plain(layer: ContractOp, value: SSAValue, weight: SSAValue, made: list[Operation]) -> tuple[SSAValue, SSAValue]:
    """Return the operands of the float layer: of no loss there is no residual to read."""
    count = layer.attributes.get(RESIDUAL)
    if not isinstance(count, IntegerAttr):
        return value, weight
    columns = type_of(weight).shape[1] - count.value.data
    made += (parts := (SliceOp(value, type_of(value).rank - 1, 0, columns), SliceOp(weight, 1, 0, columns)))
    return parts[0].result, parts[1].result


def _as(value: SSAValue, scalar: str, made: list[Operation]) -> SSAValue:
    if type_of(value).scalar == scalar:
        return value
    made.append(cast := CastOp(value, scalar))
    return cast.result


def _float_input(layer: ContractOp, made: list[Operation]) -> tuple[SSAValue, SSAValue | None]:
    """Return the float value that a layer reads, and its codes; what is not quantized in place is decoded."""
    if type_of(layer.input).qtype is None:
        return layer.input, None
    owner = layer.input.owner
    if isinstance(owner, QuantizeOp):
        return owner.input, owner.result
    made.append(decoded := DequantizeOp(layer.input, type_of(layer.result).scalar))
    return decoded.result, None


def _weight(
    layer: ContractOp, weights: Originals, original: str | None, scalar: str, made: list[Operation]
) -> SSAValue:
    if original is None:
        made.append(decoded := DequantizeOp(layer.weight, scalar))
        return decoded.result
    stored = weights[ORIGINAL + original]
    assert isinstance(stored, torch.Tensor)
    made.append(weight := WeightOp(ORIGINAL + original, type_of(layer.weight).with_element(_scalar(stored))))
    return _as(weight.result, scalar, made)


def _scalar(value: torch.Tensor) -> str:
    return next(name for name, dtype in TORCH_DTYPES.items() if dtype == value.dtype)


def _float_rest(module: ModuleOp, weights: Originals, inputs: set[SSAValue]) -> None:
    """Make tables float, and values that are quantized between layers."""
    for op in list(module.walk()):
        if isinstance(op, EmbeddingOp) and isinstance(owner := op.table.owner, WeightOp):
            key = weights.of(owner) if type_of(op.table).qtype is not None else None
            if key is not None:
                _float_table(op, weights, key)
        elif isinstance(op, DequantizeOp) and isinstance(source := op.input.owner, QuantizeOp):
            plain = source.result not in inputs and type_of(source.input) == type_of(op.result)
            if plain and not _measures_loss(op, source.input):
                op.result.replace_all_uses_with(source.input)


def _measures_loss(op: DequantizeOp, value: SSAValue) -> bool:
    """Say whether decoded values are only taken from what they were, as for residual channels."""
    readers = [use.operation for use in op.result.uses]
    return all(isinstance(one, BinaryOp) and one.function.data == "sub" and one.lhs is value for one in readers)


def _float_table(op: EmbeddingOp, weights: Originals, key: str) -> None:
    stored = weights[ORIGINAL + key]
    assert isinstance(stored, torch.Tensor)
    table = WeightOp(ORIGINAL + key, type_of(op.table).with_element(_scalar(stored)))
    made = EmbeddingOp(table, op.ids, type_of(op.result).scalar)
    made.attributes.update(op.attributes)
    Rewriter.replace_op(op, [table, made], [made.result])

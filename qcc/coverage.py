"""What became of the layers of a model: read off the final module."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.ir import Operation, SSAValue

from qcc.artifact import Coverage, LayerEntry
from qcc.ir.base import LAYER, LEFT_IN_FLOAT, location_of
from qcc.ir.integer import IntegerContractOp
from qcc.ir.kernel import kernel_of, origin_of
from qcc.ir.nn import ConvOp, LinearOp
from qcc.ir.on_disk import OnDisk, Weight
from qcc.ir.program import StateOp, WeightOp
from qcc.ir.quant import ContractOp, QuantizeOp
from qcc.ir.store import WeightStore
from qcc.ir.types import TensorType, type_of
from qcc.numerics.elements import ELEMENT_BYTES
from qcc.numerics.qtype_bits import bits_per_weight, storage_bits
from qcc.numerics.quantize import dequantize, signal_to_quantization_noise_db


def bits_text(bits: float) -> str:
    """Write bits per weight as far as they go, 6 digits at most behind the point."""
    return f"{bits:.6f}".rstrip("0").rstrip(".")


def weight_bytes(weight: Weight | OnDisk) -> int:
    """Count the bytes of a weight as stored: for a quantized one every code, scale and zero point."""
    if isinstance(weight, torch.Tensor):
        return weight.numel() * weight.element_size()
    if weight.qtype is not None:
        return (storage_bits(weight.qtype, weight.shape) + 7) // 8
    assert isinstance(weight, OnDisk)
    assert weight.dtype is not None  # a weight has a format or a dtype
    return math.prod(weight.shape) * weight.dtype.itemsize


def store_bytes(store: WeightStore) -> int:
    """Count the bytes of all weights as stored."""
    return sum(weight_bytes(store.entry(key)) for key in store)


def coverage_of(
    module: ModuleOp, store: WeightStore | None, originals: Mapping[str, torch.Tensor], bytes_before: int
) -> Coverage:
    """List every layer with its formats; `originals` are the float weights, to measure the noise of their codes."""
    layers = [entry for op in module.walk() if (entry := _layer(op, store, originals)) is not None]
    after = sum(one.bytes for one in stored_weights(module)) if store is None else store_bytes(store)
    return Coverage(layers=tuple(layers), bytes_before=bytes_before, bytes_after=after)


@dataclass(frozen=True)
class StoredWeight:
    """A weight as stored, or as it will be: its name, shape, format, bits per weight and bytes, everything counted."""

    name: str
    shape: tuple[int, ...]
    format: str
    quantized: bool
    bits_per_weight: float
    bytes: int


def stored_weights(module: ModuleOp) -> list[StoredWeight]:
    """List the weights and first states of a module, each format of each once.

    Where weights are not solved yet (a dry run), each is listed in the formats that it will be quantized to, and in
    float where that is read as well.
    """
    found: dict[tuple[str, TensorType], StoredWeight] = {}
    for op in module.walk():
        if isinstance(op, WeightOp | StateOp):
            readers = list(dict.fromkeys(use.operation for use in op.result.uses))
            kinds = [_read_as(reader, op.result) for reader in readers] if isinstance(op, WeightOp) else []
            for kind in kinds or [type_of(op.result)]:
                found.setdefault((op.key.data, kind), _stored(op.key.data, kind))
    return list(found.values())


def _read_as(reader: Operation, weight: SSAValue) -> TensorType:
    if isinstance(reader, QuantizeOp) and reader.input is weight:
        return type_of(reader.result)
    return type_of(weight)


def _stored(key: str, kind: TensorType) -> StoredWeight:
    shape, qtype = kind.static_shape or (), kind.qtype
    if qtype is None:
        return StoredWeight(key, shape, kind.scalar, False, 8.0 * ELEMENT_BYTES[kind.scalar], _type_bytes(kind))
    name = key.removesuffix(f":{qtype}")
    return StoredWeight(name, shape, str(qtype), True, bits_per_weight(qtype, shape), _type_bytes(kind))


def _type_bytes(kind: TensorType) -> int:
    shape = kind.static_shape or ()
    if kind.qtype is not None:
        return (storage_bits(kind.qtype, shape) + 7) // 8
    count = 1
    for size in shape:
        count *= size
    return count * ELEMENT_BYTES[kind.scalar]


def _layer(op: Operation, store: WeightStore | None, originals: Mapping[str, torch.Tensor]) -> LayerEntry | None:
    if isinstance(op, ContractOp | IntegerContractOp):
        return _quantized_layer(op, store, originals)
    reason = op.attributes.get(LEFT_IN_FLOAT)
    if not isinstance(op, LinearOp | ConvOp) or not isinstance(reason, StringAttr):
        return None
    kind = type_of(op.weight)
    return LayerEntry(
        name=_name(op),
        shape=kind.static_shape or (),
        weights=kind.scalar,
        activations=type_of(op.input).scalar,
        bits_per_weight=8.0 * ELEMENT_BYTES[kind.scalar],
        bytes=_type_bytes(kind),
        plan="float",
        left_in_float=reason.data,
    )


def _quantized_layer(
    op: ContractOp | IntegerContractOp, store: WeightStore | None, originals: Mapping[str, torch.Tensor]
) -> LayerEntry:
    kind, source = type_of(op.weight), type_of(op.input)
    plan = "integer" if isinstance(op, IntegerContractOp) else "" if op.plan is None else str(op.plan.data.value)
    shape, kernel = kind.static_shape or (), kernel_of(op)
    assert kind.qtype is not None
    return LayerEntry(
        name=_name(op),
        shape=shape,
        weights=str(kind.qtype),
        activations=source.scalar if source.qtype is None else str(source.qtype),
        bits_per_weight=bits_per_weight(kind.qtype, shape),
        bytes=_type_bytes(kind),
        plan=plan,
        why="" if kernel is None or kernel.why is None else kernel.why.data,
        weight_sqnr_db=_sqnr(op.weight, store, originals),
    )


def _name(op: Operation) -> str:
    name = op.attributes.get(LAYER)
    return name.data if isinstance(name, StringAttr) else location_of(op) or op.name


def _sqnr(weight: SSAValue, store: WeightStore | None, originals: Mapping[str, torch.Tensor]) -> float | None:
    owner = origin_of(weight).owner
    if store is None or not isinstance(owner, WeightOp):
        return None
    original = originals.get(owner.key.data.split(":")[0])
    if original is None:
        return None
    exact = original.to(torch.float32)
    return round(signal_to_quantization_noise_db(exact, dequantize(store.quantized(owner.key.data))), 2)

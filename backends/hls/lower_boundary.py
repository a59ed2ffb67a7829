"""Inputs, outputs and constants: where floats become integers, and integers floats."""

from __future__ import annotations

import numpy as np
import torch
from xdsl.ir import Operation

from qcc.backends.hls.elements import RAW, Element
from qcc.backends.hls.lowering import Flow, Known, Lowering, Refusal, Table, static_shape
from qcc.backends.hls.steps import Array
from qcc.backends.hls.units_rows import DequantizeUnit, QuantizeUnit
from qcc.ir.integer import CodesOp, OfCodesOp
from qcc.ir.program import ConstantOp, WeightOp
from qcc.ir.quant import DequantizeOp, QuantizeOp
from qcc.ir.types import type_of
from qcc.numerics.named_tensors import parameters_from
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import IntDecode
from qcc.numerics.quantize import dequantize, quantize
from qcc.numerics.stored_parts import parameter_parts
from qcc.numerics.tensor import QuantizedTensor, code_dtype

WIDEST_TABLE = 12
"""Bits of codes that a table of thresholds or of floats is made for."""

NEGATIVE_INFINITY = 0x007FFFFF
"""The key of the least number: `qcc::quantize` orders float32 by keys that rise with the value."""

POSITIVE_INFINITY = 0xFF800000
BEYOND = 0xFFFFFFFF
"""A key above those of all numbers."""


def _weight(low: Lowering, op: Operation) -> None:
    assert isinstance(op, WeightOp)
    weight = low.store[op.key.data]
    low.values[op.result] = Known(weight if isinstance(weight, QuantizedTensor) else weight.detach().cpu().numpy())


def _constant(low: Lowering, op: Operation) -> None:
    assert isinstance(op, ConstantOp)
    shape = static_shape(op.result)
    low.values[op.result] = Known(np.full(shape, op.number, np.float64 if type_of(op.result).is_float else np.int64))


def _quantize(low: Lowering, op: Operation) -> None:
    """Quantize raw floats by thresholds, which hold for any rounding rule that does not decrease."""
    assert isinstance(op, QuantizeOp)
    qtype = type_of(op.result).qtype
    assert qtype is not None
    source = low.value(op.input)
    if not isinstance(source, Flow) or not source.element.raw:
        raise Refusal("quantizes a value inside the program", "use a recipe of integers only")
    given = tuple(low.value(one) for one in op.operands[1:])
    scales = tuple(
        one.values for one in given if isinstance(one, Known) and not isinstance(one.values, QuantizedTensor)
    )
    decode = _integer_decode(qtype)
    if qtype.when != "static" or len(scales) != len(given):
        raise Refusal(f"quantizes to '{qtype}', whose scales are computed at run time", "use a static format")
    if any(one.size != 1 for one in scales):
        raise Refusal(f"quantizes to '{qtype}' with several scales", "use one scale for the tensor")
    keys, nan_code = thresholds(qtype, scales)
    element = Element(decode.minimum, decode.maximum)
    unit = QuantizeUnit(source.count, keys, decode.minimum, nan_code, element)
    edge = low.emit("codes", op, unit, (source.edge,), element, source.count)
    low.set(op, Flow(edge, source.shape, source.order, element, op, qtype, scales))


def thresholds(qtype: QType, scales: tuple[Array, ...]) -> tuple[Array, int]:
    """Return the key of the least float32 of every code but the lowest, uint32, and the code of what is no number.

    Keys order all float32 by value, -0 before 0; codes that no number has repeat the key of the next one, or lie beyond
    infinity. There are 2**n - 1 keys.
    """
    decode = _integer_decode(qtype)
    codes = np.arange(decode.minimum + 1, decode.maximum + 1)
    low = np.full(len(codes), NEGATIVE_INFINITY, np.int64)
    high = np.full(len(codes), POSITIVE_INFINITY + 1, np.int64)
    while (low < high).any():
        middle = (low + high) // 2
        reached = encode(qtype, scales, floats_of(np.minimum(middle, POSITIVE_INFINITY))) >= codes
        high = np.where(reached & (low < high), middle, high)
        low = np.where(~reached & (low < high), middle + 1, low)
    # a search by halves needs one less than a power of two; what is beyond the highest code no number reaches
    keys = np.full((1 << len(codes).bit_length()) - 1, BEYOND, np.uint32)
    keys[: len(codes)] = high
    return keys, int(encode(qtype, scales, np.array([np.nan], np.float32))[0])


def floats_of(keys: Array) -> Array:
    """Return the float32 of keys."""
    bits = np.where(keys & 0x80000000, keys & 0x7FFFFFFF, ~keys & 0xFFFFFFFF)
    return bits.astype(np.uint32).view(np.float32)


def encode(qtype: QType, scales: tuple[Array, ...], values: Array) -> Array:
    """Return the codes of float32 values [n] under one scale, int64."""
    parts = parameter_parts(qtype)
    named = {part.name: torch.as_tensor(one).reshape(1) for part, one in zip(parts, scales, strict=True)}
    parameters = parameters_from(qtype, named)
    return quantize(torch.from_numpy(values), qtype, parameters).codes.numpy().astype(np.int64)


def _integer_decode(qtype: QType) -> IntDecode:
    if not isinstance(qtype.decode, IntDecode) or qtype.sides:
        raise Refusal(f"quantizes to '{qtype}', which is no plain integer format", "use int8 or narrower integers")
    if qtype.decode.bits > WIDEST_TABLE:
        raise Refusal(f"quantizes to {qtype.decode.bits} bits", f"use up to {WIDEST_TABLE} bits at inputs and outputs")
    return qtype.decode


def _codes(low: Lowering, op: Operation) -> None:
    assert isinstance(op, CodesOp)
    found = low.value(op.input)
    if not isinstance(found, Flow):
        raise Refusal("reads the codes of a constant", "fold it into the constant")
    low.set(op, Flow(found.edge, found.shape, found.order, found.element, op))


def _of_codes(low: Lowering, op: Operation) -> None:
    assert isinstance(op, OfCodesOp)
    found, qtype = low.flow(op.input, op), type_of(op.result).qtype
    assert qtype is not None
    scales: list[Array] = []
    for one in op.parameters:
        known = low.value(one)
        if not isinstance(known, Known) or isinstance(known.values, QuantizedTensor) or known.values.size != 1:
            raise Refusal(f"gives codes of '{qtype}' scales that are not one constant", "use one scale for the tensor")
        scales.append(known.values)
    low.set(op, Flow(found.edge, found.shape, found.order, found.element, op, qtype, tuple(scales)))


def _dequantize(low: Lowering, op: Operation) -> None:
    """Give out the float32 of every code from a table."""
    assert isinstance(op, DequantizeOp)
    found = low.value(op.input)
    if not isinstance(found, Flow) or found.qtype is None:
        raise Refusal("dequantizes a constant", "fold it into the constant")
    if type_of(op.result).scalar != "f32":
        raise Refusal(f"gives {type_of(op.result).scalar}", "return float32")
    decode = _integer_decode(found.qtype)
    parts = parameter_parts(found.qtype)
    named = {part.name: torch.as_tensor(one).reshape(1) for part, one in zip(parts, found.scale, strict=True)}
    codes = torch.arange(decode.minimum, decode.maximum + 1).to(code_dtype(decode))
    coded = QuantizedTensor(found.qtype, (len(codes),), codes, parameters_from(found.qtype, named))
    table = dequantize(coded).numpy().view(np.uint32)
    unit = DequantizeUnit(found.count, found.element, decode.minimum, table)
    edge = low.emit("floats", op, unit, (found.edge,), RAW, found.count)
    low.set(op, Flow(edge, found.shape, found.order, RAW, op))


LOWERINGS: Table = {
    WeightOp: _weight,
    ConstantOp: _constant,
    QuantizeOp: _quantize,
    CodesOp: _codes,
    OfCodesOp: _of_codes,
    DequantizeOp: _dequantize,
}

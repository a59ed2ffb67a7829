"""Meaning of the quantization operations."""

from __future__ import annotations

from dataclasses import replace

import torch

from qcc.interpreter.contraction import contract
from qcc.interpreter.parameters import computed_parameters, plain_parameters, quantize_given, stored_parameters
from qcc.interpreter.values import Evaluate, Frame
from qcc.ir import quant as ir
from qcc.ir import storage, transform
from qcc.ir.types import type_of
from qcc.numerics.named_tensors import pack_codes, unpack_codes
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import IntDecode
from qcc.numerics.quantize import dequantize
from qcc.numerics.slicing import slice_codes
from qcc.numerics.tensor import QuantizedTensor


def _quantize(op: ir.QuantizeOp, args: list[torch.Tensor], frame: Frame) -> QuantizedTensor:
    return quantize_given(op, args[0], _qtype(op), args[1:])


def _qtype(op: ir.QuantizeOp | storage.UnpackOp) -> QType:
    qtype = type_of(op.result).qtype
    assert qtype is not None  # the verifier holds this
    return qtype


def _dequantize(op: ir.DequantizeOp, args: list[QuantizedTensor], frame: Frame) -> torch.Tensor:
    return dequantize(args[0], frame.torch_dtype(type_of(op.result)))


def _qparams(op: ir.QparamsOp, args: list[torch.Tensor], frame: Frame) -> tuple[torch.Tensor, ...]:
    qtype, (value, *roots) = op.format.data, args
    found = computed_parameters(op, value, qtype, roots)
    return plain_parameters(type_of(op.input), qtype, found, frame)


def _contract(op: ir.ContractOp, args: list[torch.Tensor | QuantizedTensor], frame: Frame) -> torch.Tensor:
    value, weight, *rest = args
    bias = rest[0] if rest else None
    assert isinstance(weight, QuantizedTensor)
    assert bias is None or isinstance(bias, torch.Tensor)
    dtype = frame.torch_dtype(type_of(op.result))
    real = torch.float64 if dtype == torch.float64 else torch.float32
    return contract(value, weight, bias, real).to(dtype)


def _slice_bits(op: transform.SliceBitsOp, args: list[QuantizedTensor], frame: Frame) -> QuantizedTensor:
    (master,) = args
    decode = master.qtype.decode
    assert isinstance(decode, IntDecode)
    return replace(master, codes=slice_codes(master.codes, decode, op.bits.value.data))


def _pack(op: storage.PackOp, args: list[QuantizedTensor], frame: Frame) -> tuple[torch.Tensor, ...]:
    (value,) = args
    codes = pack_codes(value.codes, value.qtype.decode)
    return (codes, *plain_parameters(type_of(op.input), value.qtype, value.parameters, frame))


def _unpack(op: storage.UnpackOp, args: list[torch.Tensor], frame: Frame) -> QuantizedTensor:
    qtype, shape = _qtype(op), frame.sizes(type_of(op.result))
    codes = unpack_codes(args[0], qtype.decode, shape[-1])
    return QuantizedTensor(qtype, shape, codes, stored_parameters(op, qtype, args[1:]))


TABLE: dict[type, Evaluate] = {
    ir.QuantizeOp: _quantize,
    ir.DequantizeOp: _dequantize,
    ir.QparamsOp: _qparams,
    ir.ContractOp: _contract,
    transform.SliceBitsOp: _slice_bits,
    storage.PackOp: _pack,
    storage.UnpackOp: _unpack,
}

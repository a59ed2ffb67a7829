"""Meaning of the quantization operations."""

from __future__ import annotations

import torch

from qcc.interpreter.contraction import contract
from qcc.interpreter.values import Evaluate, Frame, fail
from qcc.ir import quant as ir
from qcc.ir import storage, transform
from qcc.ir.base import location_of
from qcc.ir.quant import zero_scalar
from qcc.ir.types import type_of
from qcc.numerics.pack import pack, unpack
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import IntDecode
from qcc.numerics.quantize import dequantize, quantize
from qcc.numerics.scales import compute_qparams
from qcc.numerics.slicing import slice_codes
from qcc.numerics.tensor import QuantizedTensor, stored_dtype
from qcc.numerics.torch_dtypes import TORCH_DTYPES


def _quantize(op: ir.QuantizeOp, args: list[torch.Tensor], frame: Frame) -> QuantizedTensor:
    qtype = _qtype(op)
    where = location_of(op) or op.name
    if not op.scales:
        return quantize(args[0], qtype, where=where)
    zero = args[-1] if op.zero is not None else None
    return quantize(args[0], qtype, *_stored(qtype, args[1 : 1 + len(op.scales)], zero), where=where)


def _qtype(op: ir.QuantizeOp | storage.UnpackOp) -> QType:
    qtype = type_of(op.result).qtype
    assert qtype is not None  # the verifier holds this
    return qtype


def _stored(
    qtype: QType, scales: list[torch.Tensor], zero: torch.Tensor | None
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor | None]:
    """Round plain scales and zero point to the dtypes that the format stores them in."""
    rounded = tuple(scale.to(stored_dtype(level.dtype)) for scale, level in zip(scales, qtype.levels, strict=True))
    if zero is None or qtype.zero is None:
        return rounded, None
    return rounded, zero.to(stored_dtype(qtype.zero.dtype))


def _plain(qtype: QType, scales: tuple[torch.Tensor, ...], zero: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    """Give scales and zero point as the plain tensors that the IR hands around."""
    plain = tuple(scale.to(torch.float32) for scale in scales)
    return plain if zero is None else (*plain, zero.to(TORCH_DTYPES[zero_scalar(qtype)]))


def _dequantize(op: ir.DequantizeOp, args: list[QuantizedTensor], frame: Frame) -> torch.Tensor:
    return dequantize(args[0], frame.torch_dtype(type_of(op.result)))


def _qparams(op: ir.QparamsOp, args: list[torch.Tensor], frame: Frame) -> tuple[torch.Tensor, ...]:
    qtype = op.format.data
    return _plain(qtype, *compute_qparams(args[0], qtype, location_of(op) or op.name))


def _requant(op: ir.RequantOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    value, multiplier, shift = (one.to(torch.int64) for one in args)
    if bool(((shift < 0) | (shift > 62)).any()):
        raise fail(op, f"shifts {int(shift.min())}..{int(shift.max())} are outside 0..62")
    half = torch.where(shift > 0, torch.ones_like(shift) << (shift - 1).clamp(min=0), 0)
    result = (value * multiplier + half) >> shift
    dtype = frame.torch_dtype(type_of(op.result))
    limits = torch.iinfo(dtype)
    return result.clamp(limits.min, limits.max).to(dtype)


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
    codes = slice_codes(master.codes, decode, op.bits.value.data)
    return QuantizedTensor(master.qtype, master.shape, codes, master.scales, master.zero)


def _pack(op: storage.PackOp, args: list[QuantizedTensor], frame: Frame) -> tuple[torch.Tensor, ...]:
    (value,) = args
    return (pack(value.codes, value.qtype.decode.bits), *_plain(value.qtype, value.scales, value.zero))


def _unpack(op: storage.UnpackOp, args: list[torch.Tensor], frame: Frame) -> QuantizedTensor:
    kind, qtype = type_of(op.result), _qtype(op)
    assert isinstance(qtype.decode, IntDecode)
    shape, count = frame.sizes(kind), len(qtype.levels)
    codes = unpack(args[0], qtype.decode.bits, shape[-1], qtype.decode.signed)
    zero = args[1 + count] if qtype.zero is not None else None
    return QuantizedTensor(qtype, shape, codes, *_stored(qtype, args[1 : 1 + count], zero))


TABLE: dict[type, Evaluate] = {
    ir.QuantizeOp: _quantize,
    ir.DequantizeOp: _dequantize,
    ir.QparamsOp: _qparams,
    ir.RequantOp: _requant,
    ir.ContractOp: _contract,
    transform.SliceBitsOp: _slice_bits,
    storage.PackOp: _pack,
    storage.UnpackOp: _unpack,
}

"""Meaning of the operations of integer-only programs: exact, and an error where 64 bits would not hold a number."""

from __future__ import annotations

import torch
from xdsl.dialects.builtin import IntegerAttr
from xdsl.ir import Operation

from qcc.interpreter.contraction import exact_product
from qcc.interpreter.parameters import stored_parameters
from qcc.interpreter.values import Evaluate, Frame, fail
from qcc.ir import integer as ir
from qcc.ir import integer_rows as rows
from qcc.ir import quant
from qcc.ir.transformer import NormKind
from qcc.ir.types import INTEGER_RANGES, TensorType, type_of
from qcc.numerics.fixed_point import inverse_square_root, rounded_shift
from qcc.numerics.integer_values import integer_factor, integer_values
from qcc.numerics.qtype_parts import IntDecode
from qcc.numerics.tensor import QuantizedTensor, code_dtype


def _codes(op: ir.CodesOp, args: list[QuantizedTensor], frame: Frame) -> torch.Tensor:
    return args[0].codes.to(frame.torch_dtype(type_of(op.result)))


def _of_codes(op: ir.OfCodesOp, args: list[torch.Tensor], frame: Frame) -> QuantizedTensor:
    kind = type_of(op.result)
    assert kind.qtype is not None  # the verifier holds this, and that codes are integers
    decode = kind.qtype.decode
    assert isinstance(decode, IntDecode)
    _expect_range(op, args[0], decode.minimum, decode.maximum, "codes")
    codes = args[0].to(code_dtype(decode))
    return QuantizedTensor(kind.qtype, frame.sizes(kind), codes, stored_parameters(op, kind.qtype, args[1:]))


def _requant(op: quant.RequantOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    value, multiplier, shift = (one.to(torch.int64) for one in args)
    return _scaled(op, value, multiplier, shift, None, (op.low, op.high)).to(frame.torch_dtype(type_of(op.result)))


def _scaled(
    op: Operation,
    value: torch.Tensor,
    multiplier: torch.Tensor,
    shift: torch.Tensor,
    bias: torch.Tensor | None,
    limits: tuple[IntegerAttr | None, IntegerAttr | None],
) -> torch.Tensor:
    """Return `clamp((value * multiplier + bias + half) >> shift)`, int64."""
    if bool(((shift < 0) | (shift > 62)).any()):
        raise fail(op, f"shifts {int(shift.min())}..{int(shift.max())} are outside 0..62")
    reach = peak(value) * peak(multiplier) + (0 if bias is None else peak(bias)) + (1 << int(shift.max()) >> 1)
    if reach >= 2**63:
        raise fail(op, f"products up to {reach} do not fit 64 bits", "use a smaller multiplier and shift")
    product = value * multiplier
    result = rounded_shift(product if bias is None else product + bias, shift)
    low, high = INTEGER_RANGES[type_of(op.results[0]).scalar]
    bottom, top = (None if one is None else one.value.data for one in limits)
    return result.clamp(low if bottom is None else bottom, high if top is None else top)


def _contract(op: ir.IntegerContractOp, args: list[torch.Tensor | QuantizedTensor], frame: Frame) -> torch.Tensor:
    value, weight, *bias = args
    assert isinstance(value, torch.Tensor)
    assert isinstance(weight, QuantizedTensor)
    if integer_factor(weight.qtype) is None:
        raise fail(op, f"'{weight.qtype}' does not stand for integers", "use an integer format for the weights")
    groups, (rows_of_weight, columns) = op.groups.value.data, weight.shape
    x = value.to(torch.int64).reshape(-1, groups, columns)
    w = integer_values(weight).reshape(groups, rows_of_weight // groups, columns)
    _expect_sums(op, peak(x) * peak(w) * columns)
    sums = torch.stack([exact_product(x[:, one], w[one]) for one in range(groups)], 1)
    result = sums.reshape(*value.shape[:-1], rows_of_weight)
    if bias:
        assert isinstance(bias[0], torch.Tensor)
        result = result + bias[0].to(torch.int64)
    return _narrowed(op, result, type_of(op.result), frame)


def _matmul(op: ir.IntegerMatmulOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    left, right = (one.to(torch.int64) for one in args)
    _expect_sums(op, peak(left) * peak(right) * left.shape[-1])
    return _narrowed(op, torch.matmul(left, right), type_of(op.result), frame)


def _lookup(op: ir.LookupOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    value, table = args
    low = op.low.value.data
    _expect_range(op, value, low, low + table.numel() - 1, "inputs")
    return table[value.to(torch.int64) - low]


def _softmax(op: rows.IntegerSoftmaxOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    value, table = (one.to(torch.int64) for one in args[:2])
    unit = op.unit.value.data
    if int(table[0]) < 1 or int(table.min()) < 0:
        raise fail(op, "the table of the exponential must be positive at 0 and nowhere negative")
    if (2 * unit + value.shape[-1]) * int(table.max()) >= 2**62:
        raise fail(op, f"sums of {value.shape[-1]} exponentials up to {int(table.max())} do not fit 64 bits")
    keep = args[2].expand(value.shape) if op.mask is not None else torch.ones_like(value, dtype=torch.bool)
    kept = torch.where(keep, value, INTEGER_RANGES["i64"][0])
    distance = (kept.amax(-1, keepdim=True) - value).clamp(0, table.numel() - 1)
    exponential = torch.where(keep, table[distance], 0)
    total = exponential.sum(-1, keepdim=True).clamp(min=1)  # a row that keeps nothing has zeros above
    result = (2 * unit * exponential + total) // (2 * total)
    return result.to(frame.torch_dtype(type_of(op.result)))


def _norm(op: rows.IntegerNormOp, args: list[torch.Tensor], frame: Frame) -> torch.Tensor:
    value, multiplier, shift, *bias = (one.to(torch.int64) for one in args)
    count, eps = value.shape[-1], op.eps.value.data
    layer = op.kind.data is NormKind.LAYER
    reach = 2 * count * peak(value) if layer else peak(value)
    if count * reach**2 + eps >= 2**62:  # a bound of the sum; the sum itself may still fit
        raise fail(op, f"squares of {count} elements up to {reach} do not fit 62 bits", "use narrower codes")
    centred = count * value - value.sum(-1, keepdim=True) if layer else value
    inverse, exponent = inverse_square_root(((centred * centred).sum(-1, keepdim=True) + eps).clamp(min=1))
    normal = rounded_shift(centred * inverse, 61 - rows.NORM_FRACTION - exponent)
    result = _scaled(op, normal, multiplier, shift, bias[0] if bias else None, (op.low, op.high))
    return result.to(frame.torch_dtype(type_of(op.result)))


def peak(values: torch.Tensor) -> int:
    """Return the largest magnitude of integers as a Python integer, 0 of none."""
    return max(-int(values.min()), int(values.max())) if values.numel() else 0


def _expect_range(op: Operation, value: torch.Tensor, low: int, high: int, role: str) -> None:
    if value.numel() and not low <= int(value.min()) <= int(value.max()) <= high:
        raise fail(op, f"{role} from {int(value.min())} to {int(value.max())} are outside {low}..{high}")


def _expect_sums(op: Operation, reach: int) -> None:
    if reach >= 2**62:
        raise fail(op, f"sums up to {reach} do not fit 64 bits", "use fewer bits")


def _narrowed(op: Operation, result: torch.Tensor, kind: TensorType, frame: Frame) -> torch.Tensor:
    low, high = INTEGER_RANGES[kind.scalar]
    _expect_range(op, result, low, high, f"sums in {kind.scalar}")
    return result.to(frame.torch_dtype(kind))


TABLE: dict[type, Evaluate] = {
    ir.CodesOp: _codes,
    ir.OfCodesOp: _of_codes,
    quant.RequantOp: _requant,
    ir.IntegerContractOp: _contract,
    ir.IntegerMatmulOp: _matmul,
    ir.LookupOp: _lookup,
    rows.IntegerSoftmaxOp: _softmax,
    rows.IntegerNormOp: _norm,
}

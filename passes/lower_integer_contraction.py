"""Integer forms of contractions, convolutions and matrix products.

    contract(x, w, b)   ->  integer_contract(x, w, round(b / (sx * sw)))                  scale sx * sw[n] a row
    conv(x, w, b)       ->  transpose(integer_contract(unfold(x), w, ..) groups)
    matmul(x, y)        ->  integer_matmul(x, y)                                          scale sx * sy

The sums are exact. A bias in steps of the sums is off by at most half of one. Where that is more than 2**-6 of a step
of the format that the sums are rounded to, or the bias is longer than 45 bits, it joins the sums at a finer scale.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from xdsl.ir import Operation, SSAValue

from qcc.ir.base import LEFT_IN_FLOAT
from qcc.ir.dims import product
from qcc.ir.elementwise import BinaryOp
from qcc.ir.integer import IntegerContractOp, IntegerMatmulOp
from qcc.ir.kernel import origin_of
from qcc.ir.nn import ConvOp, MatmulOp, UnfoldOp
from qcc.ir.program import WeightOp, int_array
from qcc.ir.quant import ContractOp, DequantizeOp
from qcc.ir.shape import ReshapeOp, TransposeOp
from qcc.ir.types import type_of
from qcc.numerics.integer_values import integer_factor, integer_values
from qcc.numerics.levels import chain_product
from qcc.numerics.qtype_parts import expand_block
from qcc.numerics.tensor import QuantizedTensor
from qcc.passes.fixed_values import Fixed, Refusal, Scope, Sum, Target, common_scale, sum_scalar

FINE_BITS = 12
"""Bits that sums must have for half a step of them to be a good enough bias."""

BIAS_ERROR = 2.0**-6
"""How far a bias may be off, in steps of the format that its sums are rounded to."""

BIAS_BITS = 45
"""Bits of a bias in steps of the sums, at most."""


def lower_contract(scope: Scope, op: ContractOp) -> Fixed:
    """Lower a quantized linear layer."""
    x, weight = scope.codes(op.input), stored_weight(scope, op.weight)
    bias = None if op.bias is None else _bias(scope, op.bias)
    return grounded(scope, _summed(op, x, op.weight, weight, 1, bias))


def lower_conv(scope: Scope, op: ConvOp) -> Fixed:
    """Lower a convolution whose weight is decoded rows [O, C / groups * window] in the shape of the filter."""
    coded = _coded_filter(op.weight)
    x, weight = scope.codes(op.input), stored_weight(scope, coded)
    bias = None if op.bias is None else _bias(scope, op.bias)
    window = (type_of(op.weight).static_shape or ())[2:]
    stride, padding, dilation = (int_array(one) for one in (op.stride, op.padding, op.dilation))
    rows = scope.add(UnfoldOp(x.value, window=window, stride=stride, padding=padding, dilation=dilation))
    unfolded = Fixed(rows, x.scale, x.low, x.high, codes=True)
    sums = grounded(scope, _summed(op, unfolded, coded, weight, op.groups.value.data, bias))
    last = type_of(op.result).rank - 1
    # the way back to channels first, to be repeated on the sums once they are rounded
    order = TransposeOp(sums.value, (0, last, *range(1, last)))
    order.drop_all_references()
    return Fixed(sums.value, sums.scale, sums.low, sums.high, moves=(order,), sum=sums.sum)


def lower_matmul(scope: Scope, op: MatmulOp) -> Fixed:
    """Lower a product of two computed values."""
    for side in (op.lhs, op.rhs):
        if scope.constant(side) is not None:
            raise Refusal("multiplies by a matrix that was not quantized", "write it as a linear layer")
    return multiplied(scope, scope.codes(op.lhs), scope.codes(op.rhs))


def multiplied(scope: Scope, left: Fixed, right: Fixed, reach: int | None = None) -> Fixed:
    """Multiply matrices of codes [..., M, K] and [..., K, N]; sums reach at most `reach` where that is known."""
    if reach is None:
        columns = type_of(left.value).shape[-1].constant
        # an axis of unknown length is taken for at most 2**20 long
        reach = (2**20 if columns is None else columns) * left.reach * right.reach
    value = scope.add(IntegerMatmulOp(left.value, right.value, sum_scalar(-reach, reach)))
    return Fixed(value, left.scale * right.scale, -reach, reach)


def grounded(scope: Scope, sums: Sum) -> Fixed:
    """Make the operation that sums, with its offset as a bias where that is exact enough, else with an addition."""
    bias, fits = _integer_bias(sums)
    low, high = int(sums.low.min()), int(sums.high.max())
    if fits and bias is not None:
        low, high = int((sums.low + bias).min()), int((sums.high + bias).max())
    scalar = sum_scalar(min(low, 0), max(high, 0))
    stored = None
    if fits and bias is not None:
        stored = scope.weight(bias.to(torch.int32 if scalar == "i32" else torch.int64), "bias")
    contract = IntegerContractOp(sums.codes, sums.weight, stored, groups=sums.groups, scalar=scalar)
    keep = {name: one for name, one in sums.source.attributes.items() if name != LEFT_IN_FLOAT}
    contract.attributes.update(keep)
    found = Fixed(scope.add(contract), sums.scale, min(low, 0), max(high, 0), sum=sums)
    return found if fits else _with_offset(scope, found, sums)


def refined(scope: Scope, found: Fixed, target: Target) -> Fixed:
    """Return sums whose offset is within 2**-6 of a step of the format that they are rounded to."""
    sums = found.sum
    if sums is None or sums.offset is None:
        return found
    if isinstance(found.value.owner, IntegerContractOp):
        steps = sums.offset / torch.where(sums.scale == 0, 1.0, sums.scale)
        off = float(((steps - steps.round()) * sums.scale).abs().max())
    else:
        off = found.step  # sums and offset at a scale of their own, each half a step off
    if off <= target.scale * BIAS_ERROR:
        return found
    bare = grounded(scope, replace(sums, offset=None))
    # sums beyond this are beyond the format whatever the offset, and need not be held
    most = 2 * (target.scale * max(-target.low, target.high) + float(sums.offset.abs().max()))
    exact = _with_offset(scope, replace(bare, least=-most, most=most), sums, target.scale)
    return replace(exact, moves=found.moves, least=found.least, most=found.most)


def _with_offset(scope: Scope, found: Fixed, sums: Sum, step: float = 0.0) -> Fixed:
    """Add the offset to sums at a scale that is fine enough for both, and for rounding to `step` if that is known."""
    assert sums.offset is not None
    largest = float(sums.offset.abs().max())
    scale = common_scale(found.bound + largest, [found.step, step], [sums.offset])
    left = scope.aligned(found, scale)
    addend = (sums.offset / scale).round().to(torch.int32)
    value = scope.add(BinaryOp("add", left.value, scope.weight(addend, "offset")))
    low, high = left.low + int(addend.min()), left.high + int(addend.max())
    return Fixed(value, left.scale, low, high, sum=sums)


def _integer_bias(sums: Sum) -> tuple[Tensor | None, bool]:
    """Return the offset in steps of the sums, int64 [N], and whether that is exact enough and fits."""
    if sums.offset is None:
        return None, True
    dead = sums.scale == 0
    if bool((dead & (sums.offset != 0)).any()):
        return None, False
    steps = torch.where(dead, 0.0, sums.offset / torch.where(dead, 1.0, sums.scale))
    if not bool((steps.abs() < 2.0**BIAS_BITS).all()):
        return None, False
    bias = steps.round()
    reach = torch.maximum(sums.high, -sums.low)
    coarse = (reach < 2**FINE_BITS) & ((steps - bias).abs() > 2.0**-FINE_BITS)
    return bias.to(torch.int64), not bool(coarse.any())


def _summed(op: Operation, x: Fixed, value: SSAValue, weight: QuantizedTensor, groups: int, bias: Tensor | None) -> Sum:
    factor = integer_factor(weight.qtype)
    if factor is None:
        raise Refusal(f"its weights are '{weight.qtype}', which stand for no integers", "use int8, ternary or the like")
    scale = _row_scale(weight) * factor * x.scale
    integers = integer_values(weight)
    low = torch.minimum(integers * x.low, integers * x.high).sum(1)
    high = torch.maximum(integers * x.low, integers * x.high).sum(1)
    return Sum(op, x.value, value, groups, scale, bias, low.clamp(max=0), high.clamp(min=0))


def _row_scale(weight: QuantizedTensor) -> Tensor:
    """Return the scale of every row, float64 [N]; refuse scales that change along a row."""
    rows, columns = weight.shape
    blocks = [expand_block(level.block, 2)[1] for level in weight.qtype.levels]
    if short := [block for block in blocks if block != -1 and block < columns]:
        what = f"its weights have a scale per {short[0]} of {columns} columns, which needs a multiplication a group"
        raise Refusal(what, "use group: row")
    chain = chain_product(weight.parameters.scales, weight.qtype.levels, tuple(weight.shape), torch.float64)
    return chain.reshape(-1).expand(rows).clone() if chain.numel() == 1 else chain.reshape(rows)


def stored_weight(scope: Scope, value: SSAValue) -> QuantizedTensor:
    """Return the codes of a weight.

    Raises:
        Refusal: if they are not in the store.
    """
    owner = origin_of(value).owner
    if not isinstance(owner, WeightOp) or type_of(value).qtype is None:
        raise Refusal("its weights are no codes of the store", "run solve-weights first")
    return scope.store.quantized(owner.key.data)


def _bias(scope: Scope, value: SSAValue) -> Tensor:
    found = scope.constant(value)
    if found is None:
        raise Refusal("its bias is computed at run time")
    if not bool(found.isfinite().all()):
        raise Refusal("its bias is not finite", "repair the checkpoint")
    return found


def _coded_filter(value: SSAValue) -> SSAValue:
    """Return the rows of codes behind the weight of a convolution."""
    op = value.owner
    op = op.input.owner if isinstance(op, ReshapeOp) else op
    if not isinstance(op, DequantizeOp):
        raise Refusal("its weights are floats", "give its layer an integer format")
    kind, rows = type_of(value), type_of(op.input)
    if rows.shape != (kind.shape[0], product(kind.shape[1:])):
        raise Refusal("its weights were not quantized as rows", "run quantize-values")
    return op.input

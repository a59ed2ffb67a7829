"""Integer forms of elementwise functions, sums over windows and axes, and operations that move elements.

    add(x, y)        ->  binary add(requant(x), requant(y))        at one power of two, in i32
    mul(x, y)        ->  binary mul(x, y)                          scale sx * sy
    mul(x, c)        ->  x at scale sx * c                         nothing is computed
    relu, clamp      ->  limits of the next requant
    f(x)             ->  lookup(x)                                 every code's own value, rounded once
    mean(x)          ->  reduce sum(x)                             scale sx / n
    max pool, unfold, reshape, ...                                 on integers as they are

Each term of a sum is off by at most half a step of the common scale, which is 2**-8 of the finest step that goes in
unless 27 bits do not reach that far; everything else but the rounding to the next format is exact. A tabulated value is
the code nearest to the function's float32 value: half a step off, and no more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from xdsl.ir import Operation, SSAValue

from qcc.ir.base import real
from qcc.ir.elementwise import BinaryOp, CastOp, UnaryOp, WhereOp
from qcc.ir.gather import ReduceOp, Reduction
from qcc.ir.integer import LookupOp
from qcc.ir.nn import EmbeddingOp, PoolKind, PoolOp
from qcc.ir.program import int_array
from qcc.ir.shape import ConcatOp, PadOp
from qcc.ir.transformer import BatchNormOp
from qcc.ir.types import type_of
from qcc.numerics.fixed_point import codes_of
from qcc.numerics.functions import UNARY
from qcc.numerics.integer_values import integer_range
from qcc.numerics.quantize import dequantize
from qcc.passes.fixed_values import (
    Deferred,
    Fixed,
    Refusal,
    Scope,
    Target,
    binary_step,
    channel_axis,
    common_scale,
)
from qcc.passes.integer_roles import MOVES, is_constant
from qcc.passes.lower_integer_contraction import grounded, stored_weight

TABLE_CODES = 2**12
"""Entries of the longest table."""

FACTOR_BITS = 15
"""Bits of the integers of a factor that is no number and lies along no channel of the sums."""


def lower_unary(scope: Scope, op: UnaryOp) -> Fixed | Deferred:
    """Lower a function of one number."""
    function = op.function.data.value
    if function == "neg":
        return scope.fixed(op.input).scaled(-1.0)
    if function == "relu":
        return _clamped(scope, scope.fixed(op.input), 0.0, math.inf)
    return tabulated(scope, op.input, UNARY[function])


def tabulated(scope: Scope, value: SSAValue, function: Callable[[Tensor], Tensor]) -> Deferred:
    """Return a function of codes as the table of its values, made for the format of its result."""
    x = scope.codes(value)
    if x.high - x.low >= TABLE_CODES:
        raise Refusal(f"a table of {x.high - x.low + 1} entries is too long", "use activations of fewer bits")
    inputs = torch.arange(x.low, x.high + 1).to(torch.float32) * x.scale.to(torch.float32)
    values = torch.nan_to_num(function(inputs), nan=0.0)

    def make(target: Target) -> SSAValue:
        codes = codes_of(values, target.scale, target.low, target.high)
        return scope.add(LookupOp(x.value, scope.weight(codes.to(_dtype(target)), "table"), x.low))

    return make


def lower_binary(scope: Scope, op: BinaryOp) -> Fixed | Deferred:
    """Lower a function of two numbers, at least one of them computed."""
    function = op.function.data.value
    left, right = scope.constant(op.lhs), scope.constant(op.rhs)
    if function in ("pow", "div") and right is None and left is not None and left.numel() == 1:
        base = left.reshape(()).to(torch.float32)
        return tabulated(scope, op.rhs, base.__truediv__ if function == "div" else base.__pow__)
    if function == "pow" and right is not None and right.numel() == 1:
        return tabulated(scope, op.lhs, right.reshape(()).to(torch.float32).__rpow__)
    if function == "div" and right is not None:
        if bool((right == 0).any()):
            raise Refusal("divides by zero")
        return times_constant(scope, scope.fixed(op.lhs), 1.0 / right, op)
    if function in ("add", "sub"):
        return _added(scope, op, left, right, -1.0 if function == "sub" else 1.0)
    if function in ("max", "min"):
        return _extremum(scope, op, left, right)
    if function != "mul":
        raise Refusal(f"{function} has no integer form", "compute it outside of the program")
    if right is not None or left is not None:
        constant, value = (right, op.lhs) if right is not None else (left, op.rhs)
        assert constant is not None
        return times_constant(scope, scope.fixed(value), constant, op)
    return _product(scope, scope.codes(op.lhs), scope.codes(op.rhs))


def _product(scope: Scope, x: Fixed, y: Fixed) -> Fixed:
    ends = [a * b for a in (x.low, x.high) for b in (y.low, y.high)]
    if max(map(abs, ends)) >= 2**31:
        raise Refusal("products of its codes leave 32 bits", "use fewer bits")
    value = scope.add(BinaryOp("mul", _wide(scope, x), _wide(scope, y)))
    return Fixed(value, x.scale * y.scale, min(ends), max(ends))


def _wide(scope: Scope, x: Fixed) -> SSAValue:
    return x.value if type_of(x.value).scalar == "i32" else scope.add(CastOp(x.value, "i32"))


def _added(scope: Scope, op: BinaryOp, left: Tensor | None, right: Tensor | None, sign: float) -> Fixed:
    if right is not None:
        return plus_constant(scope, scope.fixed(op.lhs), right * sign, op)
    if left is not None:
        return plus_constant(scope, scope.fixed(op.rhs).scaled(sign), left, op)
    x, y = scope.fixed(op.lhs), scope.fixed(op.rhs).scaled(sign)
    scale = common_scale(x.bound + y.bound, [x.step, y.step])
    x, y = scope.aligned(x, scale), scope.aligned(y, scale)
    value = scope.add(BinaryOp("add", x.value, y.value))
    return Fixed(value, x.scale, x.low + y.low, x.high + y.high)


def plus_constant(scope: Scope, x: Fixed, addend: Tensor, op: Operation) -> Fixed:
    """Add a constant: to the bias of sums where it lies along their channels, else at a common scale."""
    along = _along_channels(x, addend, op)
    if x.sum is not None and along is not None and (x.least, x.most) == (-math.inf, math.inf):
        return replace(grounded(scope, x.sum.plus(along)), moves=x.moves)
    scale = common_scale(x.bound + float(addend.abs().max()), [x.step], [addend])
    x = scope.aligned(x, scale)
    codes = (addend / scale).round().to(torch.int32)
    value = scope.add(BinaryOp("add", x.value, scope.weight(codes, "addend")))
    return Fixed(value, x.scale, x.low + int(codes.min()), x.high + int(codes.max()))


def times_constant(scope: Scope, x: Fixed, factor: Tensor, op: Operation) -> Fixed:
    """Multiply by a constant: in the scale where it is a number or lies along the channels, else in integers."""
    limited = (x.least, x.most) != (-math.inf, math.inf)
    along = _along_channels(x, factor, op)
    if factor.numel() == 1 or (along is not None and not limited):
        return x.scaled(factor.reshape(-1) if along is None else along)
    largest = float(factor.abs().max())
    unit = binary_step(largest, FACTOR_BITS)
    codes = (factor / unit).round().to(torch.int32)
    narrow = scope.aligned(x, binary_step(x.bound, FACTOR_BITS))
    value = scope.add(BinaryOp("mul", narrow.value, scope.weight(codes, "factor")))
    reach = narrow.reach * int(codes.abs().max())
    return Fixed(value, narrow.scale * unit, -reach, reach)


def _along_channels(x: Fixed, constant: Tensor, op: Operation) -> Tensor | None:
    """Return a constant as [1] or [C] along the scales of a value, or None where it lies across them."""
    if constant.numel() == 1:
        return constant.reshape(1)
    rank, axis = type_of(op.results[0]).rank, channel_axis(x)
    if axis is None or type_of(op.results[0]).shape != _moved_shape(x):
        return None
    wide = constant.reshape((1,) * (rank - constant.dim()) + tuple(constant.shape))
    lies = [index for index, size in enumerate(wide.shape) if size > 1]
    return constant.reshape(-1) if lies == [axis] else None


def _moved_shape(x: Fixed) -> tuple[object, ...]:
    return type_of(x.moves[-1].results[0] if x.moves else x.value).shape


def _clamped(scope: Scope, x: Fixed, least: float, most: float) -> Fixed:
    """Limit a value: at the next rounding, or at once where it is codes already."""
    if not x.codes:
        return replace(x, least=max(x.least, min(least, x.most)), most=min(x.most, max(most, x.least)))
    scale, kind = float(x.scale), type_of(x.value)
    low, high = x.low, x.high
    if least > -math.inf:
        low = min(max(low, round(least / scale)), high) if scale else low
    if most < math.inf:
        high = max(min(high, round(most / scale)), low) if scale else high
    if (low, high) == (x.low, x.high):
        return x
    one = torch.ones(1, dtype=torch.int32)
    value = scope.requantized(x.value, one, one * 0, kind.scalar, low, high)
    return replace(x, value=value, low=low, high=high)


def _extremum(scope: Scope, op: BinaryOp, left: Tensor | None, right: Tensor | None) -> Fixed:
    function = op.function.data.value
    constant, value = (right, op.lhs) if right is not None else (left, op.rhs)
    if constant is not None and constant.numel() == 1:
        limit = float(constant)
        limits = (limit, math.inf) if function == "max" else (-math.inf, limit)
        return _clamped(scope, scope.fixed(value), *limits)
    if constant is not None:
        raise Refusal("has a limit for every channel", "use one number")
    x, y = scope.fixed(op.lhs), scope.fixed(op.rhs)
    scale = common_scale(max(x.bound, y.bound), [x.step, y.step])
    x, y = scope.aligned(x, scale), scope.aligned(y, scale)
    value = scope.add(BinaryOp(function, x.value, y.value))
    return Fixed(value, x.scale, min(x.low, y.low), max(x.high, y.high))


def lower_where(scope: Scope, op: WhereOp) -> Fixed:
    """Lower a choice between two computed values by a condition of the program."""
    x, y = scope.fixed(op.lhs), scope.fixed(op.rhs)
    scale = common_scale(max(x.bound, y.bound), [x.step, y.step])
    x, y = scope.aligned(x, scale), scope.aligned(y, scale)
    value = scope.add(WhereOp(op.condition, x.value, y.value))
    return Fixed(value, x.scale, min(x.low, y.low), max(x.high, y.high))


def lower_batch_norm(scope: Scope, op: BatchNormOp) -> Fixed:
    """Lower a normalisation by stored statistics: a factor and an addend a channel."""
    found = [scope.constant(one) for one in op.operands[1:]]
    mean, variance, *affine = [one for one in found if one is not None]
    if len(affine) != len(op.operands) - 3:
        raise Refusal("its parameters are computed at run time")
    factor = 1.0 / torch.sqrt(variance + op.eps.value.data)
    factor = factor if op.weight is None else factor * affine[0]
    addend = -mean * factor if op.bias is None else affine[-1] - mean * factor
    shape = (-1, *[1] * (type_of(op.result).rank - 2))
    scaled = times_constant(scope, scope.fixed(op.input), factor.reshape(shape), op)
    return plus_constant(scope, scaled, addend.reshape(shape), op)


def lower_moves(scope: Scope, op: Operation) -> Fixed:
    """Move elements: of codes at once, of sums once they are rounded."""
    x = scope.fixed(op.operands[0])
    if x.codes:
        return replace(x, value=scope.again(op, [x.value]))
    return replace(x, moves=(*x.moves, op))


def lower_picks(scope: Scope, op: Operation) -> Fixed:
    """Pick codes by windows or indices."""
    x = scope.codes(op.operands[0])
    return replace(x, value=scope.again(op, [x.value, *op.operands[1:]]))


def lower_pad(scope: Scope, op: PadOp) -> Fixed:
    """Pad with the code nearest to the padding's value."""
    x = scope.codes(op.input)
    assert x.origin is not None  # codes come from a quantizer
    qtype = type_of(x.origin.result).qtype
    assert qtype is not None
    code = int(codes_of(torch.tensor([op.value.value.data]), float(x.scale), *integer_range(qtype)))
    value = scope.again(op, [x.value])
    made = value.owner
    assert isinstance(made, PadOp)
    made.properties["value"] = real(float(code))
    return replace(x, value=value, low=min(x.low, code), high=max(x.high, code))


def lower_concat(scope: Scope, op: ConcatOp) -> Deferred:
    """Join codes, all in the format of the result."""
    parts = [one if is_constant(one) else scope.codes(one) for one in op.inputs]

    def make(target: Target) -> SSAValue:
        codes = [
            scope.rounded(one, target) if isinstance(one, Fixed) else _constant_codes(scope, one, target)
            for one in parts
        ]
        return scope.add(ConcatOp(codes, op.axis.value.data))

    return make


def _constant_codes(scope: Scope, value: SSAValue, target: Target) -> SSAValue:
    """Return a constant as codes of a format; one of unknown shape is moved as the float program moves it."""
    found, op = scope.constant(value), value.owner
    if found is not None:
        codes = codes_of(found.to(torch.float32), target.scale, target.low, target.high)
        return scope.weight(codes.to(_dtype(target)), "codes")
    if not isinstance(op, MOVES):
        raise Refusal("joins a constant of unknown shape", "export the model with static shapes")
    return scope.again(op, [_constant_codes(scope, op.operands[0], target)])


def lower_pool(scope: Scope, op: PoolOp) -> Fixed:
    """Lower pooling: the maximum of codes, or sums that a scale divides."""
    x = scope.codes(op.input)
    if op.kind.data is PoolKind.MAX:
        return replace(x, value=scope.again(op, [x.value]))
    window, stride, padding = (int_array(one) for one in (op.window, op.stride, op.padding))
    if op.kind.data is PoolKind.AVERAGE_VALID and any(padding):
        raise Refusal("its windows have different numbers of elements", "use count_include_pad=True, or pad before")
    count = math.prod(window)
    sums = scope.add(PoolOp("sum", _wide(scope, x), window=window, stride=stride, padding=padding))
    return Fixed(sums, x.scale / count, _sum(x.low, count), _sum(x.high, count))


def lower_reduce(scope: Scope, op: ReduceOp) -> Fixed:
    """Lower a reduction: an extremum of codes, or sums that a scale divides."""
    x, reduction = scope.codes(op.input), op.reduction.data
    if reduction in (Reduction.MAX, Reduction.MIN):
        return replace(x, value=scope.again(op, [x.value]))
    if reduction not in (Reduction.SUM, Reduction.MEAN):
        raise Refusal(f"{reduction.value} has no integer form")
    axes, shape = int_array(op.axes), type_of(op.input).shape
    sizes = [shape[axis].constant for axis in axes]
    if None in sizes:
        raise Refusal("reduces over an axis of unknown length", "export the model with static shapes")
    count = math.prod(size for size in sizes if size is not None)
    sums = scope.add(ReduceOp("sum", _wide(scope, x), axes, bool(op.keep)))
    scale = x.scale / count if reduction is Reduction.MEAN else x.scale
    return Fixed(sums, scale, _sum(x.low, count), _sum(x.high, count))


def _sum(code: int, count: int) -> int:
    if abs(code) * count >= 2**31:
        raise Refusal(f"sums of {count} codes leave 32 bits", "use fewer bits")
    return code * count


def lower_embedding(scope: Scope, op: EmbeddingOp) -> Deferred:
    """Lower rows of a table to rows of codes."""
    table = scope.constant(op.table)
    if table is None:
        table = dequantize(stored_weight(scope, op.table), torch.float64)
    values = table.to(torch.float32)

    def make(target: Target) -> SSAValue:
        codes = codes_of(values, target.scale, target.low, target.high).to(_dtype(target))
        return scope.add(EmbeddingOp(scope.weight(codes, "table"), op.ids))

    return make


def _dtype(target: Target) -> torch.dtype:
    return {"i8": torch.int8, "u8": torch.uint8, "i32": torch.int32}[target.scalar]

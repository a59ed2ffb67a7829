"""Real numbers as integers with a scale known at compile time, and how a program comes to compute with them.

A value x of the float program is `scale * value + offset`, limited to `least`..`most`, with `value` an integer tensor
of the new program. Nothing is rounded before it has to be: scales and offsets are combined in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from xdsl.ir import Operation, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from qcc.ir.base import LAYER, QccOperation, location_of, set_location
from qcc.ir.elementwise import BinaryOp, CastOp
from qcc.ir.program import ConstantOp, WeightOp
from qcc.ir.quant import DequantizeOp, QuantizeOp, RequantOp
from qcc.ir.shape import ConcatOp, ExpandOp, ReshapeOp, SliceOp, TransposeOp
from qcc.ir.store import WeightStore
from qcc.ir.types import INTEGER_RANGES, tensor, type_of
from qcc.numerics.fixed_point import multiplier_and_shift
from qcc.numerics.quantize import dequantize
from qcc.numerics.torch_dtypes import SCALAR_NAMES
from qcc.passes.evaluation import ARITHMETIC, evaluate
from qcc.passes.regions import label_of

GUARD_BITS = 8
"""Bits that a multiplier has more than the integers it makes: they add less than 2**-9 to the half of a rounding."""

SUM_BITS = 27
"""Bits of the terms of a sum of values with different scales, sign aside."""


class Refusal(Exception):
    """An operation that has no integer form: what is wrong, and the way out."""

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(what)
        self.what, self.fix = what, fix


@dataclass(frozen=True)
class Sum:
    """Sums of products that a bias may still join: `scale * (integers of codes and weight) + offset`, per row [N].

    `low` and `high` are how far the sums of each row reach, int64 [N]; `source` is the layer.
    """

    source: Operation
    codes: SSAValue
    weight: SSAValue
    groups: int
    scale: Tensor
    offset: Tensor | None
    low: Tensor
    high: Tensor

    def scaled(self, factors: Tensor) -> Sum:
        """Multiply by a factor, [1] or one a row."""
        return replace(self, scale=self.scale * factors, offset=None if self.offset is None else self.offset * factors)

    def plus(self, addend: Tensor) -> Sum:
        """Add a number, [1] or one a row."""
        offset = torch.zeros_like(self.scale) if self.offset is None else self.offset
        return replace(self, offset=offset + addend)


@dataclass(frozen=True)
class Fixed:
    """A value of the float program: `moves(scale * value)`, limited to `least`..`most`.

    `scale` is float64 [1], or [C] along the last axis of `value`, whose integers lie in `low`..`high`. `moves` are the
    operations that move elements between `value` and the float value; they are repeated once the integers are narrow.
    `codes` says that the integers are those of a static format, that of the result of `origin`: one scale, nothing
    pending. `sum` says that they are sums which nothing else reads yet.
    """

    value: SSAValue
    scale: Tensor
    low: int
    high: int
    codes: bool = False
    moves: tuple[Operation, ...] = ()
    least: float = -math.inf
    most: float = math.inf
    sum: Sum | None = None
    origin: QuantizeOp | None = None

    @property
    def reach(self) -> int:
        """The largest magnitude of the integers."""
        return max(-self.low, self.high, 0)

    @property
    def bound(self) -> float:
        """The largest magnitude of the real numbers."""
        return min(self.reach * float(self.scale.abs().max()), max(abs(self.least), abs(self.most)))

    @property
    def step(self) -> float:
        """The smallest distance of two real numbers that is not 0; 0 where all are 0."""
        sizes = self.scale.abs()
        return float(sizes[sizes > 0].min()) if bool((sizes > 0).any()) else 0.0

    def scaled(self, factor: Tensor | float) -> Fixed:
        """Multiply the real numbers by a factor, [1] or along the axis of the scale."""
        factors = torch.as_tensor(factor, dtype=torch.float64).reshape(-1)
        limits = self.least, self.most
        if limits != (-math.inf, math.inf):
            assert factors.numel() == 1  # callers bring limited values to one scale first
            limits = sorted(limit * float(factors) for limit in limits) if float(factors) else (0.0, 0.0)
        summed = None if self.sum is None else self.sum.scaled(factors)
        scale = self.scale * factors
        return replace(self, scale=scale, codes=False, least=limits[0], most=limits[1], sum=summed)


@dataclass(frozen=True)
class Target:
    """A static format that a value is rounded to: its scale, and the range of its codes."""

    scale: float
    low: int
    high: int
    wide: bool = False

    @property
    def scalar(self) -> str:
        """The narrowest element type that holds the codes; `i32` where `wide`."""
        return "i32" if self.wide else scalar_of(self.low, self.high)


Deferred = Callable[[Target], SSAValue]
"""A value that is computed in the format it is rounded to, as tables are."""


def scalar_of(low: int, high: int) -> str:
    """Return the narrowest element type that holds integers from `low` to `high`.

    Raises:
        Refusal: if 64 bits do not.
    """
    for scalar in ("i8", "u8", "i32", "i64"):
        least, most = INTEGER_RANGES[scalar]
        if least <= low and high <= most:
            return scalar
    raise Refusal(f"integers from {low} to {high} do not fit 64 bits", "use fewer bits")


def sum_scalar(low: int, high: int) -> str:
    """Return `i32` or `i64`, whichever holds sums from `low` to `high`.

    Raises:
        Refusal: if they are wider than sums may be.
    """
    if max(-low, high) >= 2**62:
        raise Refusal(f"sums from {low} to {high} need more than 64 bits", "use fewer bits, or split the layer")
    return "i32" if max(-low - 1, high) < 2**31 else "i64"


@dataclass
class Scope:
    """One program under way: where operations go, what values have become, and constants."""

    store: WeightStore
    values: dict[SSAValue, Fixed | Deferred] = field(default_factory=dict[SSAValue, Fixed | Deferred])
    at: Operation | None = None
    _weights: dict[tuple[object, ...], SSAValue] = field(default_factory=dict[tuple[object, ...], SSAValue])

    def add(self, op: QccOperation) -> SSAValue:
        """Put an operation in front of the one that is being lowered and return its result."""
        assert self.at is not None
        set_location(op, location_of(self.at))
        Rewriter.insert_op(op, InsertPoint.before(self.at))
        return op.results[0]

    def weight(self, values: Tensor, role: str) -> SSAValue:
        """Return a plain weight that holds `values`; equal ones of one operation's role are one."""
        assert self.at is not None
        values = values.contiguous()
        key = (role, values.dtype, tuple(values.shape), values.numpy().tobytes())
        if key not in self._weights:
            name = self.store.fresh_key(f"{_label(self.at)}/{role}")
            self.store[name] = values
            made = WeightOp(name, tensor(tuple(values.shape), SCALAR_NAMES[values.dtype]))
            set_location(made, location_of(self.at))
            block = self.at.parent_block()
            assert block is not None  # operations of a program
            # above everything, so that kernels find it before their root
            Rewriter.insert_op(made, InsertPoint.at_start(block))
            self._weights[key] = made.result
        return self._weights[key]

    def fixed(self, value: SSAValue) -> Fixed:
        """Return what a value of the float program has become.

        Raises:
            Refusal: if it is computed in floats.
        """
        found = self.values.get(value)
        if not isinstance(found, Fixed):
            owner = value.owner.name if isinstance(value.owner, Operation) else "an input"
            raise Refusal(f"reads floats that {owner} makes and nothing quantizes", "run quantize-values first")
        return found

    def codes(self, value: SSAValue) -> Fixed:
        """Return a value of the float program that must have become codes.

        Raises:
            Refusal: if it has not.
        """
        found = self.fixed(value)
        if not found.codes:
            raise Refusal("reads sums that nothing quantizes", "run quantize-values first")
        return found

    def constant(self, value: SSAValue) -> Tensor | None:
        """Return a value that depends on weights and numbers alone, in float64, or None."""
        found = self._constant(value)
        return None if found is None else found.to(torch.float64)

    def _constant(self, value: SSAValue) -> Tensor | None:
        op = value.owner
        if isinstance(op, WeightOp) and type_of(value).qtype is None:
            return self.store.tensor(op.key.data)
        if isinstance(op, DequantizeOp) and isinstance(source := op.input.owner, WeightOp):
            return dequantize(self.store.quantized(source.key.data))
        if not isinstance(op, Operation) or isinstance(op, QuantizeOp) or type_of(value).static_shape is None:
            return None
        if isinstance(op, BinaryOp) and op.function.data not in ARITHMETIC:
            return None
        operands = [self._constant(one) for one in op.operands]
        if any(one is None for one in operands) or not (operands or isinstance(op, ConstantOp)):
            return None
        if isinstance(op, ExpandOp):
            assert operands[0] is not None
            return operands[0].expand(type_of(value).static_shape or ())
        return evaluate(op, [one for one in operands if one is not None]) if _is_evaluated(op) else None

    def rounded(self, fixed: Fixed, target: Target) -> SSAValue:
        """Round a value to the codes of a format: at most 1/2 + 2**-9 steps off, halves up, and clamped.

        Raises:
            Refusal: if products of the integers and any multiplier leave 64 bits.
        """
        ratio = fixed.scale / target.scale if target.scale else torch.zeros_like(fixed.scale)
        low, high = _limits(fixed, target)
        same = fixed.codes and bool((ratio == 1).all()) and low <= fixed.low and fixed.high <= high
        if same and type_of(fixed.value).scalar == target.scalar:
            return fixed.value
        width = max(-target.low, target.high).bit_length()
        factors, shifts = _factors(ratio, min(31, width + GUARD_BITS), fixed.reach)
        value = self.requantized(fixed.value, factors, shifts, target.scalar, low, high)
        return self.moved(value, fixed.moves)

    def requantized(
        self, value: SSAValue, factors: Tensor, shifts: Tensor, scalar: str, low: int, high: int
    ) -> SSAValue:
        """Multiply, shift, and clamp to `low`..`high`."""
        multiplier, shift = self.weight(factors, "multiplier"), self.weight(shifts, "shift")
        least, most = INTEGER_RANGES[scalar]
        limits = (None if low <= least else low, None if high >= most else high)
        return self.add(RequantOp(value, multiplier, shift, scalar, low=limits[0], high=limits[1]))

    def aligned(self, fixed: Fixed, scale: float) -> Fixed:
        """Bring a value to one scale in `i32`: at most half a step off, exactly where the ratio is a power of two."""
        reach = math.ceil(fixed.bound / scale) + 1
        value = self.rounded(fixed, Target(scale, -reach, reach, wide=True))
        low = math.floor(fixed.least / scale) - 1 if fixed.least > -math.inf else -reach
        high = math.ceil(fixed.most / scale) + 1 if fixed.most < math.inf else reach
        return Fixed(value, torch.tensor([scale], dtype=torch.float64), max(low, -reach), min(high, reach))

    def moved(self, value: SSAValue, moves: Sequence[Operation]) -> SSAValue:
        """Repeat operations that move elements on integers."""
        for op in moves:
            value = self.again(op, [value])
        return value

    def again(self, op: Operation, operands: Sequence[SSAValue]) -> SSAValue:
        """Repeat an operation of the float program on integers: the result has the elements of the first operand."""
        scalar = type_of(operands[0]).scalar
        made = type(op).create(
            operands=list(operands),
            result_types=[type_of(op.results[0]).with_element(scalar)],
            properties=dict(op.properties),
        )
        assert isinstance(made, QccOperation)
        return self.add(made)


def common_scale(bound: float, steps: Sequence[float], constants: Sequence[Tensor] = ()) -> float:
    """Return a power of two for a sum of magnitude `bound` of values with these steps, and of constants.

    Fine enough to keep GUARD_BITS bits of the finest step, or the step itself where all are powers of two and divide
    the constants, as far as SUM_BITS bits hold the sum.
    """
    coarse, steps = binary_step(bound, SUM_BITS), [one for one in steps if one > 0]
    if not bound or not steps:
        return coarse
    exact = all(math.frexp(one)[0] == 0.5 for one in steps)
    exact = exact and all(bool((one / min(steps)).frac().eq(0).all()) for one in constants)
    fine = math.frexp(min(steps))[1] - 1 - (0 if exact else GUARD_BITS)
    return max(coarse, math.ldexp(1.0, fine))


def binary_step(bound: float, bits: int) -> float:
    """Return the power of two under which `bits` bits, sign aside, hold a magnitude of `bound`; 1 of nothing."""
    return math.ldexp(1.0, math.ceil(math.log2(bound)) - bits) if bound > 0 else 1.0


def channel_axis(fixed: Fixed) -> int | None:
    """Return which axis of the float value is the last axis of the integers, or None where it is none by itself."""
    axis = type_of(fixed.value).rank - 1
    for op in fixed.moves:
        if isinstance(op, TransposeOp):
            axis = op.axes.index(axis)
        elif isinstance(op, ExpandOp):
            axis += type_of(op.result).rank - type_of(op.input).rank
        elif isinstance(op, ReshapeOp) or (isinstance(op, SliceOp) and op.axis.value.data == axis):
            return None
    return axis


def _label(op: Operation) -> str:
    """Name what an operation's constants belong to: its layer, else its module in the user's model."""
    place = location_of(op).split(" ")[0]
    return place if place and LAYER not in op.attributes else label_of(op)


def _limits(fixed: Fixed, target: Target) -> tuple[int, int]:
    """Return the codes between which a value is clamped: those of the format, and its own limits."""

    def code(limit: float) -> int:
        if not target.scale:
            return 0
        quotient = limit / target.scale
        return round(min(max(quotient, target.low), target.high))

    low = target.low if fixed.least == -math.inf else code(fixed.least)
    return low, max(low, target.high if fixed.most == math.inf else code(fixed.most))


def _factors(ratio: Tensor, bits: int, reach: int) -> tuple[Tensor, Tensor]:
    """Return multiplier and shift of as many bits as `bits` and 64-bit products allow."""
    room = 61 - max(reach, 1).bit_length()
    if room < min(bits, 16):
        raise Refusal(f"its sums have {reach.bit_length() + 1} bits: scaling them needs more than 64", "use fewer bits")
    return multiplier_and_shift(ratio, min(bits, room))


def _is_evaluated(op: Operation) -> bool:
    return isinstance(op, ConstantOp | TransposeOp | ReshapeOp | SliceOp | ConcatOp | CastOp | BinaryOp)

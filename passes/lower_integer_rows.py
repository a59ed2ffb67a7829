"""Integer forms of softmax, normalisation and attention.

    softmax(x)           ->  integer_softmax(x)                          exp(-step * d) as a table
    norm(x, w, b)        ->  integer_norm(x)                             w, b and the scales in multiplier and bias
    attention(q, k, v)   ->  integer_matmul(integer_softmax(requant(integer_matmul(q, k^T))), v)

Bounds against the real functions of the codes that go in, T the length of a row, in steps s of the codes that come out:

- softmax: 1/2 + 2**-9 + (T / 2**21 + g / 4) / s, where g is 0 for codes and the step `SCORE_STEP` for sums: the table's
  values are half of 2**-20 off, and scores half of g.
- norm: 1/2 + 2**-7 + r, with r = max|w| sqrt(n) / (s 2**24): the normalised row has 24 fraction bits. Codes that are
  too many or too wide for 62-bit squares are narrowed first; eps is off by 2**-15 of a row's squares at most.
- attention: max|v| (SCORE_STEP / 2 + T / 2**15) before its result is rounded.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from xdsl.ir import SSAValue

from qcc.ir.dims import Dim
from qcc.ir.elementwise import BinaryOp
from qcc.ir.integer_rows import NORM_FRACTION, IntegerNormOp, IntegerSoftmaxOp
from qcc.ir.nn import SoftmaxOp
from qcc.ir.program import IotaOp
from qcc.ir.shape import ExpandOp, ReshapeOp, TransposeOp
from qcc.ir.transformer import AttentionOp, NormKind, NormOp
from qcc.ir.types import tensor, type_of
from qcc.passes.fixed_values import GUARD_BITS, Deferred, Fixed, Refusal, Scope, Target
from qcc.passes.lower_integer_contraction import multiplied

SCORE_STEP = 2.0**-7
"""Step of the scores that an exponential is tabulated for, where they are sums."""

EXP_BITS = 20
"""Fraction bits of tabulated exponentials."""

UNIT = 2**15 - 1
"""Code of probability 1 where probabilities are not rounded to a format at once."""

MASKED = -1e4
"""Scores that a mask adds no more than this to keep nothing of their probability."""


def lower_softmax(scope: Scope, op: SoftmaxOp) -> Deferred:
    """Lower a softmax over any axis."""
    x, axis, rank = scope.fixed(op.input), op.axis.value.data, type_of(op.input).rank
    if not x.codes:
        x = scope.aligned(x, SCORE_STEP)
    order = [*(one for one in range(rank) if one != axis), axis]
    last = x.value if axis == rank - 1 else scope.add(TransposeOp(x.value, order))
    table = _exponentials(scope, float(x.scale), x.high - x.low)

    def make(target: Target) -> SSAValue:
        unit = 1.0 / target.scale if target.scale else 0.0
        if unit.is_integer() and 1 <= unit <= target.high:
            result = scope.add(IntegerSoftmaxOp(last, table, unit=int(unit), scalar=target.scalar))
        else:
            wide = scope.add(IntegerSoftmaxOp(last, table, unit=UNIT, scalar="i32"))
            result = scope.rounded(Fixed(wide, _one(1 / UNIT), 0, UNIT), target)
        return result if last is x.value else scope.add(TransposeOp(result, [order.index(one) for one in range(rank)]))

    return make


def _exponentials(scope: Scope, step: float, widest: int) -> SSAValue:
    """Return the table of `exp(-step * d)`, up to distance `widest` or to where it vanishes."""
    vanishes = (EXP_BITS + 1) * math.log(2)
    length = widest + 1 if step * widest < vanishes else math.ceil(vanishes / step) + 1
    distances = torch.arange(length, dtype=torch.float64) * step
    return scope.weight(torch.ldexp(torch.exp(-distances), torch.tensor(EXP_BITS)).round().to(torch.int32), "exp")


def _one(number: float) -> Tensor:
    return torch.tensor([number], dtype=torch.float64)


def lower_norm(scope: Scope, op: NormOp) -> Deferred:
    """Lower a normalisation of codes over the last axis."""
    count, layer = type_of(op.input).shape[-1].constant, op.kind.data is NormKind.LAYER
    if count is None:
        raise Refusal("normalises over an axis of unknown length", "export the model with a static last axis")
    weight, bias = (None if one is None else scope.constant(one) for one in (op.weight, op.bias))
    if (op.weight is not None and weight is None) or (op.bias is not None and bias is None):
        raise Refusal("its weight or bias is computed at run time")
    weight = torch.ones(1, dtype=torch.float64) if weight is None else weight
    weight = weight + 1 if op.kind.data is NormKind.RMS_PLUS1 else weight
    x, eps = _fitted(scope, scope.codes(op.input), count, layer, op.eps.value.data)
    # eps beyond 61 bits stands alone under the root, so what is cut off goes into the multiplier
    most = min(eps, 2.0**61 - 2.0**40)
    factor = weight * math.sqrt(count) * (math.sqrt(most / eps) if eps else 1.0)

    def make(target: Target) -> SSAValue:
        multiplier, shift, addend = _affine(factor, bias, target)
        stored = None if addend is None else scope.weight(addend, "bias")
        kind = "layer" if layer else "rms"
        parts = scope.weight(multiplier, "multiplier"), scope.weight(shift, "shift"), stored
        limits = {"low": target.low, "high": target.high}
        return scope.add(IntegerNormOp(kind, x.value, *parts, eps=round(most), scalar=target.scalar, **limits))

    return make


def _fitted(scope: Scope, x: Fixed, count: int, layer: bool, eps: float) -> tuple[Fixed, float]:
    """Return codes whose squares fit 61 bits, and eps in the unit of their sum; see `qcc.integer_norm`.

    Codes that are too wide are narrowed, and so are those of a scale under which eps has more bits than that, until
    their squares are nothing beside it. Codes under which eps is no integer are widened until its rounding is 2**-15 of
    the smallest sum.
    """
    scale, reach, unit = float(x.scale), x.reach, float(count**3 if layer else count)
    if not scale:
        return x, 0.0
    least = max(count * (count - 1), 1) if layer else 1  # the smallest sum of squares that is not 0
    drop = 0

    def squares() -> float:
        return unit * max(reach / 2.0**drop, 1.0) ** 2

    def offset() -> float:
        return unit * eps / (scale * 2.0**drop) ** 2

    while squares() >= 2.0**61 or (offset() >= 2.0**61 and squares() > offset() * 2.0**-12 and reach >> drop > 1):
        drop += 1
    while drop <= 0 and squares() < 2.0**59 and _is_coarse(offset(), least * 4.0**-drop):
        drop -= 1
    return (scope.aligned(x, scale * 2.0**drop) if drop else x), offset()


def _is_coarse(eps: float, least: float) -> bool:
    return eps < 2.0**52 and abs(eps - round(eps)) > (eps + least) * 2.0**-15


def _affine(factor: Tensor, bias: Tensor | None, target: Target) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return multiplier (int32), shift (int32 [1]) and bias (int64) that take a normalised row to codes."""
    scale = target.scale or math.inf  # of a scale of 0 every code is 0
    bits = max(17, max(-target.low, target.high).bit_length() + GUARD_BITS + 1)
    ratio = factor / scale / 2.0**NORM_FRACTION
    largest = max(float(ratio.abs().max()), 2.0**-61)
    shift = min(min(bits, 31) - math.frexp(largest)[1], 62)
    addend = None if bias is None else bias / scale
    if addend is not None and (peak := float(addend.abs().max())):
        shift = min(shift, 61 - math.frexp(peak)[1])
    if shift < 0:
        raise Refusal("its result is too coarse for its weight", "calibrate on samples that reach its range")
    multiplier = (ratio * 2.0**shift).round().to(torch.int32)
    stored = None if addend is None else (addend * 2.0**shift).round().to(torch.int64)
    return multiplier, torch.tensor([shift], dtype=torch.int32), stored


def lower_attention(scope: Scope, op: AttentionOp) -> Fixed:
    """Lower attention: scores, softmax and the sum of values, each on integers."""
    query, key, value = (scope.codes(one) for one in (op.query, op.key, op.value))
    heads = type_of(op.query).shape[1]
    turned = scope.add(TransposeOp(_grouped(scope, key, heads), (0, 1, 3, 2)))
    scores = multiplied(scope, query, replace(key, value=turned)).scaled(op.scale.value.data)
    aligned = scope.aligned(scores, SCORE_STEP)
    table = _exponentials(scope, SCORE_STEP, aligned.high - aligned.low)
    mask = _mask(scope, op)
    weights = scope.add(IntegerSoftmaxOp(aligned.value, table, mask, unit=UNIT, scalar="i32"))
    length = type_of(op.key).shape[2].constant
    # a row's probabilities sum to 1, each half a step off
    reach = (UNIT + (2**20 if length is None else length)) * value.reach
    probabilities = Fixed(weights, _one(1 / UNIT), 0, UNIT)
    return multiplied(scope, probabilities, replace(value, value=_grouped(scope, value, heads)), reach)


def _grouped(scope: Scope, x: Fixed, heads: Dim) -> SSAValue:
    """Repeat keys or values [B, Hkv, T, D] for the query heads that share them."""
    batch, own, length, width = type_of(x.value).shape
    each = heads.exact_div(own)
    if each is None or each == Dim.of(1):
        return x.value
    split = scope.add(ReshapeOp(x.value, (batch, own, 1, length, width)))
    wide = scope.add(ExpandOp(split, (batch, own, each, length, width)))
    return scope.add(ReshapeOp(wide, (batch, heads, length, width)))


def _mask(scope: Scope, op: AttentionOp) -> SSAValue | None:
    mask = op.mask
    if mask is not None and type_of(mask).scalar != "i1":
        found = scope.constant(mask)
        if found is None or not bool(((found == 0) | (found <= MASKED)).all()):
            raise Refusal("adds floats to its scores", "give it a mask of truth values")
        mask = scope.weight(found == 0, "mask")
    if not op.causal:
        return mask
    rows, columns = type_of(op.query).shape[2], type_of(op.key).shape[2]
    causal = _causal(scope, rows, columns)
    return causal if mask is None else scope.add(BinaryOp("and", mask, causal))


def _causal(scope: Scope, rows: Dim, columns: Dim) -> SSAValue:
    """Return the mask [S, T] that keeps key t for query s where t <= s."""
    if rows.constant is not None and columns.constant is not None:
        return scope.weight(torch.ones(rows.constant, columns.constant, dtype=torch.bool).tril(), "causal")
    row = scope.add(ReshapeOp(scope.add(IotaOp(0, 1, tensor((rows,), "i64"))), (rows, 1)))
    return scope.add(BinaryOp("le", scope.add(IotaOp(0, 1, tensor((columns,), "i64"))), row))

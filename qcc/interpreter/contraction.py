"""Meaning of the quantized contraction: exact integer sums inside a scale block, scales afterwards.

With codes x[m,k] and w[n,k], integer zero points taken off, K is cut into groups g so that neither operand's scale
changes inside one (the smaller of both block sizes; their greatest common divisor where neither divides the other):

    S[m,n,g] = sum over k in g of x[m,k] * w[n,k]                      exact integers
    acc      = acc + (sx[m,g] * sw[n,g]) * float(S[m,n,g])             g ascending, float32
    result   = acc + bias[n]

Where the input has one scale a row, that scale crosses the sum over K and is applied once, as kernels do:

    acc      = acc + sw[n,g] * float(S[m,n,g])
    result   = sx[m] * acc + bias[n]

Each product and sum above is one IEEE float32 operation (float64 in the oracle). A `post` zero point z of the weights
adds (sx * z) * float(X), or z * float(X), X the sum of x over the group, in the same step and after the scaled sum.

This holds where both sides decode to a scale times an integer: integers on either grid, and digit planes with
coefficients 1, 2, 4, ... Every other pair of formats is decoded first, each element rounded once, and multiplied in
float32 (float64 in the oracle).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from qcc.numerics.blocks import block_extents, spread_blocks
from qcc.numerics.coding import element_values
from qcc.numerics.integer_sums import sums_integers
from qcc.numerics.levels import chain_product
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import IntDecode, PlanesDecode
from qcc.numerics.quantize import dequantize
from qcc.numerics.tensor import QuantizedTensor, zero_levels

_EXACT_FLOAT32 = 2**24
_EXACT_FLOAT64 = 2**53


@dataclass(frozen=True)
class _Operand:
    """A quantized matrix as integers [R, K] and, at every element, the scale and the real offset of its block."""

    integers: torch.Tensor
    scale: torch.Tensor
    offset: torch.Tensor | None
    group: int

    def at(self, parameter: torch.Tensor, start: int) -> torch.Tensor:
        """Return a parameter [R] of the group that starts at column `start`."""
        return parameter[:, start]


def integer_sums(q_input: QuantizedTensor, q_weight: QuantizedTensor) -> torch.Tensor:
    """Return the sums of code products, int64 [M, N, G]: zero points stay in.

    `q_input` is [..., K] flattened to M rows, `q_weight` [N, K]; G counts the groups of K.
    """
    return _group_sums(_codes(q_input), _codes(q_weight), group_size(q_input, q_weight))


def corrected_sums(q_input: QuantizedTensor, q_weight: QuantizedTensor) -> torch.Tensor:
    """Return the sums with integer zero points taken off, int64 [M, N, G]: what the scales multiply.

    Codes of a `mid_rise` grid stand for halves; they count as odd integers 2 * code + 1 under half the scale.
    """
    left, right = _operand(q_input, torch.float64), _operand(q_weight, torch.float64)
    return _group_sums(left.integers, right.integers, group_size(q_input, q_weight))


def group_size(q_input: QuantizedTensor, q_weight: QuantizedTensor) -> int:
    """Return how many columns of K share one scale on both sides."""
    columns, left, right = q_weight.shape[-1], _column_block(q_input), _column_block(q_weight)
    if max(left, right) >= columns:
        return min(left, right, columns)
    return math.gcd(left, right)


def contract(
    q_input: QuantizedTensor | torch.Tensor,
    q_weight: QuantizedTensor,
    bias: torch.Tensor | None,
    real: torch.dtype,
) -> torch.Tensor:
    """Return `dequantize(input) @ dequantize(weight)^T + bias` [..., N] in `real` (float32 or float64).

    Where a side does not decode to scaled integers, both are decoded first and multiplied in `real`.
    """
    if isinstance(q_input, torch.Tensor) or not sums_integers(q_input.qtype, q_weight.qtype, q_weight.shape[-1]):
        values = q_input.to(real) if isinstance(q_input, torch.Tensor) else dequantize(q_input, real)
        result = values @ dequantize(q_weight, real).T
        return result if bias is None else result + bias.to(real)
    left, right = _operand(q_input, real), _operand(q_weight, real)
    group, columns = group_size(q_input, q_weight), q_weight.shape[-1]
    result = torch.zeros(left.integers.shape[0], q_weight.shape[0], dtype=real)
    one_a_row = left.group >= columns
    for start in range(0, columns, group):
        x, w = left.integers[:, start : start + group], right.integers[:, start : start + group]
        sx, sw = left.at(left.scale, start)[:, None], right.at(right.scale, start)[None, :]
        result = result + (sw if one_a_row else sx * sw) * exact_product(x, w).to(real)
        if right.offset is not None:
            offset = right.at(right.offset, start)[None, :]
            result = result + (offset if one_a_row else sx * offset) * x.sum(-1, keepdim=True).to(real)
    if one_a_row and columns:
        result = left.at(left.scale, 0)[:, None] * result
    if bias is not None:
        result = result + bias.to(real)
    return result.reshape(*q_input.shape[:-1], q_weight.shape[0])


def _has_offset(quantized: QuantizedTensor) -> bool:
    return quantized.qtype.zero is not None and quantized.qtype.zero.kind == "post"


def _codes(quantized: QuantizedTensor) -> torch.Tensor:
    """Return codes as rows of integers; of digit planes what they stand for, twice that where it is a half."""
    codes, qtype = quantized.codes, quantized.qtype
    if isinstance(qtype.decode, PlanesDecode):
        codes = element_values(codes, qtype, torch.float64) * (2 if _counts_halves(qtype) else 1)
    return codes.to(torch.int64).reshape(-1, quantized.shape[-1])


def _counts_halves(qtype: QType) -> bool:
    """Say whether a grid adds one half to its integers; planes of -1 and +1 are mid_rise by themselves."""
    decode = qtype.decode
    return qtype.grid == "mid_rise" and not (isinstance(decode, PlanesDecode) and decode.digits == "pm1")


def _column_block(quantized: QuantizedTensor) -> int:
    return block_extents(quantized.qtype.levels[0].block, quantized.shape)[-1]


def _operand(quantized: QuantizedTensor, real: torch.dtype) -> _Operand:
    qtype, shape, parameters = quantized.qtype, quantized.shape, quantized.parameters
    leaf = qtype.levels[0].block

    def rows(grid: torch.Tensor) -> torch.Tensor:
        return spread_blocks(grid, leaf, shape).expand(shape).reshape(-1, shape[-1])

    integers, offset = _codes(quantized), None
    scale = chain_product(parameters.scales, qtype.levels, shape, real)
    if _counts_halves(qtype):
        scale = scale / 2
        integers = 2 * integers + 1 if isinstance(qtype.decode, IntDecode) else integers
    if parameters.zero is not None and _has_offset(quantized):
        offset = rows(chain_product(parameters.zero, zero_levels(qtype), shape, real))
    elif quantized.zero is not None:
        integers = integers - rows(quantized.zero.to(torch.int64))
    return _Operand(integers, rows(scale), offset, _column_block(quantized))


def _group_sums(x: torch.Tensor, w: torch.Tensor, group: int) -> torch.Tensor:
    sums = [exact_product(x[:, k : k + group], w[:, k : k + group]) for k in range(0, x.shape[1], group)]
    return torch.stack(sums, -1) if sums else torch.zeros(x.shape[0], w.shape[0], 0, dtype=torch.int64)


def exact_product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Multiply integer matrices [M, K] and [N, K] exactly; float matmuls are fast and exact below their mantissa."""
    bound = x.shape[1] * _peak(x) * _peak(w)
    if bound >= _EXACT_FLOAT64:
        return x @ w.T
    real = torch.float32 if bound < _EXACT_FLOAT32 else torch.float64
    return (x.to(real) @ w.to(real).T).to(torch.int64)


def _peak(values: torch.Tensor) -> int:
    return int(values.abs().max()) if values.numel() else 0

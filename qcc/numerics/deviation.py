"""Measure the squared error that codes leave, without forming the codes where that can be avoided."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qcc.numerics.blocks import block_extents, parent_block, reduce_blocks, total
from qcc.numerics.codebook import codebook_of
from qcc.numerics.coding import decode, encode, rounded_integers, spread_parameters, target_of
from qcc.numerics.minifloat import largest_float, native_bias
from qcc.numerics.ovp import pair_errors
from qcc.numerics.parameters import plain_decode
from qcc.numerics.parts import Index, Parts
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import Block, FloatDecode, IntDecode, PlanesDecode, TableDecode
from qcc.numerics.slices import row_slices, slice_parameters
from qcc.numerics.tensor import Parameters


def squared_error(x: Tensor, qtype: QType, parameters: Parameters, block: Block, least: Tensor | None = None) -> Tensor:
    """Sum the squared error of coding `x` over every block, in float64; what is no number counts as infinite.

    A block whose scale is zero counts as infinite too: it has nothing to choose. Sums over many parts are left off
    once all exceed the `least` so far.
    """
    shape = tuple(x.shape)
    measured = _error_in_steps if _is_measured_in_steps(qtype, shape) else _error_of_codes

    def measure(part: Tensor, index: Index) -> Tensor:
        return measured(part, qtype, slice_parameters(parameters, qtype, shape, index), block)

    def is_lost(errors: Tensor) -> bool:
        return least is not None and bool((errors > least).all())

    found = Parts(x, tuple(row_slices(qtype, shape, block))).reduce(block, measure, torch.add, is_lost)
    return torch.nan_to_num(found, nan=math.inf)


def _is_measured_in_steps(qtype: QType, shape: tuple[int, ...]) -> bool:
    """Tell whether the error is the distance of targets from elements, in units of the scale."""
    plain = plain_decode(qtype)
    if not qtype.levels or qtype.levels[-1].protective is not None or qtype.rounding == "stochastic":
        return False
    if qtype.overflow != "saturate" or (isinstance(plain, PlanesDecode) and plain.coefficients == "free"):
        return False
    last = block_extents(qtype.levels[0].block, shape)[-1]
    return qtype.layout != "ovp" or last % 2 == 0 or last == shape[-1]


def _error_of_codes(x: Tensor, qtype: QType, parameters: Parameters, block: Block) -> Tensor:
    values = decode(encode(x, qtype, parameters), qtype, parameters, x.dtype)
    return reduce_blocks((values.double() - x).square(), block, total)


def _error_in_steps(x: Tensor, qtype: QType, parameters: Parameters, block: Block) -> Tensor:
    shape, leaf = tuple(x.shape), qtype.levels[0].block
    spread = spread_parameters(qtype, parameters, shape, x.dtype)
    target = target_of(x, qtype, spread)
    if qtype.layout == "ovp":
        plain = plain_decode(qtype)
        assert isinstance(plain, TableDecode)
        errors = pair_errors(target, plain)
        shape, leaf, block = tuple(errors.shape), _of_pairs(leaf), _of_pairs(block)
    else:
        errors = _nearest_elements(target, qtype).sub_(target).square_()
    assert spread.leaf_scale is not None
    scale = spread.leaf_scale.double()
    squared = torch.where(scale == 0, math.inf, scale.square())
    return reduce_blocks(reduce_blocks(errors, leaf, total) * squared, parent_block(leaf, block, shape), total)


def _of_pairs(block: Block) -> Block:
    return (*block[:-1], -1 if block[-1] == -1 else -(-block[-1] // 2))


def _nearest_elements(target: Tensor, qtype: QType) -> Tensor:
    """Give the element each target is rounded to; where two are as near, either."""
    plain = plain_decode(qtype)
    if isinstance(plain, IntDecode):
        if qtype.grid == "mid_rise":
            return target.floor().clamp_(plain.minimum, plain.maximum).add_(0.5)
        return rounded_integers(target, qtype, 0).clamp_(plain.minimum, plain.maximum)
    book = codebook_of(plain, qtype.grid)
    if qtype.rounding == "floor":
        return book.nearest_values(target, "floor")
    if isinstance(plain, FloatDecode) and target.dtype == torch.float32:
        return _nearest_floats(target, plain)
    return book.near_values(target)


def _nearest_floats(target: Tensor, plain: FloatDecode) -> Tensor:
    """Round to a small float: adding and taking away 1.5·2^23 steps of its binade leaves a float32 whole steps."""
    lowest = 2.0 ** (1 - native_bias(plain))
    binade = (target.view(torch.int32) & 0x7F800000).view(torch.float32)
    largest = largest_float(plain)
    shift = binade.clamp_(lowest, largest).mul_(1.5 * 2.0 ** (23 - plain.mantissa_bits))
    return (target + shift).sub_(shift).clamp_(-largest, largest)

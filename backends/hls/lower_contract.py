"""Contractions: matrix-vector units, convolutions of single channels, products of two computed matrices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from xdsl.ir import Operation

from qcc.backends.hls.codes import choose_codes
from qcc.backends.hls.elements import Element
from qcc.backends.hls.lower_shape import broadcast_to
from qcc.backends.hls.lowering import FEWER_BITS, Flow, Known, Lowering, Refusal, Table, check_accumulator, static_shape
from qcc.backends.hls.order import Loop, Order, row_major
from qcc.backends.hls.steps import Array, Steps
from qcc.backends.hls.units_matvec import LoadUnit, MatmulUnit, MatvecUnit, product_range, sum_range
from qcc.backends.hls.units_rescale import RescaleUnit
from qcc.backends.hls.units_window import DepthwiseUnit
from qcc.ir.integer import IntegerContractOp, IntegerMatmulOp
from qcc.numerics.integer_values import integer_factor, integer_values
from qcc.numerics.tensor import QuantizedTensor

MOST_CHANNELS = 128
"""Outputs beyond which a streamed layer's biases and multipliers stay in memory as well."""

ROM_BITS = 1 << 17
"""Weights of a layer beyond which they stay in memory and are streamed in."""


def _contract(low: Lowering, op: Operation) -> None:
    assert isinstance(op, IntegerContractOp)
    source, weights, groups = low.flow(op.input, op), _weights(low, op), op.groups.value.data
    columns = source.shape[-1]
    split = source.order.rows(columns)
    if split is None:
        source = low.plain(source)
        split = source.order.rows(columns)
        assert split is not None, "row-major order keeps rows whole"
    rows, inside = split
    bias = np.zeros(len(weights), np.int64) if op.bias is None else low.numbers(op.bias)
    count = source.count // columns
    if groups > 1 and groups * weights.shape[1] == columns and _by_channel(inside, weights.shape[1], groups):
        deep = weights.reshape(groups, -1, weights.shape[1]).transpose(2, 0, 1)
        sums = _sums(op, weights, bias, source.element)
        unit = DepthwiseUnit(count, deep, bias, source.element, steps=Steps(sums))
    else:
        dense = _block_diagonal(weights, groups)[:, inside.indices()]
        sums = _sums(op, dense, bias, source.element)
        codes = choose_codes(dense)
        streamed = dense.size * codes.bits > ROM_BITS
        unit = MatvecUnit(count, dense, bias, source.element, codes, streamed, steps=Steps(sums))
    order = rows.spread(row_major(len(weights)), len(weights))
    if isinstance(unit, MatvecUnit) and unit.streamed:
        edge = _streamed(low, op, unit, source.edge, bias)
        element = low.graph.edges[edge].element
        assert element is not None
        low.set(op, Flow(edge, (*source.shape[:-1], len(weights)), order, element, op))
        return
    edge = low.emit("sums", op, unit, (source.edge,), sums, count * len(weights))
    low.set(op, Flow(edge, (*source.shape[:-1], len(weights)), order, sums, op))


def _streamed(low: Lowering, op: Operation, unit: MatvecUnit, source: str, bias: Array) -> str:
    """Add a unit whose weights are read from memory, and behind it, for many outputs, one whose tables are."""
    large = unit.n > MOST_CHANNELS
    if large:
        none = np.zeros_like(bias)
        unit = replace(unit, bias=none, steps=Steps(_sums(op, unit.weights, none, unit.x)))
    words = low.emit("weights", op, LoadUnit(unit), (), None, 0)
    sums, count = unit.result, unit.rows * unit.n
    edge = low.emit("sums", op, unit, (source, words), sums, count)
    if not large:
        return edge
    scale = RescaleUnit(unit.rows, bias, sums)
    tables = low.emit("tables", op, LoadUnit(scale), (), None, 0)
    return low.emit("scaled", op, scale, (edge, tables), scale.result, count)


def _weights(low: Lowering, op: IntegerContractOp) -> Array:
    found = low.value(op.weight)
    if not isinstance(found, Known) or not isinstance(found.values, QuantizedTensor):
        raise Refusal("multiplies with a weight that is computed or not quantized", "use integer weights")
    if integer_factor(found.values.qtype) is None:
        raise Refusal(f"has weights in '{found.values.qtype}', which stand for no integers", "use integer weights")
    return integer_values(found.values).numpy()


def _sums(op: Operation, weights: Array, bias: Array, x: Element) -> Element:
    """Return the range of the sums; refuses what 64 bits do not hold."""
    reach = int(np.abs(weights).max()) * max(abs(x.low), abs(x.high)) * weights.shape[1] + int(np.abs(bias).max())
    if reach >= 2**62:
        raise Refusal(f"sums {weights.shape[1]} products to over 62 bits", FEWER_BITS)
    found = sum_range(weights, bias, x)
    check_accumulator(found)
    return found


def _by_channel(inside: Order, window: int, groups: int) -> bool:
    """Say whether a row holds, for each element of the window, all channels in turn."""
    wanted = Order.of([Loop(window, 1), Loop(groups, window)])
    return np.array_equal(inside.indices(), wanted.indices())


def _block_diagonal(weights: Array, groups: int) -> Array:
    """Write weights [N, K] of a grouped contraction as one matrix [N, groups * K]."""
    if groups == 1:
        return weights
    n, k = weights.shape
    dense = np.zeros((n, groups * k), np.int64)
    for group in range(groups):
        rows = slice(group * n // groups, (group + 1) * n // groups)
        dense[rows, group * k : (group + 1) * k] = weights[rows]
    return dense


def _matmul(low: Lowering, op: Operation) -> None:
    assert isinstance(op, IntegerMatmulOp)
    shape = static_shape(op.result)
    left, right = low.flow(op.lhs, op), low.flow(op.rhs, op)
    (m, k), n = left.shape[-2:], right.shape[-1]
    left = low.plain(broadcast_to(low, op, left, (*shape[:-2], m, k)))
    right = low.plain(broadcast_to(low, op, right, (*shape[:-2], k, n)))
    sums = product_range(left.element, right.element, k)
    check_accumulator(sums)
    batch = int(np.prod(shape[:-2], dtype=np.int64))
    unit = MatmulUnit(batch, m, k, n, left.element, right.element, steps=Steps(sums))
    edge = low.emit("product", op, unit, (left.edge, right.edge), sums, batch * m * n)
    low.set(op, Flow(edge, shape, row_major(batch * m * n), sums, op))


LOWERINGS: Table = {IntegerContractOp: _contract, IntegerMatmulOp: _matmul}

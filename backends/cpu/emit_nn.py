"""Lower linear layers, matrix products, convolutions, pooling, embeddings and softmax."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from xdsl.ir import Operation

from qcc.backends.cpu.emit_elementwise import emit_binary_views
from qcc.backends.cpu.emit_kernel import join_activation, join_epilogue
from qcc.backends.cpu.emit_quant import dequantized_weight, packed_weight, quantized_weight
from qcc.backends.cpu.emit_window import ID_STATUS, pool_integers, take_integers, unfold_integers
from qcc.backends.cpu.fields import read, write
from qcc.backends.cpu.lowering import Lowering
from qcc.backends.cpu.pack import pack_float_weights
from qcc.backends.cpu.qformat import is_native, weight_group
from qcc.backends.cpu.refusal import Refusal
from qcc.backends.cpu.statements import Address, Array, Raw, Struct, Value
from qcc.backends.cpu.views import ONE, ZERO, View, collapse, dense
from qcc.backends.cpu.weights import view_name
from qcc.ir.dims import Dim, Shape, product
from qcc.ir.kernel import origin_of
from qcc.ir.nn import ConvOp, EmbeddingOp, LinearOp, MatmulOp, PoolKind, PoolOp, SoftmaxOp, UnfoldOp
from qcc.ir.program import WeightOp, int_array
from qcc.ir.types import type_of

MAC_STEPS = 8
"""Multiply-adds that count as one elementary step when calls are split over threads."""
CONV_AXES = 2
"""Spatial axes of the convolution kernels; one axis is taken as height 1."""


def emit_linear(low: Lowering, op: LinearOp) -> None:
    """Lower `qcc.linear`: constant weights are packed in panels, others multiply as matrices."""
    weight = low.view(op.weight)
    rows = low.rows(low.view(op.input))
    n, k = weight.shape
    if low.constants.tensor(weight) is None:
        _emit_dynamic_linear(low, op, weight)
        return

    def panels() -> bytes:
        value = low.constants.tensor(weight)
        assert value is not None
        return pack_float_weights(value.numpy().astype(np.float32, copy=False)).tobytes()

    buffer = low.constants.derived(f"{view_name(weight)}: panels", panels)
    epilogue, value = join_epilogue(low, op, op.bias)
    target = low.result(value)
    low.call(
        "linear",
        {
            "x": read(rows.view),
            "x_stride": rows.stride,
            "w": read(dense(buffer, "f32", weight.shape)),
            "y": write(target),
            "y_stride": n,
            "m": rows.count,
            "n": n,
            "k": k,
            "epilogue": epilogue,
        },
        rows.count * n * k // MAC_STEPS,
    )


def _emit_dynamic_linear(low: Lowering, op: LinearOp, weight: View) -> None:
    rows = low.rows(low.view(op.input))
    n, k = weight.shape
    flat = View(rows.view.buffer, "f32", (rows.count, k), (rows.stride, ONE), rows.view.offset)
    target = low.result(op.result)
    out = low.reshaped(target, (rows.count, n))
    _multiply(low, flat, weight.permute((1, 0)), out)
    if op.bias is not None:
        bias = low.view(op.bias).expand(target.shape)
        total = low.result(op.result)
        emit_binary_views(low, "QCC_ADD", target, bias, total)


def emit_matmul(low: Lowering, op: MatmulOp) -> None:
    """Lower `qcc.matmul`."""
    target = low.result(op.result)
    lead = target.shape[:-2]
    left, right = low.view(op.lhs), low.view(op.rhs)
    _multiply(low, left.expand((*lead, *left.shape[-2:])), right.expand((*lead, *right.shape[-2:])), target)


def _multiply(low: Lowering, a: View, b: View, c: View) -> None:
    batches = collapse([one.drop(one.rank - 1).drop(one.rank - 2) for one in (a, b, c)])
    if batches[0].rank > 4:
        raise Refusal(f"multiplies over {batches[0].rank} batch axes; the kernels take 4")
    missing = 4 - batches[0].rank
    strides = [Array([*[ZERO] * missing, *one.strides]) for one in batches]
    m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
    low.call(
        "matmul",
        {
            "a": read(a),
            "b": read(b),
            "c": write(c),
            "batch": Array([*[ONE] * missing, *batches[0].shape]),
            "a_batch_stride": strides[0],
            "b_batch_stride": strides[1],
            "c_batch_stride": strides[2],
            "m": m,
            "n": n,
            "k": k,
            "a_stride_m": a.strides[-2],
            "a_stride_k": a.strides[-1],
            "b_stride_k": b.strides[-2],
            "b_stride_n": b.strides[-1],
            "c_stride_m": c.strides[-2],
            "alpha": Raw("1.0f"),
        },
        c.elements * k // MAC_STEPS,
        scratch=True,
    )


def emit_conv(low: Lowering, op: ConvOp) -> None:
    """Lower `qcc.conv` over one or two spatial axes."""
    source, weight = low.contiguous(low.view(op.input)), low.contiguous(low.view(op.weight))
    bias = None if op.bias is None else low.contiguous(low.view(op.bias))
    fields = _window_fields(low, source, type_of(op.result).shape[2:], weight.shape[2:], op)
    activation, value = join_activation(low, op)
    target = low.result(value)
    dilation = _two(int_array(op.dilation), 1)
    fields |= {
        "y": write(target),
        "w": read(weight),
        "in_channels": source.shape[1],
        "out_channels": target.shape[1],
        "groups": op.groups.value.data,
        "dilation_h": dilation[0],
        "dilation_w": dilation[1],
        "activation": Raw(activation),
    }
    if bias is not None:
        fields["bias"] = read(bias)
    low.call("conv2d", fields, target.elements * product(weight.shape[1:]) // MAC_STEPS, scratch=True)


def emit_pool(low: Lowering, op: PoolOp) -> None:
    """Lower `qcc.pool` over one or two spatial axes."""
    if not type_of(op.input).is_float:
        pool_integers(low, op)
        return
    source, target = low.contiguous(low.view(op.input)), low.result(op.result)
    window = tuple(Dim.of(size) for size in int_array(op.window))
    padding = _two(int_array(op.padding), 0)
    average = op.kind.data is not PoolKind.MAX
    fields = _window_fields(low, source, target.shape[2:], window, op)
    fields |= {
        "y": write(target),
        "channels": source.shape[1],
        "dilation_h": 1,
        "dilation_w": 1,
        "pad_bottom": padding[0],
        "pad_right": padding[1],
        "average": int(average),
        "count_pad": int(op.kind.data is PoolKind.AVERAGE),
    }
    low.call("pool2d", fields, target.elements * product(window))


def emit_unfold(low: Lowering, op: UnfoldOp) -> None:
    """Lower `qcc.unfold` over one or two spatial axes: one row for each output position, images one after another."""
    if not type_of(op.input).is_float:
        unfold_integers(low, op)
        return
    source, target = low.contiguous(low.view(op.input)), low.result(op.result)
    window = tuple(Dim.of(size) for size in int_array(op.window))
    dilation = _two(int_array(op.dilation), 1)
    windows = _window_fields(low, source, target.shape[1:-1], window, op) | {
        "in_channels": source.shape[1],
        "groups": 1,
        "dilation_h": dilation[0],
        "dilation_w": dilation[1],
    }
    low.call(
        "unfold",
        {"conv": Struct(windows), "group_index": 0, "rows": write(target), "row_stride": target.shape[-1]},
        target.elements,
    )


def _window_fields(
    low: Lowering, source: View, out: Shape, window: tuple[Dim, ...], op: ConvOp | PoolOp | UnfoldOp
) -> dict[str, Value]:
    """Write how windows slide over `source` [B, C, *S] to `out` positions; one axis is taken as height 1."""
    if source.rank - 2 not in (1, CONV_AXES):
        raise Refusal(f"slides over {source.rank - 2} axes; the kernels take 1 or 2")
    for size in out:
        low.require(size - 1, f"{op.where}: the window is wider than the padded input")
    sizes = {"in": source.shape[2:], "out": out, "kernel": window}
    fields: dict[str, Value] = {"x": read(source), "batch": source.shape[0]}
    for name, dims in sizes.items():
        fields[f"{name}_h"], fields[f"{name}_w"] = (ONE, dims[0]) if len(dims) == 1 else dims
    stride, padding = _two(int_array(op.stride), 1), _two(int_array(op.padding), 0)
    fields |= {"stride_h": stride[0], "stride_w": stride[1], "pad_top": padding[0], "pad_left": padding[1]}
    return fields


def _two(values: tuple[int, ...], missing: int) -> tuple[int, int]:
    return (missing, values[0]) if len(values) == 1 else (values[0], values[1])


def emit_embedding(low: Lowering, op: EmbeddingOp) -> None:
    """Lower `qcc.embedding`: the table may be quantized, and shared with a linear layer."""
    ids = low.contiguous(low.cast(low.view(op.ids), "i64"))
    kind = type_of(op.table)
    if kind.qtype is None and not kind.is_float:
        take_integers(low, op, ids)
        return
    fields: dict[str, Value] = {"ids": read(ids)}
    if kind.qtype is not None and not is_native(kind.qtype):
        table = dequantized_weight(low, op.table)
        rows, columns = table.shape
        fields |= {"table": read(table), "table_dtype": _table_dtype(table)}
    elif kind.qtype is not None:
        _, qtype, (rows, columns) = quantized_weight(low, op.table)
        weight = packed_weight(low, op.table, weight_group(qtype, columns))
        fields["qtable"] = Address("qcc_qweight", weight.fields)
    else:
        table = _stored_table(low, op)
        rows, columns = table.shape
        fields |= {"table": read(table), "table_dtype": _table_dtype(table)}
    target = low.result(op.result)
    fields |= {"y": write(target), "count": ids.elements, "rows": rows, "k": columns}
    low.call("embedding", fields, target.elements, status=ID_STATUS)


def _table_dtype(table: View) -> Raw:
    return Raw({"f32": "QCC_F32", "f16": "QCC_F16", "bf16": "QCC_BF16"}[table.scalar])


def _stored_table(low: Lowering, op: EmbeddingOp) -> View:
    """Return the table as it is stored: half floats stay half floats, the kernel widens them."""
    owner = origin_of(op.table).owner
    if isinstance(owner, WeightOp):
        stored = low.constants.store.tensor(owner.key.data)
        scalar = {"torch.float16": "f16", "torch.bfloat16": "bf16"}.get(str(stored.dtype), "f32")
        return low.constants.weight(owner.key.data, scalar, tuple(stored.shape))
    return low.contiguous(low.view(op.table))


def emit_softmax(low: Lowering, op: SoftmaxOp) -> None:
    """Lower `qcc.softmax`: the axis is moved last, and the result seen through the inverse move."""
    source, axis = low.view(op.input), op.axis.value.data
    order = [a for a in range(source.rank) if a != axis] + [axis]
    rows = low.rows(source.permute(order))
    target = low.temp("f32", rows.view.shape)
    low.call(
        "softmax",
        {
            "x": read(rows.view),
            "y": write(target),
            "x_stride": rows.stride,
            "y_stride": rows.length,
            "rows": rows.count,
            "k": rows.length,
        },
        target.elements * MAC_STEPS,
    )
    low.views[op.result] = target.permute([order.index(a) for a in range(source.rank)])


LOWERINGS: dict[type[Operation], Callable[..., None]] = {
    LinearOp: emit_linear,
    MatmulOp: emit_matmul,
    ConvOp: emit_conv,
    UnfoldOp: emit_unfold,
    PoolOp: emit_pool,
    EmbeddingOp: emit_embedding,
    SoftmaxOp: emit_softmax,
}

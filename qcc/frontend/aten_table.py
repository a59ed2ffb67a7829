"""The table of ATen operators that the front end takes."""

from __future__ import annotations

import torch

from qcc.frontend import (
    aten_conv,
    aten_create,
    aten_elementwise,
    aten_index,
    aten_nn,
    aten_reduce,
    aten_shape,
)
from qcc.frontend.call import Handler

aten = torch.ops.aten

TABLE: dict[object, Handler] = {
    **aten_elementwise.TABLE,
    **aten_reduce.TABLE,
    **aten_shape.TABLE,
    **aten_index.TABLE,
    **aten_create.TABLE,
    **aten_nn.TABLE,
    **aten_conv.TABLE,
}
"""Operator -> handler."""

DROPPED: frozenset[object] = frozenset(
    {
        aten._assert_tensor_metadata.default,
        aten._assert_scalar.default,
        aten._assert_async.default,
        aten._assert_async.msg,
        aten.sym_constrain_range.default,
        aten.sym_constrain_range_for_size.default,
    }
)
"""Checks without a value. Ranges they state are in the program's symbols already."""

IN_PLACE: dict[object, object] = {
    aten.copy_.default: aten.copy.default,
    aten.add_.Tensor: aten.add.Tensor,
    aten.add_.Scalar: aten.add.Scalar,
    aten.sub_.Tensor: aten.sub.Tensor,
    aten.sub_.Scalar: aten.sub.Scalar,
    aten.mul_.Tensor: aten.mul.Tensor,
    aten.mul_.Scalar: aten.mul.Scalar,
    aten.div_.Tensor: aten.div.Tensor,
    aten.div_.Scalar: aten.div.Scalar,
    aten.pow_.Scalar: aten.pow.Tensor_Scalar,
    aten.neg_.default: aten.neg.default,
    aten.abs_.default: aten.abs.default,
    aten.exp_.default: aten.exp.default,
    aten.sqrt_.default: aten.sqrt.default,
    aten.rsqrt_.default: aten.rsqrt.default,
    aten.tanh_.default: aten.tanh.default,
    aten.sigmoid_.default: aten.sigmoid.default,
    aten.relu_.default: aten.relu.default,
    aten.silu_.default: aten.silu.default,
    aten.gelu_.default: aten.gelu.default,
    aten.hardswish_.default: aten.hardswish.default,
    aten.hardsigmoid_.default: aten.hardsigmoid.default,
    aten.relu6_.default: aten.relu6.default,
    aten.hardtanh_.default: aten.hardtanh.default,
    aten.leaky_relu_.default: aten.leaky_relu.default,
    aten.elu_.default: aten.elu.default,
    aten.clamp_.default: aten.clamp.default,
    aten.clamp_min_.default: aten.clamp_min.default,
    aten.clamp_max_.default: aten.clamp_max.default,
    aten.fill_.Scalar: aten.fill.Scalar,
    aten.fill_.Tensor: aten.fill.Tensor,
    aten.zero_.default: aten.zeros_like.default,
    aten.masked_fill_.Scalar: aten.masked_fill.Scalar,
    aten.masked_fill_.Tensor: aten.masked_fill.Tensor,
    aten.index_copy_.default: aten.index_copy.default,
    aten.index_put_.default: aten.index_put.default,
    aten.index_fill_.int_Scalar: aten.index_fill.int_Scalar,
    aten.index_fill_.int_Tensor: aten.index_fill.int_Tensor,
    aten.tril_.default: aten.tril.default,
    aten.triu_.default: aten.triu.default,
    aten.dropout_.default: aten.dropout.default,
    aten.logical_not_.default: aten.logical_not.default,
    aten.bitwise_and_.Tensor: aten.bitwise_and.Tensor,
    aten.bitwise_or_.Tensor: aten.bitwise_or.Tensor,
}
"""Operator that overwrites its first argument -> the operator that computes the new value."""

"""Lower contractions whose weight no kernel reads as it is: one product a term, added up (see `weight_terms`)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from xdsl.ir import Operation

from qcc.backends.cpu.emit_quant import (
    codes_of,
    decoded_rows,
    emit_contract,
    note_contract,
    packed_tensor,
    quantized_weight,
    weight_value,
)
from qcc.backends.cpu.fields import read, write
from qcc.backends.cpu.lowering import Lowering
from qcc.backends.cpu.pack import pack_float_weights
from qcc.backends.cpu.qformat import activation_format, is_native, weight_group
from qcc.backends.cpu.refusal import Refusal
from qcc.backends.cpu.rounded_rows import rounded
from qcc.backends.cpu.statements import Struct, Value
from qcc.backends.cpu.views import Rows, View, dense
from qcc.backends.cpu.weight_terms import Thin, terms_of
from qcc.backends.cpu.weights import tensor_bytes
from qcc.ir.dims import Dim, product, shape_of
from qcc.ir.kernel import origin_of
from qcc.ir.quant import ContractOp
from qcc.ir.types import type_of
from qcc.numerics.sparse import CompressedRows, Coordinates, DenseColumns, SparseTensor


def emit_contraction(low: Lowering, op: ContractOp) -> None:
    """Lower `qcc.contract`: in one call where a kernel reads the weight as it is, else in one a term."""
    _, qtype, _ = quantized_weight(low, op.weight)
    if is_native(qtype):
        emit_contract(low, op)
        return
    terms = _Terms(low, op)
    added = terms.integers()
    low.views[op.result] = low.reshaped(terms.others(added), type_of(op.result).shape)


class _Terms:
    """One contraction, what its weight is the sum of, and its input; the epilogue is computed by itself."""

    def __init__(self, low: Lowering, op: ContractOp) -> None:
        self.low, self.op = low, op
        self.name, self.qtype, (self.n, self.k) = quantized_weight(low, op.weight)
        self.kind, self.terms = type_of(op.input), terms_of(weight_value(low, op.weight))
        as_floats = self.kind.qtype is None or rounded(low, origin_of(op.input))
        self.form = None if as_floats or self.kind.qtype is None else activation_format(self.kind.qtype, self.k)
        self.bias = None if op.bias is None else low.contiguous(low.view(op.bias))
        self.count = product(self.kind.shape[:-1])

    def integers(self) -> View | None:
        """Call the kernels of integer weights; returns the sum so far, with the bias."""
        added: View | None = None
        for index, term in enumerate(self.terms.integers):
            group = weight_group(term.qtype, self.k, self.form)
            weight = packed_tensor(
                self.low, f"{self.name}: term {index}", term.qtype, (self.n, self.k), lambda term=term: term, group
            )
            if self.form is None:
                rows = self.low.rows(self.low.view(self.op.input))
                fields: dict[str, Value] = {"x": read(rows.view), "x_stride": rows.stride}
            else:
                fields = {"x": codes_of(self.low, self.op, group).struct()}
                if index == 0:
                    note_contract(self.low, self.op, weight, self.form, group)
            target = self.low.temp("f32", (self.count, Dim.of(self.n)))
            epilogue = epilogue_of(self.bias if added is None else None, added)
            fields |= {"w": weight, "y": write(target), "y_stride": self.n, "m": self.count, "epilogue": epilogue}
            kernel = "wlinear" if self.form is None else "qlinear"
            self.low.call(kernel, fields, self.count * (self.n * self.k // 16), scratch=True)
            added = target
        return added

    def others(self, added: View | None) -> View:
        """Add what is not integers: decoded weights, thin products, scattered outliers."""
        thin, sparse, decoded = self.terms.thin, self.terms.sparse, self.terms.dense
        if thin is not None or sparse is not None or decoded is not None:
            rows = self._float_rows()
            if decoded is not None:
                added = add_dense(self.low, f"{self.name}: decoded", rows, decoded, self.bias, added)
            assert added is not None, "a weight has integers or is decoded"
            if thin is not None:
                added = add_thin(self.low, self.name, rows, thin, added)
            if sparse is not None:
                add_sparse(self.low, self.name, rows, sparse, added)
        assert added is not None, "a weight has a term"
        return added

    def _float_rows(self) -> Rows:
        if self.form is None:
            return self.low.rows(self.low.view(self.op.input))
        group = weight_group(self.qtype, self.k, self.form)
        return self.low.rows(decoded_rows(self.low, codes_of(self.low, self.op, group), self.kind))


def epilogue_of(bias: View | None, added: View | None) -> Struct:
    """Write the epilogue of one term: the first adds the bias, each later one what the terms before gave."""
    fields: dict[str, Value] = {}
    if bias is not None:
        fields["bias"] = read(bias)
    if added is not None:
        fields |= {"residual": read(added), "residual_stride": added.shape[-1]}
    return Struct(fields)


def add_dense(low: Lowering, name: str, rows: Rows, weight: Tensor, bias: View | None, added: View | None) -> View:
    """Multiply rows by a float weight `[N, K]`, and add a bias or what was computed before."""
    n, k = weight.shape
    buffer = low.constants.derived(
        f"{name} [{n}, {k}]: panels", lambda: pack_float_weights(weight.numpy().astype(np.float32)).tobytes()
    )
    target = low.temp("f32", (rows.count, *shape_of((n,))))
    low.call(
        "linear",
        {
            "x": read(rows.view),
            "x_stride": rows.stride,
            "w": read(dense(buffer, "f32", shape_of((n, k)))),
            "y": write(target),
            "y_stride": n,
            "m": rows.count,
            "n": n,
            "k": k,
            "epilogue": epilogue_of(bias, added),
        },
        rows.count * (n * k // 8 or 1),
    )
    return target


def add_thin(low: Lowering, name: str, rows: Rows, thin: Thin, added: View) -> View:
    """Add the product of rows with two thin matrices."""
    middle = add_dense(low, f"{name}: down", rows, thin.down, None, None)
    return add_dense(low, f"{name}: up", low.rows(middle), thin.up, None, added)


def add_sparse(low: Lowering, name: str, rows: Rows, sparse: SparseTensor, target: View) -> None:
    """Add the product of rows with scattered values, in place."""
    if isinstance(sparse, DenseColumns):
        raise Refusal("keeps whole columns apart as scattered values")
    values, columns, offsets = _compressed(sparse)
    names = {"values": ("f32", values), "columns": ("i32", columns), "offsets": ("i32", offsets)}
    stored: dict[str, Value] = {}
    for field, (scalar, tensor) in names.items():
        padded = tensor if tensor.numel() else torch.zeros(1, dtype=tensor.dtype)
        buffer = low.constants.derived(f"{name}: outlier {field}", lambda padded=padded: tensor_bytes(padded))
        stored[field] = read(dense(buffer, scalar, shape_of(tuple(padded.shape))))
    n = sparse.shape[0]
    fields = {"x": read(rows.view), "x_stride": rows.stride, **stored, "y": write(target), "y_stride": n}
    low.call("add_sparse", {**fields, "m": rows.count, "n": n}, rows.count * (values.numel() // 8 + n))


def _compressed(sparse: CompressedRows | Coordinates) -> tuple[Tensor, Tensor, Tensor]:
    """Return values, columns and offsets of rows, float32 and int32."""
    if isinstance(sparse, CompressedRows):
        offsets = sparse.offsets
    else:
        counts = torch.bincount(sparse.rows.to(torch.int64), minlength=sparse.shape[0])
        offsets = torch.cat((counts.new_zeros(1), counts.cumsum(0)))
    return sparse.values.to(torch.float32), sparse.columns.to(torch.int32), offsets.to(torch.int32)


LOWERINGS: dict[type[Operation], Callable[..., None]] = {ContractOp: emit_contraction}

"""Activations in formats whose codes are no integers: rounded as their codes and scales say, and kept as floats.

Small floats and tables under one scale a block along K, or one a column from calibration, and perhaps one for the whole
tensor above (NVFP4, MXFP4, FP8, LLM-FP4). The values are what `dequantize` gives, bit for bit; products read floats.
"""

from __future__ import annotations

import math

import torch
from xdsl.ir import SSAValue

from qcc.backends.cpu.ctext import c_float
from qcc.backends.cpu.fields import read, write
from qcc.backends.cpu.lowering import Lowering
from qcc.backends.cpu.refusal import Refusal
from qcc.backends.cpu.rounding_formats import SCALES, rounding_problem, row_block, scale_dtype
from qcc.backends.cpu.statements import Pointer, Raw, Value
from qcc.backends.cpu.views import Rows, View, dense
from qcc.backends.cpu.weights import tensor_bytes, view_name
from qcc.ir.dims import Dim, shape_of
from qcc.ir.quant import QuantizeOp
from qcc.ir.types import type_of
from qcc.numerics.blocks import spread_blocks
from qcc.numerics.codebook import codebook_of
from qcc.numerics.levels import Chain, chain_product, largest_stored, round_level
from qcc.numerics.minifloat import nan_code
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import FloatDecode, TableDecode


def round_rows(low: Lowering, op: QuantizeOp, rows: Rows, columns: int) -> View:
    """Round rows to a format and return them as floats of the operand's shape."""
    kind = type_of(op.result)
    qtype = kind.qtype
    assert qtype is not None, "the verifier holds this"
    if problem := rounding_problem(qtype):
        raise Refusal(problem, "use int8 with 'granularity: token' or 'group: N', or f32 to leave it in float")
    if op.zero is not None:
        raise Refusal("quantizes with a zero point; the kernels' activations are symmetric")
    target = low.temp("f32", kind.shape)
    block = row_block(qtype.levels[0])
    fields: dict[str, Value] = {
        "x": read(rows.view),
        **_tables(low, qtype),
        "y": write(target),
        "x_stride": rows.stride,
        "m": rows.count,
        "k": columns,
        "group": columns if block[1] == -1 else min(block[1], columns),
    }
    if qtype.when == "static":
        fields["given"] = _given(low, op, qtype, columns)
    else:
        fields["scale_dtype"] = Raw(SCALES[scale_dtype(qtype.levels[0])])
        if len(qtype.levels) == 2:
            fields["root"] = read(_root(low, qtype, rows, columns))
    low.call("round_rows", fields, rows.count * columns * 8)
    return target


def _tables(low: Lowering, qtype: QType) -> dict[str, Value]:
    """Write values, the numbers from which each is rounded to, what NaN stands for and the largest value."""
    decode = qtype.decode
    assert isinstance(decode, FloatDecode | TableDecode), "rounding_problem refused all others"
    book = codebook_of(decode, qtype.grid)
    values = torch.tensor(book.values, dtype=torch.float32)
    edges = torch.cat([book.boundaries(qtype.rounding, torch.float32), torch.tensor([math.inf])])
    nothing = book.values[book.position_of_zero]
    undefined = isinstance(decode, FloatDecode) and nan_code(decode) is not None
    fields: dict[str, Value] = {"count": len(book.values), "reach": Raw(c_float(book.largest))}
    fields["undefined"] = Raw("NAN") if undefined else Raw(c_float(nothing))
    for name, table in (("values", values), ("edges", edges)):
        key = f"{decode} {qtype.grid} {qtype.rounding}: {name}"
        buffer = low.constants.derived(key, lambda table=table: tensor_bytes(table))
        fields[name] = read(dense(buffer, "f32", shape_of(tuple(table.shape))))
    return fields


def _root(low: Lowering, qtype: QType, rows: Rows, columns: int) -> View:
    """Compute the scale of the whole tensor."""
    root = low.temp("f32", (Dim.of(1),))
    decode = qtype.decode
    assert isinstance(decode, FloatDecode | TableDecode), "rounding_problem refused all others"
    fields: dict[str, Value] = {"x": read(rows.view), "root": write(root), "x_stride": rows.stride}
    fields |= {"m": rows.count, "k": columns, "reach": Raw(c_float(codebook_of(decode, qtype.grid).largest))}
    fields["top"] = Raw(c_float(largest_stored(qtype.levels[0].dtype)))
    low.call("round_root", fields, rows.count * columns, serial=True)
    return root


def _given(low: Lowering, op: QuantizeOp, qtype: QType, columns: int) -> Pointer:
    """Return the product of stored static scales for every column, made at compile time."""
    views = [low.view(one) for one in op.scales]
    stored = [low.constants.tensor(one) for one in views]
    values = [value for value in stored if value is not None]
    if len(values) != len(qtype.levels):
        raise Refusal("a static format needs its scales", "calibrate the model, or use when: dynamic")

    def product() -> torch.Tensor:
        rounded = tuple(
            round_level(value.to(torch.float32), level, value.to(torch.float32), 1.0)
            for value, level in zip(values, qtype.levels, strict=True)
        )
        whole = tuple(value.reshape(1, -1) for value in rounded)
        found = chain_product(Chain(whole, (None,) * len(whole)), qtype.levels, (1, columns), torch.float32)
        return spread_blocks(found, qtype.levels[0].block, (1, columns)).expand(1, columns).contiguous()

    name = f"{' '.join(map(view_name, views))}: scales of {columns} columns in '{qtype}'"
    buffer = low.constants.derived(name, lambda: tensor_bytes(product()))
    return read(dense(buffer, "f32", shape_of((columns,))))


def rounded(low: Lowering, value: SSAValue) -> bool:
    """Say whether a quantized value is kept as the floats that its codes stand for."""
    return type_of(value).qtype is not None and value in low.views

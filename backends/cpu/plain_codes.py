"""The border of integer-only programs: floats that become plain integers, and integers that become floats."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from xdsl.ir import SSAValue

from qcc.backends.cpu.emit_elementwise import emit_binary_views
from qcc.backends.cpu.fields import dtype, nd_fields, read, write
from qcc.backends.cpu.lowering import Lowering
from qcc.backends.cpu.refusal import Refusal
from qcc.backends.cpu.views import ONE, View, dense
from qcc.backends.cpu.weights import tensor_bytes, view_name
from qcc.ir.integer import CodesOp, OfCodesOp, code_scalar
from qcc.ir.kernel import uses_of
from qcc.ir.quant import QuantizeOp
from qcc.ir.types import TensorType, type_of
from qcc.numerics.levels import round_level
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import IntDecode

WIDEST = 24
"""Bits of codes that float32 holds exactly, sign included."""


def is_read_as_integers(value: SSAValue) -> bool:
    """Say whether some operation reads the codes of a quantized value as plain integers."""
    return any(isinstance(use.operation, CodesOp) for use in uses_of(value))


def encode(low: Lowering, op: QuantizeOp, source: View) -> None:
    """Quantize floats under given scales to plain integers of the same shape."""
    kind = type_of(op.result)
    qtype, decode = _plain_format(kind)
    scale = _scale(low, qtype, op.scales, kind)
    target = low.temp(code_scalar(qtype), kind.shape)
    x, s, y = low.collapsed([source, scale, target])
    low.call(
        "encode",
        {
            "x": read(x),
            "scale": read(s),
            "y": write(y),
            **nd_fields({"x_stride": x, "scale_stride": s, "y_stride": y}),
            "low": decode.minimum,
            "high": decode.maximum,
            "y_dtype": dtype(y),
        },
        source.elements * 2,
    )
    low.plain_codes[op.result] = target


def decode(low: Lowering, value: SSAValue, result: SSAValue) -> None:
    """Give the floats that plain codes stand for: one product of float32 an element."""
    op = value.owner
    assert isinstance(op, QuantizeOp | OfCodesOp)
    kind = type_of(value)
    qtype, _ = _plain_format(kind)
    scale = _scale(low, qtype, op.scales if isinstance(op, QuantizeOp) else op.parameters, kind)
    codes = low.cast(low.plain_codes[value], "f32")
    emit_binary_views(low, "QCC_MUL", codes, scale, low.result(result))


def check_of_codes(op: OfCodesOp) -> None:
    """Refuse a format whose codes are not decoded by one product."""
    _plain_format(type_of(op.result))


def _plain_format(kind: TensorType) -> tuple[QType, IntDecode]:
    qtype = kind.qtype
    assert qtype is not None, "the verifier holds this"
    faults: list[str] = []
    if not isinstance(qtype.decode, IntDecode) or qtype.decode.bits > WIDEST or qtype.sides:
        raise Refusal(
            f"codes of '{qtype}' are no plain integers of up to {WIDEST} bits", "use int8 or narrower integers"
        )
    if qtype.zero is not None or qtype.grid != "mid_tread" or qtype.rounding != "rne" or qtype.overflow != "saturate":
        faults.append("codes must be symmetric, round half to even on a mid-tread grid and saturate")
    if len(qtype.levels) != 1 or qtype.levels[0].offset != "none" or qtype.levels[0].protective is not None:
        faults.append("one level of scales is taken, without an offset")
    if faults:
        raise Refusal(f"meets integers in the format '{qtype}': {'; '.join(faults)}", "use int8 with 'when: static'")
    return qtype, qtype.decode


def _scale(low: Lowering, qtype: QType, scales: Sequence[SSAValue], kind: TensorType) -> View:
    """Return the scale of every element as a view that repeats them."""
    if len(scales) != 1:
        raise Refusal(f"the scales of '{qtype}' are computed at run time", "calibrate the model, or use when: static")
    scale = _rounded(low, qtype, low.view(scales[0]))
    blocks = any(
        have not in (ONE, want) for have, want in zip(reversed(scale.shape), reversed(kind.shape), strict=False)
    )
    if blocks or scale.rank > kind.rank:
        raise Refusal(f"has scales of blocks in the format '{qtype}'", "use one scale for the tensor")
    return scale.expand(kind.shape)


def _rounded(low: Lowering, qtype: QType, scale: View) -> View:
    """Return scales as the format stores them: of powers of two, or a constant, they are made at compile time."""
    level = qtype.levels[0]
    if level.dtype == "f32" and level.statistic != "constant":
        return low.cast(scale, "f32")
    value = low.constants.tensor(scale)
    if value is None:
        raise Refusal(f"the scales of '{qtype}' are computed at run time", "calibrate the model, or use when: static")
    stored = round_level(value, level, value, 1.0).to(torch.float32)
    name = f"{view_name(scale)}: as {level.dtype} {level.rounding} {level.statistic} {level.constant}"
    return dense(low.constants.derived(name, lambda: tensor_bytes(stored)), "f32", scale.shape)

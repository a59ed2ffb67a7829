"""Lower the operations of integer-only programs: codes, products, requantization, tables, softmax, norms.

Weights are stored as the integers that their codes stand for, a byte each where bytes hold them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from xdsl.dialects.builtin import IntegerAttr
from xdsl.ir import Operation, SSAValue

from qcc.backends.cpu.ctext import C_DTYPES
from qcc.backends.cpu.emit_quant import quantized_weight, weight_value
from qcc.backends.cpu.fields import dtype, nd_fields, read, write
from qcc.backends.cpu.lowering import Lowering
from qcc.backends.cpu.plain_codes import check_of_codes
from qcc.backends.cpu.refusal import Refusal
from qcc.backends.cpu.statements import Raw, Value
from qcc.backends.cpu.views import ONE, View, dense
from qcc.backends.cpu.weights import quantized_digest, tensor_bytes
from qcc.ir.dims import Dim, product
from qcc.ir.integer import CodesOp, IntegerContractOp, IntegerMatmulOp, LookupOp, OfCodesOp
from qcc.ir.integer_rows import IntegerNormOp, IntegerSoftmaxOp
from qcc.ir.kernel import origin_of
from qcc.ir.program import WeightOp
from qcc.ir.quant import RequantOp
from qcc.ir.transformer import NormKind
from qcc.ir.types import INTEGER_RANGES, type_of
from qcc.numerics.integer_values import integer_factor, integer_range, integer_values
from qcc.numerics.torch_dtypes import TORCH_DTYPES

MAC_STEPS = 16
"""Multiply-adds of integers that count as one elementary step when calls are split over threads."""
ROW_STEPS = 8
"""Steps that an element of a softmax or a norm is taken to cost."""


def emit_codes(low: Lowering, op: CodesOp) -> None:
    """Lower `qcc.codes`: of weights at compile time, else the integers that were made for the quantized value."""
    value, kind = origin_of(op.input), type_of(op.result)
    if value in low.quantized or isinstance(value.owner, WeightOp):
        weight = weight_value(low, value)
        name = value.owner.key.data if isinstance(value.owner, WeightOp) else quantized_digest(weight)
        codes = weight.codes.to(TORCH_DTYPES[kind.scalar])
        buffer = low.constants.derived(f"{name}: codes {kind.scalar}", lambda: tensor_bytes(codes))
        low.views[op.result] = dense(buffer, kind.scalar, kind.shape)
        return
    if value not in low.plain_codes:
        raise Refusal("its input is not the result of a qcc.quantize or qcc.of_codes")
    low.views[op.result] = low.cast(low.plain_codes[value], kind.scalar)


def emit_of_codes(low: Lowering, op: OfCodesOp) -> None:
    """Lower `qcc.of_codes`: readers find the codes and, decoded, the floats."""
    check_of_codes(op)
    low.plain_codes[op.result] = low.view(op.input)


def emit_contract(low: Lowering, op: IntegerContractOp) -> None:
    """Lower `qcc.integer_contract`."""
    name, qtype, (n, k) = quantized_weight(low, op.weight)
    if integer_factor(qtype) is None:
        raise Refusal(f"'{qtype}' does not stand for integers", "use an integer format for the weights")
    source = low.view(op.input)
    bytes_hold = _within(integer_range(qtype), "i8")
    x, scalar = _paired(source.scalar, "i8" if bytes_hold else "i32")
    buffer = low.constants.derived(
        f"{name}: integers {scalar}",
        lambda: tensor_bytes(integer_values(weight_value(low, op.weight)).to(TORCH_DTYPES[scalar])),
    )
    fields: dict[str, Value] = {"x": read(low.contiguous(low.cast(source, x))), "w": read(dense(buffer, scalar, ()))}
    if op.bias is not None:
        fields["bias"] = read(low.contiguous(low.view(op.bias)))
    target, m, groups = low.result(op.result), product(source.shape[:-1]), op.groups.value.data
    _dot(low, fields, (x, scalar), target, (ONE, m, Dim.of(n), Dim.of(k)), groups)


def emit_matmul(low: Lowering, op: IntegerMatmulOp) -> None:
    """Lower `qcc.integer_matmul`: the right operand is transposed, so that both are read along K."""
    target = low.result(op.result)
    lead, (m, n) = target.shape[:-2], target.shape[-2:]
    left, right = low.view(op.lhs), low.view(op.rhs)
    k = left.shape[-1]
    order = [*range(right.rank - 2), right.rank - 1, right.rank - 2]
    left, right = left.expand((*lead, m, k)), right.permute(order).expand((*lead, n, k))
    x, w = _paired(left.scalar, right.scalar)
    operands = [low.contiguous(low.cast(one, scalar)) for one, scalar in ((left, x), (right, w))]
    fields: dict[str, Value] = {"x": read(operands[0]), "w": read(operands[1])}
    _dot(low, fields, (x, w), target, (product(lead), m, n, k), 1)


def _paired(left: str, right: str) -> tuple[str, str]:
    """Return the element types that a product's operands are converted to: pairs that the kernel has loops for."""
    if "i64" in (left, right):
        return "i64", "i64"
    if right != "i8":
        return "i32", "i32"
    return ("i8" if left == "i8" else "i32"), "i8"


def _dot(
    low: Lowering,
    fields: dict[str, Value],
    scalars: tuple[str, str],
    target: View,
    sizes: tuple[Dim, Dim, Dim, Dim],
    groups: int,
) -> None:
    batch, m, n, k = sizes
    x, w = (Raw(C_DTYPES[scalar]) for scalar in scalars)
    low.call(
        "integer_dot",
        {
            **fields,
            "y": write(target),
            "batch": batch,
            "m": m,
            "n": n,
            "k": k,
            "groups": groups,
            "x_dtype": x,
            "w_dtype": w,
            "y_dtype": dtype(target),
        },
        batch * m * n * k // MAC_STEPS,
    )


def emit_requant(low: Lowering, op: RequantOp) -> None:
    """Lower `qcc.requant`."""
    source = low.view(op.input)
    multiplier, shift = _factors(low, op.multiplier, op.shift)
    multiplier, shift = multiplier.expand(source.shape), shift.expand(source.shape)
    target = low.result(op.result)
    x, m, s, y = low.collapsed([source, multiplier, shift, target])
    low.call(
        "requant",
        {
            "x": read(x),
            "multiplier": read(m),
            "shift": read(s),
            "y": write(y),
            **nd_fields({"x_stride": x, "multiplier_stride": m, "shift_stride": s, "y_stride": y}),
            **_limits(op.low, op.high, target.scalar),
            "x_dtype": dtype(x),
            "y_dtype": dtype(y),
        },
        source.elements * 2,
    )


def _factors(low: Lowering, multiplier: SSAValue, shift: SSAValue) -> tuple[View, View]:
    """Return where multipliers and shifts are; shifts must be known, since C has none beyond 62 bits."""
    by = low.view(shift)
    values = low.constants.tensor(by)
    if values is None:
        raise Refusal("its shift is computed at run time", "give it as a weight")
    if values.numel() and not 0 <= int(values.min()) <= int(values.max()) <= 62:
        raise Refusal(f"shifts {int(values.min())}..{int(values.max())} are outside 0..62")
    return low.view(multiplier), by


def _limits(lowest: IntegerAttr | None, highest: IntegerAttr | None, scalar: str) -> dict[str, Value]:
    least, most = INTEGER_RANGES[scalar]
    return {
        "low": least if lowest is None else lowest.value.data,
        "high": most if highest is None else highest.value.data,
    }


def _within(values: tuple[int, int], scalar: str) -> bool:
    least, most = INTEGER_RANGES[scalar]
    return least <= values[0] <= values[1] <= most


def emit_lookup(low: Lowering, op: LookupOp) -> None:
    """Lower `qcc.lookup`."""
    source, table = low.view(op.input), low.contiguous(low.view(op.table))
    target = low.result(op.result)
    x, y = low.collapsed([source, target])
    low.call(
        "table_lookup",
        {
            "x": read(x),
            "table": read(table),
            "y": write(y),
            **nd_fields({"x_stride": x, "y_stride": y}),
            "low": op.low.value.data,
            "size": table.elements,
            "x_dtype": dtype(x),
            "y_dtype": dtype(y),
        },
        source.elements * 2,
        status="an integer is outside the table of a function",
    )


def emit_softmax(low: Lowering, op: IntegerSoftmaxOp) -> None:
    """Lower `qcc.integer_softmax`."""
    rows, table, unit = low.rows(low.view(op.input)), low.contiguous(low.view(op.table)), op.unit.value.data
    values = low.constants.tensor(table)
    if values is not None:
        _check_exponential(values, unit, rows.length)
    target = low.result(op.result)
    fields: dict[str, Value] = {"x": read(rows.view), "table": read(table), "y": write(target)}
    if op.mask is not None:
        fields["mask"] = read(low.contiguous(low.view(op.mask).expand(target.shape)))
    fields |= {"x_stride": rows.stride, "rows": rows.count, "k": rows.length, "size": table.elements, "unit": unit}
    fields |= {"x_dtype": dtype(rows.view), "y_dtype": dtype(target)}
    low.call("integer_softmax", fields, target.elements * ROW_STEPS)


def _check_exponential(table: torch.Tensor, unit: int, length: Dim) -> None:
    if int(table[0]) < 1 or int(table.min()) < 0:
        raise Refusal("the table of the exponential must be positive at 0 and nowhere negative")
    if length.constant is not None and (2 * unit + length.constant) * int(table.max()) >= 2**62:
        raise Refusal(f"sums of {length} exponentials up to {int(table.max())} do not fit 64 bits")


def emit_norm(low: Lowering, op: IntegerNormOp) -> None:
    """Lower `qcc.integer_norm`."""
    rows = low.rows(low.view(op.input))
    multiplier, shift = _factors(low, op.multiplier, op.shift)
    target = low.result(op.result)
    fields: dict[str, Value] = {
        "x": read(rows.view),
        "multiplier": read(low.contiguous(multiplier)),
        "shift": read(shift),
        "y": write(target),
        "x_stride": rows.stride,
        "rows": rows.count,
        "k": rows.length,
        "multiplier_step": int(multiplier.elements != ONE),
    }
    if op.bias is not None:
        bias = low.contiguous(low.view(op.bias))
        fields |= {"bias": read(bias), "bias_step": int(bias.elements != ONE)}
    fields |= {"eps": op.eps.value.data, **_limits(op.low, op.high, target.scalar)}
    fields |= {"x_dtype": dtype(rows.view), "y_dtype": dtype(target)}
    low.call("integer_norm", fields | {"layer": int(op.kind.data is NormKind.LAYER)}, target.elements * ROW_STEPS)


LOWERINGS: dict[type[Operation], Callable[..., None]] = {
    CodesOp: emit_codes,
    OfCodesOp: emit_of_codes,
    IntegerContractOp: emit_contract,
    IntegerMatmulOp: emit_matmul,
    RequantOp: emit_requant,
    LookupOp: emit_lookup,
    IntegerSoftmaxOp: emit_softmax,
    IntegerNormOp: emit_norm,
}

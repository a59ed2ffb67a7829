"""Lower quantization: rows of codes for the integer kernels, packed weights, contractions."""

from __future__ import annotations

from collections.abc import Callable

from xdsl.ir import Operation, SSAValue

from qcc.backends.cpu.code_rows import CodeRows
from qcc.backends.cpu.emit_kernel import join_epilogue
from qcc.backends.cpu.emit_lookup import by_lookup, has_exact_tables, table_rows
from qcc.backends.cpu.fields import read, write
from qcc.backends.cpu.lowering import Lowering
from qcc.backends.cpu.plain_codes import decode, encode, is_read_as_integers
from qcc.backends.cpu.qformat import (
    Activation,
    activation_format,
    check_weight,
    constant_zero,
    is_mid_rise,
    is_native,
    pack_quantized,
    stored_bits,
    stores_f16_scales,
    weight_group,
)
from qcc.backends.cpu.refusal import Refusal
from qcc.backends.cpu.rounded_rows import round_rows, rounded
from qcc.backends.cpu.statements import ContractCase, Pointer, Struct, Value
from qcc.backends.cpu.views import ONE, Buffer, Rows, View, dense
from qcc.backends.cpu.weights import quantized_digest, tensor_bytes
from qcc.ir.base import location_of
from qcc.ir.dims import Dim, product
from qcc.ir.kernel import origin_of, uses_of
from qcc.ir.program import WeightOp
from qcc.ir.quant import ContractOp, DequantizeOp, QuantizeOp
from qcc.ir.types import TensorType, type_of
from qcc.numerics.elements import ELEMENT_BYTES
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import IntDecode
from qcc.numerics.quantize import dequantize, quantize
from qcc.numerics.tensor import QuantizedTensor


def columns_of(value: SSAValue) -> int:
    """Return the static length of the last axis."""
    columns = type_of(value).shape[-1].constant
    if columns is None:
        raise Refusal(f"quantizes rows of the dynamic length {type_of(value).shape[-1]}", "make the last axis static")
    return columns


def _padded(columns: int, group: int) -> int:
    full, rest = divmod(columns, group)
    return full * (-(-group // 32) * 32) + -(-rest // 32) * 32


def emit_quantize(low: Lowering, op: QuantizeOp) -> None:
    """Lower `qcc.quantize`: constants at compile time, activations once per group of the weights that read them.

    Of an integer-only program, which reads codes as plain integers, the codes are made as they are.
    """
    qtype = type_of(op.result).qtype
    assert qtype is not None
    source = low.view(op.input)
    constant = low.constants.tensor(source)
    if constant is not None and not op.scales:
        low.quantized[op.result] = quantize(constant, qtype, where=location_of(op))
        return
    if is_read_as_integers(op.result):
        encode(low, op, source)
        return
    columns = columns_of(op.input)
    if not isinstance(qtype.decode, IntDecode):
        low.views[op.result] = round_rows(low, op, low.rows(source), columns)
        return
    form = activation_format(qtype, columns)
    static = _static_scale(low, op, form)
    groups: dict[int, None] = {}
    for use in uses_of(op.result):
        reader = use.operation
        if isinstance(reader, ContractOp) and use.index == 0:
            weight = type_of(reader.weight).qtype
            assert weight is not None
            groups[weight_group(weight, columns, form)] = None
        else:
            groups[form.group or max(columns, 1)] = None
    rows = low.rows(source)
    for group in groups:
        low.code_rows[op.result, group] = _quantize_rows(low, rows, form, static, columns, group)


def _static_scale(low: Lowering, op: QuantizeOp, form: Activation) -> Pointer | None:
    if op.zero is not None:
        raise Refusal("quantizes with a zero point; the kernels' activations are symmetric")
    if not form.static:
        if op.scales:
            raise Refusal("is given scales, and its format computes them at run time")
        return None
    if len(op.scales) != 1 or type_of(op.scales[0]).static_shape is None:
        raise Refusal("a static format needs its scale", "calibrate the model, or use when: dynamic")
    view = low.view(op.scales[0])
    if view.elements != ONE:
        raise Refusal(f"has {view.elements} static scales; the kernels take one", "use granularity: tensor")
    return read(low.cast(view, "f32"))


def _quantize_rows(
    low: Lowering, rows: Rows, form: Activation, static: Pointer | None, columns: int, group: int
) -> CodeRows:
    groups = Dim.of(-(-columns // group))
    codes = CodeRows(
        form,
        low.temp("i8", (rows.count, Dim.of(_padded(columns, group)))),
        low.temp("f32", (rows.count, groups if form.group else ONE)),
        low.temp("i32", (rows.count, groups)),
        group,
    )
    fields: dict[str, Value] = {
        "x": read(rows.view),
        "x_stride": rows.stride,
        "m": rows.count,
        "k": columns,
        "group": group,
        "qmax": 2 ** (form.bits - 1) - 1,
        "narrow": int(form.narrow),
        "out": codes.struct(),
    }
    if static is not None:
        fields["static_scale"] = static
    low.call("quantize", fields, rows.count * columns)
    return codes


def quantized_weight(low: Lowering, value: SSAValue) -> tuple[str, QType, tuple[int, int]]:
    """Return the name, format and shape of a constant quantized matrix; refuse one computed at run time."""
    value, kind = origin_of(value), type_of(value)
    shape = kind.static_shape
    if kind.qtype is None or shape is None or len(shape) != 2:
        raise Refusal(f"its weight {kind} is no static quantized matrix")
    if isinstance(value.owner, WeightOp):
        return value.owner.key.data, kind.qtype, (shape[0], shape[1])
    if value in low.quantized:
        return quantized_digest(low.quantized[value]), kind.qtype, (shape[0], shape[1])
    raise Refusal("its weight is quantized at run time", "quantize it at compile time")


def weight_value(low: Lowering, value: SSAValue) -> QuantizedTensor:
    """Return the value of a constant quantized matrix."""
    value = origin_of(value)
    if value in low.quantized:
        return low.quantized[value]
    assert isinstance(value.owner, WeightOp)
    return low.constants.store.quantized(value.owner.key.data)


def packed_weight(low: Lowering, value: SSAValue, group: int, *, lookup: bool = False) -> Struct:
    """Note that a weight is needed packed in groups, for lookup or not, and write its `qcc_qweight`."""
    name, qtype, shape = quantized_weight(low, value)
    return packed_tensor(low, name, qtype, shape, lambda: weight_value(low, value), group, lookup)


def packed_tensor(
    low: Lowering,
    name: str,
    qtype: QType,
    shape: tuple[int, int],
    value: Callable[[], QuantizedTensor],
    group: int,
    lookup: bool = False,
) -> Struct:
    """Note that a weight of a format that the kernels read is needed packed, and write its `qcc_qweight`."""
    check_weight(qtype, group)
    rows, columns = shape
    planes = lookup and stored_bits(qtype) > 1  # a single bit has one layout
    buffer = low.constants.derived(
        f"{name}: {'bit planes' if planes else 'packed'}, group {group}",
        lambda: pack_quantized(value(), group, name, lookup=planes).blob,
    )
    blocks, groups, bits = -(-rows // 16), -(-columns // group), stored_bits(qtype)
    scale_at = _aligned(blocks * (_padded(columns, group) // 32) * bits * 64)
    half = stores_f16_scales(qtype)
    zero_at = scale_at + _aligned(blocks * groups * 16 * (2 if half else 4))
    zero = constant_zero(qtype)
    fields: dict[str, Value] = {
        "codes": _section(buffer, "u8", 0),
        "scales": _section(buffer, "f16" if half else "f32", scale_at),
    }
    fields |= {"zero": zero} if zero is not None else {"zeros": _section(buffer, "u8", zero_at)}
    fields |= {"bits": bits, "scale_f16": int(half)} | ({"mid_rise": 1} if is_mid_rise(qtype) else {})
    fields |= {"n": rows, "k": columns, "group": group}
    return Struct(fields)


def _aligned(size: int) -> int:
    return -(-size // 64) * 64


def _section(buffer: Buffer, scalar: str, offset: int) -> Pointer:
    return read(View(buffer, scalar, (), (), Dim.of(offset // ELEMENT_BYTES[scalar])))


def emit_contract(low: Lowering, op: ContractOp) -> None:
    """Lower `qcc.contract`: integers on both sides, or weight-only with a float input."""
    _, qtype, (n, k) = quantized_weight(low, op.weight)
    kind = type_of(op.input)
    m = product(kind.shape[:-1])
    lookup = by_lookup(op)
    if kind.qtype is None or rounded(low, origin_of(op.input)):
        if lookup:
            raise Refusal("looks up sums of an input that is not quantized", "quantize it, or plan dequant_first")
        rows = low.rows(low.view(op.input))
        weight = packed_weight(low, op.weight, weight_group(qtype, k))
        fields: dict[str, Value] = {"x": read(rows.view), "x_stride": rows.stride, "w": weight}
        _finish(low, op, "wlinear", fields, m, n, m * n * k)
        return
    form = activation_format(kind.qtype, k)
    group = weight_group(qtype, k, form)
    codes = codes_of(low, op, group)
    weight = packed_weight(low, op.weight, group, lookup=lookup)
    note_contract(low, op, weight, form, group)
    fields = {"x": codes.struct(), "w": weight}
    if lookup:
        fields["t"] = table_rows(low, origin_of(op.input), codes, k, has_exact_tables(op)).struct()
    _finish(low, op, "tlinear" if lookup else "qlinear", fields, m, n, m * n * k)


def codes_of(low: Lowering, op: ContractOp, group: int) -> CodeRows:
    """Return the rows of codes that a contraction reads, made for a group of the weight."""
    codes = low.code_rows.get((origin_of(op.input), group))
    if codes is None:
        raise Refusal("its input is not the result of a qcc.quantize")
    return codes


def decoded_rows(low: Lowering, codes: CodeRows, kind: TensorType) -> View:
    """Return quantized rows of a type as floats."""
    target = low.temp("f32", kind.shape)
    fields = {
        "x": codes.struct(),
        "y": write(target),
        "m": product(kind.shape[:-1]),
        "k": kind.shape[-1],
        "group": codes.group,
    }
    low.call("dequantize", fields, target.elements)
    return target


def note_contract(low: Lowering, op: ContractOp, weight: Struct, form: Activation, group: int) -> None:
    """Note a contraction with a quantized input, for the golden vectors of its integer sums."""
    _, qtype, (n, k) = quantized_weight(low, op.weight)
    name = location_of(op) or quantized_weight(low, op.weight)[0]
    static, lookup = _static_of(low, op.input), by_lookup(op) and is_native(qtype)
    low.schedule.contracts.append(
        ContractCase(name, weight, form.bits, form.narrow, bool(form.group), static, n, k, group, lookup)
    )


def _static_of(low: Lowering, value: SSAValue) -> Pointer | None:
    owner = origin_of(value).owner
    if isinstance(owner, QuantizeOp) and owner.scales:
        return read(low.cast(low.view(owner.scales[0]), "f32"))
    return None


def _finish(low: Lowering, op: ContractOp, kernel: str, fields: dict[str, Value], m: Dim, n: int, macs: Dim) -> None:
    epilogue, value = join_epilogue(low, op, op.bias)
    target = low.result(value)
    low.call(
        kernel,
        {**fields, "y": write(target), "y_stride": n, "m": m, "epilogue": epilogue},
        macs // 16,
        scratch=True,
    )


def dequantized_weight(low: Lowering, value: SSAValue) -> View:
    """Return a constant quantized tensor as the floats that its codes stand for."""
    value = origin_of(value)
    owner = value.owner
    name = owner.key.data if isinstance(owner, WeightOp) else quantized_digest(low.quantized[value])
    buffer = low.constants.derived(f"{name}: dequantized", lambda: tensor_bytes(dequantize(weight_value(low, value))))
    return dense(buffer, "f32", type_of(value).shape)


def emit_dequantize(low: Lowering, op: DequantizeOp) -> None:
    """Lower `qcc.dequantize`: weights at compile time, activations from their rows of codes."""
    kind, value = type_of(op.input), origin_of(op.input)
    owner = value.owner
    if value in low.quantized or isinstance(owner, WeightOp):
        low.views[op.result] = dequantized_weight(low, value)
        return
    if rounded(low, value):
        low.views[op.result] = low.views[value]
        return
    if value in low.plain_codes:
        decode(low, value, op.result)
        return
    assert kind.qtype is not None
    columns = columns_of(op.input)
    form = activation_format(kind.qtype, columns)
    codes = low.code_rows[value, form.group or max(columns, 1)]
    low.views[op.result] = decoded_rows(low, codes, kind)


LOWERINGS: dict[type[Operation], Callable[..., None]] = {
    QuantizeOp: emit_quantize,
    DequantizeOp: emit_dequantize,
}

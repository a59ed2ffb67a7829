"""Copy a module without its quantization, for statistics: what is left is the float program.

    quantize(x)                               ->  x
    dequantize(x)                             ->  x
    contract(x, w, b)                         ->  linear(x, w, b)
    contract(x, w, b) {residual_channels = r} ->  linear(x[.., : -r], w[:, : -r], b)     nothing is lost, so no residual

Whoever looks at a value of the module finds the same value in the copy by `of`. Weights stay in the store under their
names. Not a pass: nothing of the module itself changes.

Where weights are to be replaced one by one while the copy runs, every contraction reads its own, right before it is
needed, under the name that the solved weight will have; and quantized activations may stay, decoded at once:

    contract(x, quantize(weight "w") : W, b)  ->  linear(x, weight "w:W", b)
    quantize(x) : A                           ->  dequantize(quantize(x) : A)
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.dialects.builtin import IntegerAttr, ModuleOp
from xdsl.ir import SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from qcc.ir.base import RESIDUAL
from qcc.ir.nn import LinearOp
from qcc.ir.program import WeightOp
from qcc.ir.quant import ContractOp, DequantizeOp, QuantizeOp
from qcc.ir.shape import SliceOp
from qcc.ir.types import type_of
from qcc.numerics.qtype import QType


@dataclass(frozen=True, eq=False)
class FloatView:
    """A float copy of a module, and where the values of the module are in it."""

    module: ModuleOp
    values: dict[SSAValue, SSAValue]

    def of(self, value: SSAValue) -> SSAValue:
        """Return the copy's value for one of the module's; of a quantized value what its codes stand for."""
        return self.values[value]


def solved_key(key: str, qtype: QType) -> str:
    """Return the name in the store of a weight in a format."""
    return f"{key}:{qtype}"


def float_view(module: ModuleOp, *, own_weights: bool = False, keep_activations: bool = False) -> FloatView:
    """Copy a module in which no weight is solved yet and nothing is gathered into kernels."""
    values: dict[SSAValue, SSAValue] = {}
    copy = module.clone(values)
    gone: dict[SSAValue, SSAValue] = {}
    if own_weights:
        for op in [one for one in copy.walk() if isinstance(one, ContractOp)]:
            _read_own_weight(op)
    for op in list(copy.walk()):
        if isinstance(op, QuantizeOp) and keep_activations and not isinstance(op.input.owner, WeightOp):
            gone[op.result] = _decode_at_once(op)
        elif isinstance(op, QuantizeOp | DequantizeOp):
            gone[op.result] = op.input
            Rewriter.replace_op(op, [], [op.input])
        elif isinstance(op, ContractOp):
            layer = LinearOp(*_without_residual(op, keep=keep_activations), op.bias)
            layer.attributes.update(op.attributes)
            gone[op.result] = layer.result
            Rewriter.replace_op(op, [layer])

    def found(value: SSAValue) -> SSAValue:
        while value in gone:
            value = gone[value]
        return value

    return FloatView(copy, {old: found(new) for old, new in values.items()})


def _without_residual(op: ContractOp, *, keep: bool) -> tuple[SSAValue, SSAValue]:
    """Return the operands of a contraction without the columns that stand for what its input's format loses."""
    count = op.attributes.get(RESIDUAL)
    if keep or not isinstance(count, IntegerAttr):
        return op.input, op.weight
    parts = plain_columns(op.input, op.weight, count.value.data)
    Rewriter.insert_op(parts, InsertPoint.before(op))
    return parts[0].result, parts[1].result


def plain_columns(value: SSAValue, weight: SSAValue, residual: int) -> tuple[SliceOp, SliceOp]:
    """Return slices of the operands of a layer, to be inserted, without its last `residual` columns."""
    columns = type_of(weight).shape[1] - residual
    return SliceOp(value, type_of(value).rank - 1, 0, columns), SliceOp(weight, 1, 0, columns)


def _read_own_weight(op: ContractOp) -> None:
    node = op.weight.owner
    if not isinstance(node, QuantizeOp) or not isinstance(weight := node.input.owner, WeightOp):
        return
    qtype = type_of(node.result).qtype
    assert qtype is not None  # the verifier holds this
    own = QuantizeOp(kept := WeightOp(solved_key(weight.key.data, qtype), type_of(weight.result)), qtype)
    Rewriter.insert_op([kept, own], InsertPoint.before(op))
    op.operands[1] = own.result


def _decode_at_once(op: QuantizeOp) -> SSAValue:
    scalar = type_of(op.input).scalar
    decoded = DequantizeOp(op.result, scalar)
    Rewriter.insert_op(decoded, InsertPoint.after(op))
    for use in list(op.result.uses):
        if use.operation is not decoded:
            use.operation.operands[use.index] = decoded.result
    return decoded.result

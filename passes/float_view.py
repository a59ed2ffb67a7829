"""Copy a module without its quantization, for statistics: what is left is the float program.

    quantize(x)           ->  x
    contract(x, w, b)     ->  linear(x, w, b)
    dequantize(x)         ->  x

Whoever looks at a value of the module finds the same value in the copy by `of`. Weights stay in the store under their
names. Not a pass: nothing of the module itself changes.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue
from xdsl.rewriter import Rewriter

from qcc.ir.nn import LinearOp
from qcc.ir.quant import ContractOp, DequantizeOp, QuantizeOp


@dataclass(frozen=True, eq=False)
class FloatView:
    """A float copy of a module, and where the values of the module are in it."""

    module: ModuleOp
    values: dict[SSAValue, SSAValue]

    def of(self, value: SSAValue) -> SSAValue:
        """Return the copy's value for one of the module's; of a quantized value the one that was quantized."""
        return self.values[value]


def float_view(module: ModuleOp) -> FloatView:
    """Copy a module in which no weight is solved yet and nothing is gathered into kernels."""
    values: dict[SSAValue, SSAValue] = {}
    copy = module.clone(values)
    gone: dict[SSAValue, SSAValue] = {}
    for op in list(copy.walk()):
        if isinstance(op, QuantizeOp | DequantizeOp):
            gone[op.result] = op.input
            Rewriter.replace_op(op, [], [op.input])
        elif isinstance(op, ContractOp):
            layer = LinearOp(op.input, op.weight, op.bias)
            layer.attributes.update(op.attributes)
            gone[op.result] = layer.result
            Rewriter.replace_op(op, [layer])

    def found(value: SSAValue) -> SSAValue:
        while value in gone:
            value = gone[value]
        return value

    return FloatView(copy, {old: found(new) for old, new in values.items()})

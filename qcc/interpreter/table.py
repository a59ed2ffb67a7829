"""Which function gives each operation of the dialect its meaning."""

from __future__ import annotations

from qcc.interpreter import elementwise, nn, quant, shape, structure, transform
from qcc.interpreter.values import Evaluate
from qcc.ir.nn import EmbeddingOp
from qcc.ir.program import UpdateStateOp
from qcc.ir.quant import ContractOp, DequantizeOp
from qcc.ir.storage import CacheOp, PackOp
from qcc.ir.transform import PermuteOp, SliceBitsOp

MEANING: dict[type, Evaluate] = {
    **structure.TABLE,
    **elementwise.TABLE,
    **shape.TABLE,
    **nn.TABLE,
    **quant.TABLE,
    **transform.TABLE,
}
"""Operation class -> evaluation; `qcc.program` and `qcc.return` are the interpreter's own."""

TAKES_QUANTIZED: frozenset[type] = frozenset(
    {EmbeddingOp, UpdateStateOp, ContractOp, DequantizeOp, CacheOp, PackOp, PermuteOp, SliceBitsOp}
)
"""Operations that may have quantized operands."""

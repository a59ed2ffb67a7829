"""Which function gives each operation of the dialect its meaning."""

from __future__ import annotations

from qcc.interpreter.caching import TABLE as CACHING
from qcc.interpreter.elementwise import TABLE as ELEMENTWISE
from qcc.interpreter.integer import TABLE as INTEGER
from qcc.interpreter.nn import TABLE as NN
from qcc.interpreter.quant import TABLE as QUANT
from qcc.interpreter.shape import TABLE as SHAPE
from qcc.interpreter.structure import TABLE as STRUCTURE
from qcc.interpreter.transform import TABLE as TRANSFORM
from qcc.interpreter.values import Evaluate
from qcc.ir.integer import CodesOp, IntegerContractOp
from qcc.ir.nn import EmbeddingOp
from qcc.ir.program import UpdateStateOp
from qcc.ir.quant import ContractOp, DequantizeOp
from qcc.ir.storage import CacheOp, PackOp
from qcc.ir.transform import PermuteOp, SliceBitsOp

MEANING: dict[type, Evaluate] = {**STRUCTURE, **ELEMENTWISE, **SHAPE, **NN, **QUANT, **INTEGER, **TRANSFORM, **CACHING}
"""Operation class -> evaluation; `qcc.program`, `qcc.kernel` and what ends them are the interpreter's own."""

TAKES_QUANTIZED: frozenset[type] = frozenset(
    {
        EmbeddingOp,
        UpdateStateOp,
        ContractOp,
        DequantizeOp,
        CacheOp,
        PackOp,
        PermuteOp,
        SliceBitsOp,
        CodesOp,
        IntegerContractOp,
    }
)
"""Operations that may have quantized operands."""

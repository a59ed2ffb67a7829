"""Element types: torch's names, the dialect's names, and torch's promotion between them."""

from __future__ import annotations

import torch

from qcc.ir.types import TensorType

TORCH_DTYPES: dict[str, torch.dtype] = {
    "f64": torch.float64,
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "i64": torch.int64,
    "i32": torch.int32,
    "i8": torch.int8,
    "u8": torch.uint8,
    "i1": torch.bool,
}
"""torch's dtype for each plain element type of the dialect."""

SCALAR_NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in TORCH_DTYPES.items()}

Number = int | float | bool


def promote(left: TensorType | Number, right: TensorType | Number) -> str:
    """Return the element type in which torch combines two operands.

    Tensors of rank 0 and Python numbers only decide the kind (truth value, integer, float), not the width:
    https://docs.pytorch.org/docs/stable/tensor_attributes.html#type-promotion-doc
    """
    return SCALAR_NAMES[torch.result_type(_stand_in(left), _stand_in(right))]


def _stand_in(operand: TensorType | Number) -> torch.Tensor | Number:
    if not isinstance(operand, TensorType):
        return operand
    return torch.empty([1] * min(operand.rank, 1), dtype=TORCH_DTYPES[operand.scalar], device="meta")

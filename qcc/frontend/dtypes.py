"""Element types: torch's names, the dialect's names, and torch's promotion between them."""

from __future__ import annotations

import torch

from qcc.ir.types import TensorType
from qcc.numerics.torch_dtypes import SCALAR_NAMES, TORCH_DTYPES

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

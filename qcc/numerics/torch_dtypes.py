"""Plain element types by name, and torch's dtypes for them."""

from __future__ import annotations

import torch

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
"""The torch dtype of every element type of a plain tensor."""

SCALAR_NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in TORCH_DTYPES.items()}
"""The element type of a torch dtype; dtypes that no plain tensor has are missing."""

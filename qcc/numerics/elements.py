"""Plain element types by name: the bytes one element takes. Torch's names for them are in `torch_dtypes`."""

from __future__ import annotations

ELEMENT_BYTES = {"f64": 8, "f32": 4, "f16": 2, "bf16": 2, "i64": 8, "i32": 4, "i8": 1, "u8": 1, "i1": 1}
"""Bytes of one stored element; `i1` is a truth value in a byte of its own."""

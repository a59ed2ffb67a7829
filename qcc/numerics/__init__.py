"""Encode, decode and describe quantized formats; knows no IR.

The format type and its text (`QType`, `parse_qtype`, `bits_per_weight`) come without torch. The numerics
import torch when one of their names is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qcc.numerics.qtype import QType, fixed_qtype, int_qtype
    from qcc.numerics.qtype_bits import bits_per_weight, storage_bits
    from qcc.numerics.qtype_text import parse_qtype

__all__ = ["QType", "bits_per_weight", "fixed_qtype", "int_qtype", "parse_qtype", "storage_bits"]

_HOMES = {
    "QType": "qcc.numerics.qtype",
    "bits_per_weight": "qcc.numerics.qtype_bits",
    "fixed_qtype": "qcc.numerics.qtype",
    "int_qtype": "qcc.numerics.qtype",
    "parse_qtype": "qcc.numerics.qtype_text",
    "storage_bits": "qcc.numerics.qtype_bits",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'qcc.numerics' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

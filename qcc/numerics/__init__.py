"""Encode, decode and describe quantized formats; knows no IR.

The format type and its text (`QType`, `parse_qtype`, `bits_per_weight`) come without torch. The numerics
import torch when one of their names is first used. `quantize` and `pack` are modules of the same name:
import those functions from there.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qcc.numerics.pack import unpack
    from qcc.numerics.presets import PRESETS, format_of
    from qcc.numerics.qtype import QType, fixed_qtype, int_qtype
    from qcc.numerics.qtype_bits import bits_per_weight, storage_bits
    from qcc.numerics.qtype_text import parse_qtype
    from qcc.numerics.quantize import compute_qparams, dequantize, fake_quantize, signal_to_quantization_noise_db
    from qcc.numerics.tensor import Parameters, QuantizedTensor

__all__ = [
    "PRESETS",
    "Parameters",
    "QType",
    "QuantizedTensor",
    "bits_per_weight",
    "compute_qparams",
    "dequantize",
    "fake_quantize",
    "fixed_qtype",
    "format_of",
    "int_qtype",
    "parse_qtype",
    "signal_to_quantization_noise_db",
    "storage_bits",
    "unpack",
]

_HOMES = {
    "PRESETS": "qcc.numerics.presets",
    "QType": "qcc.numerics.qtype",
    "Parameters": "qcc.numerics.tensor",
    "QuantizedTensor": "qcc.numerics.tensor",
    "bits_per_weight": "qcc.numerics.qtype_bits",
    "compute_qparams": "qcc.numerics.quantize",
    "dequantize": "qcc.numerics.quantize",
    "fake_quantize": "qcc.numerics.quantize",
    "fixed_qtype": "qcc.numerics.qtype",
    "format_of": "qcc.numerics.presets",
    "int_qtype": "qcc.numerics.qtype",
    "parse_qtype": "qcc.numerics.qtype_text",
    "signal_to_quantization_noise_db": "qcc.numerics.quantize",
    "storage_bits": "qcc.numerics.qtype_bits",
    "unpack": "qcc.numerics.pack",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'qcc.numerics' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

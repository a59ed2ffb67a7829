"""Name the formats that people call by name. Every name stands for a text of `parse_qtype`."""

from __future__ import annotations

from difflib import get_close_matches
from types import MappingProxyType

from qcc.errors import RecipeError
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_text import parse_qtype

PRESETS = MappingProxyType(
    {
        "int8_row": "int8n | row f32",
        "int8_token": "int8n | token f32 | dynamic",
        "int8_g128": "int8n | (1,128) f16",
        "int6_g128": "int6n | (1,128) f16",
        "int4_g32": "int4 | (1,32) f16",
        "int4_g128": "int4 | (1,128) f16",
        "uint4_g32": "uint4 | (1,32) f16 | pre u4",
        "uint4_g128": "uint4 | (1,128) f16 | pre u4",
        "uint3_g128": "uint3 | (1,128) f16 | pre u3",
        "uint2_g64": "uint2 | (1,64) f16 | pre u2",
        "qoq_g128": "uint4 | (1,128) i8, row f16 protect(119) | scaled i8",
        "mxint8": "int8n | (1,32) e8m0 floor",
        "mxfp8": "fp4_3 | (1,32) e8m0 floor",
        "mxfp6": "fp2_3 | (1,32) e8m0 floor",
        "mxfp4": "fp2_1 | (1,32) e8m0 floor",
        "nvfp4": "fp2_1 | (1,16) e4m3, tensor f32",
        "nvint4": "int4n | (1,16) e4m3, tensor f32",
        "bitnet": "table ternary(-1, 0, 1) | tensor f32 mean_abs",
        "ptqtp": "planes(2, -101, free) | (1,128) f16",
        "hlq4": "planes(4, 01, free) | (1,128) f16 | post f16",
        "hlq3": "planes(3, 01, free) | (1,128) f16 | post f16",
        "hlq2": "planes(2, 01, free) | (1,128) f16 | post f16",
        "q4_0": "int4 | (1,32) f16",
        "q8_0": "int8n | (1,32) f16",
        "q4_k": "uint4 | (1,32) u6, (1,256) f16 | min (1,32) u6, (1,256) f16",
        "q6_k": "int6 | (1,16) i8, (1,256) f16",
    }
)


def format_of(qtype: QType | str) -> QType:
    """Give the type behind a type, the text of one, or the name of a preset.

    Raises:
        RecipeError: neither; an unknown word is answered with the nearest preset.
    """
    if isinstance(qtype, QType):
        return qtype
    if qtype in PRESETS:
        return parse_qtype(PRESETS[qtype])
    near = get_close_matches(qtype, PRESETS, n=1)
    try:
        return parse_qtype(qtype)
    except RecipeError as error:
        if near:
            raise RecipeError(f"unknown format '{qtype}'", fix=f"did you mean {near[0]}?") from error
        raise

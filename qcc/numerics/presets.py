"""Name the formats that people call by name. Every name stands for a text of `parse_qtype`."""

from __future__ import annotations

from difflib import get_close_matches
from types import MappingProxyType

from qcc.errors import RecipeError
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_text import parse_qtype

PRESETS = MappingProxyType(
    {
        "int8-row": "int8n | row f32",
        "int8-token": "int8n | token f32 | dynamic",
        "int8-g128": "int8n | (1,128) f16",
        "int6-g128": "int6n | (1,128) f16",
        "int4-g32": "int4 | (1,32) f16",
        "int4-g128": "int4 | (1,128) f16",
        "uint4-g32": "uint4 | (1,32) f16 | pre u4",
        "uint4-g128": "uint4 | (1,128) f16 | pre u4",
        "uint3-g128": "uint3 | (1,128) f16 | pre u3",
        "uint2-g64": "uint2 | (1,64) f16 | pre u2",
        "qoq-g128": "uint4 | (1,128) i8, row f16 protect(119) | scaled i8",
        "mxint8": "int8n | (1,32) e8m0 floor",
        "mxfp8_e4m3": "fp4_3 | (1,32) e8m0 floor",
        "mxfp6_e2m3": "fp2_3 | (1,32) e8m0 floor",
        "mxfp6_e3m2": "fp3_2 | (1,32) e8m0 floor",
        "mxfp4": "fp2_1 | (1,32) e8m0 floor",
        "nvfp4": "fp2_1 | (1,16) e4m3, tensor f32",
        "nvint4": "int4n | (1,16) e4m3, tensor f32",
        "ternary": "table ternary(-1, 0, 1) | tensor f32 mean_abs",
        "trit2-g128": "planes(2, -101, free) | (1,128) f16",
        "hlq4-g128": "planes(4, 01, free) | (1,128) f16 | post f16",
        "hlq3-g128": "planes(3, 01, free) | (1,128) f16 | post f16",
        "hlq2-g128": "planes(2, 01, free) | (1,128) f16 | post f16",
        "q4_0": "int4 | (1,32) f16",
        "q8_0": "int8n | (1,32) f16",
        "q4_K": "uint4 | (1,32) u6, (1,256) f16 | min (1,32) u6, (1,256) f16",
        "q6_K": "int6 | (1,16) i8, (1,256) f16",
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

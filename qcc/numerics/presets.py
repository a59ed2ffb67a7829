"""Name the formats that people call by name. Every name stands for a text of `parse_qtype`."""

from __future__ import annotations

import re
from difflib import get_close_matches
from types import MappingProxyType

from qcc.errors import RecipeError
from qcc.numerics.qtype import QType, fixed_qtype
from qcc.numerics.qtype_text import parse_qtype

# Quantiles of the normal distribution, as bitsandbytes stores them (QLoRA, arXiv 2305.14314).
_NF4 = (
    "-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, "
    "-0.18477343022823334, -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, "
    "0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1"
)
# A float grid and one extra value, of which every block has its own (BitMoD, arXiv 2411.11745).
_BITMOD3 = (
    "-4, -2, -1, 0, 1, 2, 3, 4; -4, -3, -2, -1, 0, 1, 2, 4; -4, -2, -1, 0, 1, 2, 4, 6; -6, -4, -2, -1, 0, 1, 2, 4"
)
_FP4 = "-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8"
_BITMOD4 = f"{_FP4}, 10, 12; -12, -10{_FP4.removeprefix('-12')}, 12; {_FP4}, 12, 16; -16, {_FP4}, 12"
# Integers, then outliers (2 + j)·2^i for i = 2..5 without the first, so that they begin where integers end (OliVe,
# arXiv 2304.07493, whose code scales both by 4: normal values to 28, outliers from 48 to 384).
_OLIVE4 = (
    "-7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7; -96, -64, -48, -32, -24, -16, -12, 12, 16, 24, 32, 48, 64, 96"
)

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
        "spqr3-g16": "uint3 | (1,16) u3 offset(parent), (16,16) f16 | pre (1,16) u3 offset(parent), (16,16) f16",
        "mxint8": "int8n | (1,32) e8m0 floor",
        "mxfp8_e4m3": "fp4_3 | (1,32) e8m0 floor",
        "mxfp8_e5m2": "fp5_2(ieee) | (1,32) e8m0 floor",
        "mxfp6_e2m3": "fp2_3 | (1,32) e8m0 floor",
        "mxfp6_e3m2": "fp3_2 | (1,32) e8m0 floor",
        "mxfp4": "fp2_1 | (1,32) e8m0 floor",
        "nvfp4": "fp2_1 | (1,16) e4m3, tensor f32",
        "nvint4": "int4n | (1,16) e4m3, tensor f32",
        "bfp12-g32": "int4n | (1,32) e8m0 floor",
        "nf4-g64": f"table nf4({_NF4}) | (1,64) f16 | half_down",
        "bitmod3-g128": f"table bitmod3({_BITMOD3}) by u2 (1,128) | (1,128) i8, row f16 | half_down",
        "bitmod4-g128": f"table bitmod4({_BITMOD4}) by u2 (1,128) | (1,128) i8, row f16 | half_down",
        "olive4": f"table olive4({_OLIVE4}) ovp | tensor f32 mse",
        "ternary": "table ternary(-1, 0, 1) | tensor f32 mean_abs",
        "trit2-g128": "planes(2, -101, free) | (1,128) f16",
        "hlq4-g128": "planes(4, 01, free) | (1,128) f16 | post f16",
        "hlq3-g128": "planes(3, 01, free) | (1,128) f16 | post f16",
        "hlq2-g128": "planes(2, 01, free) | (1,128) f16 | post f16",
        "q4_0": "int4 | (1,32) f16 signed_amax | half_up",
        "q8_0": "int8n | (1,32) f16",
        "q2_K": "uint2 | (1,16) u4 mse, (1,256) f16 | min (1,16) u4, (1,256) f16",
        "q4_K": "uint4 | (1,32) u6 mse, (1,256) f16 | min (1,32) u6, (1,256) f16",
        "q6_K": "int6 | (1,16) i8 mse, (1,256) f16",
    }
)


_FIXED = re.compile(r"fixed<(\d+),\s*(-?\d+)>")
_FLOAT = re.compile(r"fp<(\d+),\s*(\d+)>")
_BIPOLAR = re.compile(r"bipolar<?(\d)>?")
FAMILIES = ("fixed<W,I>", "fp<E,M>", "bipolar<k>")
"""Presets with numbers in their names: fixed point, floats scaled by row, bipolar planes scaled by row."""


def format_of(qtype: QType | str) -> QType:
    """Give the type behind a type, the text of one, or the name of a preset.

    Besides `PRESETS` there are `fixed<W,I>` (W bits, I of them, sign included, left of the point),
    `fp<E,M>` (a float scale a row) and `bipolar<k>` (k planes of digits -1 and +1, a searched scale a row).

    Raises:
        RecipeError: neither; an unknown word is answered with the nearest preset.
    """
    if isinstance(qtype, QType):
        return qtype
    if qtype in PRESETS:
        return parse_qtype(PRESETS[qtype])
    if match := _FIXED.fullmatch(qtype):
        return fixed_qtype(int(match[1]), int(match[2]))
    if match := _FLOAT.fullmatch(qtype):
        return parse_qtype(f"fp{match[1]}_{match[2]} | row f32")
    if match := _BIPOLAR.fullmatch(qtype):
        return parse_qtype(f"planes({match[1]}, pm1, pow2) mid_rise | row f16 mse")
    near = get_close_matches(qtype, (*PRESETS, *FAMILIES), n=1)
    try:
        return parse_qtype(qtype)
    except RecipeError as error:
        if near:
            raise RecipeError(f"unknown format '{qtype}'", fix=f"did you mean {near[0]}?") from error
        raise

"""Figures of published formats from implementations other than qcc's, on the samples of `format_samples`.

They were computed in float64 numpy, each format written down on its own from its paper or specification, and are
given to 0.01 dB. Where qcc differs by more than `TOLERANCE`, `reason` says why.
"""

from __future__ import annotations

from typing import NamedTuple

from qcc.numerics.presets import PRESETS
from tests.format_samples import Figures

TOLERANCE = 0.3

STARTS = "codes and coefficients are alternated from several starts, not only from the uniform grid: a better minimum"
TRIT_STARTS = "codes and coefficients are alternated from several starts, not only one: a better minimum"
PAIRS = "each pair takes the cheapest of its three encodings, not the nearest value and then a victim"


class Reference(NamedTuple):
    """A format with its bits per weight and reference figures in dB; `gain` bounds how far qcc may be above them."""

    name: str
    text: str
    bits: float
    figures: Figures
    reason: str = ""
    gain: float = TOLERANCE


def _with_levels(preset: str, levels: str) -> str:
    """Give a preset other levels."""
    decode, _, *rest = PRESETS[preset].split(" | ")
    return " | ".join((decode, levels, *rest))


REFERENCES = [
    Reference("MXINT8 g32", "mxint8", 8.25, Figures(41.67, 37.89, 42.43)),
    Reference("MXFP8 E4M3 g32", "mxfp8_e4m3", 8.25, Figures(30.62, 29.58, 30.44)),
    Reference("INT6 g128", "int6-g128", 6.125, Figures(31.47, 25.16, 32.15)),
    Reference("NVINT4 g16", "nvint4", 4.5, Figures(21.27, 18.97, 21.67)),
    Reference("NVFP4 g16", "nvfp4", 4.5, Figures(20.41, 20.96, 20.28)),
    Reference("NF4 g64", "nf4-g64", 4.25, Figures(20.70, 18.34, 20.76)),
    Reference("HLQ4 g128", "hlq4-g128", 4.625, Figures(20.70, 17.28, 21.27), STARTS, 1.3),
    Reference("BitMoD4 g128", _with_levels("bitmod4-g128", "(1,128) f16"), 4.14, Figures(20.18, 18.23, 20.29)),
    Reference("BitMoD4 g128, int8 scales", "bitmod4-g128", 4.08, Figures(20.18, 18.23, 20.29)),
    Reference("UINT4 g128", "uint4-g128", 4.16, Figures(19.93, 15.80, 20.47)),
    Reference("MXFP4 g32, floor", "mxfp4", 4.25, Figures(18.76, 16.90, 18.84)),
    Reference("MXFP4 g32, ceil", "fp2_1 | (1,32) e8m0 ceil", 4.25, Figures(18.71, 16.41, 18.86)),
    Reference(
        "MXFP4 g32, floor x 4/3",
        "fp2_1 | (1,32) e8m0 floor, tensor f32 constant(1.3333333333333333)",
        4.25,
        Figures(18.57, 16.65, 18.75),
    ),
    Reference("MXFP4 g32, best of 3 exponents", "fp2_1 | (1,32) e8m0 mse floor", 4.25, Figures(19.02, 17.16, 19.18)),
    Reference("INT4 g128", "int4-g128", 4.125, Figures(18.55, 13.15, 19.22)),
    Reference("2 trit planes g128", "trit2-g128", 4.25, Figures(15.35, 11.46, 15.98), TRIT_STARTS, 1.3),
    Reference("HLQ3 g128", "hlq3-g128", 3.5, Figures(14.78, 12.07, 15.36), STARTS, 1.0),
    Reference("BitMoD3 g128", _with_levels("bitmod3-g128", "(1,128) f16"), 3.14, Figures(14.18, 11.37, 14.46)),
    Reference("BitMoD3 g128, int8 scales", "bitmod3-g128", 3.08, Figures(14.18, 11.37, 14.46)),
    Reference("UINT3 g128", "uint3-g128", 3.15, Figures(13.29, 9.80, 13.84)),
    Reference("INT3 g128", "int3 | (1,128) f16", 3.125, Figures(11.19, 7.35, 11.84)),
    Reference("HLQ2 g128", "hlq2-g128", 2.375, Figures(9.57, 7.40, 10.09)),
    Reference("5 levels g128", "uint3[0,4] | (1,128) f16 | pre u3", 3.15, Figures(8.45, 6.16, 8.99)),
    Reference("UINT2 g128", "uint2 | (1,128) f16 | pre u2", 2.14, Figures(5.94, 4.66, 6.48)),
    Reference("Bipolar 2 g128, amax", "planes(2, pm1, pow2) mid_rise | (1,128) f16", 2.125, Figures(5.11, -4.42, 5.81)),
    Reference("OliVe 4 per tensor", "olive4", 4, Figures(18.86, 14.34, 14.14), PAIRS, 1.1),
    Reference("INT4 per tensor", "int4 | tensor f32", 4, Figures(14.81, 0.71, 7.02)),
]

"""List the block layouts of ggml whose meaning a format has: kind, format, and which bytes hold what.

From ggml-common.h and ggml-quants.c of the ggml library (MIT), as read by its Python package `gguf`.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from qcc.numerics.ggml_bits import Bits, FoldedNumbers, FoldedTrits, SixBitPairs, TritRun
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_text import parse_qtype

_NONLINEAR = "table iq4_nl(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)"
_TERNARY = "table ternary(-1, 0, 1)"
_Q2_SCALES = "(1,16) u4 mse, (1,256) f16 | min (1,16) u4, (1,256) f16"
_SIX_BIT_SCALES = "(1,32) u6 mse, (1,256) f16 | min (1,32) u6, (1,256) f16"


@dataclass(frozen=True)
class BlockLayout:
    """Say what the bytes of one block hold.

    `parts` are its pieces in order, each with its number of bytes. `scale` and `zero` are the roots of the scales and
    of the zero points, stored as they are; the other parts belong to `codes` and to `leaf`, the integers of the lower
    level (with a zero point the scales, then the minima).
    """

    text: str
    elements: int
    parts: tuple[tuple[str, int], ...]
    codes: FoldedNumbers | FoldedTrits
    leaf: FoldedNumbers | SixBitPairs | None = None

    @property
    def qtype(self) -> QType:
        """Give the format of the block."""
        return parse_qtype(self.text)

    @property
    def size(self) -> int:
        """Count the bytes of the block."""
        return sum(count for _, count in self.parts)


def _low(width: int, run: int) -> Bits:
    return Bits("low", width, run)


def _high(width: int, run: int) -> Bits:
    return Bits("high", width, run)


LAYOUTS = MappingProxyType(
    {
        "Q4_0": BlockLayout(
            "int4 | (1,32) f16 signed_amax | half_up",
            32,
            (("scale", 2), ("low", 16)),
            FoldedNumbers((_low(4, 16),), 8, -8),
        ),
        "Q4_1": BlockLayout(
            "uint4 | (1,32) f16 | post f16",
            32,
            (("scale", 2), ("zero", 2), ("low", 16)),
            FoldedNumbers((_low(4, 16),)),
        ),
        "Q5_0": BlockLayout(
            "int5 | (1,32) f16 signed_amax | half_up",
            32,
            (("scale", 2), ("high", 4), ("low", 16)),
            FoldedNumbers((_low(4, 16), _high(1, 1)), 16, -16),
        ),
        "Q5_1": BlockLayout(
            "uint5 | (1,32) f16 | post f16",
            32,
            (("scale", 2), ("zero", 2), ("high", 4), ("low", 16)),
            FoldedNumbers((_low(4, 16), _high(1, 1))),
        ),
        # Not narrow: the quantizers of ggml never write -128, but a block may hold it.
        "Q8_0": BlockLayout(
            "int8 | (1,32) f16",
            32,
            (("scale", 2), ("low", 32)),
            FoldedNumbers((_low(8, 32),), 0, -128),
        ),
        "Q2_K": BlockLayout(
            f"uint2 | {_Q2_SCALES}",
            256,
            (("scales", 16), ("low", 64), ("scale", 2), ("zero", 2)),
            FoldedNumbers((_low(2, 32),)),
            FoldedNumbers((Bits("scales", 4, 16),)),
        ),
        "Q3_K": BlockLayout(
            "int3 | (1,16) i6 mse, (1,256) f16",
            256,
            (("high", 32), ("low", 64), ("low scales", 8), ("high scales", 4), ("scale", 2)),
            FoldedNumbers((_low(2, 32), _high(1, 32)), 4, -4),
            FoldedNumbers((Bits("low scales", 4, 8), Bits("high scales", 2, 4)), 32, -32),
        ),
        "Q4_K": BlockLayout(
            f"uint4 | {_SIX_BIT_SCALES}",
            256,
            (("scale", 2), ("zero", 2), ("scales", 12), ("low", 128)),
            FoldedNumbers((_low(4, 32),)),
            SixBitPairs("scales"),
        ),
        "Q5_K": BlockLayout(
            f"uint5 | {_SIX_BIT_SCALES}",
            256,
            (("scale", 2), ("zero", 2), ("scales", 12), ("high", 32), ("low", 128)),
            FoldedNumbers((_low(4, 32), _high(1, 32))),
            SixBitPairs("scales"),
        ),
        "Q6_K": BlockLayout(
            "int6 | (1,16) i8 mse, (1,256) f16",
            256,
            (("low", 128), ("high", 64), ("scales", 16), ("scale", 2)),
            FoldedNumbers((_low(4, 64), _high(2, 32)), 32, -32),
            FoldedNumbers((Bits("scales", 8, 16),), 0, -128),
        ),
        "TQ1_0": BlockLayout(
            f"{_TERNARY} radix | (1,256) f16",
            256,
            (("low", 48), ("high", 4), ("scale", 2)),
            FoldedTrits(((TritRun("low", 5, 32), 32), (TritRun("low", 5, 16), 16), (TritRun("high", 4, 4), 4))),
        ),
        "TQ2_0": BlockLayout(
            f"{_TERNARY} | (1,256) f16",
            256,
            (("low", 64), ("scale", 2)),
            FoldedNumbers((_low(2, 32),)),
        ),
        "IQ4_NL": BlockLayout(
            f"{_NONLINEAR} | (1,32) f16 mse",
            32,
            (("scale", 2), ("low", 16)),
            FoldedNumbers((_low(4, 16),)),
        ),
        "IQ4_XS": BlockLayout(
            f"{_NONLINEAR} | (1,32) i6 mse, (1,256) f16",
            256,
            (("scale", 2), ("high scales", 2), ("low scales", 4), ("low", 128)),
            FoldedNumbers((_low(4, 16),)),
            FoldedNumbers((Bits("low scales", 4, 1), Bits("high scales", 2, 1)), 32, -32),
        ),
        "MXFP4": BlockLayout(
            "fp2_1 | (1,32) e8m0 floor",
            32,
            (("scale", 1), ("low", 16)),
            FoldedNumbers((_low(4, 16),)),
        ),
        # The scale of the whole tensor is a tensor of its own beside the blocks.
        "NVFP4": BlockLayout(
            "fp2_1 | (1,16) e4m3",
            64,
            (("scale", 4), ("low", 32)),
            FoldedNumbers((_low(4, 8),)),
        ),
    }
)

_LATTICE = "its codes index whole vectors of a lattice, and a format codes every element by itself"
_ACTIVATIONS = "it holds activations between the operators of ggml, never weights"
_FLOAT = "it is not quantized"
REFUSED = MappingProxyType(
    {
        **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"), _LATTICE),
        **dict.fromkeys(("Q8_1", "Q8_K"), _ACTIVATIONS),
        **dict.fromkeys(("F64", "F32", "F16", "BF16", "I8", "I16", "I32", "I64"), _FLOAT),
        "Q1_0": "its layout is not supported yet",
    }
)
"""Kinds that ggml has and no format means, each with the reason."""

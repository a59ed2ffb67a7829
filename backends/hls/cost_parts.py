"""Pieces of the resource model.

Look-up tables of products follow the published model of FINN (Blott et al., "FINN-R", arXiv 1809.04570); everything
else counts one look-up table a bit of an adder and the widths of memories. What a matrix-vector unit and a
requantization take beside that was fitted to counts of an open synthesizer (`tests/benchmarks/hls_rtl.py`); the rest
has seen no synthesis.
"""

from __future__ import annotations

from math import ceil


def dsp_of_product(left: int, right: int) -> int:
    """Return the DSP48E2 blocks (27 x 18 bits, signed) of one product."""
    wide, narrow = max(left, right), min(left, right)
    return ceil(wide / 26) * ceil(narrow / 17)


def lut_of_product(left: int, right: int) -> float:
    """Return the look-up tables of a product without DSP blocks."""
    return (2 * ceil((left + right) / 6) - 1) * (left + right)


def memory_blocks(depth: int, width: int) -> tuple[float, float]:
    """Return look-up tables and 18-kbit blocks of a memory of `depth` words.

    Small memories go to look-up tables (64 bits each), others to blocks of 512 x 36 up to 16384 x 1.
    """
    if depth * width <= 2048 or depth <= 32:
        return ceil(depth / 64) * width, 0.0
    shapes = ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1))
    return 0.0, float(min(ceil(depth / deep) * ceil(width / wide) for deep, wide in shapes))


def fifo_cost(depth: int, width: int) -> tuple[float, float]:
    """Return look-up tables and 18-kbit blocks of a FIFO: shift registers up to 1 kbit a lane of 32, else blocks."""
    if depth <= 2:
        return 0.5 * width, 0.0
    if depth * width <= 16384:
        return ceil(depth / 32) * width + 12.0, 0.0
    return 30.0, memory_blocks(depth, width)[1]

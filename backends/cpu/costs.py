"""What the plans of the CPU kernels cost, in the terms of `qcc.ir.plans`.

Instructions are counted in the AVX-512 loops for one chunk of 16 rows by 32 columns, 512 weights: `qcc_dot_stored` of
qcc_k_dot_avx512.h for integers, `qcc_chunk_dot_bits` of qcc_k_decode.h for weights decoded to floats. Narrower
instruction sets take more of each by about the same factor.
"""

from __future__ import annotations

from qcc.ir.plans import FLOAT, PlanCost, Widths

ACCUMULATOR_BITS = 32
"""Width of the integer sums of a group."""

BYTE_COST = 0.5
"""Vector instructions that a core does while it waits for one byte of its share of memory."""

COSTS = (
    # decode: 4 loads, 8 masks and 4 shifts a chunk; mac: 8 broadcasts and 8 dot products; scale: 10 for 16 rows
    PlanCost("group_after", Widths(1, 8), Widths(2, 8), decode=0.03, mac=0.03, scale=0.6),
    # decode: as above, then shuffle, subtract and multiply for 16 weights; mac: a broadcast and 2 of 16 lanes for 32
    PlanCost("dequant_first", Widths(1, 8), FLOAT, decode=0.22, mac=0.09, scale=0.4),
)
"""Plans from the preferred one on."""

"""What the plans of the CPU kernels cost, in the terms of `qcc.ir.plans`.

Instructions are counted in the AVX-512 loops for one chunk of 16 rows by 32 columns, 512 weights: `qcc_dot_stored` of
qcc_k_dot_avx512.h for integers, `qcc_lookup_one` of qcc_k_lookup_avx512.h for lookup, `qcc_chunk_dot_bits` of
qcc_k_decode.h for weights decoded to floats. Narrower instruction sets take more of each by about the same factor; but
without vpdpbusd (AVX2 alone) the integer dot takes about twice as much, and lookup is the faster up to 3 bits.
"""

from __future__ import annotations

from qcc.ir.plans import ROUNDED, PlanCost, Widths

ACCUMULATOR_BITS = 32
"""Width of the integer sums of a group."""

BYTE_COST = 0.5
"""Vector instructions that a core does while it waits for one byte of its share of memory."""

COSTS = (
    # decode: 4 loads, 8 masks and 4 shifts a chunk; mac: 8 broadcasts and 8 dot products; scale: 10 for 16 rows
    PlanCost("group_after", Widths(1, 8), Widths(2, 8), decode=0.03, mac=0.03, scale=0.6),
    # a bit takes a load, a shift and two blends for 512 weights, then two pairs of vpermb and vpdpbusd a row, of which
    # 1.25 run in the time of 2 vpdpbusd; mac: sums of groups are finished row by row; table: 70 instructions for 16 k
    PlanCost(
        "lookup",
        Widths(1, 8),
        Widths(2, 8),
        decode_bit=0.008,
        mac=0.01,
        mac_bit=0.012,
        scale=0.6,
        table=4.4,
        table_bytes=4.0,
    ),
    # decode: as above, then shuffle, subtract and multiply for 16 weights; mac: a broadcast and 2 of 16 lanes for 32
    PlanCost("dequant_first", Widths(1, 8, codes=True), ROUNDED, decode=0.22, mac=0.09, scale=0.4),
)
"""Plans from the preferred one on."""

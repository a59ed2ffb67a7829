/* Linear by lookup: bits of the weights choose among partial sums of the activations.
 *
 * QCC_FN(qcc_lookup_tile)(l, m, tokens, out) fills out[tokens][32] as qcc_dot_tile does, from the same integers
 *     sum_k x w - z sum_k x = (2^bits - 1) centers - z sum_k x + sum_b 2^b (sum of entries + 2 * sum of rests)
 * by the same float operations, hence with equal bits. */
#ifndef QCC_LOOKUP_STRUCT
#define QCC_LOOKUP_STRUCT
typedef struct {
    const qcc_tlinear *a;
    const uint8_t *codes[2]; /* the two blocks of 16 rows */
    int64_t block[2];        /* their numbers; the second repeats the first at the edge */
    int64_t padded_k, groups;
    int64_t m0;            /* first token of the row tile */
    const int32_t *starts; /* [groups][QCC_TABLE_M]: where the sums of its tokens start */
    const uint32_t *wide;  /* [groups]: bit t is set where token t is wide */
} qcc_lookup;

/* Whether some of `tokens` tokens from m on are wide in group g. */
static inline int qcc_lookup_any_wide(const qcc_lookup *l, int64_t g, int64_t m, int tokens) {
    return (l->wide[g] >> (m - l->m0) & ((1u << tokens) - 1u)) != 0;
}
#endif

/* Where the sum of one token and group starts: at its centres, and at its zero point where that is one for all. */
QCC_HELPER int32_t QCC_FN(qcc_lookup_start)(const qcc_lookup *l, int64_t at) {
    const qcc_tlinear *a = l->a;
    const uint32_t center = ((1u << a->w.bits) - 1u) * (uint32_t)a->t.centers[at];
    return (int32_t)(center - (a->w.zeros ? 0u : (uint32_t)a->w.zero * (uint32_t)a->x.sums[at]));
}

#if QCC_ISA == QCC_ISA_AVX512
#include "qcc_k_lookup_avx512.h"
#elif QCC_ISA == QCC_ISA_AVX2
#include "qcc_k_lookup_avx2.h"
#else
#include "qcc_k_lookup_portable.h"
#endif

/* What every column tile of a row tile needs. */
QCC_HELPER void QCC_FN(qcc_lookup_rows)(qcc_lookup *l, int64_t m0, int64_t m1, int32_t *starts, uint32_t *wide) {
    for (int64_t g = 0; g < l->groups; g++) {
        wide[g] = 0;
        for (int64_t m = m0; m < m1; m++) {
            starts[g * QCC_TABLE_M + m - m0] = QCC_FN(qcc_lookup_start)(l, m * l->groups + g);
            wide[g] |= (uint32_t)(l->a->t.wide[m * l->groups + g] != 0) << (m - m0);
        }
    }
    l->m0 = m0, l->starts = starts, l->wide = wide;
}

QCC_LOOKUP_TARGET static void QCC_FN(qcc_lookup_units)(const qcc_tlinear *a, int64_t begin, int64_t end,
                                                       int32_t *scratch) {
    const int64_t tiles = qcc_ceil_div(a->w.n, QCC_TILE_N), blocks = qcc_ceil_div(a->w.n, QCC_ROWS);
    qcc_lookup l = {.a = a, .padded_k = qcc_padded_k(a->w.k, a->w.group), .groups = qcc_groups(a->w.k, a->w.group)};
    float out[QCC_LOOKUP_TOKENS * QCC_TILE_N];
    for (int64_t u = begin; u < end; u++) {
        const int64_t n0 = u % tiles * QCC_TILE_N, m0 = u / tiles * QCC_TABLE_M;
        const int64_t m1 = qcc_min64(a->m, m0 + QCC_TABLE_M);
        if (u == begin || m0 != l.m0)
            QCC_FN(qcc_lookup_rows)(&l, m0, m1, scratch, (uint32_t *)scratch + l.groups * QCC_TABLE_M);
        for (int b = 0; b < 2; b++) {
            l.block[b] = qcc_min64(n0 / QCC_ROWS + b, blocks - 1);
            l.codes[b] = a->w.codes + l.block[b] * qcc_block_bytes(&a->w);
        }
        for (int64_t m = m0; m < m1; m += QCC_LOOKUP_TOKENS) {
            const int64_t tokens = qcc_min64(QCC_LOOKUP_TOKENS, m1 - m);
            QCC_FN(qcc_lookup_tile)(&l, m, tokens, out);
            for (int64_t t = 0; t < tokens; t++)
                QCC_FN(qcc_finish_row)(out + t * QCC_TILE_N, a->x.group_scales ? 1.0f : a->x.scales[m + t],
                                       &a->epilogue, m + t, n0, qcc_min64(QCC_TILE_N, a->w.n - n0),
                                       a->y + (m + t) * a->y_stride + n0);
        }
    }
}

QCC_KERNEL_FN QCC_FN(qcc_k_tlinear)(const qcc_tlinear *a, int64_t begin, int64_t end, void *scratch) {
#if QCC_ISA == QCC_ISA_AVX512
    if (!__builtin_cpu_supports("avx512vbmi")) { /* vpermb: no processor before Ice Lake has it */
        qcc_lookup_units_avx2(a, begin, end, scratch);
        return;
    }
#endif
    QCC_FN(qcc_lookup_units)(a, begin, end, scratch);
}
#undef QCC_LOOKUP_TARGET
#undef QCC_LOOKUP_TOKENS

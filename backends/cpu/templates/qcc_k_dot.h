/* Integer dot products: a tile of tokens against 32 weight rows expanded to bytes.
 *
 * QCC_FN(qcc_dot_tile)(d, m, tokens, out) fills out[tokens][32] with
 *     sum_g scale(m, n, g) * float(sum_k x * w - z * sum_k x),   groups ascending,
 * where scale is sw[n,g], or sw[n,g] * sx[m,g] with group scales. Every instruction set performs the
 * same float operations in the same order, hence equal bits. */
#ifndef QCC_DOT_STRUCT
#define QCC_DOT_STRUCT
typedef struct {
    const qcc_qlinear *a;
    const uint8_t *rows[2];  /* bytes of the two blocks of 16 rows, [chunk][8][64] */
    const uint8_t *codes[2]; /* the same blocks as stored */
    int64_t block[2];        /* their numbers; the second repeats the first at the edge */
    int64_t padded_k, groups;
} qcc_dot;
#endif

#if QCC_ISA == QCC_ISA_AVX512
#include "qcc_k_dot_avx512.h"
#elif QCC_ISA == QCC_ISA_AVX2
#include "qcc_k_dot_avx2.h"
#else
#include "qcc_k_dot_portable.h"
#endif

/* Lookup with vpermb: one register is the tables of four quads, adjacent bytes of the indices ask for those of one
 * row, and vpdpbusd with the bit's weight adds the four answers of each row in 32 bits. */
#define QCC_LOOKUP_TARGET __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")))
#define QCC_LOOKUP_TOKENS 8
#define QCC_LOOKUP_HELPER static inline __attribute__((always_inline)) QCC_LOOKUP_TARGET

/* acc += four entries (signed) times the weight of a bit (unsigned) per lane; as assembly for QCC_DP's reason. */
#define QCC_ADD_ENTRIES(acc, weight, entries) \
    __asm__("vpdpbusd\t%2, %1, %0" : "+v"(acc) : "v"(weight), "v"(entries))

/* acc[t][b] += the looked up sums of one group: T tokens x 32 rows. */
QCC_LOOKUP_HELPER void qcc_lookup_group_avx512vnni(const uint8_t *w0, const uint8_t *w1, const int8_t *table,
                                                   int64_t stride, int64_t chunks, __m512i acc[8][2], const int T,
                                                   const int bits) {
    const __m512i low = _mm512_set1_epi8(15), quad = _mm512_set1_epi32(0x30201000);
    for (int64_t c = 0; c < chunks; c++, table += 128)
#pragma GCC unroll 4
        for (int p = bits - 1; p >= 0; p--, w0 += 64, w1 += 64) {
            const __m512i weight = _mm512_set1_epi8((char)(1 << p));
            const __m512i v0 = _mm512_load_si512(w0), v1 = _mm512_load_si512(w1);
            /* (v & low) | quad */
            const __m512i i00 = _mm512_ternarylogic_epi32(v0, low, quad, 0xea);
            const __m512i i10 = _mm512_ternarylogic_epi32(v1, low, quad, 0xea);
            const __m512i i01 = _mm512_ternarylogic_epi32(_mm512_srli_epi16(v0, 4), low, quad, 0xea);
            const __m512i i11 = _mm512_ternarylogic_epi32(_mm512_srli_epi16(v1, 4), low, quad, 0xea);
#pragma GCC unroll 8
            for (int t = 0; t < T; t++) {
                const __m512i t0 = _mm512_loadu_si512(table + t * stride);
                const __m512i t1 = _mm512_loadu_si512(table + t * stride + 64);
                const __m512i e00 = _mm512_permutexvar_epi8(i00, t0), e10 = _mm512_permutexvar_epi8(i10, t0);
                const __m512i e01 = _mm512_permutexvar_epi8(i01, t1), e11 = _mm512_permutexvar_epi8(i11, t1);
                QCC_ADD_ENTRIES(acc[t][0], weight, e00);
                QCC_ADD_ENTRIES(acc[t][1], weight, e10);
                QCC_ADD_ENTRIES(acc[t][0], weight, e01);
                QCC_ADD_ENTRIES(acc[t][1], weight, e11);
            }
        }
}

/* T tokens x 32 rows. */
QCC_LOOKUP_HELPER void qcc_lookup_tokens_avx512vnni(const qcc_lookup *l, int64_t m, float *out, const int T,
                                                    const int bits) {
    const qcc_tlinear *a = l->a;
    const uint8_t *w0 = l->codes[0], *w1 = l->codes[1];
    const int64_t stride = l->padded_k * 4;
    int64_t table = m * stride;
    __m512 sum[8][2];
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) sum[t][0] = sum[t][1] = _mm512_setzero_ps();
    for (int64_t g = 0; g < l->groups; g++) {
        const int64_t chunks = qcc_group_chunks(a->w.k, a->w.group, g), at = m * l->groups + g;
        const int64_t i0 = l->block[0] * l->groups + g, i1 = l->block[1] * l->groups + g;
        __m512i acc[8][2];
        int wide = 0;
#pragma GCC unroll 8
        for (int t = 0; t < T; t++) {
            acc[t][0] = acc[t][1] = _mm512_setzero_si512();
            wide |= a->t.shifts[at + t * l->groups];
        }
        qcc_lookup_group_avx512vnni(w0, w1, a->t.entries + table, stride, chunks, acc, T, bits);
        if (wide) {
#pragma GCC unroll 8
            for (int t = 0; t < T; t++) {
                const __m128i shift = _mm_cvtsi32_si128(a->t.shifts[at + t * l->groups]);
                acc[t][0] = _mm512_sll_epi32(acc[t][0], shift);
                acc[t][1] = _mm512_sll_epi32(acc[t][1], shift);
            }
            if (a->t.rest) qcc_lookup_group_avx512vnni(w0, w1, a->t.rest + table, stride, chunks, acc, T, bits);
        }
        const __m512 s0 = qcc_scales16_avx512vnni(&a->w, i0), s1 = qcc_scales16_avx512vnni(&a->w, i1);
#pragma GCC unroll 8
        for (int t = 0; t < T; t++) {
            const int64_t here = at + t * l->groups;
            const __m512i start = _mm512_set1_epi32(qcc_lookup_start_avx512vnni(l, here));
            const __m512i z0 = qcc_start_avx512vnni(&a->w, i0, a->x.sums[here]);
            const __m512i z1 = qcc_start_avx512vnni(&a->w, i1, a->x.sums[here]);
            acc[t][0] = _mm512_add_epi32(_mm512_add_epi32(acc[t][0], start), z0);
            acc[t][1] = _mm512_add_epi32(_mm512_add_epi32(acc[t][1], start), z1);
            sum[t][0] = qcc_scale_add_avx512vnni(&a->x, here, s0, acc[t][0], sum[t][0]);
            sum[t][1] = qcc_scale_add_avx512vnni(&a->x, here, s1, acc[t][1], sum[t][1]);
        }
        w0 += chunks * bits * 64;
        w1 += chunks * bits * 64;
        table += chunks * 128;
    }
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) {
        _mm512_storeu_ps(out + t * QCC_TILE_N, sum[t][0]);
        _mm512_storeu_ps(out + t * QCC_TILE_N + 16, sum[t][1]);
    }
}

#define QCC_LOOKUP_BITS(name, bits) \
    static QCC_LOOKUP_TARGET void qcc_lookup_tile##name##_avx512vnni(const qcc_lookup *l, int64_t m, int64_t tokens, \
                                                                     float *out) { \
        int64_t done = 0; \
        for (; tokens - done >= 8; done += 8) qcc_lookup_tokens_avx512vnni(l, m + done, out + done * 32, 8, bits); \
        for (; tokens - done >= 4; done += 4) qcc_lookup_tokens_avx512vnni(l, m + done, out + done * 32, 4, bits); \
        for (; tokens - done >= 2; done += 2) qcc_lookup_tokens_avx512vnni(l, m + done, out + done * 32, 2, bits); \
        if (tokens - done) qcc_lookup_tokens_avx512vnni(l, m + done, out + done * 32, 1, bits); \
    }
QCC_LOOKUP_BITS(1, 1)
QCC_LOOKUP_BITS(2, 2)
QCC_LOOKUP_BITS(3, 3)
QCC_LOOKUP_BITS(4, 4)
QCC_LOOKUP_BITS(_any, l->a->w.bits)
#undef QCC_LOOKUP_BITS

static QCC_LOOKUP_TARGET void qcc_lookup_tile_avx512vnni(const qcc_lookup *l, int64_t m, int64_t tokens, float *out) {
    switch (l->a->w.bits) {
    case 1: qcc_lookup_tile1_avx512vnni(l, m, tokens, out); break;
    case 2: qcc_lookup_tile2_avx512vnni(l, m, tokens, out); break;
    case 3: qcc_lookup_tile3_avx512vnni(l, m, tokens, out); break;
    case 4: qcc_lookup_tile4_avx512vnni(l, m, tokens, out); break;
    default: qcc_lookup_tile_any_avx512vnni(l, m, tokens, out); break;
    }
}
#undef QCC_ADD_ENTRIES
#undef QCC_LOOKUP_HELPER

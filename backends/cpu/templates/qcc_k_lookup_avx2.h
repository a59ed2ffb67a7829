/* Lookup with vpshufb: each half of a register is the table of one quad, asked by 16 rows at once.
 *
 * Entries are looked up with 128 added, so that their sums are unsigned; two 16-bit counters, of all pairs of bytes
 * and of the odd bytes, hold up to 257 of them before they overflow. */
#define QCC_LOOKUP_TARGET QCC_TARGET
#define QCC_LOOKUP_TOKENS 4
#define QCC_LOOKUP_CHUNKS 64 /* of a run between two emptyings: 4 lookups each */

/* Four indices (rows 0-3 8-11 4-7 12-15 in each half) from a line (rows of four quads): [0] quads 0 1, [1] quads 2 3
 * of the line's first 16 k, [2] and [3] of its last. */
QCC_HELPER void qcc_lookup_indices_avx2(const uint8_t *line, __m256i index[4]) {
    const __m256i rows = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, 0, 4, 8, 12, 1, 5, 9,
                                          13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i a = _mm256_shuffle_epi8(_mm256_load_si256((const __m256i *)line), rows);
    const __m256i b = _mm256_shuffle_epi8(_mm256_load_si256((const __m256i *)line + 1), rows);
    const __m256i q01 = _mm256_permute4x64_epi64(_mm256_unpacklo_epi32(a, b), 0xd8);
    const __m256i q23 = _mm256_permute4x64_epi64(_mm256_unpackhi_epi32(a, b), 0xd8);
    index[0] = _mm256_and_si256(q01, low);
    index[1] = _mm256_and_si256(q23, low);
    index[2] = _mm256_and_si256(_mm256_srli_epi16(q01, 4), low);
    index[3] = _mm256_and_si256(_mm256_srli_epi16(q23, 4), low);
}

/* acc[0] (rows 0-7) and acc[1] (rows 8-15) += 2^b * (sum of bytes - 128 * lookups in each). */
QCC_HELPER void qcc_lookup_empty_avx2(__m256i all, __m256i odd, int32_t lookups, int b, __m256i acc[2]) {
    const __m256i even = _mm256_sub_epi16(all, _mm256_slli_epi16(odd, 8));
    const __m256i e = _mm256_add_epi32(_mm256_cvtepu16_epi32(_mm256_castsi256_si128(even)),
                                       _mm256_cvtepu16_epi32(_mm256_extracti128_si256(even, 1)));
    const __m256i o = _mm256_add_epi32(_mm256_cvtepu16_epi32(_mm256_castsi256_si128(odd)),
                                       _mm256_cvtepu16_epi32(_mm256_extracti128_si256(odd, 1)));
    const __m256i bias = _mm256_set1_epi32(2 * 128 * lookups);
    const __m128i shift = _mm_cvtsi32_si128(b);
    acc[0] = _mm256_add_epi32(acc[0], _mm256_sll_epi32(_mm256_sub_epi32(_mm256_unpacklo_epi32(e, o), bias), shift));
    acc[1] = _mm256_add_epi32(acc[1], _mm256_sll_epi32(_mm256_sub_epi32(_mm256_unpackhi_epi32(e, o), bias), shift));
}

/* One bit of up to QCC_LOOKUP_CHUNKS chunks: T tokens x 16 rows. */
QCC_HELPER void qcc_lookup_bit_avx2(const uint8_t *w, int64_t step, const int8_t *table, int64_t stride, int64_t chunks,
                                    int b, __m256i acc[4][2], const int T) {
    const __m256i sign = _mm256_set1_epi8((char)0x80);
    __m256i all[4], odd[4];
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) all[t] = odd[t] = _mm256_setzero_si256();
    for (int64_t c = 0; c < chunks; c++, w += step, table += 128) {
        __m256i index[4];
        qcc_lookup_indices_avx2(w, index);
#pragma GCC unroll 4
        for (int t = 0; t < T; t++)
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                const __m256i two = _mm256_loadu_si256((const __m256i *)(table + t * stride + 32 * i));
                const __m256i entry = _mm256_shuffle_epi8(_mm256_xor_si256(two, sign), index[i]);
                all[t] = _mm256_add_epi16(all[t], entry);
                odd[t] = _mm256_add_epi16(odd[t], _mm256_srli_epi16(entry, 8));
            }
    }
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) qcc_lookup_empty_avx2(all[t], odd[t], (int32_t)(4 * chunks), b, acc[t]);
}

QCC_HELPER void qcc_lookup_group_avx2(const uint8_t *w, const int8_t *table, int64_t stride, int64_t chunks, int bits,
                                      __m256i acc[4][2], const int T) {
    for (int64_t c = 0; c < chunks; c += QCC_LOOKUP_CHUNKS) {
        const int64_t count = qcc_min64(QCC_LOOKUP_CHUNKS, chunks - c);
        for (int b = 0; b < bits; b++)
            qcc_lookup_bit_avx2(w + (c * bits + bits - 1 - b) * 64, bits * 64, table + c * 128, stride, count, b, acc,
                                T);
    }
}

/* acc += 2^(b + 1) * rests of the wide lines of one token and group. */
static QCC_TARGET void qcc_lookup_rests_avx2(const uint8_t *w, const int8_t *rest, const int32_t *lines, int32_t count,
                                             int bits, __m256i acc[2]) {
    for (int32_t i = 0; i < count; i++, rest += 64)
        for (int b = 0; b < bits; b++) {
            const int half = lines[i] & 1 ? 2 : 0;
            __m256i index[4], sum = _mm256_setzero_si256();
            qcc_lookup_indices_avx2(w + ((int64_t)(lines[i] / 2) * bits + bits - 1 - b) * 64, index);
            for (int q = 0; q < 2; q++) {
                const __m256i two = _mm256_loadu_si256((const __m256i *)(rest + 32 * q));
                const __m256i entry = _mm256_shuffle_epi8(two, index[half + q]);
                sum = _mm256_add_epi16(sum, _mm256_cvtepi8_epi16(_mm256_castsi256_si128(entry)));
                sum = _mm256_add_epi16(sum, _mm256_cvtepi8_epi16(_mm256_extracti128_si256(entry, 1)));
            }
            const __m256i front = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(sum)); /* rows 0-3 8-11 */
            const __m256i back = _mm256_cvtepi16_epi32(_mm256_extracti128_si256(sum, 1));
            const __m128i shift = _mm_cvtsi32_si128(b + 1);
            acc[0] = _mm256_add_epi32(acc[0], _mm256_sll_epi32(_mm256_permute2x128_si256(front, back, 0x20), shift));
            acc[1] = _mm256_add_epi32(acc[1], _mm256_sll_epi32(_mm256_permute2x128_si256(front, back, 0x31), shift));
        }
}

/* One group: T tokens x 16 rows. */
QCC_HELPER void qcc_lookup_sums_avx2(const qcc_lookup *l, const uint8_t *w, int64_t table, int64_t chunks, int64_t at,
                                     __m256i acc[4][2], const int T) {
    const qcc_tlinear *a = l->a;
    const int64_t stride = l->padded_k * 4;
    for (int t = 0; t < T; t++) acc[t][0] = acc[t][1] = _mm256_setzero_si256();
    qcc_lookup_group_avx2(w, a->t.entries + table, stride, chunks, a->w.bits, acc, T);
    for (int t = 0; t < T; t++, table += stride) {
        const int32_t wide = a->t.wide[at + t * l->groups];
        if (wide == 0) continue;
        if (a->t.rest) {
            qcc_lookup_rests_avx2(w, a->t.rest + table, a->t.lines + table / 64, wide, a->w.bits, acc[t]);
        } else {
            for (int h = 0; h < 2; h++) acc[t][h] = _mm256_sll_epi32(acc[t][h], _mm_cvtsi32_si128(wide));
        }
    }
}

QCC_HELPER void qcc_lookup_tokens_avx2(const qcc_lookup *l, int b, int64_t m, float *out, const int T) {
    const qcc_tlinear *a = l->a;
    const uint8_t *w = l->codes[b];
    int64_t table = m * l->padded_k * 4;
    __m256 sum[4][2];
    for (int t = 0; t < T; t++) sum[t][0] = sum[t][1] = _mm256_setzero_ps();
    for (int64_t g = 0; g < l->groups; g++) {
        const int64_t chunks = qcc_group_chunks(a->w.k, a->w.group, g), index = l->block[b] * l->groups + g;
        __m256i acc[4][2];
        int32_t zero[QCC_ROWS];
        float scale[QCC_ROWS];
        QCC_FN(qcc_load_zeros)(&a->w, index, zero);
        QCC_FN(qcc_load_steps)(&a->w, index, scale);
        qcc_lookup_sums_avx2(l, w, table, chunks, m * l->groups + g, acc, T);
        for (int t = 0; t < T; t++)
            for (int h = 0; h < 2; h++) {
                const int64_t at = (m + t) * l->groups + g;
                const __m256i z = _mm256_loadu_si256((const __m256i *)(zero + 8 * h));
                __m256i start = _mm256_set1_epi32(l->starts[g * QCC_TABLE_M + m + t - l->m0]);
                if (a->w.zeros)
                    start = _mm256_add_epi32(start, _mm256_mullo_epi32(z, _mm256_set1_epi32(-a->x.sums[at])));
                __m256 s = _mm256_loadu_ps(scale + 8 * h);
                if (a->x.group_scales) s = _mm256_mul_ps(s, _mm256_set1_ps(a->x.scales[at]));
                __m256i exact = _mm256_add_epi32(acc[t][h], start);
                if (a->w.mid_rise)
                    exact = _mm256_add_epi32(_mm256_add_epi32(exact, exact), _mm256_set1_epi32(a->x.sums[at]));
                sum[t][h] = _mm256_add_ps(sum[t][h], _mm256_mul_ps(s, _mm256_cvtepi32_ps(exact)));
            }
        w += chunks * a->w.bits * 64;
        table += chunks * 128;
    }
    for (int t = 0; t < T; t++)
        for (int h = 0; h < 2; h++) _mm256_storeu_ps(out + t * QCC_TILE_N + b * QCC_ROWS + 8 * h, sum[t][h]);
}

static QCC_TARGET void qcc_lookup_tile_avx2(const qcc_lookup *l, int64_t m, int64_t tokens, float *out) {
    for (int b = 0; b < 2; b++) {
        int64_t done = 0;
        if (tokens == 4) qcc_lookup_tokens_avx2(l, b, m, out, 4), done = 4;
        for (; tokens - done >= 2; done += 2) qcc_lookup_tokens_avx2(l, b, m + done, out + done * QCC_TILE_N, 2);
        if (tokens - done) qcc_lookup_tokens_avx2(l, b, m + done, out + done * QCC_TILE_N, 1);
    }
}
#undef QCC_LOOKUP_CHUNKS

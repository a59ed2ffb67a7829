/* Integer dot products with vpmaddubsw, kept from saturating.
 *
 * vpmaddubsw adds two u8 x s8 products in int16: safe while 2 * max(code) * 128 <= 32767, so for codes
 * of up to 7 bits. Narrower codes leave room to add several such pairs before widening; codes of
 * 8 bits are split into their low 7 bits and the top one. */
#define QCC_DOT_TOKENS_avx2(groups) ((void)(groups), 2)

/* Lines (4 k each) whose int16 pair sums cannot overflow together: n * 2 * (2^bits - 1) * 128 < 2^15. */
QCC_HELPER int qcc_lines_per_widening_avx2(int bits) { return bits <= 4 ? 8 : bits == 5 ? 4 : bits == 6 ? 2 : 1; }

/* T tokens x 16 rows of one group. */
QCC_HELPER void qcc_dot_group_avx2(const uint8_t *w, const int8_t *x, int64_t stride, int64_t chunks,
                                   __m256i acc[2][2], const int T, const int bits) {
    const __m256i ones = _mm256_set1_epi16(1), top = _mm256_set1_epi16(128);
    const __m256i low7 = _mm256_set1_epi8(127), bit = _mm256_set1_epi8(1);
    const int step = qcc_lines_per_widening_avx2(bits);
    for (int64_t line = 0; line < chunks * 8; line += step) {
        __m256i pair[2][2], high[2][2];
#pragma GCC unroll 8
        for (int i = 0; i < step; i++, w += 64, x += 4) {
#pragma GCC unroll 2
            for (int h = 0; h < 2; h++) {
                __m256i v = _mm256_load_si256((const __m256i *)(w + 32 * h)), hi = v;
                if (bits == 8) {
                    hi = _mm256_and_si256(_mm256_srli_epi16(v, 7), bit);
                    v = _mm256_and_si256(v, low7);
                }
#pragma GCC unroll 2
                for (int t = 0; t < T; t++) {
                    int32_t word;
                    memcpy(&word, x + t * stride, 4);
                    __m256i xt = _mm256_set1_epi32(word), product = _mm256_maddubs_epi16(v, xt);
                    pair[t][h] = i == 0 ? product : _mm256_add_epi16(pair[t][h], product);
                    if (bits == 8) high[t][h] = _mm256_maddubs_epi16(hi, xt);
                }
            }
        }
#pragma GCC unroll 2
        for (int t = 0; t < T; t++)
#pragma GCC unroll 2
            for (int h = 0; h < 2; h++) {
                acc[t][h] = _mm256_add_epi32(acc[t][h], _mm256_madd_epi16(pair[t][h], ones));
                if (bits == 8) acc[t][h] = _mm256_add_epi32(acc[t][h], _mm256_madd_epi16(high[t][h], top));
            }
    }
}

QCC_HELPER void qcc_dot_block_avx2(const qcc_dot *d, int b, int64_t m, float *out, const int T, const int bits) {
    const qcc_qweight *weight = &d->a->w;
    const int8_t *x = d->a->x.codes + m * d->padded_k;
    const uint8_t *w = d->rows[b];
    __m256 sum[2][2];
    for (int t = 0; t < T; t++) sum[t][0] = sum[t][1] = _mm256_setzero_ps();
    for (int64_t g = 0; g < d->groups; g++) {
        int64_t chunks = qcc_group_chunks(weight->k, weight->group, g), index = d->block[b] * d->groups + g;
        __m256i acc[2][2];
        int32_t zero[QCC_ROWS];
        float scale[QCC_ROWS];
        QCC_FN(qcc_load_zeros)(weight, index, zero);
        QCC_FN(qcc_load_steps)(weight, index, scale);
        for (int t = 0; t < T; t++)
            for (int h = 0; h < 2; h++) {
                __m256i xsum = _mm256_set1_epi32(-d->a->x.sums[(m + t) * d->groups + g]);
                acc[t][h] = _mm256_mullo_epi32(_mm256_loadu_si256((const __m256i *)(zero + 8 * h)), xsum);
            }
        qcc_dot_group_avx2(w, x, d->padded_k, chunks, acc, T, bits);
        for (int t = 0; t < T; t++)
            for (int h = 0; h < 2; h++) {
                __m256 s = _mm256_loadu_ps(scale + 8 * h);
                if (weight->mid_rise)
                    acc[t][h] = _mm256_add_epi32(_mm256_add_epi32(acc[t][h], acc[t][h]),
                                                 _mm256_set1_epi32(d->a->x.sums[(m + t) * d->groups + g]));
                if (d->a->x.group_scales)
                    s = _mm256_mul_ps(s, _mm256_set1_ps(d->a->x.scales[(m + t) * d->groups + g]));
                sum[t][h] = _mm256_add_ps(sum[t][h], _mm256_mul_ps(s, _mm256_cvtepi32_ps(acc[t][h])));
            }
        w += chunks * 512;
        x += chunks * QCC_CHUNK;
    }
    for (int t = 0; t < T; t++)
        for (int h = 0; h < 2; h++) _mm256_storeu_ps(out + t * QCC_TILE_N + b * QCC_ROWS + 8 * h, sum[t][h]);
}

#define QCC_DOT_BITS(bits) \
    static QCC_TARGET void qcc_dot_tile##bits##_avx2(const qcc_dot *d, int64_t m, int64_t tokens, float *out) { \
        for (; tokens >= 2; tokens -= 2, m += 2, out += 2 * QCC_TILE_N) \
            for (int b = 0; b < 2; b++) qcc_dot_block_avx2(d, b, m, out, 2, bits); \
        if (tokens) \
            for (int b = 0; b < 2; b++) qcc_dot_block_avx2(d, b, m, out, 1, bits); \
    }
QCC_DOT_BITS(4)
QCC_DOT_BITS(5)
QCC_DOT_BITS(6)
QCC_DOT_BITS(7)
QCC_DOT_BITS(8)
#undef QCC_DOT_BITS

static QCC_TARGET void qcc_dot_tile_avx2(const qcc_dot *d, int64_t m, int64_t tokens, float *out) {
    switch (d->a->w.bits) {
    case 5: qcc_dot_tile5_avx2(d, m, tokens, out); break;
    case 6: qcc_dot_tile6_avx2(d, m, tokens, out); break;
    case 7: qcc_dot_tile7_avx2(d, m, tokens, out); break;
    case 8: qcc_dot_tile8_avx2(d, m, tokens, out); break;
    default: qcc_dot_tile4_avx2(d, m, tokens, out); break;
    }
}

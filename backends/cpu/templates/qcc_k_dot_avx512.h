/* Integer dot products with vpdpbusd: weights are the unsigned operand, activations are broadcast. */
#define QCC_DOT_TOKENS_avx512vnni(groups) ((groups) == 1 ? 12 : 6)

QCC_HELPER __m512i qcc_broadcast4_avx512vnni(const int8_t *x) {
    int32_t word;
    memcpy(&word, x, 4);
    return _mm512_set1_epi32(word);
}

/* acc += dot of 4 codes (unsigned) and 4 activations (signed) per lane. As assembly: gcc (12, 13) makes two
 * register moves of every accumulator in a loop of the intrinsic. */
#define QCC_DP(acc, w, x) __asm__("vpdpbusd\t%2, %1, %0" : "+v"(acc) : "v"(w), "v"(x))

QCC_HELPER __m512 qcc_load16_avx512vnni(const void *scales, int f16) {
    return f16 ? _mm512_cvtph_ps(_mm256_loadu_si256(scales)) : _mm512_loadu_ps(scales);
}

QCC_HELPER __m512 qcc_scales16_avx512vnni(const qcc_qweight *w, int64_t index) {
    return qcc_load16_avx512vnni((const uint8_t *)w->scales + index * (w->scale_f16 ? 32 : 64), w->scale_f16);
}

/* The zero points of 16 rows; zeros where all have one. */
QCC_HELPER __m512i qcc_zeros16_avx512vnni(const qcc_qweight *w, int64_t index) {
    if (!w->zeros) return _mm512_setzero_si512();
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(w->zeros + index * QCC_ROWS)));
}

/* -z * sum of one token: where the accumulator starts. */
QCC_HELPER __m512i qcc_start_avx512vnni(const qcc_qweight *w, int64_t index, int32_t xsum) {
    if (!w->zeros) return _mm512_set1_epi32(-w->zero * xsum);
    return _mm512_mullo_epi32(qcc_zeros16_avx512vnni(w, index), _mm512_set1_epi32(-xsum));
}

/* sum + (scale * sx) * float(acc), each step rounded; `at` is the number of the row and group. */
QCC_HELPER __m512 qcc_scale_add_avx512vnni(const qcc_qweight *w, const qcc_qrows *x, int64_t at, __m512 scale,
                                           __m512i acc, __m512 sum) {
    if (w->mid_rise) {
        acc = _mm512_add_epi32(_mm512_add_epi32(acc, acc), _mm512_set1_epi32(x->sums[at]));
        scale = _mm512_mul_ps(scale, _mm512_set1_ps(0.5f));
    }
    if (x->group_scales) scale = _mm512_mul_ps(scale, _mm512_set1_ps(x->scales[at]));
    return _mm512_add_ps(sum, _mm512_mul_ps(scale, _mm512_cvtepi32_ps(acc)));
}

/* T tokens x 32 rows. `single` tells the compiler that the float sums are dead while integers run. */
QCC_HELPER void qcc_dot_tokens_avx512vnni(const qcc_dot *d, int64_t m, float *out, const int T, const int single) {
    const qcc_qweight *weight = &d->a->w;
    const int8_t *x = d->a->x.codes + m * d->padded_k;
    const uint8_t *w0 = d->rows[0], *w1 = d->rows[1];
    const int64_t groups = single ? 1 : d->groups, stride = d->padded_k;
    __m512 sum[12][2];
#pragma GCC unroll 12
    for (int t = 0; t < T; t++) sum[t][0] = sum[t][1] = _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; g++) {
        const int64_t chunks = qcc_group_chunks(weight->k, weight->group, g);
        const int64_t i0 = d->block[0] * groups + g, i1 = d->block[1] * groups + g;
        __m512i acc[12][2];
#pragma GCC unroll 12
        for (int t = 0; t < T; t++) {
            int32_t xsum = d->a->x.sums[(m + t) * groups + g];
            acc[t][0] = qcc_start_avx512vnni(weight, i0, xsum);
            acc[t][1] = qcc_start_avx512vnni(weight, i1, xsum);
        }
        for (int64_t line = 0; line < chunks * 8; line++, w0 += 64, w1 += 64, x += 4) {
            __m512i v0 = _mm512_load_si512(w0), v1 = _mm512_load_si512(w1);
#pragma GCC unroll 12
            for (int t = 0; t < T; t++) {
                __m512i xt = qcc_broadcast4_avx512vnni(x + t * stride);
                QCC_DP(acc[t][0], v0, xt);
                QCC_DP(acc[t][1], v1, xt);
            }
        }
        __m512 s0 = qcc_scales16_avx512vnni(weight, i0), s1 = qcc_scales16_avx512vnni(weight, i1);
#pragma GCC unroll 12
        for (int t = 0; t < T; t++) {
            sum[t][0] = qcc_scale_add_avx512vnni(weight, &d->a->x, (m + t) * groups + g, s0, acc[t][0], sum[t][0]);
            sum[t][1] = qcc_scale_add_avx512vnni(weight, &d->a->x, (m + t) * groups + g, s1, acc[t][1], sum[t][1]);
        }
    }
#pragma GCC unroll 12
    for (int t = 0; t < T; t++) {
        _mm512_storeu_ps(out + t * QCC_TILE_N, sum[t][0]);
        _mm512_storeu_ps(out + t * QCC_TILE_N + 16, sum[t][1]);
    }
}

static QCC_TARGET void qcc_dot_tile_avx512vnni(const qcc_dot *d, int64_t m, int64_t tokens, float *out) {
    int64_t done = 0;
    if (d->groups == 1) {
        for (; tokens - done >= 12; done += 12) qcc_dot_tokens_avx512vnni(d, m + done, out + done * 32, 12, 1);
        for (; tokens - done >= 6; done += 6) qcc_dot_tokens_avx512vnni(d, m + done, out + done * 32, 6, 1);
    }
    for (; tokens - done >= 6; done += 6) qcc_dot_tokens_avx512vnni(d, m + done, out + done * 32, 6, 0);
    for (; tokens - done >= 4; done += 4) qcc_dot_tokens_avx512vnni(d, m + done, out + done * 32, 4, 0);
    for (; tokens - done >= 2; done += 2) qcc_dot_tokens_avx512vnni(d, m + done, out + done * 32, 2, 0);
    if (tokens - done) qcc_dot_tokens_avx512vnni(d, m + done, out + done * 32, 1, 0);
}

/* T <= 4 tokens x 16 rows straight from the stored planes: for M this small the expansion would cost
 * more to write and read back than to repeat. Several accumulators a token hide the latency of vpdpbusd. */
QCC_HELPER void qcc_dot_stored_avx512vnni(const qcc_dot *d, int b, int64_t m, float *out, const int T,
                                          const int bits) {
    const qcc_qweight *weight = &d->a->w;
    const int64_t groups = d->groups, stride = d->padded_k, scale_step = weight->scale_f16 ? 32 : 64;
    const int64_t full = qcc_group_chunks(weight->k, weight->group, 0);
    const int64_t last = qcc_group_chunks(weight->k, weight->group, groups - 1);
    const int8_t *x = d->a->x.codes + m * stride;
    const int32_t *xsums = d->a->x.sums + m * groups;
    const uint8_t *p = d->codes[b], *scales = (const uint8_t *)weight->scales + d->block[b] * groups * scale_step;
    const int chains = T == 1 ? 4 : 2, f16 = weight->scale_f16;
    __m512 sum[4];
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) sum[t] = _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; g++, scales += scale_step) {
        const int64_t chunks = g + 1 < groups ? full : last;
        __m512i acc[4][4];
#pragma GCC unroll 4
        for (int t = 0; t < T; t++) {
            acc[t][0] = qcc_start_avx512vnni(weight, d->block[b] * groups + g, xsums[t * groups + g]);
#pragma GCC unroll 4
            for (int i = 1; i < chains; i++) acc[t][i] = _mm512_setzero_si512();
        }
        for (int64_t c = 0; c < chunks; c++, x += QCC_CHUNK) {
            __m512i w[8];
            if (bits < 8) qcc_expand_columns_avx512vnni(p, bits, w);
            else
#pragma GCC unroll 8
                for (int q = 0; q < 8; q++) w[q] = _mm512_load_si512(p + 64 * q);
#pragma GCC unroll 8
            for (int i = 0; i < bits; i++, p += 64) QCC_PREFETCH(p);
#pragma GCC unroll 8
            for (int q = 0; q < 8; q++)
#pragma GCC unroll 4
                for (int t = 0; t < T; t++) {
                    __m512i xt = qcc_broadcast4_avx512vnni(x + t * stride + 4 * q);
                    QCC_DP(acc[t][q % chains], w[q], xt);
                }
        }
        QCC_PREFETCH(scales);
        const __m512 scale = qcc_load16_avx512vnni(scales, f16);
#pragma GCC unroll 4
        for (int t = 0; t < T; t++) {
#pragma GCC unroll 4
            for (int i = chains / 2; i; i /= 2)
#pragma GCC unroll 2
                for (int j = 0; j < i; j++) acc[t][j] = _mm512_add_epi32(acc[t][j], acc[t][j + i]);
            sum[t] = qcc_scale_add_avx512vnni(weight, &d->a->x, (m + t) * groups + g, scale, acc[t][0], sum[t]);
        }
    }
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) _mm512_storeu_ps(out + t * QCC_TILE_N + b * QCC_ROWS, sum[t]);
}

#define QCC_STORED(bits) \
    static QCC_TARGET void qcc_dot_stored##bits##_avx512vnni(const qcc_dot *d, int64_t m, int64_t tokens, \
                                                             float *out) { \
        for (int b = 0; b < 2; b++) { \
            if (tokens == 1) qcc_dot_stored_avx512vnni(d, b, m, out, 1, bits); \
            else if (tokens == 2) qcc_dot_stored_avx512vnni(d, b, m, out, 2, bits); \
            else if (tokens == 3) qcc_dot_stored_avx512vnni(d, b, m, out, 3, bits); \
            else qcc_dot_stored_avx512vnni(d, b, m, out, 4, bits); \
        } \
    }
QCC_STORED(1)
QCC_STORED(2)
QCC_STORED(3)
QCC_STORED(4)
QCC_STORED(5)
QCC_STORED(6)
QCC_STORED(7)
QCC_STORED(8)
#undef QCC_STORED
#undef QCC_DP

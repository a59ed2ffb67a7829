/* Integer dot products with vpdpbusd: weights are the unsigned operand, activations are broadcast. */
#define QCC_DOT_TOKENS_avx512vnni(groups) ((groups) == 1 ? 12 : 6)

QCC_HELPER __m512i qcc_broadcast4_avx512vnni(const int8_t *x) {
    int32_t word;
    memcpy(&word, x, 4);
    return _mm512_set1_epi32(word);
}

QCC_HELPER __m512 qcc_scales16_avx512vnni(const qcc_qweight *w, int64_t index) {
    if (!w->scale_f16) return _mm512_loadu_ps((const float *)w->scales + index * QCC_ROWS);
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)((const uint16_t *)w->scales + index * QCC_ROWS)));
}

/* -z * sum of one token: where the accumulator starts. */
QCC_HELPER __m512i qcc_start_avx512vnni(const qcc_qweight *w, int64_t index, int32_t xsum) {
    if (!w->zeros) return _mm512_set1_epi32(-w->zero * xsum);
    __m512i zero = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(w->zeros + index * QCC_ROWS)));
    return _mm512_mullo_epi32(zero, _mm512_set1_epi32(-xsum));
}

/* sum + (scale * sx) * float(acc), each step rounded. */
QCC_HELPER __m512 qcc_scale_add_avx512vnni(const qcc_dot *d, int64_t token, int64_t g, __m512 scale, __m512i acc,
                                           __m512 sum) {
    if (d->a->x.group_scales)
        scale = _mm512_mul_ps(scale, _mm512_set1_ps(d->a->x.scales[token * d->groups + g]));
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
                acc[t][0] = _mm512_dpbusd_epi32(acc[t][0], v0, xt);
                acc[t][1] = _mm512_dpbusd_epi32(acc[t][1], v1, xt);
            }
        }
        __m512 s0 = qcc_scales16_avx512vnni(weight, i0), s1 = qcc_scales16_avx512vnni(weight, i1);
#pragma GCC unroll 12
        for (int t = 0; t < T; t++) {
            sum[t][0] = qcc_scale_add_avx512vnni(d, m + t, g, s0, acc[t][0], sum[t][0]);
            sum[t][1] = qcc_scale_add_avx512vnni(d, m + t, g, s1, acc[t][1], sum[t][1]);
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
    for (; tokens - done >= 3; done += 3) qcc_dot_tokens_avx512vnni(d, m + done, out + done * 32, 3, 0);
    for (; tokens - done >= 1; done += 1) qcc_dot_tokens_avx512vnni(d, m + done, out + done * 32, 1, 0);
}

/* Expand one chunk into 8 registers, as qcc_expand does in memory. */
QCC_HELPER const uint8_t *qcc_expand8_avx512vnni(const uint8_t *line, const int bits, __m512i *w) {
    const __m512i m4 = _mm512_set1_epi8(15), m2 = _mm512_set1_epi8(3), m1 = _mm512_set1_epi8(1);
#pragma GCC unroll 8
    for (int q = 0; q < 8; q++) w[q] = bits == 8 ? _mm512_load_si512(line + 64 * q) : _mm512_setzero_si512();
    if (bits == 8) return line + 512;
    if (bits & 4) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++, line += 64) {
            __m512i v = _mm512_load_si512(line);
            w[2 * i] = _mm512_and_si512(v, m4);
            w[2 * i + 1] = _mm512_and_si512(_mm512_srli_epi16(v, 4), m4);
        }
    }
    if (bits & 2) {
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++, line += 64) {
            __m512i v = _mm512_load_si512(line);
#pragma GCC unroll 4
            for (int s = 0; s < 4; s++) {
                __m512i low = _mm512_and_si512(_mm512_srli_epi16(v, (unsigned)(2 * s)), m2);
                w[4 * i + s] = _mm512_or_si512(_mm512_slli_epi16(w[4 * i + s], 2), low);
            }
        }
    }
    if (bits & 1) {
        __m512i v = _mm512_load_si512(line);
#pragma GCC unroll 8
        for (int s = 0; s < 8; s++) {
            __m512i low = _mm512_and_si512(_mm512_srli_epi16(v, (unsigned)s), m1);
            w[s] = _mm512_or_si512(_mm512_slli_epi16(w[s], 1), low);
        }
        line += 64;
    }
    return line;
}

/* T <= 4 tokens x 16 rows straight from the stored planes: for M this small the expansion would cost
 * more to write and read back than to repeat. Two accumulators a token hide the latency of vpdpbusd. */
QCC_HELPER void qcc_dot_stored_avx512vnni(const qcc_dot *d, int b, int64_t m, float *out, const int T,
                                          const int bits) {
    const qcc_qweight *weight = &d->a->w;
    const int8_t *x = d->a->x.codes + m * d->padded_k;
    const uint8_t *p = d->codes[b];
    __m512 sum[4];
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) sum[t] = _mm512_setzero_ps();
    for (int64_t g = 0; g < d->groups; g++) {
        const int64_t chunks = qcc_group_chunks(weight->k, weight->group, g), index = d->block[b] * d->groups + g;
        __m512i acc[4][2];
#pragma GCC unroll 4
        for (int t = 0; t < T; t++) {
            acc[t][0] = qcc_start_avx512vnni(weight, index, d->a->x.sums[(m + t) * d->groups + g]);
            acc[t][1] = _mm512_setzero_si512();
        }
        for (int64_t c = 0; c < chunks; c++, x += QCC_CHUNK) {
            __m512i w[8];
            p = qcc_expand8_avx512vnni(p, bits, w);
#pragma GCC unroll 8
            for (int q = 0; q < 8; q++)
#pragma GCC unroll 4
                for (int t = 0; t < T; t++)
                    acc[t][q & 1] = _mm512_dpbusd_epi32(acc[t][q & 1], w[q],
                                                        qcc_broadcast4_avx512vnni(x + t * d->padded_k + 4 * q));
        }
        __m512 scale = qcc_scales16_avx512vnni(weight, index);
#pragma GCC unroll 4
        for (int t = 0; t < T; t++)
            sum[t] = qcc_scale_add_avx512vnni(d, m + t, g, scale, _mm512_add_epi32(acc[t][0], acc[t][1]), sum[t]);
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

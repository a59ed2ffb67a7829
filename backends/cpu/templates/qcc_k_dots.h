/* Dot products of a few rows with many: what qcc_dot gives for each pair, bit for bit, with the sixteen lanes of several
 * sums folded at once. */

#if QCC_ISA == QCC_ISA_AVX512
#define QCC_DOTS 16
/* out[i] = the sum of the lanes of acc[i], in the order of qcc_sum_lanes. */
QCC_HELPER void QCC_FN(qcc_fold)(QCC_V acc[QCC_DOTS][QCC_LANES], float *out) {
    __m512 y[4], z[2];
#pragma GCC unroll 4
    for (int e = 0; e < 4; e++) { /* quarter c of y[e] is for acc[4 * c + e] */
        const __m512 a = acc[e][0], b = acc[4 + e][0], c = acc[8 + e][0], d = acc[12 + e][0];
        const __m512 ab = _mm512_shuffle_f32x4(a, b, 0x44) + _mm512_shuffle_f32x4(a, b, 0xee);
        const __m512 cd = _mm512_shuffle_f32x4(c, d, 0x44) + _mm512_shuffle_f32x4(c, d, 0xee);
        y[e] = _mm512_shuffle_f32x4(ab, cd, 0x88) + _mm512_shuffle_f32x4(ab, cd, 0xdd);
    }
    for (int e = 0; e < 2; e++)
        z[e] = _mm512_shuffle_ps(y[2 * e], y[2 * e + 1], 0x44) + _mm512_shuffle_ps(y[2 * e], y[2 * e + 1], 0xee);
    _mm512_storeu_ps(out, _mm512_shuffle_ps(z[0], z[1], 0x88) + _mm512_shuffle_ps(z[0], z[1], 0xdd));
}
#elif QCC_ISA == QCC_ISA_AVX2
#define QCC_DOTS 4
QCC_HELPER void QCC_FN(qcc_fold)(QCC_V acc[QCC_DOTS][QCC_LANES], float *out) {
    __m256 s[4], y[2];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) s[i] = acc[i][0] + acc[i][1];
    for (int i = 0; i < 2; i++)
        y[i] = _mm256_permute2f128_ps(s[i], s[2 + i], 0x20) + _mm256_permute2f128_ps(s[i], s[2 + i], 0x31);
    const __m256 z = _mm256_shuffle_ps(y[0], y[1], 0x44) + _mm256_shuffle_ps(y[0], y[1], 0xee);
    const __m256 sums = _mm256_shuffle_ps(z, z, 0x88) + _mm256_shuffle_ps(z, z, 0xdd);
    _mm_storel_pi((__m64 *)out, _mm256_castps256_ps128(sums));
    _mm_storel_pi((__m64 *)(out + 2), _mm256_extractf128_ps(sums, 1));
}
#else
#define QCC_DOTS 1
QCC_HELPER void QCC_FN(qcc_fold)(QCC_V acc[QCC_DOTS][QCC_LANES], float *out) {
    float lane[16];
    for (int v = 0; v < QCC_LANES; v++) QCC_V_STORE(lane + v * QCC_VL, acc[0][v]);
    *out = QCC_FN(qcc_sum_lanes)(lane);
}
#endif

/* out[r * stride + t] = a[r] . b[t] for R rows of a and QCC_DOTS / R of b, n elements each. */
QCC_HELPER void QCC_FN(qcc_dots_block)(const float *a, int64_t a_stride, const float *b, int64_t b_stride, int64_t n,
                                       float *out, int64_t stride, const int R) {
    enum { most = QCC_DOTS };
    const int T = QCC_DOTS / R;
    QCC_V acc[QCC_DOTS][QCC_LANES];
    float sums[QCC_DOTS], a_rest[most][16], b_rest[most][16];
#pragma GCC unroll 16
    for (int i = 0; i < QCC_DOTS; i++)
#pragma GCC unroll 4
        for (int v = 0; v < QCC_LANES; v++) acc[i][v] = QCC_V_ZERO();
    for (int64_t k = 0; k + 16 <= n; k += 16)
#pragma GCC unroll 4
        for (int v = 0; v < QCC_LANES; v++) {
            QCC_V x[QCC_DOTS];
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) x[r] = QCC_V_LOAD(a + r * a_stride + k + v * QCC_VL);
#pragma GCC unroll 16
            for (int t = 0; t < T; t++) {
                const QCC_V y = QCC_V_LOAD(b + t * b_stride + k + v * QCC_VL);
#pragma GCC unroll 4
                for (int r = 0; r < R; r++) acc[r * T + t][v] = QCC_V_FMA(x[r], y, acc[r * T + t][v]);
            }
        }
    if (n % 16) { /* lanes without an element add 0 * 0, which changes none: no sum is -0 */
        const size_t bytes = (size_t)(n % 16) * sizeof(float);
        memset(a_rest, 0, sizeof a_rest), memset(b_rest, 0, sizeof b_rest);
        for (int r = 0; r < R; r++) memcpy(a_rest[r], a + r * a_stride + n / 16 * 16, bytes);
        for (int t = 0; t < T; t++) memcpy(b_rest[t], b + t * b_stride + n / 16 * 16, bytes);
#pragma GCC unroll 16
        for (int i = 0; i < QCC_DOTS; i++)
#pragma GCC unroll 4
            for (int v = 0; v < QCC_LANES; v++)
                acc[i][v] = QCC_V_FMA(QCC_V_LOAD(a_rest[i / T] + v * QCC_VL), QCC_V_LOAD(b_rest[i % T] + v * QCC_VL),
                                      acc[i][v]);
    }
    QCC_FN(qcc_fold)(acc, sums);
    for (int i = 0; i < QCC_DOTS; i++) out[i / T * stride + i % T] = sums[i];
}

/* R rows of a with `count` of b. */
QCC_HELPER void QCC_FN(qcc_dots_rows)(const float *a, int64_t a_stride, const float *b, int64_t b_stride, int64_t count,
                                      int64_t n, float *out, int64_t stride, const int R) {
    int64_t t = 0;
    for (; t + QCC_DOTS / R <= count; t += QCC_DOTS / R)
        QCC_FN(qcc_dots_block)(a, a_stride, b + t * b_stride, b_stride, n, out + t, stride, R);
    for (; t < count; t++)
        for (int r = 0; r < R; r++) out[r * stride + t] = QCC_FN(qcc_dot)(a + r * a_stride, b + t * b_stride, n);
}

/* out[r * stride + t] = a[r] . b[t] for `rows` rows of a and `count` of b. */
static QCC_TARGET void QCC_FN(qcc_dots)(const float *a, int64_t a_stride, int64_t rows, const float *b, int64_t b_stride,
                                        int64_t count, int64_t n, float *out, int64_t stride) {
    int64_t r = 0;
    for (; QCC_DOTS >= 16 && r + 4 <= rows; r += 4)
        QCC_FN(qcc_dots_rows)(a + r * a_stride, a_stride, b, b_stride, count, n, out + r * stride, stride,
                              QCC_DOTS >= 16 ? 4 : 1);
    for (; QCC_DOTS >= 4 && r + 2 <= rows; r += 2)
        QCC_FN(qcc_dots_rows)(a + r * a_stride, a_stride, b, b_stride, count, n, out + r * stride, stride,
                              QCC_DOTS >= 4 ? 2 : 1);
    for (; r < rows; r++)
        QCC_FN(qcc_dots_rows)(a + r * a_stride, a_stride, b, b_stride, count, n, out + r * stride, stride, 1);
}
#undef QCC_DOTS

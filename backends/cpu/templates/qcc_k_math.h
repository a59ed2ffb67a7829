/* Branch-free exp, erf, tanh and the activations built on them, for the vectoriser.
 *
 * Polynomials are minimax fits in float32 (relative error of the fits below 5e-9 of the result).
 * Clamps are written so that a NaN argument stays NaN. */

/* exp(x): x = n ln2 + r, |r| <= ln2 / 2; 2^n is applied in two halves so that results may be subnormal. */
QCC_HELPER float QCC_FN(qcc_exp)(float x) {
    const float magic = 12582912.0f;
    x = x > 89.0f ? 89.0f : x;
    x = x < -104.0f ? -104.0f : x;
    float shifted = QCC_FMA(x, 1.44269504f, magic);
    float n = shifted - magic;
    float r = QCC_FMA(n, -0.693145752f, x); /* ln2 in two parts; the first has few bits: n * it is exact */
    r = QCC_FMA(n, -1.42860677e-06f, r);
    float p = QCC_FMA(0.00139504857f, r, 0.00836888794f);
    p = QCC_FMA(p, r, 0.041666206f);
    p = QCC_FMA(p, r, 0.166665182f);
    p = QCC_FMA(p, r, 0.5f);
    p = QCC_FMA(p * r, r, r) + 1.0f;
    int32_t e = (int32_t)(qcc_bits_of(shifted) - 0x4b400000u), half = e >> 1;
    float low = qcc_float_of((uint32_t)(half + 127) << 23), high = qcc_float_of((uint32_t)(e - half + 127) << 23);
    return p * low * high;
}

/* erf(x): odd polynomial below 1, 1 - exp(-q(|x|)) above. */
QCC_HELPER float QCC_FN(qcc_erf)(float x) {
    float a = qcc_float_of(qcc_bits_of(x) & 0x7fffffffu), t = x * x;
    float p = QCC_FMA(7.8891193e-05f, t, -0.000802084105f);
    p = QCC_FMA(p, t, 0.00518953521f);
    p = QCC_FMA(p, t, -0.0268544443f);
    p = QCC_FMA(p, t, 0.112836003f);
    p = QCC_FMA(p, t, -0.37612626f);
    p = QCC_FMA(p, t, 1.12837911f) * x;
    a = a > 4.0f ? 4.0f : a;
    float q = QCC_FMA(2.16976387e-05f, a, -0.000441472919f);
    q = QCC_FMA(q, a, 0.00420528604f);
    q = QCC_FMA(q, a, -0.0252103433f);
    q = QCC_FMA(q, a, 0.108422101f);
    q = QCC_FMA(q, a, 0.633216381f);
    q = QCC_FMA(q, a, 1.12958026f);
    q = QCC_FMA(q, a, -0.000188467806f);
    q = 1.0f - QCC_FN(qcc_exp)(-q);
    q = qcc_float_of(qcc_bits_of(q) | (qcc_bits_of(x) & 0x80000000u));
    return a < 1.0f ? p : q;
}

QCC_HELPER float QCC_FN(qcc_tanh)(float x) {
    float a = qcc_float_of(qcc_bits_of(x) & 0x7fffffffu), t = x * x;
    float p = QCC_FMA(-0.00566078024f, t, 0.020601999f);
    p = QCC_FMA(p, t, -0.0537292287f);
    p = QCC_FMA(p, t, 0.133313283f);
    p = QCC_FMA(p, t, -0.333332777f);
    p = QCC_FMA(p * t, x, x);
    float q = 1.0f - 2.0f / (QCC_FN(qcc_exp)(a + a) + 1.0f);
    q = qcc_float_of(qcc_bits_of(q) | (qcc_bits_of(x) & 0x80000000u));
    return a < 0.625f ? p : q;
}

QCC_HELPER float QCC_FN(qcc_sigmoid)(float x) { return 1.0f / (1.0f + QCC_FN(qcc_exp)(-x)); }
QCC_HELPER float QCC_FN(qcc_silu)(float x) { return x / (1.0f + QCC_FN(qcc_exp)(-x)); }
QCC_HELPER float QCC_FN(qcc_gelu)(float x) {
    return 0.5f * x * (1.0f + QCC_FN(qcc_erf)(x * 0.707106781f));
}
QCC_HELPER float QCC_FN(qcc_gelu_tanh)(float x) {
    return 0.5f * x * (1.0f + QCC_FN(qcc_tanh)(0.797884561f * QCC_FMA(0.044715f * x * x, x, x)));
}

/* max and min that return NaN when either operand is NaN. */
QCC_HELPER float QCC_FN(qcc_max)(float a, float b) {
    float m = a > b ? a : b;
    return a != a ? a : m;
}
QCC_HELPER float QCC_FN(qcc_min)(float a, float b) {
    float m = a < b ? a : b;
    return a != a ? a : m;
}

/* Sum of n floats in 16 interleaved lanes, then pairwise: vectorises without reassociation. */
QCC_HELPER float QCC_FN(qcc_sum_lanes)(const float *lane) {
    float s[8];
    for (int i = 0; i < 8; i++) s[i] = lane[i] + lane[i + 8];
    for (int i = 0; i < 4; i++) s[i] += s[i + 4];
    return (s[0] + s[2]) + (s[1] + s[3]);
}

QCC_HELPER float QCC_FN(qcc_sum)(const float *x, int64_t n) {
    float lane[16] = {0};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 16; j++) lane[j] += x[i + j];
    for (int j = 0; i + j < n; j++) lane[j] += x[i + j];
    return QCC_FN(qcc_sum_lanes)(lane);
}

QCC_HELPER float QCC_FN(qcc_dot)(const float *x, const float *y, int64_t n) {
    float lane[16] = {0};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 16; j++) lane[j] = QCC_FMA(x[i + j], y[i + j], lane[j]);
    for (int j = 0; i + j < n; j++) lane[j] = QCC_FMA(x[i + j], y[i + j], lane[j]);
    return QCC_FN(qcc_sum_lanes)(lane);
}

/* Largest element, ignoring NaN; -infinity of nothing. */
QCC_HELPER float QCC_FN(qcc_max_of)(const float *x, int64_t n) {
    float lane[16], best = -INFINITY;
    int64_t i = 0;
    for (int j = 0; j < 16; j++) lane[j] = -INFINITY;
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 16; j++) lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
    for (; i < n; i++) best = x[i] > best ? x[i] : best;
    for (int j = 0; j < 16; j++) best = lane[j] > best ? lane[j] : best;
    return best;
}

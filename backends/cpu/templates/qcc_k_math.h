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
/* x / 2 * (1 + erf(x / sqrt 2)) with erf as one quotient of polynomials: a quarter of the time of
 * qcc_erf, and an absolute error of erf below 4e-7 instead of 1e-7. */
QCC_HELPER float QCC_FN(qcc_gelu)(float x) {
    const float z = x * 0.707106781f, t = z * z, a = qcc_float_of(qcc_bits_of(z) & 0x7fffffffu);
    const float one = qcc_float_of(0x3f800000u | (qcc_bits_of(x) & 0x80000000u));
    float p = QCC_FMA(2.02589399e-06f, t, 0.000284687121f);
    p = QCC_FMA(p, t, 0.00380817638f);
    p = QCC_FMA(p, t, 0.0528755002f);
    p = QCC_FMA(p, t, 0.191550776f);
    p = QCC_FMA(p, t, 1.12837911f) * z;
    float q = QCC_FMA(3.78316181e-05f, t, 0.00117072731f);
    q = QCC_FMA(q, t, 0.0150551246f);
    q = QCC_FMA(q, t, 0.114559807f);
    q = QCC_FMA(q, t, 0.503090143f);
    q = p / QCC_FMA(q, t, 1.0f);
    return 0.5f * x * (1.0f + (a > 3.9f ? one : q));
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

/* Reductions run in 16 lanes (lane j takes elements j, j + 16, ...), whatever the vector length, and the
 * lanes are folded pairwise: fast without reassociating anything, and equal on every machine that rounds
 * alike. QCC_LANES is the lanes as vectors, so that they stay in registers. */
#define QCC_LANES (16 / QCC_VL)

QCC_HELPER float QCC_FN(qcc_sum_lanes)(const float *lane) {
    float s[8];
    for (int i = 0; i < 8; i++) s[i] = lane[i] + lane[i + 8];
    for (int i = 0; i < 4; i++) s[i] += s[i + 4];
    return (s[0] + s[2]) + (s[1] + s[3]);
}

QCC_HELPER float QCC_FN(qcc_sum)(const float *x, int64_t n) {
    QCC_V acc[QCC_LANES];
    float lane[16];
    int64_t i = 0;
    for (int v = 0; v < QCC_LANES; v++) acc[v] = QCC_V_ZERO();
    for (; i + 16 <= n; i += 16)
        for (int v = 0; v < QCC_LANES; v++) acc[v] += QCC_V_LOAD(x + i + v * QCC_VL);
    for (int v = 0; v < QCC_LANES; v++) QCC_V_STORE(lane + v * QCC_VL, acc[v]);
    for (int j = 0; i + j < n; j++) lane[j] += x[i + j];
    return QCC_FN(qcc_sum_lanes)(lane);
}

/* sum (x - mean)^2 */
QCC_HELPER float QCC_FN(qcc_sum_squares)(const float *x, float mean, int64_t n) {
    const QCC_V shift = QCC_V_SET(mean);
    QCC_V acc[QCC_LANES];
    float lane[16];
    int64_t i = 0;
    for (int v = 0; v < QCC_LANES; v++) acc[v] = QCC_V_ZERO();
    for (; i + 16 <= n; i += 16)
        for (int v = 0; v < QCC_LANES; v++) {
            const QCC_V d = QCC_V_LOAD(x + i + v * QCC_VL) - shift;
            acc[v] = QCC_V_FMA(d, d, acc[v]);
        }
    for (int v = 0; v < QCC_LANES; v++) QCC_V_STORE(lane + v * QCC_VL, acc[v]);
    for (int j = 0; i + j < n; j++) lane[j] = QCC_FMA(x[i + j] - mean, x[i + j] - mean, lane[j]);
    return QCC_FN(qcc_sum_lanes)(lane);
}

QCC_HELPER float QCC_FN(qcc_dot)(const float *x, const float *y, int64_t n) {
    QCC_V acc[QCC_LANES];
    float lane[16];
    int64_t i = 0;
    for (int v = 0; v < QCC_LANES; v++) acc[v] = QCC_V_ZERO();
    for (; i + 16 <= n; i += 16)
        for (int v = 0; v < QCC_LANES; v++)
            acc[v] = QCC_V_FMA(QCC_V_LOAD(x + i + v * QCC_VL), QCC_V_LOAD(y + i + v * QCC_VL), acc[v]);
    for (int v = 0; v < QCC_LANES; v++) QCC_V_STORE(lane + v * QCC_VL, acc[v]);
    for (int j = 0; i + j < n; j++) lane[j] = QCC_FMA(x[i + j], y[i + j], lane[j]);
    return QCC_FN(qcc_sum_lanes)(lane);
}

/* Largest element, ignoring NaN; -infinity of nothing. */
QCC_HELPER float QCC_FN(qcc_max_of)(const float *x, int64_t n) {
    QCC_V acc[QCC_LANES];
    float lane[16];
    int64_t i = 0;
    for (int v = 0; v < QCC_LANES; v++) acc[v] = QCC_V_SET(-INFINITY);
    for (; i + 16 <= n; i += 16) /* the second operand wins where the first is NaN */
        for (int v = 0; v < QCC_LANES; v++) acc[v] = QCC_V_MAX(QCC_V_LOAD(x + i + v * QCC_VL), acc[v]);
    for (int v = 0; v < QCC_LANES; v++) QCC_V_STORE(lane + v * QCC_VL, acc[v]);
    for (int j = 0; i + j < n; j++) lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
    for (int step = 8; step > 0; step /= 2)
        for (int j = 0; j < step; j++) lane[j] = lane[j + step] > lane[j] ? lane[j + step] : lane[j];
    return lane[0];
}

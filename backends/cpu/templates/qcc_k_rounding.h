/* Rounding activations to small floats. */
#ifndef QCC_ROUND_SPAN
#define QCC_ROUND_SPAN 64 /* elements at a time */

/* max|x|, or NaN. */
static inline float qcc_round_peak(const float *x, int64_t n, float peak) {
    for (int64_t i = 0; i < n; i++) {
        const float v = fabsf(x[i]);
        if (!(v <= peak)) peak = peak != peak ? peak : v;
    }
    return peak;
}

/* A positive number as 8-bit float with 3 bits of mantissa: at most 448, and not 0 unless it is 0. */
static inline float qcc_round_e4m3(float v) {
    if (v > 448.0f) return 448.0f;
    if (v != 0.0f && v < 0x1p-9f) return 0x1p-9f;
    if (v < 0x1p-6f) return rintf(v * 512.0f) * 0x1p-9f;
    const uint32_t u = qcc_bits_of(v);
    return v != v ? v : qcc_float_of((u + 0x7ffffu + (u >> 20 & 1u)) & ~0xfffffu);
}

/* 2^exponent from 2^-127 to 2^127; the least for 0, NaN for what is not finite. */
static inline float qcc_round_power(int32_t exponent, float v) {
    if (!(fabsf(v) <= 3.402823466e38f)) return qcc_float_of(0x7fc00000u);
    if (v == 0.0f || exponent < -127) exponent = -127;
    return ldexpf(1.0f, exponent > 127 ? 127 : exponent);
}

static inline float qcc_round_scale(const qcc_round_rows *a, float wanted, float magnitude) {
    int exponent = 0, of_reach = 0;
    float mantissa;
    switch (a->scale_dtype) {
    case QCC_SCALE_F16: return qcc_f16_to_f32(qcc_f32_to_f16(wanted));
    case QCC_SCALE_BF16: return qcc_bf16_to_f32(qcc_f32_to_bf16(wanted));
    case QCC_SCALE_E4M3: return qcc_round_e4m3(wanted);
    case QCC_SCALE_E8M0_FLOOR:
        (void)frexpf(magnitude, &exponent), (void)frexpf(a->reach, &of_reach);
        return qcc_round_power(exponent - of_reach, magnitude);
    case QCC_SCALE_E8M0_CEIL:
        mantissa = frexpf(wanted, &exponent);
        return qcc_round_power(mantissa == 0.5f ? exponent - 1 : exponent, wanted);
    case QCC_SCALE_E8M0:
        mantissa = frexpf(wanted, &exponent);
        return qcc_round_power(mantissa >= 0.75f ? exponent : exponent - 1, wanted);
    default: return wanted;
    }
}

static void qcc_k_round_root(const qcc_round_root *a, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    if (begin >= end) return;
    float peak = 0.0f;
    for (int64_t r = 0; r < a->m; r++) peak = qcc_round_peak(a->x + r * a->x_stride, a->k, peak);
    *a->root = peak / a->reach / a->top;
}
#endif

/* Up to QCC_ROUND_SPAN elements with a scale each. */
QCC_HELPER void QCC_FN(qcc_round_span)(const qcc_round_rows *a, const float *x, const float *scale, int64_t n, float *y) {
    float quotient[QCC_ROUND_SPAN];
    int32_t place[QCC_ROUND_SPAN];
    for (int64_t i = 0; i < n; i++) {
        quotient[i] = x[i] / (scale[i] == 0.0f ? INFINITY : scale[i]);
        place[i] = 0;
    }
    if (a->count <= 32) {
        for (int64_t e = 0; e < a->count - 1; e++) {
            const float edge = a->edges[e];
            for (int64_t i = 0; i < n; i++) place[i] += quotient[i] >= edge;
        }
    } else {
        for (int64_t i = 0; i < n; i++) {
            int32_t low = 0, high = (int32_t)a->count - 1; /* edges at or below the quotient lie before low */
            while (low < high) {
                const int32_t middle = (low + high) / 2;
                if (quotient[i] >= a->edges[middle]) low = middle + 1;
                else high = middle;
            }
            place[i] = low;
        }
    }
    for (int64_t i = 0; i < n; i++) {
        const float undefined = scale[i] == 0.0f ? 0.0f : a->undefined;
        y[i] = scale[i] * (quotient[i] != quotient[i] ? undefined : a->values[place[i]]);
    }
}

QCC_HELPER void QCC_FN(qcc_round_block)(const qcc_round_rows *a, const float *x, int64_t n, float *y) {
    const float magnitude = qcc_round_peak(x, n, 0.0f), root = a->root ? *a->root : 1.0f;
    const float wanted = magnitude / a->reach;
    float scale[QCC_ROUND_SPAN];
    float one = !a->root ? qcc_round_scale(a, wanted, magnitude)
                         : qcc_round_scale(a, root == 0.0f ? 0.0f : wanted / root, root == 0.0f ? 0.0f : magnitude / root);
    if (a->root) one = one * root;
    for (int64_t i = 0; i < QCC_ROUND_SPAN; i++) scale[i] = one;
    for (int64_t i = 0; i < n; i += QCC_ROUND_SPAN)
        QCC_FN(qcc_round_span)(a, x + i, scale, qcc_min64(QCC_ROUND_SPAN, n - i), y + i);
}

QCC_KERNEL_FN QCC_FN(qcc_k_round_rows)(const qcc_round_rows *a, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    for (int64_t r = begin; r < end; r++) {
        const float *x = a->x + r * a->x_stride;
        float *y = a->y + r * a->k;
        const int64_t step = a->given ? QCC_ROUND_SPAN : a->group;
        for (int64_t c = 0; c < a->k; c += step) {
            const int64_t n = qcc_min64(step, a->k - c);
            if (a->given) QCC_FN(qcc_round_span)(a, x + c, a->given + c, n, y + c);
            else QCC_FN(qcc_round_block)(a, x + c, n, y + c);
        }
    }
}

/* Float elementwise functions over contiguous spans. */

#define QCC_EACH(op, expression) \
    case op: \
        QCC_IVDEP for (int64_t i = 0; i < n; i++) { \
            const float v = x[i]; \
            y[i] = (expression); \
        } \
        break;

static QCC_TARGET void QCC_FN(qcc_unary_span)(int32_t op, const float *x, float *y, int64_t n, float p0, float p1) {
    switch (op) {
        QCC_EACH(QCC_NEG, -v)
        QCC_EACH(QCC_ABS, qcc_float_of(qcc_bits_of(v) & 0x7fffffffu))
        QCC_EACH(QCC_SIGN, v > 0.0f ? 1.0f : (v < 0.0f ? -1.0f : v))
        QCC_EACH(QCC_SQUARE, v * v)
        QCC_EACH(QCC_SQRT, sqrtf(v))
        QCC_EACH(QCC_RSQRT, 1.0f / sqrtf(v))
        QCC_EACH(QCC_RECIPROCAL, 1.0f / v)
        QCC_EACH(QCC_EXP, QCC_FN(qcc_exp)(v))
        QCC_EACH(QCC_EXPM1, expm1f(v))
        QCC_EACH(QCC_LOG, logf(v))
        QCC_EACH(QCC_LOG1P, log1pf(v))
        QCC_EACH(QCC_SIN, sinf(v))
        QCC_EACH(QCC_COS, cosf(v))
        QCC_EACH(QCC_TANH, QCC_FN(qcc_tanh)(v))
        QCC_EACH(QCC_ERF, QCC_FN(qcc_erf)(v))
        QCC_EACH(QCC_SIGMOID, QCC_FN(qcc_sigmoid)(v))
        QCC_EACH(QCC_RELU, v < 0.0f ? 0.0f : v)
        QCC_EACH(QCC_SILU, QCC_FN(qcc_silu)(v))
        QCC_EACH(QCC_GELU, QCC_FN(qcc_gelu)(v))
        QCC_EACH(QCC_GELU_TANH, QCC_FN(qcc_gelu_tanh)(v))
        QCC_EACH(QCC_LEAKY_RELU, v < 0.0f ? v * p0 : v)
        QCC_EACH(QCC_ELU, v < 0.0f ? p0 * expm1f(v) : v)
        QCC_EACH(QCC_SOFTPLUS, v * p0 > p1 ? v : log1pf(expf(v * p0)) / p0)
        QCC_EACH(QCC_HARD_SIGMOID, QCC_FN(qcc_min)(QCC_FN(qcc_max)(v + 3.0f, 0.0f), 6.0f) / 6.0f)
        QCC_EACH(QCC_HARD_SWISH, v * QCC_FN(qcc_min)(QCC_FN(qcc_max)(v + 3.0f, 0.0f), 6.0f) / 6.0f)
        QCC_EACH(QCC_CLAMP, QCC_FN(qcc_min)(QCC_FN(qcc_max)(v, p0), p1))
        QCC_EACH(QCC_FLOOR, floorf(v))
        QCC_EACH(QCC_CEIL, ceilf(v))
        QCC_EACH(QCC_ROUND, rintf(v))
        QCC_EACH(QCC_TRUNC, truncf(v))
        QCC_EACH(QCC_ADD_SCALAR, v + p0)
        QCC_EACH(QCC_MUL_SCALAR, v * p0)
        QCC_EACH(QCC_POW_SCALAR, powf(v, p0))
    default:
        if (x != y) memcpy(y, x, (size_t)n * sizeof *y);
        break;
    }
}
#undef QCC_EACH

#define QCC_EACH(op, expression) \
    case op: \
        QCC_IVDEP for (int64_t i = 0; i < n; i++) { \
            const float u = a[i], v = b[i]; \
            y[i] = (expression); \
        } \
        break;

/* Arithmetic on floats; operands may be the output. */
static QCC_TARGET void QCC_FN(qcc_binary_span)(int32_t op, const float *a, const float *b, float *y, int64_t n) {
    switch (op) {
        QCC_EACH(QCC_ADD, u + v)
        QCC_EACH(QCC_SUB, u - v)
        QCC_EACH(QCC_MUL, u * v)
        QCC_EACH(QCC_DIV, u / v)
        QCC_EACH(QCC_POW, powf(u, v))
        QCC_EACH(QCC_MIN, QCC_FN(qcc_min)(u, v))
        QCC_EACH(QCC_MAX, QCC_FN(qcc_max)(u, v))
        QCC_EACH(QCC_MOD, qcc_mod_f32(u, v))
        QCC_EACH(QCC_FLOOR_DIV, floorf(u / v))
    default: break;
    }
}

static QCC_TARGET void QCC_FN(qcc_compare_span)(int32_t op, const float *a, const float *b, uint8_t *y, int64_t n) {
    switch (op) {
        QCC_EACH(QCC_EQ, u == v)
        QCC_EACH(QCC_NE, u != v)
        QCC_EACH(QCC_LT, u < v)
        QCC_EACH(QCC_LE, u <= v)
        QCC_EACH(QCC_GT, u > v)
        QCC_EACH(QCC_GE, u >= v)
    default: break;
    }
}
#undef QCC_EACH

/* Integer and boolean arithmetic, conversions, and the reductions that are not float sums.
 *
 * Integers of every width are widened to int64 in short buffers; results wrap when narrowed. */

static inline int64_t qcc_load_int(const void *x, int64_t i, int32_t dtype) {
    switch (dtype) {
    case QCC_I64: return ((const int64_t *)x)[i];
    case QCC_I32: return ((const int32_t *)x)[i];
    case QCC_I8: return ((const int8_t *)x)[i];
    default: return ((const uint8_t *)x)[i];
    }
}

static inline void qcc_store_int(void *y, int64_t i, int32_t dtype, int64_t v) {
    switch (dtype) {
    case QCC_I64: ((int64_t *)y)[i] = v; break;
    case QCC_I32: ((int32_t *)y)[i] = (int32_t)v; break;
    case QCC_BOOL: ((uint8_t *)y)[i] = v != 0; break;
    default: ((uint8_t *)y)[i] = (uint8_t)v; break;
    }
}

static inline int qcc_is_float(int32_t dtype) {
    return dtype == QCC_F32 || dtype == QCC_F16 || dtype == QCC_BF16 || dtype == QCC_F64;
}

static inline double qcc_load_float(const void *x, int64_t i, int32_t dtype) {
    switch (dtype) {
    case QCC_F32: return ((const float *)x)[i];
    case QCC_F16: return qcc_f16_to_f32(((const qcc_word2 *)x)[i]);
    case QCC_BF16: return qcc_bf16_to_f32(((const qcc_word2 *)x)[i]);
    default: return ((const double *)x)[i];
    }
}

/* Through binary32 to the 16-bit formats, as torch converts. */
static inline void qcc_store_f32(void *y, int64_t i, int32_t dtype, float v) {
    switch (dtype) {
    case QCC_F32: ((float *)y)[i] = v; break;
    case QCC_F16: ((qcc_word2 *)y)[i] = qcc_f32_to_f16(v); break;
    default: ((qcc_word2 *)y)[i] = qcc_f32_to_bf16(v); break;
    }
}

static inline int64_t qcc_saturate(double v, int32_t dtype) {
    if (v != v) return 0;
    double low = dtype == QCC_I64 ? -0x1p63 : dtype == QCC_I32 ? -0x1p31 : dtype == QCC_I8 ? -128.0 : 0.0;
    double high = dtype == QCC_I64 ? 0x1p63 : dtype == QCC_I32 ? 0x1p31 - 1 : dtype == QCC_I8 ? 127.0 : 255.0;
    if (v <= low) return (int64_t)low;
    if (v >= high) return dtype == QCC_I64 ? INT64_MAX : (int64_t)high;
    return (int64_t)v;
}

static inline void qcc_cast_one(const void *x, int64_t i, int32_t from, void *y, int64_t j, int32_t to) {
    if (!qcc_is_float(from)) {
        const int64_t v = qcc_load_int(x, i, from);
        if (to == QCC_F64) ((double *)y)[j] = (double)v;
        else if (qcc_is_float(to)) qcc_store_f32(y, j, to, (float)v);
        else qcc_store_int(y, j, to, v);
        return;
    }
    const double v = qcc_load_float(x, i, from);
    if (to == QCC_F64) ((double *)y)[j] = v;
    else if (qcc_is_float(to)) qcc_store_f32(y, j, to, (float)v);
    else if (to == QCC_BOOL) ((uint8_t *)y)[j] = v != 0.0;
    else qcc_store_int(y, j, to, qcc_saturate(v, to));
}

static void qcc_k_cast(const qcc_cast *a, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    qcc_walk w = qcc_walk_start(&a->shape, begin, end, 2, (const int64_t *[]){a->x_stride, a->y_stride});
    while (qcc_walk_next(&w))
        for (int64_t i = 0; i < w.count; i++)
            qcc_cast_one(a->x, w.offset[0] + i * w.step[0], a->x_dtype, a->y, w.offset[1] + i * w.step[1], a->y_dtype);
}

static inline int64_t qcc_unary_int_value(const qcc_unary *a, int64_t v) {
    switch (a->op) {
    case QCC_NEG: return (int64_t)(0 - (uint64_t)v);
    case QCC_ABS: return v < 0 ? (int64_t)(0 - (uint64_t)v) : v;
    case QCC_SIGN: return (v > 0) - (v < 0);
    case QCC_SQUARE: return (int64_t)((uint64_t)v * (uint64_t)v);
    case QCC_RELU: return v < 0 ? 0 : v;
    case QCC_CLAMP: {
        const int64_t low = qcc_saturate(a->p0, QCC_I64), high = qcc_saturate(a->p1, QCC_I64);
        v = v < low ? low : v;
        return v > high ? high : v;
    }
    case QCC_NOT: return a->dtype == QCC_BOOL ? !v : ~v;
    default: return v;
    }
}

static void qcc_unary_int(const qcc_unary *a, int64_t begin, int64_t end) {
    qcc_walk w = qcc_walk_start(&a->shape, begin, end, 2, (const int64_t *[]){a->x_stride, a->y_stride});
    while (qcc_walk_next(&w))
        for (int64_t i = 0; i < w.count; i++)
            qcc_store_int(a->y, w.offset[1] + i * w.step[1], a->dtype,
                          qcc_unary_int_value(a, qcc_load_int(a->x, w.offset[0] + i * w.step[0], a->dtype)));
}

/* Remainder with the sign of the divisor. */
static inline float qcc_mod_f32(float a, float b) {
    float r = fmodf(a, b);
    return r != 0.0f && (r < 0.0f) != (b < 0.0f) ? r + b : r;
}

/* INT64_MIN / -1 wraps instead of trapping. */
static inline int64_t qcc_floor_div(int64_t a, int64_t b, int64_t *rest) {
    if (b == 0 || b == -1) {
        *rest = 0;
        return b == 0 ? 0 : (int64_t)(0 - (uint64_t)a);
    }
    int64_t q = a / b, r = a % b;
    if (r != 0 && (r < 0) != (b < 0)) {
        q -= 1;
        r += b;
    }
    *rest = r;
    return q;
}

static inline int64_t qcc_pow_int(int64_t base, int64_t exponent) {
    if (exponent < 0) return base == 1 ? 1 : base == -1 ? (exponent % 2 ? -1 : 1) : 0;
    uint64_t result = 1, square = (uint64_t)base;
    for (; exponent; exponent >>= 1, square *= square)
        if (exponent & 1) result *= square;
    return (int64_t)result;
}

static inline int64_t qcc_binary_int_value(int32_t op, int64_t a, int64_t b) {
    int64_t rest, floor;
    switch (op) {
    case QCC_ADD: return (int64_t)((uint64_t)a + (uint64_t)b);
    case QCC_SUB: return (int64_t)((uint64_t)a - (uint64_t)b);
    case QCC_MUL: return (int64_t)((uint64_t)a * (uint64_t)b);
    case QCC_DIV:
        floor = qcc_floor_div(a, b, &rest);
        return floor + (rest != 0 && floor < 0); /* toward zero */
    case QCC_POW: return qcc_pow_int(a, b);
    case QCC_MIN: return a < b ? a : b;
    case QCC_MAX: return a > b ? a : b;
    case QCC_MOD: qcc_floor_div(a, b, &rest); return rest;
    case QCC_FLOOR_DIV: return qcc_floor_div(a, b, &rest);
    case QCC_AND: return a & b;
    case QCC_OR: return a | b;
    case QCC_XOR: return a ^ b;
    case QCC_EQ: return a == b;
    case QCC_NE: return a != b;
    case QCC_LT: return a < b;
    case QCC_LE: return a <= b;
    case QCC_GT: return a > b;
    default: return a >= b;
    }
}

static void qcc_binary_int(const qcc_binary *a, int64_t begin, int64_t end) {
    const int32_t out = a->op >= QCC_EQ ? QCC_BOOL : a->dtype;
    qcc_walk w =
        qcc_walk_start(&a->shape, begin, end, 3, (const int64_t *[]){a->a_stride, a->b_stride, a->y_stride});
    while (qcc_walk_next(&w))
        for (int64_t i = 0; i < w.count; i++) {
            const int64_t u = qcc_load_int(a->a, w.offset[0] + i * w.step[0], a->dtype);
            const int64_t v = qcc_load_int(a->b, w.offset[1] + i * w.step[1], a->dtype);
            qcc_store_int(a->y, w.offset[2] + i * w.step[2], out, qcc_binary_int_value(a->op, u, v));
        }
}

/* Position of the extreme element; the first NaN, if any, is the extreme. */
static inline int64_t qcc_arg_extreme(const qcc_reduce *a, int64_t offset) {
    int64_t best = 0;
    for (int64_t i = 1; i < a->length; i++) {
        const int64_t at = offset + i * a->axis_stride, from = offset + best * a->axis_stride;
        int better;
        if (a->dtype == QCC_F32) {
            const float v = ((const float *)a->x)[at], u = ((const float *)a->x)[from];
            if (u != u) break;
            better = v != v || (a->op == QCC_ARGMAX ? v > u : v < u);
        } else {
            const int64_t v = qcc_load_int(a->x, at, a->dtype), u = qcc_load_int(a->x, from, a->dtype);
            better = a->op == QCC_ARGMAX ? v > u : v < u;
        }
        if (better) best = i;
    }
    return best;
}

static inline int64_t qcc_any_all(const qcc_reduce *a, int64_t offset) {
    const int wanted = a->op == QCC_ANY;
    for (int64_t i = 0; i < a->length; i++) {
        const int64_t at = offset + i * a->axis_stride;
        const int truth =
            a->dtype == QCC_F32 ? ((const float *)a->x)[at] != 0.0f : qcc_load_int(a->x, at, a->dtype) != 0;
        if (truth == wanted) return wanted;
    }
    return !wanted;
}

static inline int64_t qcc_least_int(int32_t dtype) {
    switch (dtype) {
    case QCC_I64: return INT64_MIN;
    case QCC_I32: return INT32_MIN;
    case QCC_I8: return INT8_MIN;
    default: return 0;
    }
}

static inline int64_t qcc_greatest_int(int32_t dtype) {
    return dtype == QCC_BOOL ? 1 : dtype == QCC_U8 ? UINT8_MAX : ~qcc_least_int(dtype);
}

static inline int64_t qcc_fold_int(const qcc_reduce *a, int64_t offset) {
    const int64_t least = qcc_least_int(a->dtype), most = qcc_greatest_int(a->dtype);
    int64_t r = a->op == QCC_PROD ? 1 : a->op == QCC_RMAX ? least : a->op == QCC_RMIN ? most : 0;
    const int32_t op = a->op == QCC_PROD ? QCC_MUL : a->op == QCC_RMAX ? QCC_MAX : a->op == QCC_RMIN ? QCC_MIN : QCC_ADD;
    for (int64_t i = 0; i < a->length; i++)
        r = qcc_binary_int_value(op, r, qcc_load_int(a->x, offset + i * a->axis_stride, a->dtype));
    return r;
}

static void qcc_reduce_other(const qcc_reduce *a, int64_t begin, int64_t end) {
    qcc_walk w = qcc_walk_start(&a->shape, begin, end, 2, (const int64_t *[]){a->x_stride, a->y_stride});
    while (qcc_walk_next(&w))
        for (int64_t i = 0; i < w.count; i++) {
            const int64_t x = w.offset[0] + i * w.step[0], y = w.offset[1] + i * w.step[1];
            if (a->op == QCC_ANY || a->op == QCC_ALL) ((uint8_t *)a->y)[y] = (uint8_t)qcc_any_all(a, x);
            else if (a->op >= QCC_ARGMAX) ((int64_t *)a->y)[y] = qcc_arg_extreme(a, x);
            else qcc_store_int(a->y, y, a->op == QCC_SUM || a->op == QCC_PROD ? QCC_I64 : a->dtype, qcc_fold_int(a, x));
        }
}

static void qcc_k_cumsum(const qcc_cumsum *a, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    qcc_walk w = qcc_walk_start(&a->shape, begin, end, 2, (const int64_t *[]){a->x_stride, a->y_stride});
    while (qcc_walk_next(&w))
        for (int64_t i = 0; i < w.count; i++) {
            const int64_t x = w.offset[0] + i * w.step[0], y = w.offset[1] + i * w.step[1];
            double real = 0.0; /* torch accumulates in double as well */
            uint64_t whole = 0;
            for (int64_t j = 0; j < a->length; j++) {
                if (a->dtype == QCC_F32) {
                    real += ((const float *)a->x)[x + j * a->x_axis_stride];
                    ((float *)a->y)[y + j * a->y_axis_stride] = (float)real;
                } else {
                    whole += (uint64_t)qcc_load_int(a->x, x + j * a->x_axis_stride, a->dtype);
                    ((int64_t *)a->y)[y + j * a->y_axis_stride] = (int64_t)whole;
                }
            }
        }
}

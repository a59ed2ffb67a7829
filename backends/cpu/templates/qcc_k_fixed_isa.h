/* Integer-only programs: requantization and products, whose loops the compiler makes vectors of. */

/* v = clamp((v * multiplier + half) >> shift); steps of 0 are one number for all. */
QCC_HELPER void QCC_FN(qcc_requant_span)(int64_t *v, const int32_t *multiplier, int64_t multiplier_step,
                                         const int32_t *shift, int64_t shift_step, int64_t low, int64_t high,
                                         int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const uint64_t product = (uint64_t)v[i] * (uint64_t)(int64_t)multiplier[i * multiplier_step];
        v[i] = qcc_clamp64(qcc_round_shift(qcc_wrap64(product), shift[i * shift_step]), low, high);
    }
}

QCC_KERNEL_FN QCC_FN(qcc_k_requant)(const qcc_requant *a, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    int64_t v[QCC_SPAN];
    qcc_walk w = qcc_walk_start(&a->shape, begin, end, 4,
                                (const int64_t *[]){a->x_stride, a->multiplier_stride, a->shift_stride, a->y_stride});
    while (qcc_walk_next(&w)) {
        const int64_t ms = w.step[1], ss = w.step[2];
        for (int64_t i = 0; i < w.count; i += QCC_SPAN) {
            const int64_t n = qcc_min64(QCC_SPAN, w.count - i);
            const int32_t *multiplier = a->multiplier + w.offset[1] + i * ms, *shift = a->shift + w.offset[2] + i * ss;
            qcc_load_span(a->x, a->x_dtype, w.offset[0] + i * w.step[0], w.step[0], n, v);
            if (ms == 0 && ss == 0) QCC_FN(qcc_requant_span)(v, multiplier, 0, shift, 0, a->low, a->high, n);
            else if (ms == 1 && ss == 1) QCC_FN(qcc_requant_span)(v, multiplier, 1, shift, 1, a->low, a->high, n);
            else QCC_FN(qcc_requant_span)(v, multiplier, ms, shift, ss, a->low, a->high, n);
            qcc_store_span(a->y, a->y_dtype, w.offset[3] + i * w.step[3], w.step[3], n, v);
        }
    }
}

/* Products of bytes: 2^16 of them stay below 2^31, which the compiler may sum in pairs. */
static QCC_TARGET uint64_t QCC_FN(qcc_dot_i8)(const int8_t *x, const int8_t *w, int64_t k) {
    uint64_t sum = 0;
    for (int64_t start = 0; start < k; start += 65536) {
        const int64_t n = qcc_min64(65536, k - start);
        int32_t part = 0;
        for (int64_t i = 0; i < n; i++) part += (int32_t)x[start + i] * (int32_t)w[start + i];
        sum += (uint64_t)(int64_t)part;
    }
    return sum;
}

#define QCC_DOT(name, x_type, w_type, sum_type) \
    static QCC_TARGET uint64_t QCC_FN(name)(const x_type *x, const w_type *w, int64_t k) { \
        sum_type sum = 0; \
        for (int64_t i = 0; i < k; i++) sum += (sum_type)x[i] * (sum_type)w[i]; \
        return sum; \
    }
QCC_DOT(qcc_dot_i32_i8_to_i32, int32_t, int8_t, uint32_t)
QCC_DOT(qcc_dot_i32_i8_to_i64, int32_t, int8_t, uint64_t)
QCC_DOT(qcc_dot_i32_to_i32, int32_t, int32_t, uint32_t)
QCC_DOT(qcc_dot_i32_to_i64, int32_t, int32_t, uint64_t)
QCC_DOT(qcc_dot_i64, int64_t, int64_t, uint64_t)
#undef QCC_DOT

/* One sum, modulo the width of y; x and w start at elements `xi` and `wi`. */
QCC_HELPER uint64_t QCC_FN(qcc_integer_sum)(const qcc_integer_dot *a, int64_t xi, int64_t wi) {
    const int wide = a->y_dtype == QCC_I64;
    if (a->x_dtype == QCC_I8) return QCC_FN(qcc_dot_i8)((const int8_t *)a->x + xi, (const int8_t *)a->w + wi, a->k);
    if (a->x_dtype == QCC_I64)
        return QCC_FN(qcc_dot_i64)((const int64_t *)a->x + xi, (const int64_t *)a->w + wi, a->k);
    const int32_t *x = (const int32_t *)a->x + xi;
    if (a->w_dtype == QCC_I8) {
        const int8_t *w = (const int8_t *)a->w + wi;
        return wide ? QCC_FN(qcc_dot_i32_i8_to_i64)(x, w, a->k) : QCC_FN(qcc_dot_i32_i8_to_i32)(x, w, a->k);
    }
    const int32_t *w = (const int32_t *)a->w + wi;
    return wide ? QCC_FN(qcc_dot_i32_to_i64)(x, w, a->k) : QCC_FN(qcc_dot_i32_to_i32)(x, w, a->k);
}

QCC_KERNEL_FN QCC_FN(qcc_k_integer_dot)(const qcc_integer_dot *a, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    const int64_t across = qcc_ceil_div(a->n, QCC_TILE_N), down = qcc_ceil_div(a->m, QCC_DOT_M);
    for (int64_t u = begin; u < end; u++) {
        const int64_t item = u / (across * down), i0 = u / across % down * QCC_DOT_M, j0 = u % across * QCC_TILE_N;
        const int64_t i1 = qcc_min64(a->m, i0 + QCC_DOT_M), j1 = qcc_min64(a->n, j0 + QCC_TILE_N);
        for (int64_t j = j0; j < j1; j++) {
            const uint64_t bias = a->bias ? (uint64_t)qcc_load_int(a->bias, j, a->y_dtype) : 0;
            const int64_t column = j / (a->n / a->groups) * a->k, wi = (item * a->n + j) * a->k;
            for (int64_t i = i0; i < i1; i++) {
                const int64_t xi = (item * a->m + i) * a->k * a->groups + column;
                const uint64_t sum = QCC_FN(qcc_integer_sum)(a, xi, wi) + bias;
                const int64_t at = (item * a->m + i) * a->n + j;
                if (a->y_dtype == QCC_I64) ((int64_t *)a->y)[at] = qcc_wrap64(sum);
                else ((int32_t *)a->y)[at] = (int32_t)(uint32_t)sum;
            }
        }
    }
}

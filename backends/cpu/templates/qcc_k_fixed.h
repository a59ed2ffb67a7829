/* Integer-only programs: spans of integers of any width, roundings, rows. The loops over spans and the products are in
 * qcc_k_fixed_isa.h, once for each instruction set. */

/* Signed results of modular arithmetic; int64_t and int32_t are two's complement. */
static inline int64_t qcc_wrap64(uint64_t v) { return (int64_t)v; }

/* floor(v / 2^s), s of 0..63: a right shift of a negative number is left to the compiler by the C standard. */
static inline int64_t qcc_floor_shift(int64_t v, int64_t s) { return v < 0 ? ~(~v >> s) : v >> s; }

/* floor(v / 2^s + 1/2), s of 0..62. */
static inline int64_t qcc_round_shift(int64_t v, int64_t s) {
    return qcc_floor_shift(qcc_wrap64((uint64_t)v + ((UINT64_C(1) << s) >> 1)), s);
}

static inline int64_t qcc_clamp64(int64_t v, int64_t low, int64_t high) { return v < low ? low : v > high ? high : v; }

#define QCC_LOAD_SPAN(type) \
    for (int64_t i = 0; i < n; i++) out[i] = ((const type *)x)[offset + i * step]; \
    break

/* Widen `n` integers. */
static inline void qcc_load_span(const void *x, int32_t dtype, int64_t offset, int64_t step, int64_t n, int64_t *out) {
    switch (dtype) {
    case QCC_I64: QCC_LOAD_SPAN(int64_t);
    case QCC_I32: QCC_LOAD_SPAN(int32_t);
    case QCC_I8: QCC_LOAD_SPAN(int8_t);
    default: QCC_LOAD_SPAN(uint8_t);
    }
}
#undef QCC_LOAD_SPAN

#define QCC_STORE_SPAN(type) \
    for (int64_t i = 0; i < n; i++) ((type *)y)[offset + i * step] = (type)v[i]; \
    break

/* Narrow `n` integers, modulo the width. */
static inline void qcc_store_span(void *y, int32_t dtype, int64_t offset, int64_t step, int64_t n, const int64_t *v) {
    switch (dtype) {
    case QCC_I64: QCC_STORE_SPAN(int64_t);
    case QCC_I32: QCC_STORE_SPAN(int32_t);
    case QCC_I8: QCC_STORE_SPAN(int8_t);
    default: QCC_STORE_SPAN(uint8_t);
    }
}
#undef QCC_STORE_SPAN

/* Floats beyond the codes are clamped while they are floats: a conversion of what no integer holds is undefined. */
static inline int64_t qcc_encode_one(float x, float scale, int64_t low, int64_t high) {
    const float q = rintf(x / scale);
    if (scale == 0.0f || q != q) return qcc_clamp64(0, low, high);
    if (q <= (float)low) return low;
    return q >= (float)high ? high : (int64_t)q;
}

static void qcc_k_encode(const qcc_encode *a, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    int64_t v[QCC_SPAN];
    qcc_walk w =
        qcc_walk_start(&a->shape, begin, end, 3, (const int64_t *[]){a->x_stride, a->scale_stride, a->y_stride});
    while (qcc_walk_next(&w))
        for (int64_t i = 0; i < w.count; i += QCC_SPAN) {
            const int64_t n = qcc_min64(QCC_SPAN, w.count - i);
            const float *x = a->x + w.offset[0] + i * w.step[0], *scale = a->scale + w.offset[1] + i * w.step[1];
            for (int64_t j = 0; j < n; j++)
                v[j] = qcc_encode_one(x[j * w.step[0]], scale[j * w.step[1]], a->low, a->high);
            qcc_store_span(a->y, a->y_dtype, w.offset[2] + i * w.step[2], w.step[2], n, v);
        }
}

static void qcc_k_table_lookup(const qcc_table_lookup *a, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    int64_t v[QCC_SPAN];
    qcc_walk w = qcc_walk_start(&a->shape, begin, end, 2, (const int64_t *[]){a->x_stride, a->y_stride});
    while (qcc_walk_next(&w))
        for (int64_t i = 0; i < w.count; i += QCC_SPAN) {
            const int64_t n = qcc_min64(QCC_SPAN, w.count - i);
            qcc_load_span(a->x, a->x_dtype, w.offset[0] + i * w.step[0], w.step[0], n, v);
            for (int64_t j = 0; j < n; j++) {
                const uint64_t at = (uint64_t)v[j] - (uint64_t)a->low; /* below low it is beyond every size */
                const int inside = at < (uint64_t)a->size;
                if (!inside) *a->status = 1;
                v[j] = inside ? qcc_load_int(a->table, (int64_t)at, a->y_dtype) : 0;
            }
            qcc_store_span(a->y, a->y_dtype, w.offset[1] + i * w.step[1], w.step[1], n, v);
        }
}

static void qcc_k_take_rows(const qcc_take_rows *a, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    const size_t size = (size_t)(a->k * a->element_size);
    for (int64_t i = begin; i < end; i++) {
        char *y = (char *)a->y + (size_t)i * size;
        const int inside = a->ids[i] >= 0 && a->ids[i] < a->rows;
        if (inside) memcpy(y, (const char *)a->table + (size_t)a->ids[i] * size, size);
        else memset(y, 0, size);
        if (!inside) *a->status = 1;
    }
}

/* The exponential of one element of a row; of one that is left out 0. */
static inline int64_t qcc_exponential(const qcc_integer_softmax *a, int64_t largest, int64_t x, int kept) {
    if (!kept) return 0;
    const uint64_t distance = (uint64_t)largest - (uint64_t)x;
    return a->table[distance < (uint64_t)a->size ? (int64_t)distance : a->size - 1];
}

static void qcc_k_integer_softmax(const qcc_integer_softmax *a, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    for (int64_t r = begin; r < end; r++) {
        const uint8_t *mask = a->mask ? a->mask + r * a->k : NULL;
        const int64_t at = r * a->x_stride;
        int64_t largest = INT64_MIN, sum = 0;
        for (int64_t i = 0; i < a->k; i++) {
            const int64_t x = qcc_load_int(a->x, at + i, a->x_dtype);
            if ((!mask || mask[i]) && x > largest) largest = x;
        }
        for (int64_t i = 0; i < a->k; i++)
            sum += qcc_exponential(a, largest, qcc_load_int(a->x, at + i, a->x_dtype), !mask || mask[i]);
        if (sum < 1) sum = 1; /* a row that keeps nothing gives zeros */
        for (int64_t i = 0; i < a->k; i++) {
            const int64_t e = qcc_exponential(a, largest, qcc_load_int(a->x, at + i, a->x_dtype), !mask || mask[i]);
            qcc_store_int(a->y, r * a->k + i, a->y_dtype, (2 * a->unit * e + sum) / (2 * sum));
        }
    }
}

/* Floor of the square root, digit by digit in base 2. */
static inline int64_t qcc_isqrt(uint64_t v) {
    uint64_t root = 0;
    for (uint64_t bit = UINT64_C(1) << 62; bit; bit >>= 2) {
        if (v >= root + bit) {
            v -= root + bit;
            root = (root >> 1) + bit;
        } else {
            root >>= 1;
        }
    }
    return (int64_t)root;
}

static inline int64_t qcc_centred(const qcc_integer_norm *a, int64_t at, uint64_t sum) {
    const uint64_t x = (uint64_t)qcc_load_int(a->x, at, a->x_dtype);
    return qcc_wrap64(a->layer ? (uint64_t)a->k * x - sum : x);
}

static inline void qcc_norm_row(const qcc_integer_norm *a, int64_t r) {
    const int64_t at = r * a->x_stride, shift = *a->shift;
    uint64_t sum = 0, q = (uint64_t)a->eps;
    for (int64_t i = 0; a->layer && i < a->k; i++) sum += (uint64_t)qcc_load_int(a->x, at + i, a->x_dtype);
    for (int64_t i = 0; i < a->k; i++) {
        const uint64_t d = (uint64_t)qcc_centred(a, at + i, sum);
        q += d * d;
    }
    if (q < 1) q = 1;
    int64_t t = 0;
    for (; q < UINT64_C(1) << 60; q <<= 2) t++;
    const uint64_t inverse = (UINT64_C(1) << 61) / (uint64_t)qcc_isqrt(q);
    for (int64_t i = 0; i < a->k; i++) {
        const uint64_t d = (uint64_t)qcc_centred(a, at + i, sum);
        const uint64_t z = (uint64_t)qcc_round_shift(qcc_wrap64(d * inverse), 37 - t);
        const uint64_t bias = a->bias ? (uint64_t)a->bias[i * a->bias_step] : 0;
        const uint64_t v = z * (uint64_t)(int64_t)a->multiplier[i * a->multiplier_step] + bias;
        qcc_store_int(a->y, r * a->k + i, a->y_dtype,
                      qcc_clamp64(qcc_round_shift(qcc_wrap64(v), shift), a->low, a->high));
    }
}

static void qcc_k_integer_norm(const qcc_integer_norm *a, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    for (int64_t r = begin; r < end; r++) qcc_norm_row(a, r);
}

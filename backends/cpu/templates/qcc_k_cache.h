/* Quantized KV caches. */

/* Scale and zero of a block as they are stored. */
typedef struct {
    float scale, zero;
} qcc_cache_step;

static inline float qcc_cache_stored(const qcc_cache_format *f, float v) {
    return f->half ? qcc_f16_to_f32(qcc_f32_to_f16(v)) : v;
}

static inline float qcc_cache_load(const qcc_cache_format *f, const void *p, int64_t i) {
    return f->half ? qcc_f16_to_f32(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}

static inline void qcc_cache_store(const qcc_cache_format *f, void *p, int64_t i, float v) {
    if (f->half) ((uint16_t *)p)[i] = qcc_f32_to_f16(v);
    else ((float *)p)[i] = v;
}

/* Widen a range by a row of n elements; NaN wins. */
static inline void qcc_cache_range(const float *x, int64_t n, int is_signed, float *low, float *high) {
    for (int64_t i = 0; i < n; i++) {
        const float v = is_signed ? fabsf(x[i]) : x[i];
        if (!(v >= *low)) *low = *low != *low ? *low : v;
        if (!(v <= *high)) *high = *high != *high ? *high : v;
    }
}

static inline qcc_cache_step qcc_cache_step_of(const qcc_cache_format *f, float low, float high) {
    qcc_cache_step s;
    if (f->has_zero) {
        s.scale = qcc_cache_stored(f, (high - low) / (float)((1 << f->bits) - 1));
        s.zero = qcc_cache_stored(f, low - s.scale * 0.0f); /* an infinite scale leaves no zero point */
    } else {
        s.scale = qcc_cache_stored(f, high / (float)((1 << (f->bits - 1)) - 1));
        s.zero = 0.0f;
    }
    return s;
}

/* The code of an element, without offset. */
static inline int32_t qcc_cache_code(const qcc_cache_format *f, qcc_cache_step s, float x) {
    const float least = f->has_zero ? 0.0f : -(float)(1 << (f->bits - 1));
    const float most = (float)((1 << (f->has_zero ? f->bits : f->bits - 1)) - 1);
    const float divisor = s.scale == 0.0f ? INFINITY : s.scale;
    const float q = f->has_zero ? (x - s.zero) / divisor : x / divisor;
    if (q != q) return 0;
    const float r = rintf(q);
    return (int32_t)(r < least ? least : r > most ? most : r);
}

static inline float qcc_cache_value(const qcc_cache_format *f, qcc_cache_step s, int32_t code) {
    const float v = s.scale * (float)code;
    return f->has_zero ? v + s.zero : v;
}

/* Code i of a packed row. */
static inline uint32_t qcc_cache_get(const uint8_t *row, int64_t i, int32_t bits) {
    const int64_t at = i * bits;
    const int32_t shift = (int32_t)(at & 7);
    uint32_t v = row[at >> 3] >> shift;
    if (shift + bits > 8) v |= (uint32_t)row[(at >> 3) + 1] << (8 - shift);
    return v & ((1u << bits) - 1);
}

static inline void qcc_cache_put(uint8_t *row, int64_t i, int32_t bits, uint32_t v) {
    const int64_t at = i * bits;
    const int32_t shift = (int32_t)(at & 7);
    const uint32_t mask = ((1u << bits) - 1) << shift, code = v << shift;
    row[at >> 3] = (uint8_t)((row[at >> 3] & ~mask) | code);
    if (shift + bits > 8) row[(at >> 3) + 1] = (uint8_t)((row[(at >> 3) + 1] & ~(mask >> 8)) | code >> 8);
}

/* Where the parts of one head are. */
typedef struct {
    const qcc_cache_parts *c;
    uint8_t *codes;
    int64_t row_bytes, steps, first_step; /* steps: blocks in a row */
    float *recent;
} qcc_cache_head;

static inline qcc_cache_head qcc_cache_head_of(const qcc_cache_parts *c, int64_t head) {
    const int64_t row_bytes = qcc_ceil_div(c->dim * c->format.bits, 8);
    const int64_t steps = qcc_ceil_div(c->dim, c->format.channel_group);
    return (qcc_cache_head){
        .c = c,
        .codes = c->codes + head * c->tokens * row_bytes,
        .row_bytes = row_bytes,
        .steps = steps,
        .first_step = head * qcc_ceil_div(c->tokens, c->format.token_group) * steps,
        .recent = c->recent ? c->recent + head * c->ring * c->dim : NULL,
    };
}

/* Whether positions are consecutive and inside a cache. */
static inline int qcc_cache_span(const int64_t *positions, int64_t count, int64_t tokens) {
    for (int64_t i = 1; i < count; i++)
        if (positions[i] != positions[0] + i) return 0;
    return count > 0 && positions[0] >= 0 && positions[0] + count <= tokens;
}

/* Token t of an append: a new row, or one that was kept as it is. */
static inline const float *qcc_cache_token(const qcc_cache_append *a, const qcc_cache_head *h, const float *rows,
                                           int64_t t) {
    const int64_t first = a->positions[0];
    return t >= first ? rows + (t - first) * a->row_stride[2] : h->recent + t % a->cache.ring * a->cache.dim;
}

/* Encode the tokens of one group from t on. */
static inline void qcc_cache_settle(const qcc_cache_append *a, const qcc_cache_head *h, const float *rows, int64_t t) {
    const qcc_cache_format *f = &a->cache.format;
    const int64_t dim = a->cache.dim, offset = f->has_zero ? 0 : 1 << (f->bits - 1);
    for (int64_t j = 0, c = 0; c < dim; j++, c += f->channel_group) {
        const int64_t n = qcc_min64(f->channel_group, dim - c);
        float low = INFINITY, high = f->has_zero ? -INFINITY : 0.0f;
        for (int64_t i = 0; i < f->token_group; i++)
            qcc_cache_range(qcc_cache_token(a, h, rows, t + i) + c, n, !f->has_zero, &low, &high);
        const qcc_cache_step s = qcc_cache_step_of(f, low, high);
        const int64_t at = h->first_step + t / f->token_group * h->steps + j;
        qcc_cache_store(f, a->cache.scale, at, s.scale);
        if (f->has_zero) qcc_cache_store(f, a->cache.zero, at, s.zero);
        for (int64_t i = 0; i < f->token_group; i++) {
            const float *x = qcc_cache_token(a, h, rows, t + i) + c;
            uint8_t *row = h->codes + (t + i) * h->row_bytes;
            for (int64_t k = 0; k < n; k++)
                qcc_cache_put(row, c + k, f->bits, (uint32_t)(qcc_cache_code(f, s, x[k]) + (int32_t)offset));
        }
    }
}

static void qcc_k_cache_append(const qcc_cache_append *a, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    const qcc_cache_parts *c = &a->cache;
    if (!qcc_cache_span(a->positions, a->count, c->tokens)) {
        *a->status = 1;
        return;
    }
    const int64_t first = a->positions[0], length = first + a->count;
    for (int64_t u = begin; u < end; u++) {
        const qcc_cache_head h = qcc_cache_head_of(c, u);
        const float *rows = a->rows + u / a->heads * a->row_stride[0] + u % a->heads * a->row_stride[1];
        for (int64_t t = qcc_settled(&c->format, first); t < qcc_settled(&c->format, length); t += c->format.token_group)
            qcc_cache_settle(a, &h, rows, t);
        if (!h.recent) continue;
        for (int64_t t = first > length - c->ring ? first : length - c->ring; t < length; t++)
            memcpy(h.recent + t % c->ring * c->dim, rows + (t - first) * a->row_stride[2], (size_t)c->dim * sizeof(float));
    }
}

static inline void qcc_cache_decode(const qcc_cache_head *h, int64_t t, float *y) {
    const qcc_cache_format *f = &h->c->format;
    const uint8_t *row = h->codes + t * h->row_bytes;
    const int32_t bits = f->bits, offset = f->has_zero ? 0 : 1 << (bits - 1);
    const int64_t dim = h->c->dim, at = h->first_step + t / f->token_group * h->steps;
    for (int64_t j = 0, c = 0; c < dim; j++, c += f->channel_group) {
        const int64_t n = qcc_min64(f->channel_group, dim - c);
        const qcc_cache_step s = {qcc_cache_load(f, h->c->scale, at + j),
                                  f->has_zero ? qcc_cache_load(f, h->c->zero, at + j) : 0.0f};
        for (int64_t k = 0; k < n; k++)
            y[c + k] = qcc_cache_value(f, s, (int32_t)qcc_cache_get(row, c + k, bits) - offset);
    }
}

static void qcc_k_cache_read(const qcc_cache_read *a, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    const qcc_cache_parts *c = &a->cache;
    if (!qcc_cache_span(a->positions, a->count, c->tokens)) {
        *a->status = 1;
        return;
    }
    const int64_t length = a->positions[0] + a->count, done = qcc_settled(&c->format, length);
    for (int64_t u = begin; u < end; u++) {
        const int64_t t = u % c->tokens;
        const qcc_cache_head h = qcc_cache_head_of(c, u / c->tokens);
        float *y = a->y + u * c->dim;
        if (t < done) qcc_cache_decode(&h, t, y);
        else if (t < length) memcpy(y, h.recent + t % c->ring * c->dim, (size_t)c->dim * sizeof(float));
        else memset(y, 0, (size_t)c->dim * sizeof(float));
    }
}

static void qcc_k_cache_round(const qcc_cache_round *a, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    const qcc_cache_format *f = &a->format;
    const int64_t groups = qcc_ceil_div(a->tokens, f->token_group), done = qcc_settled(f, a->tokens);
    for (int64_t u = begin; u < end; u++) {
        const int64_t head = u / groups, t0 = u % groups * f->token_group, t1 = qcc_min64(a->tokens, t0 + f->token_group);
        const float *x = a->x + head / a->heads * a->x_stride[0] + head % a->heads * a->x_stride[1];
        float *y = a->y + head * a->tokens * a->dim;
        for (int64_t c = 0; c < a->dim; c += f->channel_group) {
            const int64_t n = qcc_min64(f->channel_group, a->dim - c);
            float low = INFINITY, high = f->has_zero ? -INFINITY : 0.0f;
            for (int64_t t = t0; t < t1; t++) qcc_cache_range(x + t * a->x_stride[2] + c, n, !f->has_zero, &low, &high);
            const qcc_cache_step s = qcc_cache_step_of(f, low, high);
            for (int64_t t = t0; t < t1; t++)
                for (int64_t k = c; k < c + n; k++) {
                    const float v = x[t * a->x_stride[2] + k];
                    y[t * a->dim + k] = t < done ? qcc_cache_value(f, s, qcc_cache_code(f, s, v)) : v;
                }
        }
    }
}

/* Quantized KV caches: what needs no particular instruction set. */

#define QCC_CACHE_SPAN 256 /* channels whose parameters are at hand at a time */

/* Scale and zero of a block as they are stored. */
typedef struct {
    float scale, zero;
} qcc_cache_step;

/* The range of codes as floats, and what is added to a code before it is stored. */
typedef struct {
    float least, most;
    int32_t offset;
} qcc_cache_limits;

static inline qcc_cache_limits qcc_cache_limits_of(const qcc_cache_format *f) {
    const int32_t half = 1 << (f->bits - 1);
    if (f->has_zero) return (qcc_cache_limits){0.0f, (float)(2 * half - 1), 0};
    return (qcc_cache_limits){-(float)half, (float)(half - 1), half};
}

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

/* Code i of a packed row. */
QCC_INLINE uint32_t qcc_cache_get(const uint8_t *row, int64_t i, int32_t bits) {
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

/* Write n codes from code `at` of a row on, eight at a time where they start a byte. */
static inline void qcc_cache_pack(uint8_t *row, int64_t at, const uint8_t *codes, int64_t n, int32_t bits) {
    int64_t i = 0;
    for (; (at * bits & 7) == 0 && i + 8 <= n; i += 8) {
        uint8_t *p = row + ((at + i) * bits >> 3);
        uint64_t word = 0;
        for (int j = 0; j < 8; j++) word |= (uint64_t)codes[i + j] << (j * bits);
        for (int j = 0; j < bits; j++) p[j] = (uint8_t)(word >> (8 * j));
    }
    for (; i < n; i++) qcc_cache_put(row, at + i, bits, codes[i]);
}

/* `bytes` bytes, at most 8, as one little-endian word. */
QCC_INLINE uint64_t qcc_cache_word(const uint8_t *p, const int bytes) {
    uint64_t word = 0;
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    if (__builtin_constant_p(bytes)) { /* one load */
        memcpy(&word, p, (size_t)bytes);
        return word;
    }
#endif
    for (int i = 0; i < bytes; i++) word |= (uint64_t)p[i] << (8 * i);
    return word;
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

/* Where token t of some rows is: a new row, or one that was kept as it is. */
typedef struct {
    const float *rows, *recent;
    int64_t first, stride, ring, dim; /* first: token of the first new row */
} qcc_cache_tokens;

static inline const float *qcc_cache_token(const qcc_cache_tokens *r, int64_t t) {
    return t >= r->first ? r->rows + (t - r->first) * r->stride : r->recent + t % r->ring * r->dim;
}

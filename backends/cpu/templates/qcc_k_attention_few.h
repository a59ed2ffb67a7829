/* Attention of few queries, as in decoding: the queries of all heads that share keys and values read them together, some
 * tokens at a time. Each token's keys are read (or decoded from a cache) once, and its values once. */

/* Keys or values of one head: rows of floats, or rows of a cache. */
typedef struct {
    const float *rows; /* NULL: in the cache */
    int64_t stride, width;
    qcc_cache_head head;
    int64_t length; /* tokens in the cache */
    float *tile;    /* room for QCC_ATTENTION_TILE rows */
    int64_t tile_stride;
} QCC_FN(qcc_attention_source);

/* Rows of tokens [t, t + n). With `whole`, whole tiles of 32 columns may be read. */
QCC_HELPER const float *QCC_FN(qcc_attention_rows)(const QCC_FN(qcc_attention_source) * s, int64_t t, int64_t n,
                                                   int whole, int64_t *stride) {
    *stride = s->tile_stride;
    if (!s->rows) {
        QCC_FN(qcc_cache_rows)(&s->head, s->length, t, t + n, s->tile, s->tile_stride);
        return s->tile;
    }
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < s->width; j += 16) QCC_PREFETCH(s->rows + (t + i) * s->stride + j);
    if (!whole || s->width % QCC_TILE_N == 0) {
        *stride = s->stride;
        return s->rows + t * s->stride;
    }
    for (int64_t i = 0; i < n; i++)
        memcpy(s->tile + i * s->tile_stride, s->rows + (t + i) * s->stride, (size_t)s->width * sizeof(float));
    return s->tile;
}

/* One unit: up to QCC_ATTENTION_TOGETHER rows, each a query of a head. */
typedef struct {
    const qcc_attention *a;
    QCC_FN(qcc_attention_source) k, v;
    const char *mask[QCC_ATTENTION_TOGETHER];
    float *out[QCC_ATTENTION_TOGETHER];
    int64_t seen[QCC_ATTENTION_TOGETHER]; /* leading keys that a row may see */
    float *q, *scores, *sums;             /* q [rows][dim], scores [rows][stride], sums [v_dim / 32][rows][32] */
    int64_t rows, stride, keys;           /* keys: the most that a row sees */
} QCC_FN(qcc_attention_few);

/* Scores of keys [t0, t1), scaled and masked. */
static QCC_TARGET void QCC_FN(qcc_attention_few_scores)(QCC_FN(qcc_attention_few) * u, int64_t t0, int64_t t1) {
    const qcc_attention *a = u->a;
    for (int64_t t = t0; t < t1; t += QCC_ATTENTION_TILE) {
        const int64_t n = qcc_min64(QCC_ATTENTION_TILE, t1 - t);
        int64_t stride;
        const float *k = QCC_FN(qcc_attention_rows)(&u->k, t, n, 0, &stride);
        QCC_FN(qcc_dots)(u->q, a->dim, u->rows, k, stride, n, a->dim, u->scores + t, u->stride);
    }
    for (int64_t r = 0; r < u->rows; r++)
        QCC_FN(qcc_attention_mask)(a, u->scores + r * u->stride, t0, qcc_min64(t1, u->seen[r]), u->mask[r]);
}

/* Whether keys behind `length`, which are zeros, get probabilities of 0 whatever they are: each is masked so far below
 * the largest score that exp gives 0. A query that is not finite has NaN scores there. */
QCC_HELPER int QCC_FN(qcc_attention_ends)(const QCC_FN(qcc_attention_few) * u, int64_t length, int64_t r) {
    const qcc_attention *a = u->a;
    const char *mask = u->mask[r];
    const int64_t step = a->mask_stride[3];
    uint32_t special = 0;
    int64_t kept = 0;
    if (u->seen[r] <= length) return 1;
    if (!mask) return 0;
    for (int64_t i = 0; i < a->dim; i++) special |= (qcc_bits_of(u->q[r * a->dim + i]) & 0x7f800000u) == 0x7f800000u;
    const float top = QCC_FN(qcc_max_of)(u->scores + r * u->stride, length);
    if (special || top == -INFINITY) return 0;
    for (int64_t t = length; t < u->seen[r]; t++)
        kept += a->mask_is_bool ? mask[t * step] != 0 : !(((const float *)(const void *)mask)[t * step] <= top - 110.0f);
    return kept == 0;
}

/* Probabilities, times factor[r], of row r; returns the number of keys that have one. */
QCC_HELPER int64_t QCC_FN(qcc_attention_few_softmax)(QCC_FN(qcc_attention_few) * u, float *factor) {
    int64_t n = u->keys;
    if (!u->k.rows && !u->v.rows && u->k.length < n) {
        int ends = 1;
        n = u->k.length;
        QCC_FN(qcc_attention_few_scores)(u, 0, n);
        for (int64_t r = 0; r < u->rows; r++) ends &= QCC_FN(qcc_attention_ends)(u, n, r);
        if (!ends) QCC_FN(qcc_attention_few_scores)(u, n, u->keys), n = u->keys;
    } else {
        QCC_FN(qcc_attention_few_scores)(u, 0, n);
    }
    for (int64_t r = 0; r < u->rows; r++) {
        float *row = u->scores + r * u->stride;
        const int64_t seen = qcc_min64(n, u->seen[r]);
        factor[r] = QCC_FN(qcc_attention_exp)(row, seen);
        for (int64_t t = seen; t < n; t++) row[t] = 0.0f;
    }
    return n;
}

static QCC_TARGET void QCC_FN(qcc_attention_few_run)(QCC_FN(qcc_attention_few) * u) {
    const qcc_attention *a = u->a;
    float factor[QCC_ATTENTION_TOGETHER];
    const int64_t keys = QCC_FN(qcc_attention_few_softmax)(u, factor);
    memset(u->sums, 0, (size_t)(u->rows * qcc_round_up(a->v_dim, QCC_TILE_N)) * sizeof(float));
    for (int64_t t = 0; t < keys; t += QCC_ATTENTION_TILE) {
        const int64_t n = qcc_min64(QCC_ATTENTION_TILE, keys - t);
        int64_t stride;
        const float *v = QCC_FN(qcc_attention_rows)(&u->v, t, n, 1, &stride);
        for (int64_t d = 0; d < a->v_dim; d += QCC_TILE_N)
            for (int64_t r = 0; r < u->rows; r += QCC_GEMM_ROWS)
                QCC_FN(qcc_gemm)(u->scores + r * u->stride + t, u->stride, v + d, v + d + 16, stride, n,
                                 u->sums + d * u->rows + r * QCC_TILE_N, qcc_min64(QCC_GEMM_ROWS, u->rows - r),
                                 qcc_min64(QCC_TILE_N, a->v_dim - d), 1);
    }
    for (int64_t r = 0; r < u->rows; r++)
        for (int64_t d = 0; d < a->v_dim; d += QCC_TILE_N)
            for (int64_t j = 0; j < qcc_min64(QCC_TILE_N, a->v_dim - d); j++)
                u->out[r][d + j] = u->sums[d * u->rows + r * QCC_TILE_N + j] * factor[r];
}

/* Where the keys (or values) of a head are. */
QCC_HELPER QCC_FN(qcc_attention_source)
    QCC_FN(qcc_attention_source_of)(const qcc_attention *a, const float *rows, const int64_t *stride, int64_t width,
                                    const qcc_cache_parts *cache, int64_t b, int64_t head, float *tile) {
    QCC_FN(qcc_attention_source) s = {.width = width, .tile = tile, .tile_stride = qcc_round_up(width, QCC_TILE_N)};
    if (cache) {
        s.head = qcc_cache_head_of(cache, b * a->kv_heads + head);
        s.length = a->positions[0] + a->count;
    } else {
        s.rows = rows + b * stride[0] + head * stride[1];
        s.stride = stride[2];
    }
    return s;
}

QCC_HELPER void QCC_FN(qcc_attention_few_unit)(const qcc_attention *a, int64_t unit, float *scratch) {
    const int64_t group = qcc_attention_group(a), rows = group * a->queries, stride = qcc_round_up(a->keys, QCC_TILE_N);
    const int64_t blocks = qcc_ceil_div(rows, QCC_ATTENTION_TOGETHER);
    const int64_t b = unit / blocks / a->kv_heads, head = unit / blocks % a->kv_heads;
    const int64_t first = unit % blocks * QCC_ATTENTION_TOGETHER, bytes = a->mask_is_bool ? 1 : (int64_t)sizeof(float);
    QCC_FN(qcc_attention_few) u = {.a = a, .rows = qcc_min64(QCC_ATTENTION_TOGETHER, rows - first), .stride = stride};
    u.q = scratch;
    u.scores = u.q + QCC_ATTENTION_TOGETHER * qcc_round_up(a->dim, QCC_TILE_N);
    u.sums = u.scores + QCC_ATTENTION_TOGETHER * stride;
    float *tile = u.sums + QCC_ATTENTION_TOGETHER * qcc_round_up(a->v_dim, QCC_TILE_N);
    u.k = QCC_FN(qcc_attention_source_of)(a, a->k, a->k_stride, a->dim, a->k_cache, b, head, tile);
    u.v = QCC_FN(qcc_attention_source_of)(a, a->v, a->v_stride, a->v_dim, a->v_cache, b, head, tile);
    for (int64_t r = 0; r < u.rows; r++) {
        const int64_t i = head * group + (first + r) / a->queries, s = (first + r) % a->queries;
        const int64_t at = (b * a->mask_stride[0] + i * a->mask_stride[1] + s * a->mask_stride[2]) * bytes;
        const float *q = a->q + b * a->q_stride[0] + i * a->q_stride[1] + s * a->q_stride[2];
        memcpy(u.q + r * a->dim, q, (size_t)a->dim * sizeof(float));
        u.mask[r] = a->mask ? (const char *)a->mask + at : NULL;
        u.out[r] = a->out + b * a->out_stride[0] + i * a->out_stride[1] + s * a->out_stride[2];
        u.seen[r] = QCC_FN(qcc_visible)(a, s);
        if (u.seen[r] > u.keys) u.keys = u.seen[r];
    }
    QCC_FN(qcc_attention_few_run)(&u);
}

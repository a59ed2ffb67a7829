/* Fused attention: scores of a few queries against all keys, softmax, weighted sum of the values.
 *
 * Twelve score rows live in scratch at a time, so no [S, T] matrix is ever made. The keys of a head are
 * packed once per block of queries; below QCC_ATTENTION_FEW queries, dot products read them in place. */
#ifndef QCC_ATTENTION_ROWS
#define QCC_ATTENTION_ROWS 12

typedef struct {
    const qcc_attention *a;
    const float *q, *k, *v;
    float *out;
    const char *mask;
    float *packed, *scores, *values;
    int64_t stride; /* floats between score rows */
    int64_t k_stride, v_stride;
    qcc_cache_head k_head, v_head; /* where keys and values are in a cache of `length` tokens, */
    int64_t length;
    float *keys, *decoded;         /* and room for some decoded keys, and all values */
} qcc_attention_head;
#endif

/* Number of leading keys that query s may see. */
QCC_HELPER int64_t QCC_FN(qcc_visible)(const qcc_attention *a, int64_t s) {
    if (!a->causal) return a->keys;
    const int64_t n = s + a->causal_offset + 1;
    return n < 0 ? 0 : qcc_min64(n, a->keys);
}

/* Scale and mask scores [t0, t1) of a row. A masked NaN stays NaN, as adding -infinity would leave it. */
static QCC_TARGET void QCC_FN(qcc_attention_mask)(const qcc_attention *a, float *row, int64_t t0, int64_t t1,
                                           const char *mask) {
    const int64_t step = a->mask_stride[3];
    QCC_IVDEP for (int64_t t = t0; t < t1; t++) row[t] = row[t] * a->scale;
    if (mask && a->mask_is_bool) {
        const uint8_t *keep = (const uint8_t *)mask;
        QCC_IVDEP for (int64_t t = t0; t < t1; t++) row[t] = row[t] + (keep[t * step] ? 0.0f : -INFINITY);
    } else if (mask) {
        const float *bias = (const float *)(const void *)mask;
        QCC_IVDEP for (int64_t t = t0; t < t1; t++) row[t] = row[t] + bias[t * step];
    }
}

/* Exponentiate one row of n scores in place; returns 1 / sum, or 0 for a row that sees nothing. */
static QCC_TARGET float QCC_FN(qcc_attention_exp)(float *row, int64_t n) {
    const float top = QCC_FN(qcc_max_of)(row, n);
    if (top == -INFINITY) {
        const float sum = QCC_FN(qcc_sum)(row, n); /* -infinity, or NaN if any score is */
        for (int64_t t = 0; t < n; t++) row[t] = 0.0f;
        return sum != sum ? sum : 0.0f;
    }
    return 1.0f / QCC_FN(qcc_exp_row)(row, top, row, n);
}

/* Scores of `rows` queries from s against the first n keys. */
QCC_HELPER void QCC_FN(qcc_attention_scores)(const qcc_attention_head *h, int64_t s, int64_t rows, int64_t n) {
    const qcc_attention *a = h->a;
    const float *q = h->q + s * a->q_stride[2];
    float out[QCC_GEMM_ROWS * QCC_TILE_N];
    for (int64_t t = 0; t < n; t += QCC_TILE_N) {
        const float *panel = h->packed + t * a->dim;
        for (int64_t r0 = 0; r0 < rows; r0 += QCC_GEMM_ROWS) {
            const int64_t count = qcc_min64(QCC_GEMM_ROWS, rows - r0);
            QCC_FN(qcc_gemm)(q + r0 * a->q_stride[2], a->q_stride[2], panel, panel + 16 * a->dim, 16, a->dim, out, count,
                             QCC_TILE_N, 0);
            for (int64_t r = 0; r < count; r++)
                memcpy(h->scores + (r0 + r) * h->stride + t, out + r * QCC_TILE_N, sizeof(float) * QCC_TILE_N);
        }
    }
}

/* out[r][d0..d0+width) = factor[r] * sum_t p[r][t] v[t][...] */
QCC_HELPER void QCC_FN(qcc_attention_values)(const qcc_attention_head *h, int64_t s, int64_t rows, int64_t n,
                                             const float *factor) {
    const qcc_attention *a = h->a;
    float out[QCC_GEMM_ROWS * QCC_TILE_N];
    for (int64_t d = 0; d < a->v_dim; d += QCC_TILE_N) {
        const int64_t width = qcc_min64(QCC_TILE_N, a->v_dim - d);
        const float *v0 = h->v + d, *v1 = v0 + 16;
        int64_t ldb = h->v_stride;
        if (width < QCC_TILE_N) { /* the last columns: packed, so that no load leaves the tensor */
            v0 = h->values, v1 = h->values + 16 * a->keys, ldb = 16;
        }
        for (int64_t r0 = 0; r0 < rows; r0 += QCC_GEMM_ROWS) {
            const int64_t count = qcc_min64(QCC_GEMM_ROWS, rows - r0);
            QCC_FN(qcc_gemm)(h->scores + r0 * h->stride, h->stride, v0, v1, ldb, n, out, count, width, 0);
            for (int64_t r = 0; r < count; r++)
                for (int64_t j = 0; j < width; j++)
                    h->out[(s + r0 + r) * a->out_stride[2] + d + j] = out[r * QCC_TILE_N + j] * factor[r0 + r];
        }
    }
}

/* Pack what the matrix kernel cannot read in place: keys transposed, and the last columns of the values. Keys of a cache
 * are decoded on the way, values before. */
QCC_HELPER void QCC_FN(qcc_attention_pack)(qcc_attention_head *h, int64_t n) {
    const qcc_attention *a = h->a;
    const int64_t tail = a->v_dim % QCC_TILE_N, d = a->v_dim - tail;
    for (int64_t t = 0; t < qcc_round_up(n, QCC_TILE_N); t += QCC_ROWS) {
        const int64_t rows = t < n ? qcc_min64(QCC_ROWS, n - t) : 0;
        if (a->k_cache && rows) QCC_FN(qcc_cache_rows)(&h->k_head, h->length, t, t + rows, h->keys, a->dim);
        QCC_FN(qcc_pack_rows)(a->k_cache ? h->keys : h->k + t * h->k_stride, h->k_stride, rows, a->dim,
                              h->packed + t * a->dim);
    }
    if (a->v_cache) QCC_FN(qcc_cache_rows)(&h->v_head, h->length, 0, n, h->decoded, a->v_dim);
    for (int64_t j = 0; j < tail; j += 16)
        QCC_FN(qcc_pack_columns)(h->v + d + j, h->v_stride, 1, qcc_min64(16, tail - j), n, h->values + j * a->keys);
    if (tail && tail <= 16) memset(h->values + 16 * a->keys, 0, (size_t)a->keys * 16 * sizeof(float));
}

/* Queries [s0, s1) of one head. */
QCC_HELPER void QCC_FN(qcc_attention_block)(qcc_attention_head *h, int64_t s0, int64_t s1) {
    const qcc_attention *a = h->a;
    float factor[QCC_ATTENTION_ROWS];
    QCC_FN(qcc_attention_pack)(h, s1 > s0 ? QCC_FN(qcc_visible)(a, s1 - 1) : 0);
    for (int64_t s = s0; s < s1; s += QCC_ATTENTION_ROWS) {
        const int64_t rows = qcc_min64(QCC_ATTENTION_ROWS, s1 - s), n = QCC_FN(qcc_visible)(a, s + rows - 1);
        QCC_FN(qcc_attention_scores)(h, s, rows, n);
        for (int64_t r = 0; r < rows; r++) {
            const int64_t seen = QCC_FN(qcc_visible)(a, s + r);
            const int64_t bytes = a->mask_is_bool ? 1 : (int64_t)sizeof(float);
            float *row = h->scores + r * h->stride;
            QCC_FN(qcc_attention_mask)(a, row, 0, seen, h->mask ? h->mask + (s + r) * a->mask_stride[2] * bytes : NULL);
            factor[r] = QCC_FN(qcc_attention_exp)(row, seen);
            for (int64_t t = seen; t < n; t++) row[t] = 0.0f;
        }
        QCC_FN(qcc_attention_values)(h, s, rows, n, factor);
    }
}

#include "qcc_k_attention_few.h"

QCC_HELPER void QCC_FN(qcc_attention_unit)(const qcc_attention *a, int64_t unit, float *scratch) {
    const int64_t blocks = qcc_ceil_div(a->queries, QCC_ATTENTION_BLOCK), stride = qcc_round_up(a->keys, QCC_TILE_N);
    const int64_t b = unit / blocks / a->heads, i = unit / blocks % a->heads, s = unit % blocks * QCC_ATTENTION_BLOCK;
    const int64_t bytes = a->mask_is_bool ? 1 : (int64_t)sizeof(float), kv = i / qcc_attention_group(a);
    const int64_t mask = (b * a->mask_stride[0] + i * a->mask_stride[1]) * bytes;
    qcc_attention_head h = {
        .a = a,
        .q = a->q + b * a->q_stride[0] + i * a->q_stride[1],
        .out = a->out + b * a->out_stride[0] + i * a->out_stride[1],
        .mask = a->mask ? (const char *)a->mask + mask : NULL,
        .packed = scratch,
        .scores = scratch + stride * a->dim,
        .values = scratch + stride * a->dim + QCC_ATTENTION_ROWS * stride,
        .stride = stride,
        .k_stride = a->k_cache ? a->dim : a->k_stride[2],
        .v_stride = a->v_cache ? a->v_dim : a->v_stride[2],
        .length = a->k_cache || a->v_cache ? a->positions[0] + a->count : 0,
    };
    h.keys = h.values + 32 * a->keys;
    h.decoded = h.keys + (a->k_cache ? QCC_ROWS * qcc_round_up(a->dim, 32) : 0);
    if (a->k_cache) h.k_head = qcc_cache_head_of(a->k_cache, b * a->kv_heads + kv);
    else h.k = a->k + b * a->k_stride[0] + kv * a->k_stride[1];
    if (a->v_cache) h.v_head = qcc_cache_head_of(a->v_cache, b * a->kv_heads + kv);
    h.v = a->v_cache ? h.decoded : a->v + b * a->v_stride[0] + kv * a->v_stride[1];
    QCC_FN(qcc_attention_block)(&h, s, qcc_min64(a->queries, s + QCC_ATTENTION_BLOCK));
}

QCC_KERNEL_FN QCC_FN(qcc_k_attention)(const qcc_attention *a, int64_t begin, int64_t end, void *scratch) {
    const qcc_cache_parts *cache = a->k_cache ? a->k_cache : a->v_cache;
    if (cache && !qcc_cache_span(a->positions, a->count, cache->tokens)) {
        *a->status = 1;
        return;
    }
    for (int64_t u = begin; u < end; u++) {
        if (qcc_attention_is_few(a)) QCC_FN(qcc_attention_few_unit)(a, u, scratch);
        else QCC_FN(qcc_attention_unit)(a, u, scratch);
    }
}

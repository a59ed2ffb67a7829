/* Interface of fused attention; see qcc_kernels.h for what all kernels have in common.
 *
 * softmax(scale q k^T + mask) v; q [B,H,S,D], k [B,Hkv,T,D], v [B,Hkv,T,Dv], out [B,H,S,Dv]. Strides are for (batch,
 * head, position); the feature axis has stride 1. Head h reads kv head h / (H / Hkv). Mask element (b,h,s,t) is at
 * mask[b*ms0 + h*ms1 + s*ms2 + t*ms3] (stride 0 broadcasts): f32 is added, boolean (u8) keeps where non-zero. With
 * `causal`, key t is seen by query s only if t <= s + causal_offset; keys behind it are not read. A row with every key
 * masked gives zeros, as torch's scaled_dot_product_attention does.
 *
 * Keys, values or both may be in a quantized cache that holds the tokens up to the last of `positions`: the result is
 * that of attention over what qcc_cache_read reads from it, bit for bit. Positions that are not consecutive, or outside
 * the cache, set *status to 1 and nothing else. */
#ifndef QCC_KERNELS_ATTENTION_H
#define QCC_KERNELS_ATTENTION_H

#define QCC_ATTENTION_BLOCK 128 /* queries of one unit */
#define QCC_ATTENTION_FEW 8     /* below as many queries, the heads of a group read keys and values together */
#define QCC_ATTENTION_TOGETHER 8 /* rows of queries that do so in one unit */
#define QCC_ATTENTION_TILE 32   /* tokens of which they read at a time */

typedef struct {
    const float *q, *k, *v;
    float *out;
    const void *mask; /* NULL: none */
    int32_t mask_is_bool;
    int32_t causal;
    int64_t causal_offset;
    int64_t batch, heads, kv_heads, queries, keys, dim, v_dim;
    int64_t q_stride[3], k_stride[3], v_stride[3], out_stride[3], mask_stride[4];
    float scale;
    const qcc_cache_parts *k_cache, *v_cache; /* NULL: k and v are read, else not */
    const int64_t *positions;                 /* of the last call's rows in the caches */
    int64_t count;                            /* positions */
    int32_t *status;                          /* not written without a cache */
} qcc_attention;

static inline int qcc_attention_is_few(const qcc_attention *a) { return a->queries < QCC_ATTENTION_FEW; }

/* Query heads that read one head of keys. */
static inline int64_t qcc_attention_group(const qcc_attention *a) { return a->kv_heads ? a->heads / a->kv_heads : 1; }

/* Units: batch x head x block of QCC_ATTENTION_BLOCK queries, or batch x kv head x QCC_ATTENTION_TOGETHER rows. */
static inline int64_t qcc_attention_units(const qcc_attention *a) {
    if (!qcc_attention_is_few(a)) return a->batch * a->heads * qcc_ceil_div(a->queries, QCC_ATTENTION_BLOCK);
    return a->batch * a->kv_heads * qcc_ceil_div(qcc_attention_group(a) * a->queries, QCC_ATTENTION_TOGETHER);
}

static inline int64_t qcc_attention_scratch(const qcc_attention *a) {
    const int64_t keys = qcc_round_up(a->keys, 32), dim = qcc_round_up(a->dim, 32), v_dim = qcc_round_up(a->v_dim, 32);
    const int64_t tile = QCC_ATTENTION_TILE * (dim > v_dim ? dim : v_dim);
    if (qcc_attention_is_few(a)) return 4 * (QCC_ATTENTION_TOGETHER * (dim + keys + v_dim) + tile) + 4 * QCC_ALIGN;
    const int64_t cached = (a->k_cache ? 16 * dim : 0) + (a->v_cache ? keys * v_dim : 0);
    return 4 * (keys * a->dim + keys * 12 + 32 * a->keys + cached) + 4 * QCC_ALIGN;
}

#endif

/* Interface of quantized KV caches; see qcc_kernels.h for what all kernels have in common.
 *
 * Of `length` tokens the first `settled` are codes, in whole groups of `token_group` that end before the `window` latest;
 * the others are kept as they are, token t in row t % ring of `recent`. A block of token_group x channel_group elements
 * has one scale, computed in float32 and then rounded to what is stored:
 *   symmetric:  scale = max|x| / (2^(bits-1) - 1),     code = clamp(round_half_even(x / scale)), x ~ scale * code
 *   with zeros: scale = (max x - min x) / (2^bits - 1), zero = min x,
 *               code = clamp(round_half_even((x - zero) / scale)), x ~ scale * code + zero
 * A scale of 0 gives codes 0. A NaN wins, and scale and zero carry it. */
#ifndef QCC_KERNELS_CACHE_H
#define QCC_KERNELS_CACHE_H

typedef struct {
    int64_t token_group, channel_group, window;
    int32_t bits;
    int32_t has_zero; /* 0: symmetric, signed codes */
    int32_t half;     /* 1: scales and zeros are f16, 0: f32 */
} qcc_cache_format;

/* Codes [batch][heads][tokens][ceil(dim * bits / 8)]: a row is one little-endian stream of bits, signed codes with
 * 2^(bits-1) added. Scales and zeros [batch][heads][ceil(tokens / token_group)][ceil(dim / channel_group)]; recent
 * [batch][heads][ring][dim], NULL where no token stays as it is. */
typedef struct {
    qcc_cache_format format;
    uint8_t *codes;
    void *scale, *zero;
    float *recent;
    int64_t tokens, dim, ring;
} qcc_cache_parts;

static inline int64_t qcc_settled(const qcc_cache_format *f, int64_t length) {
    return length > f->window ? (length - f->window) / f->token_group * f->token_group : 0;
}

/* Write rows at consecutive positions; what is behind the last one counts as gone. Positions that are not consecutive,
 * or outside the cache, set *status to 1 and change nothing. Units: batch x heads. */
typedef struct {
    const float *rows;
    const int64_t *positions;
    qcc_cache_parts cache;
    int64_t batch, heads, count;
    int64_t row_stride[3]; /* batch, head, position; the feature axis has stride 1 */
    int32_t *status;
} qcc_cache_append;
static inline int64_t qcc_cache_append_units(const qcc_cache_append *a) { return a->batch * a->heads; }

/* y [batch][heads][tokens][dim] = what a cache stands for; zeros behind the last position. Units: rows of y. */
typedef struct {
    const int64_t *positions;
    qcc_cache_parts cache;
    float *y;
    int64_t batch, heads, count;
    int32_t *status;
} qcc_cache_read;
static inline int64_t qcc_cache_read_units(const qcc_cache_read *a) { return a->batch * a->heads * a->cache.tokens; }

/* y [batch][heads][tokens][dim] = what a cache stands for when x is all that it holds. Units: batch x heads x groups of
 * tokens. */
typedef struct {
    const float *x;
    float *y;
    qcc_cache_format format;
    int64_t batch, heads, tokens, dim;
    int64_t x_stride[3];
} qcc_cache_round;
static inline int64_t qcc_cache_round_units(const qcc_cache_round *a) {
    return a->batch * a->heads * qcc_ceil_div(a->tokens, a->format.token_group);
}

#endif

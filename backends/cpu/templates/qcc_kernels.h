/* Kernels of the CPU backend: the interface between generated model code and the runtime.
 *
 * Every kernel has the shape
 *
 *     void kernel(const qcc_<op> *args, int64_t begin, int64_t end, void *scratch);
 *
 * and computes the units [begin, end) out of `qcc_<op>_units(args)`. Units are independent, so any
 * split of the range over threads is allowed, and the result does not depend on the split. `scratch`
 * is private to the calling thread, 64-byte aligned and `qcc_<op>_scratch(args)` bytes long (NULL
 * where there is no such function). Kernels allocate nothing, keep no state and never write outside
 * their units' outputs. Sizes and strides count elements, not bytes; 0 elements are always allowed.
 *
 * Three instruction sets are compiled into one object: portable C, avx2 (with fma, f16c) and
 * avx512vnni (f, bw, vl, dq, vnni). Integer results, quantization codes and scales, and the outputs
 * of the quantized linear are bit-identical on all of them; other float results agree to rounding.
 * Build with `-ffp-contract=off` (the default of gcc -std=c11) and without -ffast-math.
 */
#ifndef QCC_KERNELS_H
#define QCC_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "qcc_kernels_nd.h"

#define QCC_ALIGN 64     /* alignment in bytes of packed weights and of scratch */
#define QCC_ROWS 16      /* weight rows interleaved in one block */
#define QCC_CHUNK 32     /* k positions in one packed chunk */
#define QCC_TILE_N 32    /* output columns of one unit of a linear */
#define QCC_TILE_M 192   /* rows (tokens) of one unit of a linear */

static inline int64_t qcc_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t qcc_round_up(int64_t a, int64_t b) { return qcc_ceil_div(a, b) * b; }

/* Groups along K: `group` consecutive k share a scale, the last group may be short. */
static inline int64_t qcc_groups(int64_t k, int64_t group) { return qcc_ceil_div(k, group); }

/* Length of a K axis in which every group is padded to whole chunks of 32. Equals k whenever the
 * groups (or, for one group, k) are multiples of 32. */
static inline int64_t qcc_padded_k(int64_t k, int64_t group) {
    int64_t full = k / group, rest = k % group;
    return full * qcc_round_up(group, QCC_CHUNK) + qcc_round_up(rest, QCC_CHUNK);
}

/* ---- Integer linear ------------------------------------------------------------------------- */

/* Packed weight [n, k] of unsigned codes of 1..8 bits; written by backends/cpu/pack.py.
 *   value[n][k] = scale[n][k / group] * (code[n][k] - zero[n][k / group] + mid_rise / 2)
 * codes:  [ceil(n/16)][padded_k/32][bits * 64 bytes]; a chunk holds 16 rows x 32 k as bit planes
 *         of width 4, 2 and 1 (a single plane of 8 for 8 bits), most significant bits first. In a
 *         plane of width p, 64-byte line i keeps, at byte 4*r + j and bit p*s, the code of row r at
 *         k = (i * 8/p + s) * 4 + j.
 * scales: [ceil(n/16)][groups][16] f32, or f16 when scale_f16 is set.
 * zeros:  [ceil(n/16)][groups][16] u8, or NULL: every zero point is `zero`.
 * Rows beyond n have scale 0; codes at padded k are 0. All sections are 64-byte aligned. */
typedef struct {
    const uint8_t *codes;
    const void *scales;
    const uint8_t *zeros;
    int32_t zero;
    int32_t bits;
    int32_t scale_f16;
    int32_t mid_rise;    /* 1: levels lie half a step beside the integers; up to 7 bits */
    int64_t n, k, group; /* group == k: one scale per row */
} qcc_qweight;

/* Epilogue of every linear: y = activation(y + bias[n]) * gate[m][n] + residual[m][n]; NULL members are
 * skipped. */
typedef struct {
    const float *bias;
    const float *gate;
    int64_t gate_stride;
    const float *residual;
    int64_t residual_stride;
    int32_t activation; /* a qcc_unary_op, or QCC_ACT_NONE */
} qcc_epilogue;
#define QCC_ACT_NONE (-1)

/* Quantized rows: codes [m][padded_k] (zeros in the padding, 64-byte aligned), scales [m][1] or
 * [m][groups], sums [m][groups] = sum of the codes of each weight group. */
typedef struct {
    int8_t *codes;
    float *scales;
    int32_t *sums;
    int32_t group_scales; /* 0: one scale per row; 1: one per (row, group) */
} qcc_qrows;

/* Quantize rows x [m][k] to signed integers, symmetric; units: rows.
 * Dynamic (static_scale NULL): scale = max|x| / qmax over the row or group, in float32;
 * code = clamp(round_half_even(x / scale), -qmax - !narrow, qmax). A scale of 0 gives codes 0; a NaN
 * or infinite element gives a NaN or infinite scale with codes 0, so that the product is NaN.
 * Static: scale = *static_scale for all; a NaN element gives a NaN scale for its row or group. */
typedef struct {
    const float *x;
    int64_t x_stride;
    int64_t m, k, group; /* group of the weight that will read these rows */
    int32_t qmax;        /* 2^(bits-1) - 1, bits 2..8 */
    int32_t narrow;      /* 1: lowest code is -qmax, 0: -qmax - 1 */
    const float *static_scale;
    qcc_qrows out;
} qcc_quantize;
static inline int64_t qcc_quantize_units(const qcc_quantize *a) { return a->m; }

/* y[m][n] = sum_g sx[m,g] sw[n,g] (sum_k xq wq - z[n,g] sum_k xq), then the epilogue; for a mid-rise weight the sum
 * in brackets is taken twice, sum_k xq added, and the product halved by halving sw.
 * The inner sums are exact int32, which needs group * 128 * 255 < 2^31: group <= 65792.
 * Float order: groups ascending, each product and sum rounded on its own; with row scales sx
 * multiplies the finished sum. Units: (column tile of 32) x (row tile of QCC_TILE_M). */
typedef struct {
    qcc_qrows x;
    qcc_qweight w;
    float *y;
    int64_t y_stride;
    int64_t m;
    qcc_epilogue epilogue;
} qcc_qlinear;
static inline int64_t qcc_qlinear_units(const qcc_qlinear *a) {
    return qcc_ceil_div(a->w.n, QCC_TILE_N) * qcc_ceil_div(a->m, QCC_TILE_M);
}
static inline int64_t qcc_qlinear_scratch(const qcc_qlinear *a) {
    return QCC_TILE_N * qcc_padded_k(a->w.k, a->w.group) + 4 * QCC_ALIGN;
}

/* Weight-only: y[m][n] = sum_k x[m][k] * value[n][k] in float32, then the epilogue. */
typedef struct {
    const float *x;
    int64_t x_stride;
    qcc_qweight w;
    float *y;
    int64_t y_stride;
    int64_t m;
    qcc_epilogue epilogue;
} qcc_wlinear;
static inline int64_t qcc_wlinear_units(const qcc_wlinear *a) {
    return qcc_ceil_div(a->w.n, QCC_TILE_N) * qcc_ceil_div(a->m, QCC_TILE_M);
}
#define QCC_WLINEAR_SCRATCH (QCC_TILE_N * 256 * 4 + QCC_ALIGN)
static inline int64_t qcc_wlinear_scratch(const qcc_wlinear *a) {
    (void)a;
    return QCC_WLINEAR_SCRATCH;
}

/* ---- Float linear algebra ------------------------------------------------------------------- */

/* y[m][n] = sum_k x[m][k] w[n][k], then the epilogue. `w` is packed by pack.pack_float_weights:
 * [ceil(n/16)][k][16] f32, rows beyond n zero. k ascending, one rounding per step. */
typedef struct {
    const float *x;
    int64_t x_stride;
    const float *w;
    float *y;
    int64_t y_stride;
    int64_t m, n, k;
    qcc_epilogue epilogue;
} qcc_linear;
static inline int64_t qcc_linear_units(const qcc_linear *a) {
    return qcc_ceil_div(a->n, QCC_TILE_N) * qcc_ceil_div(a->m, QCC_TILE_M);
}

/* y[m][n] += sum over z of row n of values[z] * x[m][columns[z]], in this order, float32: the scattered outliers of a
 * weight [n, k] in compressed rows; row n has the places offsets[n] to offsets[n + 1] - 1. Units: rows of the weight. */
typedef struct {
    const float *x;
    int64_t x_stride;
    const float *values;
    const int32_t *columns, *offsets;
    float *y;
    int64_t y_stride;
    int64_t m, n;
} qcc_add_sparse;
static inline int64_t qcc_add_sparse_units(const qcc_add_sparse *a) { return a->n; }

/* c[i][m][n] = alpha * sum_k a[i][m][k] b[i][k][n] over a batch of up to 4 broadcast dimensions.
 * Any strides for a and b (a transpose is a swap of strides); c has unit stride along n.
 * Units: (batch item) x (column tile of 32). */
typedef struct {
    const float *a, *b;
    float *c;
    int64_t batch[4], a_batch_stride[4], b_batch_stride[4], c_batch_stride[4];
    int64_t m, n, k;
    int64_t a_stride_m, a_stride_k, b_stride_k, b_stride_n, c_stride_m;
    float alpha;
} qcc_matmul;
static inline int64_t qcc_matmul_units(const qcc_matmul *a) {
    return a->batch[0] * a->batch[1] * a->batch[2] * a->batch[3] * qcc_ceil_div(a->n, QCC_TILE_N);
}
/* A packed tile of b, and rows of a where a_stride_k != 1. */
static inline int64_t qcc_matmul_scratch(const qcc_matmul *a) {
    return (QCC_TILE_N + 12) * a->k * 4 + 2 * QCC_ALIGN;
}

#include "qcc_kernels_cache.h"

#include "qcc_kernels_attention.h"

/* 2-D convolution, NCHW x OIHW -> NCHW (1-D: height 1). w [out_channels][in_channels/groups][kh][kw]
 * unpacked; activation as in the epilogue. Units: batch x groups x tile of 32 output pixels, or
 * batch x channels when depthwise (one input channel per group, one output channel per group). */
typedef struct {
    const float *x, *w, *bias;
    float *y;
    int64_t batch, in_channels, out_channels, groups;
    int64_t in_h, in_w, out_h, out_w;
    int64_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
    int32_t activation;
} qcc_conv2d;
static inline int qcc_conv2d_depthwise(const qcc_conv2d *a) {
    return a->groups == a->in_channels && a->groups == a->out_channels;
}
static inline int64_t qcc_conv2d_units(const qcc_conv2d *a) {
    if (qcc_conv2d_depthwise(a)) return a->batch * a->out_channels;
    return a->batch * a->groups * qcc_ceil_div(a->out_h * a->out_w, QCC_TILE_N);
}
static inline int64_t qcc_conv2d_scratch(const qcc_conv2d *a) {
    return 4 * QCC_TILE_N * (a->in_channels / a->groups) * a->kernel_h * a->kernel_w + QCC_ALIGN;
}

/* Unfold convolution windows to rows [batch*out_h*out_w][in_channels/groups*kh*kw] of one group, for a
 * linear on them (w, bias, y, activation of `conv` are not read). Units: rows. */
typedef struct {
    qcc_conv2d conv;
    int64_t group_index;
    float *rows;
    int64_t row_stride;
} qcc_unfold;
static inline int64_t qcc_unfold_units(const qcc_unfold *a) {
    return a->conv.batch * a->conv.out_h * a->conv.out_w;
}

/* 2-D pooling, NCHW. Max: NaN wins, padding never does. Average: divides by the window inside the
 * input, or, with count_pad, inside the padded input. Units: batch x channels. */
typedef struct {
    const float *x;
    float *y;
    int64_t batch, channels, in_h, in_w, out_h, out_w;
    int64_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
    int64_t pad_bottom, pad_right; /* for count_pad */
    int32_t average, count_pad;
} qcc_pool2d;
static inline int64_t qcc_pool2d_units(const qcc_pool2d *a) { return a->batch * a->channels; }

/* ---- Rows ----------------------------------------------------------------------------------- */

/* Normalise rows x [rows][k]; units: rows. x and y may be the same.
 * layer: (x - mean) / sqrt(var + eps) * gamma + beta; rms: x / sqrt(mean(x^2) + eps) * gamma;
 * rms_plus1: the same with (1 + gamma). gamma, beta may be NULL (1, 0). */
enum { QCC_NORM_LAYER, QCC_NORM_RMS, QCC_NORM_RMS_PLUS1 };
typedef struct {
    const float *x, *gamma, *beta;
    float *y;
    int64_t x_stride, y_stride;
    int64_t rows, k;
    float eps;
    int32_t kind;
} qcc_norm;
static inline int64_t qcc_norm_units(const qcc_norm *a) { return a->rows; }

/* y[r][i] = x[r][i] * scale[r % channels] + shift[r % channels]: a folded batch norm on
 * [batch * channels][spatial]; units: rows. */
typedef struct {
    const float *x, *scale, *shift;
    float *y;
    int64_t rows, channels, k;
} qcc_channel_affine;
static inline int64_t qcc_channel_affine_units(const qcc_channel_affine *a) { return a->rows; }

/* (log-)softmax of each row; units: rows. x and y may be the same. All -inf gives NaN, as in torch. */
typedef struct {
    const float *x;
    float *y;
    int64_t x_stride, y_stride;
    int64_t rows, k;
    int32_t log;
} qcc_softmax;
static inline int64_t qcc_softmax_units(const qcc_softmax *a) { return a->rows; }

/* Rotary embedding on the first rotary_dim of dim features of x [B,H,S,D]; the rest is copied.
 * Pairs are (i, i + rotary_dim/2), or (2i, 2i+1) when interleaved. cos, sin at [b][s][.] hold
 * rotary_dim entries, or rotary_dim/2 when half_table. Units: batch x heads x positions.
 * x and y may be the same. Strides as in attention. */
typedef struct {
    const float *x, *cos, *sin;
    float *y;
    int64_t batch, heads, positions, dim, rotary_dim;
    int64_t x_stride[3], y_stride[3], table_stride[2];
    int32_t interleaved, half_table;
} qcc_rope;
static inline int64_t qcc_rope_units(const qcc_rope *a) { return a->batch * a->heads * a->positions; }

/* y[i] = table[ids[i]]. Exactly one of `table` (dtype table_dtype: f32, f16, bf16; rows of k) and
 * `qtable` (packed as for a linear: may be shared with a tied head) is set. An id outside [0, rows)
 * sets *status to 1 and gives a row of zeros. Units: ids. */
typedef struct {
    const int64_t *ids;
    const void *table;
    const qcc_qweight *qtable;
    float *y;
    int64_t count, rows, k;
    int32_t table_dtype;
    int32_t *status;
} qcc_embedding;
static inline int64_t qcc_embedding_units(const qcc_embedding *a) { return a->count; }

#include "qcc_kernels_rounding.h"
#include "qcc_kernels_tables.h"
#include "qcc_kernels_integer.h"

/* ---- The table ------------------------------------------------------------------------------ */

#define QCC_KERNEL(name, args) void (*name)(const args *, int64_t begin, int64_t end, void *scratch)
typedef struct {
    const char *isa; /* "portable", "avx2" or "avx512vnni" */
    QCC_KERNEL(quantize, qcc_quantize);
    QCC_KERNEL(qlinear, qcc_qlinear);
    QCC_KERNEL(tables, qcc_tables);
    QCC_KERNEL(tlinear, qcc_tlinear);
    QCC_KERNEL(wlinear, qcc_wlinear);
    QCC_KERNEL(linear, qcc_linear);
    QCC_KERNEL(matmul, qcc_matmul);
    QCC_KERNEL(attention, qcc_attention);
    QCC_KERNEL(conv2d, qcc_conv2d);
    QCC_KERNEL(unfold, qcc_unfold);
    QCC_KERNEL(pool2d, qcc_pool2d);
    QCC_KERNEL(norm, qcc_norm);
    QCC_KERNEL(channel_affine, qcc_channel_affine);
    QCC_KERNEL(softmax, qcc_softmax);
    QCC_KERNEL(rope, qcc_rope);
    QCC_KERNEL(embedding, qcc_embedding);
    QCC_KERNEL(unary, qcc_unary);
    QCC_KERNEL(binary, qcc_binary);
    QCC_KERNEL(where, qcc_where);
    QCC_KERNEL(cast, qcc_cast);
    QCC_KERNEL(copy, qcc_copy);
    QCC_KERNEL(reduce, qcc_reduce);
    QCC_KERNEL(cumsum, qcc_cumsum);
    QCC_KERNEL(iota, qcc_iota);
    QCC_KERNEL(index, qcc_index);
    QCC_KERNEL(gather, qcc_gather);
    QCC_KERNEL(cache_append, qcc_cache_append);
    QCC_KERNEL(cache_read, qcc_cache_read);
    QCC_KERNEL(cache_round, qcc_cache_round);
    QCC_KERNEL(round_root, qcc_round_root);
    QCC_KERNEL(round_rows, qcc_round_rows);
    QCC_KERNEL(encode, qcc_encode);
    QCC_KERNEL(requant, qcc_requant);
    QCC_KERNEL(table_lookup, qcc_table_lookup);
    QCC_KERNEL(take_rows, qcc_take_rows);
    QCC_KERNEL(integer_dot, qcc_integer_dot);
    QCC_KERNEL(integer_softmax, qcc_integer_softmax);
    QCC_KERNEL(integer_norm, qcc_integer_norm);
    QCC_KERNEL(add_sparse, qcc_add_sparse);
} qcc_kernels;

/* Return the best kernels this processor can run. The environment variable QCC_ISA (portable, avx2,
 * avx512vnni) asks for a lower set; a set the processor lacks, or an unknown name, is ignored. */
const qcc_kernels *qcc_select_kernels(void);

#endif

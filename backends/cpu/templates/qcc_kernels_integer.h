/* Integer-only programs: what computes between their input and output quantizers, exact to the bit.
 *
 * Integers are int64, int32, int8 or uint8. Arithmetic is modulo 2^32 or 2^64 wherever it could leave its type, so no
 * overflow is undefined; the compiler proved that results fit, and a result that fits is then exact whatever its
 * partial sums were. `>>` rounds down, and `half` is half of what the shift divides by. */
#ifndef QCC_KERNELS_INTEGER_H
#define QCC_KERNELS_INTEGER_H

#define QCC_DOT_M 8 /* rows of x in one unit of an integer product */

/* y = clamp(round_half_even(x / scale), low, high) of f32 x, one IEEE division; 0 where the scale is 0 and where x is
 * NaN. Strides in elements, 0 repeats. Units: elements. */
typedef struct {
    const float *x, *scale;
    void *y;
    qcc_shape shape;
    int64_t x_stride[QCC_RANK], scale_stride[QCC_RANK], y_stride[QCC_RANK];
    int64_t low, high;
    int32_t y_dtype;
} qcc_encode;
static inline int64_t qcc_encode_units(const qcc_encode *a) { return qcc_elements(&a->shape); }

/* y = clamp((x * multiplier + half) >> shift, low, high), shift 0..62. Units: elements. */
typedef struct {
    const void *x;
    const int32_t *multiplier, *shift;
    void *y;
    qcc_shape shape;
    int64_t x_stride[QCC_RANK], multiplier_stride[QCC_RANK], shift_stride[QCC_RANK], y_stride[QCC_RANK];
    int64_t low, high;
    int32_t x_dtype, y_dtype;
} qcc_requant;
static inline int64_t qcc_requant_units(const qcc_requant *a) { return qcc_elements(&a->shape); }

/* y = table[x - low], table [size] of y's dtype; an x outside sets *status to 1 and gives 0. Units: elements. */
typedef struct {
    const void *x, *table;
    void *y;
    qcc_shape shape;
    int64_t x_stride[QCC_RANK], y_stride[QCC_RANK];
    int64_t low, size;
    int32_t x_dtype, y_dtype;
    int32_t *status;
} qcc_table_lookup;
static inline int64_t qcc_table_lookup_units(const qcc_table_lookup *a) { return qcc_elements(&a->shape); }

/* y[i] = table[ids[i]]: rows of k elements of element_size bytes, by position; an id outside [0, rows) sets *status to 1
 * and gives zeros. Units: ids. */
typedef struct {
    const int64_t *ids;
    const void *table;
    void *y;
    int64_t count, rows, k;
    int32_t element_size;
    int32_t *status;
} qcc_take_rows;
static inline int64_t qcc_take_rows_units(const qcc_take_rows *a) { return a->count; }

/* y[b][i][j] = sum_k x[b][i][g(j) * k + .] * w[b][j][.] + bias[j]: x [batch][m][groups * k], w [batch][n][k] and
 * y [batch][m][n] row by row, g(j) = j / (n / groups). x and w are both int8, int32 or int64, or int32 and int8; y and
 * bias (or NULL) int32 or int64. Units: (item of the batch) x (tile of QCC_DOT_M rows) x (tile of QCC_TILE_N columns). */
typedef struct {
    const void *x, *w, *bias;
    void *y;
    int64_t batch, m, n, k, groups;
    int32_t x_dtype, w_dtype, y_dtype;
} qcc_integer_dot;
static inline int64_t qcc_integer_dot_units(const qcc_integer_dot *a) {
    return a->batch * qcc_ceil_div(a->m, QCC_DOT_M) * qcc_ceil_div(a->n, QCC_TILE_N);
}

/* Rows x [rows][k] to probabilities in steps of 1 / unit:
 *   e_i = table[min(max - x_i, size - 1)],   y_i = floor((2 unit e_i + s) / (2 s)),   s = sum e
 * over the elements whose mask is 1 (all without a mask, whose rows lie one after another); the others are 0.
 * Units: rows. */
typedef struct {
    const void *x;
    const int32_t *table;
    const uint8_t *mask;
    void *y;
    int64_t x_stride, rows, k, size, unit;
    int32_t x_dtype, y_dtype;
} qcc_integer_softmax;
static inline int64_t qcc_integer_softmax_units(const qcc_integer_softmax *a) { return a->rows; }

/* Rows x [rows][k] normalised:
 *   d_i = k x_i - sum x (layer) or x_i;   q = max(sum d^2 + eps, 1);   the largest t with q 4^t < 2^62
 *   v = floor(2^61 / isqrt(q 4^t));       z_i = (d_i v + half) >> (37 - t)
 *   y_i = clamp((z_i multiplier_i + bias_i + half) >> shift, low, high)
 * multiplier_step and bias_step are 0 where one number serves all elements; bias may be NULL. Units: rows. */
typedef struct {
    const void *x;
    const int32_t *multiplier, *shift;
    const int64_t *bias;
    void *y;
    int64_t x_stride, rows, k, multiplier_step, bias_step, eps, low, high;
    int32_t x_dtype, y_dtype, layer;
} qcc_integer_norm;
static inline int64_t qcc_integer_norm_units(const qcc_integer_norm *a) { return a->rows; }

#endif

/* Strided elementwise, data movement and reductions: the arguments of the generic kernels.
 *
 * All of them iterate over an output of up to QCC_RANK dimensions; operand strides are in elements,
 * 0 broadcasts, negative is allowed. Units are elements of the iteration space in row-major order
 * (so that a range can be split anywhere); kernels merge dimensions themselves. Transpose, expand,
 * slice and concatenation are `copy` with the right pointer and strides.
 */
#ifndef QCC_KERNELS_ND_H
#define QCC_KERNELS_ND_H

#include <stdint.h>

#define QCC_RANK 6

enum { QCC_F32, QCC_F16, QCC_BF16, QCC_I64, QCC_I32, QCC_I8, QCC_U8, QCC_BOOL, QCC_F64 };

typedef struct {
    int32_t rank; /* 0..QCC_RANK; 0 is one element */
    int64_t shape[QCC_RANK];
} qcc_shape;

static inline int64_t qcc_elements(const qcc_shape *s) {
    int64_t n = 1;
    for (int32_t i = 0; i < s->rank; i++) n *= s->shape[i];
    return n;
}

/* One-operand functions. f32 takes all of them; integers: NEG, ABS, SIGN, SQUARE, RELU, CLAMP, COPY,
 * NOT (bitwise); bool: NOT (logical), COPY.
 * p0, p1: CLAMP low, high; LEAKY_RELU slope; ELU alpha; SOFTPLUS beta, threshold;
 * ADD_SCALAR x + p0; MUL_SCALAR x * p0; POW_SCALAR x ^ p0. EXP, TANH, ERF, SIGMOID and
 * SILU have a relative error below 1e-6 (sigmoid is 0 below 3e-39); GELU and GELU_TANH, whose value cancels
 * for negative x, an absolute error below 6e-7 there. */
typedef enum {
    QCC_COPY, QCC_NEG, QCC_ABS, QCC_SIGN, QCC_SQUARE, QCC_SQRT, QCC_RSQRT, QCC_RECIPROCAL,
    QCC_EXP, QCC_EXPM1, QCC_LOG, QCC_LOG1P, QCC_SIN, QCC_COS, QCC_TANH, QCC_ERF, QCC_SIGMOID,
    QCC_RELU, QCC_SILU, QCC_GELU, QCC_GELU_TANH, QCC_LEAKY_RELU, QCC_ELU, QCC_SOFTPLUS,
    QCC_HARD_SIGMOID, QCC_HARD_SWISH, QCC_CLAMP, QCC_FLOOR, QCC_CEIL, QCC_ROUND, QCC_TRUNC,
    QCC_ADD_SCALAR, QCC_MUL_SCALAR, QCC_POW_SCALAR, QCC_NOT
} qcc_unary_op;

typedef struct {
    const void *x;
    void *y;
    qcc_shape shape;
    int64_t x_stride[QCC_RANK], y_stride[QCC_RANK];
    int32_t op, dtype; /* dtype of x and y: f32, i64, i32, i8, u8, bool */
    double p0, p1;
} qcc_unary;
static inline int64_t qcc_unary_units(const qcc_unary *a) { return qcc_elements(&a->shape); }

/* Two-operand functions of f32, i64, i32, i8, u8 (AND, OR, XOR: integers and bool). Comparisons write bool and
 * also take bool. MOD and FLOOR_DIV have the sign rules of Python; integer division by zero gives 0 and
 * does not trap. MIN and MAX propagate NaN. */
typedef enum {
    QCC_ADD, QCC_SUB, QCC_MUL, QCC_DIV, QCC_POW, QCC_MIN, QCC_MAX, QCC_MOD, QCC_FLOOR_DIV,
    QCC_AND, QCC_OR, QCC_XOR, QCC_EQ, QCC_NE, QCC_LT, QCC_LE, QCC_GT, QCC_GE
} qcc_binary_op;

typedef struct {
    const void *a, *b;
    void *y;
    qcc_shape shape;
    int64_t a_stride[QCC_RANK], b_stride[QCC_RANK], y_stride[QCC_RANK];
    int32_t op, dtype; /* dtype of a and b */
} qcc_binary;
static inline int64_t qcc_binary_units(const qcc_binary *a) { return qcc_elements(&a->shape); }

/* y = condition ? a : b, by element size (1, 2, 4 or 8 bytes); condition is bool. */
typedef struct {
    const uint8_t *condition;
    const void *a, *b;
    void *y;
    qcc_shape shape;
    int64_t condition_stride[QCC_RANK], a_stride[QCC_RANK], b_stride[QCC_RANK], y_stride[QCC_RANK];
    int32_t element_size;
} qcc_where;
static inline int64_t qcc_where_units(const qcc_where *a) { return qcc_elements(&a->shape); }

/* Convert between any two dtypes. Float to integer truncates and saturates (NaN gives 0); to f16 and
 * bf16 rounds to nearest even; to bool is x != 0. */
typedef struct {
    const void *x;
    void *y;
    qcc_shape shape;
    int64_t x_stride[QCC_RANK], y_stride[QCC_RANK];
    int32_t x_dtype, y_dtype;
} qcc_cast;
static inline int64_t qcc_cast_units(const qcc_cast *a) { return qcc_elements(&a->shape); }

/* Strided copy by element size (1, 2, 4 or 8 bytes). A fill is a copy with all x strides 0. */
typedef struct {
    const void *x;
    void *y;
    qcc_shape shape;
    int64_t x_stride[QCC_RANK], y_stride[QCC_RANK];
    int32_t element_size;
} qcc_copy;
static inline int64_t qcc_copy_units(const qcc_copy *a) { return qcc_elements(&a->shape); }

/* y[i] = reduction over j < length of x[i, j * axis_stride]; `shape` is that of y. Units: elements of y.
 * x is f32, i64, i32, i8, u8 or bool; y has x's dtype, but: ANY and ALL write bool; ARGMAX and ARGMIN write i64
 * (first position; NaN wins); SUM and PROD of integers and bool write i64. MEAN is f32 only. MAX and MIN
 * propagate NaN; of no elements they give the type's identity. */
enum { QCC_SUM, QCC_MEAN, QCC_PROD, QCC_RMAX, QCC_RMIN, QCC_ANY, QCC_ALL, QCC_ARGMAX, QCC_ARGMIN };
typedef struct {
    const void *x;
    void *y;
    qcc_shape shape;
    int64_t x_stride[QCC_RANK], y_stride[QCC_RANK];
    int64_t length, axis_stride;
    int32_t op, dtype;
} qcc_reduce;
static inline int64_t qcc_reduce_units(const qcc_reduce *a) { return qcc_elements(&a->shape); }

/* y[i, j] = sum of x[i, 0..j]; `shape` leaves the summed axis out. f32 -> f32; i64, i32, bool -> i64.
 * Units: elements of `shape`. */
typedef struct {
    const void *x;
    void *y;
    qcc_shape shape;
    int64_t x_stride[QCC_RANK], y_stride[QCC_RANK];
    int64_t length, x_axis_stride, y_axis_stride;
    int32_t dtype;
} qcc_cumsum;
static inline int64_t qcc_cumsum_units(const qcc_cumsum *a) { return qcc_elements(&a->shape); }

/* y[i] = start + i * step; dtype f32, i64 or i32. Units: elements. */
typedef struct {
    void *y;
    int64_t count;
    double start, step;
    int32_t dtype;
} qcc_iota;
static inline int64_t qcc_iota_units(const qcc_iota *a) { return a->count; }

/* Advanced indexing on up to 4 axes of one tensor, whose other axes are iterated:
 *   read:  y[i] = x[sum_d i_d * x_stride[d] + sum_j wrap(index_j[i]) * axis_stride[j]]
 *   write: x[...] = y[i]   (write = 1: index_put_, index_copy_ on a cache)
 * index_j has its own strides over the iteration space (0 where it does not vary); `x_stride` is 0
 * along iterated axes that come from indices. Negative indices wrap; an index outside
 * [-axis_size, axis_size) sets *status to 1 and reads 0 (writes nothing). Duplicates in a write: with
 * one thread the last one wins. Units: elements of `shape`. */
typedef struct {
    void *x;
    void *y;
    qcc_shape shape;
    int64_t x_stride[QCC_RANK], y_stride[QCC_RANK];
    int32_t indices;
    const int64_t *index[4];
    int64_t index_stride[4][QCC_RANK];
    int64_t axis_size[4], axis_stride[4];
    int32_t element_size, write;
    int32_t *status;
} qcc_index;
static inline int64_t qcc_index_units(const qcc_index *a) { return qcc_elements(&a->shape); }

/* torch.gather: y[i] = x[i with i_axis replaced by index[i]]; contiguous `index` i64 and y. x_stride of
 * the axis is axis_stride. Units: elements. */
typedef struct {
    const void *x;
    const int64_t *index;
    void *y;
    qcc_shape shape;
    int64_t x_stride[QCC_RANK], index_stride[QCC_RANK], y_stride[QCC_RANK];
    int32_t axis, element_size;
    int64_t axis_size;
    int32_t *status;
} qcc_gather;
static inline int64_t qcc_gather_units(const qcc_gather *a) { return qcc_elements(&a->shape); }

#endif

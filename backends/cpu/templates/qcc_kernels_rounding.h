/* Interface of rounding activations to small floats; see qcc_kernels.h for what all kernels have in common. */
#ifndef QCC_KERNELS_ROUNDING_H
#define QCC_KERNELS_ROUNDING_H

/* How the scale of a block is stored. E8M0 powers of two are rounded down (the exponent of the largest magnitude less
 * that of the largest value), up, or to nearest. */
typedef enum {
    QCC_SCALE_F32, QCC_SCALE_F16, QCC_SCALE_BF16, QCC_SCALE_E4M3, QCC_SCALE_E8M0_FLOOR, QCC_SCALE_E8M0_CEIL,
    QCC_SCALE_E8M0
} qcc_scale_dtype;

/* root[0] = max|x| / reach / top over all rows; NaN wins. Units: 1. */
typedef struct {
    const float *x;
    float *root;
    int64_t x_stride, m, k;
    float reach, top;
} qcc_round_root;
static inline int64_t qcc_round_root_units(const qcc_round_root *a) { (void)a; return 1; }

/* y [m][k] = scale * the value nearest to x / scale, where value i lies from edges[i - 1] on and below edges[i].
 * With `given`, scale is given[column]. Else each block of `group` columns has scale = root * leaf, where leaf is
 * max|x| / reach / root as stored, and root is *root, or 1 without one. Each operation rounds to float32; a scale of 0
 * takes all to 0. A quotient that is NaN stands for `undefined`, or for 0 under a scale of 0. Units: rows. */
typedef struct {
    const float *x, *values, *edges, *root, *given;
    float *y;
    int64_t x_stride, m, k, group, count; /* count: values */
    float reach, undefined;
    int32_t scale_dtype;
} qcc_round_rows;
static inline int64_t qcc_round_rows_units(const qcc_round_rows *a) { return a->m; }

#endif

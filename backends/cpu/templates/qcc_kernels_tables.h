/* Interface of the lookup-table linear; see qcc_kernels.h for what all kernels have in common.
 *
 * A weight code is a sum of bits, w = sum_b 2^b w_b, so that
 *     sum_k x_k w_k = sum_b 2^b sum_q T_q[four bits w_b of quad q],   T_q[i] = sum_t (bit t of i) x_q[t].
 * The tables T depend on the activations alone and serve all rows of the weight and all their bits.
 *
 * With w = |x_0| + .. + |x_3|, the 16 entries span w values. Less the centre c = ceil(sum_t x_t / 2) they lie in
 * [-ceil(w/2), floor(w/2)]: 8 bits hold them whenever w <= 255, and always for activations of up to 6 bits (or 7
 * without the lowest code). What 8 bits do not hold of a line of quads goes to a second line (exact tables), or all
 * entries of the group are rounded to 8 bits (rounded tables). */
#ifndef QCC_KERNELS_TABLES_H
#define QCC_KERNELS_TABLES_H

#define QCC_TABLE_K 16 /* k positions of one line of tables: four quads */
#define QCC_TABLE_M 16 /* rows (tokens) of one unit of the lookup linear */

/* Tables of rows of codes: entries [m][padded_k/16][64], 64-byte aligned; centers (the sum of the centres c of the
 * group's quads) and wide [m][groups]. Byte 16*j + i of a line is entry i of quad j, whose four k are j, j + 4,
 * j + 8, j + 12 of the line's 16.
 * Exact: T[i] - c = entries + 2 * rest. Only lines with a rest have one: the first wide[m][g] lines of the group's
 *   place in rest [m][padded_k/16][64], whose numbers in the group are at the same places of lines [m][padded_k/16].
 * Rounded (rest and lines NULL): T[i] - c ~ entries << wide[m][g], to nearest even, off by at most 2^wide / 2; wide is
 *   0 where 8 bits hold all entries of the group, else 1, or 2 where all four codes of a quad are -128. */
typedef struct {
    int8_t *entries;
    int8_t *rest;
    int32_t *lines;
    int32_t *centers;
    int32_t *wide;
} qcc_table_rows;

/* Build the tables of m rows of codes; units: rows. */
typedef struct {
    qcc_qrows x;
    int64_t m, k, group;
    qcc_table_rows out;
} qcc_tables;
static inline int64_t qcc_tables_units(const qcc_tables *a) { return a->m; }

/* The same contraction as `qlinear`, by lookup. The weight is packed by pack.py for lookup: a chunk of `codes` is
 * one 64-byte line per bit, the most significant first; a line keeps, at byte 4*r + j and bit s, the bit of row r at
 * k = 4*s + j (for 1 bit the layout of `qlinear`); all else is as there. `x.codes` is not read.
 * With exact tables the integer sums are exact and y has the bits of qlinear's. With rounded ones the sum of a group
 * is off by at most quads * (2^bits - 1) * 2^wide / 2, quads = ceil(k of the group / 16) * 4; by 0 where wide is 0.
 * Units: (row tile of QCC_TABLE_M) x (column tile of 32), columns first: the tables of a tile stay in the cache. */
typedef struct {
    qcc_table_rows t;
    qcc_qrows x;
    qcc_qweight w;
    float *y;
    int64_t y_stride;
    int64_t m;
    qcc_epilogue epilogue;
} qcc_tlinear;
static inline int64_t qcc_tlinear_units(const qcc_tlinear *a) {
    return qcc_ceil_div(a->w.n, QCC_TILE_N) * qcc_ceil_div(a->m, QCC_TABLE_M);
}
static inline int64_t qcc_tlinear_scratch(const qcc_tlinear *a) {
    return qcc_groups(a->w.k, a->w.group) * (QCC_TABLE_M + 1) * 4;
}

#endif

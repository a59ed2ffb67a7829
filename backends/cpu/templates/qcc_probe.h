/* Look inside an integer contraction: the codes, scales and exact integer sums that the kernels compute,
 * so that golden vectors can hold them to the last bit. For tests; a running program never calls it.
 *
 * A kernel gives scaled sums in float32. With all steps 1 and at most QCC_PROBE_K products, the sum
 * is an integer below 2^24, which float32 holds exactly: K is probed piece by piece. */
#ifndef QCC_PROBE_H
#define QCC_PROBE_H

#include "qcc_runtime.h"

#define QCC_PROBE_K 256

typedef struct {
    qcc_qweight w;
    int32_t qmax, narrow, group_scales;
    int32_t lookup; /* the weight is packed for tlinear */
    const float *static_scale;
} qcc_contract;

typedef struct {
    qcc_memory codes, scales, sums, part, part_sums, ones, weight_ones, y, scratch, tables;
} qcc_probe_memory;

static inline void qcc_probe_release(qcc_probe_memory *p) {
    qcc_memory *all[] = {&p->codes, &p->scales, &p->sums, &p->part, &p->part_sums, &p->ones,
                         &p->weight_ones, &p->y, &p->scratch, &p->tables};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) qcc_release(all[i]);
}

/* Bytes of exact tables of m rows, as qcc_probe_lookup lays them out. */
static inline int64_t qcc_probe_tables(const qcc_contract *c, int64_t m) {
    return m * (qcc_padded_k(c->w.k, c->w.group) * 9 + qcc_groups(c->w.k, c->w.group) * 8);
}

/* The same product by lookup, with exact tables. */
static inline void qcc_probe_lookup(const qcc_kernels *kernels, const qcc_qlinear *a, qcc_probe_memory *p) {
    int64_t size = a->m * qcc_padded_k(a->w.k, a->w.group), groups = a->m * qcc_groups(a->w.k, a->w.group);
    int8_t *bytes = (int8_t *)p->tables.data;
    int32_t *words = (int32_t *)(void *)(bytes + 8 * size);
    qcc_table_rows t = {bytes, bytes + 4 * size, words, words + size / 16, words + size / 16 + groups};
    qcc_tables tables = {.x = a->x, .m = a->m, .k = a->w.k, .group = a->w.group, .out = t};
    qcc_tlinear lookup = {
        .t = t, .x = a->x, .w = a->w, .y = a->y, .y_stride = a->y_stride, .m = a->m, .epilogue = a->epilogue};
    kernels->tables(&tables, 0, qcc_tables_units(&tables), NULL);
    kernels->tlinear(&lookup, 0, qcc_tlinear_units(&lookup), p->scratch.data);
}

/* Probe the k positions [first, first + count) of group g: add their products to sums[m][n][g]. */
static inline void qcc_probe_piece(const qcc_kernels *kernels, const qcc_contract *c, int64_t m, int64_t g,
                                   int64_t first, int64_t count, qcc_probe_memory *p, int32_t *sums) {
    int64_t padded = qcc_padded_k(c->w.k, c->w.group), groups = qcc_groups(c->w.k, c->w.group);
    const int8_t *codes = (const int8_t *)p->codes.data;
    int8_t *part = (int8_t *)p->part.data;
    int32_t *part_sums = (int32_t *)p->part_sums.data;
    memset(part, 0, (size_t)(m * padded));
    memset(part_sums, 0, (size_t)(m * groups) * sizeof *part_sums);
    for (int64_t row = 0; row < m; row++) {
        for (int64_t i = first; i < first + count; i++) {
            part[row * padded + i] = codes[row * padded + i];
            part_sums[row * groups + g] += codes[row * padded + i];
        }
    }
    qcc_qlinear args = {
        .x = {.codes = part, .scales = (float *)p->ones.data, .sums = part_sums, .group_scales = c->group_scales},
        .w = c->w,
        .y = (float *)p->y.data,
        .y_stride = c->w.n,
        .m = m,
        .epilogue = {.activation = QCC_ACT_NONE},
    };
    args.w.scales = p->weight_ones.data;
    args.w.scale_f16 = 0;
    if (c->lookup) qcc_probe_lookup(kernels, &args, p);
    else kernels->qlinear(&args, 0, qcc_qlinear_units(&args), p->scratch.data);
    for (int64_t i = 0; i < m * c->w.n; i++) sums[i * groups + g] += (int32_t)args.y[i];
}

/* x [m][k] -> codes [m][k], scales [m][1 or groups], sums [m][n][groups], where
 * sums = sum over the group of code * (weight code - zero). Returns 0 when there is no memory. */
static inline int qcc_probe(const qcc_kernels *kernels, const qcc_contract *c, const float *x, int64_t m,
                            int8_t *codes, float *scales, int32_t *sums) {
    int64_t k = c->w.k, group = c->w.group, padded = qcc_padded_k(k, group), groups = qcc_groups(k, group);
    int64_t ones = qcc_ceil_div(c->w.n, QCC_ROWS) * QCC_ROWS * groups;
    int64_t scale_count = c->group_scales ? groups : 1;
    qcc_probe_memory p = {0};
    qcc_qlinear sized = {.w = c->w, .m = m};
    qcc_tlinear lookup = {.w = c->w, .m = m};
    int64_t scratch = qcc_max(qcc_qlinear_scratch(&sized), qcc_tlinear_scratch(&lookup));
    int ok = qcc_reserve(&p.codes, m * padded) && qcc_reserve(&p.scales, m * groups * 4) &&
             qcc_reserve(&p.sums, m * groups * 4) && qcc_reserve(&p.part, m * padded) &&
             qcc_reserve(&p.part_sums, m * groups * 4) && qcc_reserve(&p.ones, m * groups * 4) &&
             qcc_reserve(&p.weight_ones, ones * 4) && qcc_reserve(&p.y, m * c->w.n * 4) &&
             qcc_reserve(&p.scratch, scratch) && qcc_reserve(&p.tables, qcc_probe_tables(c, m));
    if (!ok) {
        qcc_probe_release(&p);
        return 0;
    }
    const float one = c->w.mid_rise ? 2.0f : 1.0f; /* of which the kernel takes half */
    for (int64_t i = 0; i < ones; i++) ((float *)p.weight_ones.data)[i] = one;
    for (int64_t i = 0; i < m * groups; i++) ((float *)p.ones.data)[i] = 1.0f;
    qcc_quantize args = {
        .x = x, .x_stride = k, .m = m, .k = k, .group = group, .qmax = c->qmax, .narrow = c->narrow,
        .static_scale = c->static_scale,
        .out = {.codes = (int8_t *)p.codes.data, .scales = (float *)p.scales.data,
                .sums = (int32_t *)p.sums.data, .group_scales = c->group_scales},
    };
    kernels->quantize(&args, 0, qcc_quantize_units(&args), NULL);
    memcpy(scales, args.out.scales, (size_t)(m * scale_count) * sizeof *scales);
    memset(sums, 0, (size_t)(m * c->w.n * groups) * sizeof *sums);
    for (int64_t g = 0; g < groups; g++) {
        int64_t start = g * qcc_round_up(group, QCC_CHUNK), length = qcc_min(group, k - g * group);
        for (int64_t row = 0; row < m; row++)
            memcpy(codes + row * k + g * group, args.out.codes + row * padded + start, (size_t)length);
        for (int64_t i = 0; i < length; i += QCC_PROBE_K)
            qcc_probe_piece(kernels, c, m, g, start + i, qcc_min(QCC_PROBE_K, length - i), &p, sums);
    }
    qcc_probe_release(&p);
    return 1;
}

#endif

/* Data movement: copy, where, indexing, iota. No arithmetic on the elements. */

/* The same memory holds floats and integers: these types may alias both. */
typedef uint16_t __attribute__((may_alias)) qcc_word2;
typedef uint32_t __attribute__((may_alias)) qcc_word4;
typedef uint64_t __attribute__((may_alias)) qcc_word8;

#define QCC_MOVE(type) \
    do { \
        const type *source = x; \
        type *target = y; \
        for (int64_t i = 0; i < n; i++) target[i * y_step] = source[i * x_step]; \
    } while (0)

static inline void qcc_move(const void *x, int64_t x_step, void *y, int64_t y_step, int64_t n, int32_t size) {
    if (x_step == 1 && y_step == 1) {
        memcpy(y, x, (size_t)(n * size));
        return;
    }
    switch (size) {
    case 1: QCC_MOVE(uint8_t); break;
    case 2: QCC_MOVE(qcc_word2); break;
    case 4: QCC_MOVE(qcc_word4); break;
    default: QCC_MOVE(qcc_word8); break;
    }
}
#undef QCC_MOVE

static void qcc_k_copy(const qcc_copy *a, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    const int64_t size = a->element_size;
    qcc_walk w = qcc_walk_start(&a->shape, begin, end, 2, (const int64_t *[]){a->x_stride, a->y_stride});
    while (qcc_walk_next(&w))
        qcc_move((const char *)a->x + w.offset[0] * size, w.step[0], (char *)a->y + w.offset[1] * size, w.step[1],
                 w.count, a->element_size);
}

#define QCC_SELECT(type) \
    do { \
        const type *u = (const type *)a->a + w.offset[1], *v = (const type *)a->b + w.offset[2]; \
        type *y = (type *)a->y + w.offset[3]; \
        for (int64_t i = 0; i < w.count; i++) { \
            const type left = u[i * w.step[1]], right = v[i * w.step[2]]; \
            y[i * w.step[3]] = condition[i * w.step[0]] ? left : right; \
        } \
    } while (0)

static void qcc_k_where(const qcc_where *a, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    qcc_walk w = qcc_walk_start(&a->shape, begin, end, 4,
                                (const int64_t *[]){a->condition_stride, a->a_stride, a->b_stride, a->y_stride});
    while (qcc_walk_next(&w)) {
        const uint8_t *condition = a->condition + w.offset[0];
        switch (a->element_size) {
        case 1: QCC_SELECT(uint8_t); break;
        case 2: QCC_SELECT(qcc_word2); break;
        case 4: QCC_SELECT(qcc_word4); break;
        default: QCC_SELECT(qcc_word8); break;
        }
    }
}
#undef QCC_SELECT

static void qcc_k_iota(const qcc_iota *a, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    for (int64_t i = begin; i < end; i++) {
        if (a->dtype == QCC_F32) ((float *)a->y)[i] = (float)(a->start + (double)i * a->step);
        else if (a->dtype == QCC_I64) ((int64_t *)a->y)[i] = (int64_t)a->start + i * (int64_t)a->step;
        else ((int32_t *)a->y)[i] = (int32_t)((int64_t)a->start + i * (int64_t)a->step);
    }
}

/* Offset that the indices at element i of a span add; -1 where one is out of range. */
static inline int64_t qcc_index_offset(const qcc_index *a, const qcc_walk *w, int64_t i) {
    int64_t sum = 0;
    for (int32_t j = 0; j < a->indices; j++) {
        int64_t at = a->index[j][w->offset[2 + j] + i * w->step[2 + j]];
        if (at < 0) at += a->axis_size[j];
        if (at < 0 || at >= a->axis_size[j]) return -1;
        sum += at * a->axis_stride[j];
    }
    return sum;
}

static inline void qcc_index_span(const qcc_index *a, const qcc_walk *w, int64_t i, int64_t n) {
    static const uint64_t nothing = 0;
    const int64_t size = a->element_size, at = qcc_index_offset(a, w, i);
    char *y = (char *)a->y + (w->offset[1] + i * w->step[1]) * size;
    if (at < 0) {
        *a->status = 1;
        if (!a->write) qcc_move(&nothing, 0, y, w->step[1], n, a->element_size);
        return;
    }
    char *x = (char *)a->x + (w->offset[0] + i * w->step[0] + at) * size;
    if (a->write) qcc_move(y, w->step[1], x, w->step[0], n, a->element_size);
    else qcc_move(x, w->step[0], y, w->step[1], n, a->element_size);
}

static void qcc_k_index(const qcc_index *a, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    const int64_t *stride[QCC_OPERANDS] = {a->x_stride,        a->y_stride,        a->index_stride[0],
                                           a->index_stride[1], a->index_stride[2], a->index_stride[3]};
    qcc_walk w = qcc_walk_start(&a->shape, begin, end, 2 + a->indices, stride);
    int constant = 1; /* do all indices stay put along the innermost dimension? */
    for (int32_t j = 0; j < a->indices; j++) constant &= w.step[2 + j] == 0;
    while (qcc_walk_next(&w)) {
        if (constant) {
            qcc_index_span(a, &w, 0, w.count);
            continue;
        }
        for (int64_t i = 0; i < w.count; i++) qcc_index_span(a, &w, i, 1);
    }
}

static void qcc_k_gather(const qcc_gather *a, int64_t begin, int64_t end, void *scratch) {
    qcc_index as = {.x = (void *)(uintptr_t)a->x, .y = a->y, .shape = a->shape, .indices = 1, .index = {a->index},
                    .axis_size = {a->axis_size}, .axis_stride = {a->x_stride[a->axis]},
                    .element_size = a->element_size, .status = a->status};
    memcpy(as.x_stride, a->x_stride, sizeof as.x_stride);
    memcpy(as.y_stride, a->y_stride, sizeof as.y_stride);
    memcpy(as.index_stride[0], a->index_stride, sizeof a->index_stride);
    as.x_stride[a->axis] = 0;
    qcc_k_index(&as, begin, end, scratch);
}

/* Walk a range of a strided iteration space as spans of the innermost dimension. */
#define QCC_OPERANDS 6

typedef struct {
    int32_t rank, operands;
    int64_t shape[QCC_RANK], coordinate[QCC_RANK], stride[QCC_OPERANDS][QCC_RANK];
    int64_t position, end;
    int64_t count;                                      /* elements of the current span */
    int64_t offset[QCC_OPERANDS], step[QCC_OPERANDS];   /* where it starts, and its stride */
} qcc_walk;

static inline int qcc_walk_mergeable(const qcc_walk *w, const int64_t *const *stride, int64_t size, int32_t d) {
    if (w->rank == 0) return 0;
    for (int32_t o = 0; o < w->operands; o++)
        if (w->stride[o][w->rank - 1] != stride[o][d] * size) return 0;
    return 1;
}

/* Start at unit `begin`. Dimensions of one element are dropped, and a dimension is merged into the one
 * before it wherever every operand allows it. */
static inline qcc_walk qcc_walk_start(const qcc_shape *shape, int64_t begin, int64_t end, int32_t operands,
                                      const int64_t *const *stride) {
    qcc_walk w;
    memset(&w, 0, sizeof w);
    w.operands = operands;
    w.position = begin;
    w.end = end;
    for (int32_t d = 0; d < shape->rank; d++) {
        if (shape->shape[d] == 1) continue;
        if (qcc_walk_mergeable(&w, stride, shape->shape[d], d)) w.shape[w.rank - 1] *= shape->shape[d];
        else w.shape[w.rank++] = shape->shape[d];
        for (int32_t o = 0; o < operands; o++) w.stride[o][w.rank - 1] = stride[o][d];
    }
    if (w.rank == 0) {
        w.shape[w.rank++] = 1;
        for (int32_t o = 0; o < operands; o++) w.stride[o][0] = 1;
    }
    for (int32_t d = w.rank - 1; begin > 0 && d >= 0; d--) {
        w.coordinate[d] = begin % w.shape[d];
        begin /= w.shape[d];
    }
    for (int32_t o = 0; o < operands; o++) w.step[o] = w.stride[o][w.rank - 1];
    return w;
}

/* Move to the next span; 0 at the end of the range. */
static inline int qcc_walk_next(qcc_walk *w) {
    if (w->position >= w->end) return 0;
    const int32_t last = w->rank - 1;
    w->count = qcc_min64(w->shape[last] - w->coordinate[last], w->end - w->position);
    for (int32_t o = 0; o < w->operands; o++) {
        w->offset[o] = 0;
        for (int32_t d = 0; d <= last; d++) w->offset[o] += w->coordinate[d] * w->stride[o][d];
    }
    w->position += w->count;
    w->coordinate[last] += w->count;
    for (int32_t d = last; d > 0 && w->coordinate[d] == w->shape[d]; d--) {
        w->coordinate[d] = 0;
        w->coordinate[d - 1]++;
    }
    return 1;
}

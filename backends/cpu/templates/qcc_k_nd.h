/* Strided elementwise on floats and reductions: stage strided spans, then the contiguous loops. */

/* A span of floats as contiguous memory: the operand itself, or a copy in `buffer`. */
QCC_HELPER const float *QCC_FN(qcc_stage)(const float *x, int64_t step, int64_t n, float *buffer) {
    if (step == 1) return x;
    for (int64_t i = 0; i < n; i++) buffer[i] = x[i * step];
    return buffer;
}

QCC_HELPER void QCC_FN(qcc_unstage)(const float *x, float *y, int64_t step, int64_t n) {
    if (step == 1) return;
    for (int64_t i = 0; i < n; i++) y[i * step] = x[i];
}

QCC_KERNEL_FN QCC_FN(qcc_k_unary)(const qcc_unary *a, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    if (a->dtype != QCC_F32) {
        qcc_unary_int(a, begin, end);
        return;
    }
    float in[QCC_SPAN], out[QCC_SPAN];
    qcc_walk w = qcc_walk_start(&a->shape, begin, end, 2, (const int64_t *[]){a->x_stride, a->y_stride});
    while (qcc_walk_next(&w)) {
        const float *x = (const float *)a->x + w.offset[0];
        float *y = (float *)a->y + w.offset[1];
        if (w.step[0] == 1 && w.step[1] == 1) {
            QCC_FN(qcc_unary_span)(a->op, x, y, w.count, (float)a->p0, (float)a->p1);
            continue;
        }
        for (int64_t i = 0; i < w.count; i += QCC_SPAN) {
            const int64_t n = qcc_min64(QCC_SPAN, w.count - i);
            const float *source = QCC_FN(qcc_stage)(x + i * w.step[0], w.step[0], n, in);
            float *target = w.step[1] == 1 ? y + i : out;
            QCC_FN(qcc_unary_span)(a->op, source, target, n, (float)a->p0, (float)a->p1);
            QCC_FN(qcc_unstage)(target, y + i * w.step[1], w.step[1], n);
        }
    }
}

/* One staged piece of a binary kernel; comparisons write bytes. */
QCC_HELPER void QCC_FN(qcc_binary_piece)(const qcc_binary *a, const float *u, const float *v, void *y, int64_t step,
                                         int64_t n) {
    if (a->op >= QCC_EQ) {
        uint8_t flags[QCC_SPAN], *target = step == 1 ? (uint8_t *)y : flags;
        QCC_FN(qcc_compare_span)(a->op, u, v, target, n);
        for (int64_t i = 0; step != 1 && i < n; i++) ((uint8_t *)y)[i * step] = flags[i];
        return;
    }
    float out[QCC_SPAN], *target = step == 1 ? (float *)y : out;
    QCC_FN(qcc_binary_span)(a->op, u, v, target, n);
    QCC_FN(qcc_unstage)(target, (float *)y, step, n);
}

QCC_KERNEL_FN QCC_FN(qcc_k_binary)(const qcc_binary *a, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    if (a->dtype != QCC_F32) {
        qcc_binary_int(a, begin, end);
        return;
    }
    float left[QCC_SPAN], right[QCC_SPAN];
    const int64_t size = a->op >= QCC_EQ ? 1 : (int64_t)sizeof(float);
    qcc_walk w =
        qcc_walk_start(&a->shape, begin, end, 3, (const int64_t *[]){a->a_stride, a->b_stride, a->y_stride});
    while (qcc_walk_next(&w)) {
        for (int64_t i = 0; i < w.count; i += QCC_SPAN) {
            const int64_t n = qcc_min64(QCC_SPAN, w.count - i);
            const float *u = (const float *)a->a + w.offset[0] + i * w.step[0];
            const float *v = (const float *)a->b + w.offset[1] + i * w.step[1];
            u = QCC_FN(qcc_stage)(u, w.step[0], n, left);
            v = QCC_FN(qcc_stage)(v, w.step[1], n, right);
            QCC_FN(qcc_binary_piece)(a, u, v, (char *)a->y + (w.offset[2] + i * w.step[2]) * size, w.step[2], n);
        }
    }
}

/* Reductions of one float row to a float. Sums run in 16 lanes when the row is contiguous. */
QCC_HELPER float QCC_FN(qcc_reduce_row)(int32_t op, const float *x, int64_t n, int64_t step) {
    float r = op == QCC_PROD ? 1.0f : op == QCC_RMAX ? -INFINITY : op == QCC_RMIN ? INFINITY : 0.0f;
    switch (op) {
    case QCC_SUM:
    case QCC_MEAN:
        if (step == 1) r = QCC_FN(qcc_sum)(x, n);
        else
            for (int64_t i = 0; i < n; i++) r += x[i * step];
        return op == QCC_MEAN ? r / (float)n : r;
    case QCC_PROD:
        for (int64_t i = 0; i < n; i++) r *= x[i * step];
        return r;
    case QCC_RMAX:
        for (int64_t i = 0; i < n; i++) r = QCC_FN(qcc_max)(x[i * step], r);
        return r;
    default:
        for (int64_t i = 0; i < n; i++) r = QCC_FN(qcc_min)(x[i * step], r);
        return r;
    }
}

QCC_KERNEL_FN QCC_FN(qcc_k_reduce)(const qcc_reduce *a, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    if (a->dtype != QCC_F32 || a->op >= QCC_ANY) {
        qcc_reduce_other(a, begin, end);
        return;
    }
    qcc_walk w = qcc_walk_start(&a->shape, begin, end, 2, (const int64_t *[]){a->x_stride, a->y_stride});
    while (qcc_walk_next(&w))
        for (int64_t i = 0; i < w.count; i++)
            ((float *)a->y)[w.offset[1] + i * w.step[1]] = QCC_FN(qcc_reduce_row)(
                a->op, (const float *)a->x + w.offset[0] + i * w.step[0], a->length, a->axis_stride);
}

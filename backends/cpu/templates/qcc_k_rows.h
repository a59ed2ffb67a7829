/* Kernels on rows: normalisation, softmax, rotary embedding. */

QCC_HELPER void QCC_FN(qcc_norm_row)(const qcc_norm *a, const float *x, float *y) {
    const int64_t k = a->k;
    float mean = 0.0f;
    if (a->kind == QCC_NORM_LAYER) mean = QCC_FN(qcc_sum)(x, k) / (float)k;
    const float scale = 1.0f / sqrtf(QCC_FN(qcc_sum_squares)(x, mean, k) / (float)k + a->eps);
    const float *gamma = a->gamma, *beta = a->beta;
    if (gamma && beta && a->kind == QCC_NORM_LAYER) {
        QCC_IVDEP for (int64_t i = 0; i < k; i++) y[i] = QCC_FMA((x[i] - mean) * scale, gamma[i], beta[i]);
        return;
    }
    QCC_IVDEP for (int64_t i = 0; i < k; i++) y[i] = (x[i] - mean) * scale;
    if (gamma && a->kind == QCC_NORM_RMS_PLUS1) {
        QCC_IVDEP for (int64_t i = 0; i < k; i++) y[i] = y[i] * (1.0f + gamma[i]);
    } else if (gamma) {
        QCC_IVDEP for (int64_t i = 0; i < k; i++) y[i] = y[i] * gamma[i];
    }
    if (beta) {
        QCC_IVDEP for (int64_t i = 0; i < k; i++) y[i] = y[i] + beta[i];
    }
}

QCC_KERNEL_FN QCC_FN(qcc_k_norm)(const qcc_norm *a, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    for (int64_t r = begin; r < end; r++)
        QCC_FN(qcc_norm_row)(a, a->x + r * a->x_stride, a->y + r * a->y_stride);
}

QCC_KERNEL_FN QCC_FN(qcc_k_channel_affine)(const qcc_channel_affine *a, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    for (int64_t r = begin; r < end; r++) {
        const float scale = a->scale[r % a->channels], shift = a->shift[r % a->channels];
        const float *x = a->x + r * a->k;
        float *y = a->y + r * a->k;
        QCC_IVDEP for (int64_t i = 0; i < a->k; i++) y[i] = QCC_FMA(x[i], scale, shift);
    }
}

/* y[i] = exp(x[i] - shift); returns the sum. */
QCC_HELPER float QCC_FN(qcc_exp_row)(const float *x, float shift, float *y, int64_t n) {
    QCC_IVDEP for (int64_t i = 0; i < n; i++) y[i] = QCC_FN(qcc_exp)(x[i] - shift);
    return QCC_FN(qcc_sum)(y, n);
}

QCC_KERNEL_FN QCC_FN(qcc_k_softmax)(const qcc_softmax *a, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    const int64_t k = a->k;
    for (int64_t r = begin; r < end; r++) {
        const float *x = a->x + r * a->x_stride;
        float *y = a->y + r * a->y_stride, sum = 0.0f;
        const float top = QCC_FN(qcc_max_of)(x, k);
        if (!a->log) {
            const float inverse = 1.0f / QCC_FN(qcc_exp_row)(x, top, y, k);
            QCC_IVDEP for (int64_t i = 0; i < k; i++) y[i] = y[i] * inverse;
            continue;
        }
        float piece[QCC_SPAN];
        for (int64_t i = 0; i < k; i += QCC_SPAN)
            sum += QCC_FN(qcc_exp_row)(x + i, top, piece, qcc_min64(QCC_SPAN, k - i));
        const float shift = logf(sum);
        QCC_IVDEP for (int64_t i = 0; i < k; i++) y[i] = (x[i] - top) - shift;
    }
}

QCC_HELPER void QCC_FN(qcc_rope_row)(const qcc_rope *a, const float *x, const float *cosine, const float *sine,
                                     float *y) {
    const int64_t half = a->rotary_dim / 2;
    for (int64_t i = 0; i < half; i++) {
        const int64_t p = a->interleaved ? 2 * i : i, q = a->interleaved ? 2 * i + 1 : i + half;
        const int64_t tp = a->half_table ? i : p, tq = a->half_table ? i : q;
        const float u = x[p], v = x[q];
        y[p] = u * cosine[tp] - v * sine[tp];
        y[q] = v * cosine[tq] + u * sine[tq];
    }
    for (int64_t i = a->rotary_dim; i < a->dim; i++) y[i] = x[i];
}

QCC_KERNEL_FN QCC_FN(qcc_k_rope)(const qcc_rope *a, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    for (int64_t u = begin; u < end; u++) {
        const int64_t s = u % a->positions, h = u / a->positions % a->heads, b = u / a->positions / a->heads;
        const int64_t table = b * a->table_stride[0] + s * a->table_stride[1];
        QCC_FN(qcc_rope_row)(a, a->x + b * a->x_stride[0] + h * a->x_stride[1] + s * a->x_stride[2], a->cos + table,
                             a->sin + table, a->y + b * a->y_stride[0] + h * a->y_stride[1] + s * a->y_stride[2]);
    }
}

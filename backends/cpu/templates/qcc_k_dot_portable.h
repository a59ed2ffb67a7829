/* Integer dot products in plain C. */
#define QCC_DOT_TOKENS_portable(groups) ((void)(groups), 1)

QCC_HELPER void QCC_FN(qcc_dot_block)(const uint8_t *w, const int8_t *x, int64_t chunks, int32_t *acc) {
    for (int64_t line = 0; line < chunks * 8; line++, w += 64, x += 4) {
        int32_t x0 = x[0], x1 = x[1], x2 = x[2], x3 = x[3];
        for (int r = 0; r < QCC_ROWS; r++)
            acc[r] += w[4 * r] * x0 + w[4 * r + 1] * x1 + w[4 * r + 2] * x2 + w[4 * r + 3] * x3;
    }
}

static void QCC_FN(qcc_dot_tile)(const qcc_dot *d, int64_t m, int64_t tokens, float *out) {
    const qcc_qlinear *a = d->a;
    for (int64_t t = 0; t < tokens; t++)
        for (int b = 0; b < 2; b++) {
            const int8_t *x = a->x.codes + (m + t) * d->padded_k;
            const uint8_t *w = d->rows[b];
            float *sum = out + t * QCC_TILE_N + b * QCC_ROWS;
            memset(sum, 0, QCC_ROWS * sizeof *sum);
            for (int64_t g = 0; g < d->groups; g++) {
                int64_t chunks = qcc_group_chunks(a->w.k, a->w.group, g), index = d->block[b] * d->groups + g;
                int32_t acc[QCC_ROWS], xsum = a->x.sums[(m + t) * d->groups + g];
                float scale[QCC_ROWS];
                QCC_FN(qcc_load_zeros)(&a->w, index, acc);
                QCC_FN(qcc_load_scales)(&a->w, index, scale);
                for (int r = 0; r < QCC_ROWS; r++) acc[r] *= -xsum;
                QCC_FN(qcc_dot_block)(w, x, chunks, acc);
                float sx = a->x.group_scales ? a->x.scales[(m + t) * d->groups + g] : 1.0f;
                for (int r = 0; r < QCC_ROWS; r++) {
                    float product = (scale[r] * sx) * (float)acc[r];
                    sum[r] = sum[r] + product;
                }
                w += chunks * 512;
                x += chunks * QCC_CHUNK;
            }
        }
}

/* Integer dot products in plain C. */
#define QCC_DOT_TOKENS_portable(groups) ((void)(groups), 4)

/* acc[16] += one group of 16 rows against one token. */
QCC_HELPER void QCC_FN(qcc_dot_block)(const uint8_t *w, const int8_t *x, int64_t chunks, int32_t *acc) {
    for (int64_t line = 0; line < chunks * 8; line++, w += 64, x += 4) {
        /* Products of 16-bit operands, summed in pairs: what baseline vector units multiply best. */
        for (int r = 0; r < QCC_ROWS; r++) {
            const int32_t even = (int16_t)w[4 * r] * (int16_t)x[0] + (int16_t)w[4 * r + 1] * (int16_t)x[1];
            const int32_t odd = (int16_t)w[4 * r + 2] * (int16_t)x[2] + (int16_t)w[4 * r + 3] * (int16_t)x[3];
            acc[r] += even + odd;
        }
    }
}

/* One group of one block: all tokens, so that scales and zero points are read once. */
static void QCC_FN(qcc_dot_group)(const qcc_dot *d, int b, int64_t g, const uint8_t *w, int64_t chunk, int64_t m,
                                  int64_t tokens, float *out) {
    const qcc_qlinear *a = d->a;
    const int64_t index = d->block[b] * d->groups + g, chunks = qcc_group_chunks(a->w.k, a->w.group, g);
    int32_t zero[QCC_ROWS], acc[QCC_ROWS];
    float scale[QCC_ROWS];
    QCC_FN(qcc_load_zeros)(&a->w, index, zero);
    QCC_FN(qcc_load_steps)(&a->w, index, scale);
    for (int64_t t = 0; t < tokens; t++) {
        const int32_t xsum = a->x.sums[(m + t) * d->groups + g];
        const float sx = a->x.group_scales ? a->x.scales[(m + t) * d->groups + g] : 1.0f;
        float *sum = out + t * QCC_TILE_N + b * QCC_ROWS;
        for (int r = 0; r < QCC_ROWS; r++) acc[r] = zero[r] * -xsum;
        QCC_FN(qcc_dot_block)(w, a->x.codes + (m + t) * d->padded_k + chunk * QCC_CHUNK, chunks, acc);
        for (int r = 0; r < QCC_ROWS; r++) {
            const int32_t exact = a->w.mid_rise ? 2 * acc[r] + xsum : acc[r];
            const float product = (scale[r] * sx) * (float)exact;
            sum[r] = sum[r] + product;
        }
    }
}

static void QCC_FN(qcc_dot_tile)(const qcc_dot *d, int64_t m, int64_t tokens, float *out) {
    memset(out, 0, (size_t)(tokens * QCC_TILE_N) * sizeof *out);
    for (int b = 0; b < 2; b++)
        for (int64_t g = 0, chunk = 0; g < d->groups; g++) {
            QCC_FN(qcc_dot_group)(d, b, g, d->rows[b] + chunk * 512, chunk, m, tokens, out);
            chunk += qcc_group_chunks(d->a->w.k, d->a->w.group, g);
        }
}

/* Lookup in plain C. */
#define QCC_LOOKUP_TARGET
#define QCC_LOOKUP_TOKENS 4

/* acc[16] += 2^b * entries, over one group of one block. */
QCC_HELPER void QCC_FN(qcc_lookup_group)(const uint8_t *w, const int8_t *table, int64_t chunks, int bits,
                                         int32_t *acc) {
    for (int64_t c = 0; c < chunks; c++, table += 128)
        for (int b = bits - 1; b >= 0; b--, w += 64)
            for (int r = 0; r < QCC_ROWS; r++) {
                int32_t sum = 0;
                for (int j = 0; j < 4; j++)
                    sum += table[16 * j + (w[4 * r + j] & 15)] + table[64 + 16 * j + (w[4 * r + j] >> 4)];
                acc[r] += sum * (1 << b);
            }
}

/* acc[16] += 2^(b + 1) * rests, over the wide lines of one group. */
QCC_HELPER void QCC_FN(qcc_lookup_rests)(const uint8_t *w, const int8_t *rest, const int32_t *lines, int32_t count,
                                         int bits, int32_t *acc) {
    for (int32_t i = 0; i < count; i++, rest += 64)
        for (int b = 0; b < bits; b++) {
            const uint8_t *line = w + ((int64_t)(lines[i] / 2) * bits + bits - 1 - b) * 64;
            for (int p = 0; p < 64; p++) {
                const int index = lines[i] & 1 ? line[p] >> 4 : line[p] & 15;
                acc[p / 4] += rest[p % 4 * 16 + index] * (2 << b);
            }
        }
}

static void QCC_FN(qcc_lookup_token)(const qcc_lookup *l, int b, int64_t m, float *out) {
    const qcc_tlinear *a = l->a;
    const uint8_t *w = l->codes[b];
    int64_t table = m * l->padded_k * 4;
    for (int r = 0; r < QCC_ROWS; r++) out[r] = 0.0f;
    for (int64_t g = 0; g < l->groups; g++) {
        const int64_t at = m * l->groups + g, index = l->block[b] * l->groups + g;
        const int64_t chunks = qcc_group_chunks(a->w.k, a->w.group, g);
        const int32_t wide = a->t.wide[at], start = l->starts[g * QCC_TABLE_M + m - l->m0];
        const float sx = a->x.group_scales ? a->x.scales[at] : 1.0f;
        int32_t zero[QCC_ROWS], acc[QCC_ROWS] = {0};
        float scale[QCC_ROWS];
        QCC_FN(qcc_load_zeros)(&a->w, index, zero);
        QCC_FN(qcc_load_steps)(&a->w, index, scale);
        QCC_FN(qcc_lookup_group)(w, a->t.entries + table, chunks, a->w.bits, acc);
        if (a->t.rest)
            QCC_FN(qcc_lookup_rests)(w, a->t.rest + table, a->t.lines + table / 64, wide, a->w.bits, acc);
        else
            for (int r = 0; r < QCC_ROWS; r++) acc[r] *= 1 << wide;
        for (int r = 0; r < QCC_ROWS; r++) {
            int32_t exact = acc[r] + start - (a->w.zeros ? zero[r] * a->x.sums[at] : 0);
            if (a->w.mid_rise) exact = 2 * exact + a->x.sums[at];
            const float product = (scale[r] * sx) * (float)exact;
            out[r] = out[r] + product;
        }
        w += chunks * a->w.bits * 64;
        table += chunks * 128;
    }
}

static void QCC_FN(qcc_lookup_tile)(const qcc_lookup *l, int64_t m, int64_t tokens, float *out) {
    for (int b = 0; b < 2; b++)
        for (int64_t t = 0; t < tokens; t++)
            QCC_FN(qcc_lookup_token)(l, b, m + t, out + t * QCC_TILE_N + b * QCC_ROWS);
}

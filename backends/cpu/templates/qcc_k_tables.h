/* Tables of partial sums of four activations. */

/* What a group needs: the largest sum of four magnitudes, and the sum of the centres. */
QCC_HELPER int32_t QCC_FN(qcc_table_centers)(const int8_t *x, int64_t lines, int32_t *centers) {
    int32_t widest[4] = {0}, total[4] = {0};
    for (int64_t c = 0; c < lines; c++, x += QCC_TABLE_K)
        for (int j = 0; j < 4; j++) {
            const int32_t a = x[j], b = x[4 + j], u = x[8 + j], v = x[12 + j];
            const int32_t width = (a < 0 ? -a : a) + (b < 0 ? -b : b) + (u < 0 ? -u : u) + (v < 0 ? -v : v);
            widest[j] = width > widest[j] ? width : widest[j];
            total[j] += (a + b + u + v + 1) >> 1;
        }
    *centers = total[0] + total[1] + total[2] + total[3];
    for (int j = 1; j < 4; j++) widest[0] = widest[j] > widest[0] ? widest[j] : widest[0];
    return widest[0];
}

/* The 16 entries of a quad, less its centre: -256..256. */
QCC_HELPER void QCC_FN(qcc_table_quad)(const int8_t *x, int16_t *e) {
    static const int16_t bit[4][16] = {{0, -1, 0, -1, 0, -1, 0, -1, 0, -1, 0, -1, 0, -1, 0, -1},
                                       {0, 0, -1, -1, 0, 0, -1, -1, 0, 0, -1, -1, 0, 0, -1, -1},
                                       {0, 0, 0, 0, -1, -1, -1, -1, 0, 0, 0, 0, -1, -1, -1, -1},
                                       {0, 0, 0, 0, 0, 0, 0, 0, -1, -1, -1, -1, -1, -1, -1, -1}};
    const int16_t a = x[0], b = x[4], u = x[8], v = x[12], center = (int16_t)((a + b + u + v + 1) >> 1);
    for (int i = 0; i < 16; i++)
        e[i] = (int16_t)((a & bit[0][i]) + (b & bit[1][i]) + (u & bit[2][i]) + (v & bit[3][i]) - center);
}

QCC_HELPER void QCC_FN(qcc_table_lines)(const int8_t *x, int64_t lines, int shift, int8_t *entries, int8_t *rest) {
    for (int64_t q = 0; q < 4 * lines; q++, entries += 16) {
        int16_t e[16];
        QCC_FN(qcc_table_quad)(x + q / 4 * QCC_TABLE_K + q % 4, e);
        if (shift == 0)
            for (int i = 0; i < 16; i++) entries[i] = (int8_t)e[i];
        else if (rest)
            for (int i = 0; i < 16; i++) entries[i] = (int8_t)(e[i] >> shift);
        else
            for (int i = 0; i < 16; i++) { /* half to even; 255 / 2 would round to 128 */
                const int16_t rounded =
                    (int16_t)((e[i] + (1 << (shift - 1)) - 1 + ((e[i] >> shift) & 1)) >> shift);
                entries[i] = (int8_t)(rounded > 127 ? 127 : rounded);
            }
        if (rest) {
            for (int i = 0; i < 16; i++) rest[i] = (int8_t)(e[i] & ((1 << shift) - 1));
            rest += 16;
        }
    }
}

QCC_KERNEL_FN QCC_FN(qcc_k_tables)(const qcc_tables *a, int64_t begin, int64_t end, void *scratch) {
    const int64_t groups = qcc_groups(a->k, a->group), stride = qcc_padded_k(a->k, a->group);
    (void)scratch;
    for (int64_t m = begin; m < end; m++) {
        const int8_t *x = a->x.codes + m * stride;
        int8_t *entries = a->out.entries + m * stride * 4, *rest = a->out.rest ? a->out.rest + m * stride * 4 : NULL;
        for (int64_t g = 0; g < groups; g++) {
            const int64_t lines = qcc_group_chunks(a->k, a->group, g) * (QCC_CHUNK / QCC_TABLE_K);
            const int32_t widest = QCC_FN(qcc_table_centers)(x, lines, a->out.centers + m * groups + g);
            const int shift = widest <= 255 ? 0 : widest <= 511 ? 1 : 2;
            a->out.shifts[m * groups + g] = shift;
            QCC_FN(qcc_table_lines)(x, lines, shift, entries, rest);
            x += lines * QCC_TABLE_K;
            entries += lines * 64;
            if (rest) rest += lines * 64;
        }
    }
}

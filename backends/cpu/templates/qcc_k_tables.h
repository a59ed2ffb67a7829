/* Tables of partial sums of four activations. */

/* What became of a group: the sum of its centres, and how many of its lines have a rest. */
#ifndef QCC_TABLE_STRUCT
#define QCC_TABLE_STRUCT
typedef struct {
    int32_t centers, wide;
} qcc_table_group;
#endif

#if QCC_ISA == QCC_ISA_PORTABLE
/* The largest |x_0| + .. + |x_3|. */
QCC_HELPER int QCC_FN(qcc_table_widest)(const int8_t *x, int64_t chunks) {
    int widest = 0;
    for (int64_t i = 0; i < chunks * QCC_CHUNK; i++) {
        if (i % QCC_TABLE_K >= 4) continue;
        const int width = abs(x[i]) + abs(x[i + 4]) + abs(x[i + 8]) + abs(x[i + 12]);
        widest = width > widest ? width : widest;
    }
    return widest;
}

/* The 64 entries of a line, less their centres; returns the sum of these. */
QCC_HELPER int32_t QCC_FN(qcc_table_line)(const int8_t *x, int16_t *e) {
    int32_t centers = 0;
    for (int p = 0; p < 64; p++) {
        const int8_t *quad = x + p / 16;
        const int center = (quad[0] + quad[4] + quad[8] + quad[12] + 1) >> 1;
        e[p] = (int16_t)-center;
        for (int t = 0; t < 4; t++) e[p] = (int16_t)(e[p] + (p >> t & 1 ? quad[4 * t] : 0));
        if (p % 16 == 0) centers += center;
    }
    return centers;
}

QCC_HELPER qcc_table_group QCC_FN(qcc_table_exact)(const int8_t *x, int64_t count, int8_t *entries, int8_t *rest,
                                                   int32_t *lines) {
    qcc_table_group made = {0, 0};
    for (int64_t c = 0; c < count; c++, x += QCC_TABLE_K, entries += 64) {
        int16_t e[64];
        int any = 0;
        made.centers += QCC_FN(qcc_table_line)(x, e);
        for (int p = 0; p < 64; p++) {
            const int over = e[p] > 127 ? (e[p] - 127 + 1) >> 1 : e[p] < -128 ? (e[p] + 128) >> 1 : 0;
            entries[p] = (int8_t)(e[p] - 2 * over);
            rest[made.wide * 64 + p] = (int8_t)over;
            any |= over;
        }
        if (any) lines[made.wide++] = (int32_t)c;
    }
    return made;
}

QCC_HELPER int32_t QCC_FN(qcc_table_rounded)(const int8_t *x, int64_t count, int shift, int8_t *entries) {
    int32_t centers = 0;
    for (int64_t c = 0; c < count; c++, x += QCC_TABLE_K, entries += 64) {
        int16_t e[64];
        centers += QCC_FN(qcc_table_line)(x, e);
        for (int p = 0; p < 64; p++) { /* half to even; 255 / 2 would be 128 */
            const int up = shift ? (1 << (shift - 1)) - 1 + ((e[p] >> shift) & 1) : 0, rounded = (e[p] + up) >> shift;
            entries[p] = (int8_t)(rounded > 127 ? 127 : rounded);
        }
    }
    return centers;
}
#else
/* Both halves: the four codes of each quad side by side. */
QCC_HELPER __m256i QCC_FN(qcc_table_quads)(const int8_t *first, const int8_t *second) {
    const __m256i order = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, 0, 4, 8, 12, 1, 5, 9,
                                           13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m128i a = _mm_loadu_si128((const __m128i *)first), b = _mm_loadu_si128((const __m128i *)second);
    return _mm256_shuffle_epi8(_mm256_inserti128_si256(_mm256_castsi128_si256(a), b, 1), order);
}

QCC_HELPER int QCC_FN(qcc_table_widest)(const int8_t *x, int64_t chunks) {
    const __m256i one8 = _mm256_set1_epi8(1), one16 = _mm256_set1_epi16(1);
    __m256i widest = _mm256_setzero_si256();
    int32_t lanes[8];
    for (int64_t c = 0; c < chunks; c++, x += QCC_CHUNK) {
        const __m256i size = _mm256_abs_epi8(QCC_FN(qcc_table_quads)(x, x + QCC_TABLE_K)); /* 128 as unsigned */
        widest = _mm256_max_epi32(widest, _mm256_madd_epi16(_mm256_maddubs_epi16(size, one8), one16));
    }
    _mm256_storeu_si256((__m256i *)lanes, widest);
    for (int i = 1; i < 8; i++) lanes[0] = lanes[i] > lanes[0] ? lanes[i] : lanes[0];
    return lanes[0];
}

/* A quad whose codes 0 and 1 fill `low`, 2 and 3 `high`: 16 entries less their centre, which is in each lane. */
QCC_HELPER __m256i QCC_FN(qcc_table_quad)(__m256i low, __m256i high, __m256i *center) {
    const __m256i one8 = _mm256_set1_epi8(1), one16 = _mm256_set1_epi16(1);
    const __m256i bits01 = _mm256_set1_epi64x(0x0101010000010000); /* of each two bytes: bits 0 and 1 of the index */
    const __m256i bits23 = _mm256_setr_epi64x(0, 0x0001000100010001, 0x0100010001000100, 0x0101010101010101);
    const __m256i sum = _mm256_add_epi16(_mm256_maddubs_epi16(one8, low), _mm256_maddubs_epi16(one8, high));
    *center = _mm256_srai_epi16(_mm256_add_epi16(sum, one16), 1);
    const __m256i entries = _mm256_add_epi16(_mm256_maddubs_epi16(bits01, low), _mm256_maddubs_epi16(bits23, high));
    return _mm256_sub_epi16(entries, *center);
}

/* The 64 entries of a line, less their centres; returns the sum of these. */
QCC_HELPER int32_t QCC_FN(qcc_table_line)(const int8_t *x, __m256i e[4]) {
    const __m256i codes = QCC_FN(qcc_table_quads)(x, x);
    __m256i center, total = _mm256_setzero_si256();
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        const __m256i low = _mm256_shuffle_epi8(codes, _mm256_set1_epi16((int16_t)(0x0100 + 0x0404 * j)));
        const __m256i high = _mm256_shuffle_epi8(codes, _mm256_set1_epi16((int16_t)(0x0302 + 0x0404 * j)));
        e[j] = QCC_FN(qcc_table_quad)(low, high, &center);
        total = _mm256_add_epi16(total, center);
    }
    return (int16_t)_mm256_extract_epi16(total, 0);
}

QCC_HELPER void QCC_FN(qcc_table_store)(const __m256i e[4], int8_t *out) {
    for (int i = 0; i < 2; i++) /* packing saturates, and interleaves quarters of its operands */
        _mm256_storeu_si256((__m256i *)out + i,
                            _mm256_permute4x64_epi64(_mm256_packs_epi16(e[2 * i], e[2 * i + 1]), 0xd8));
}

/* Whether a line has entries beyond 8 bits. */
QCC_HELPER int QCC_FN(qcc_table_is_wide)(const __m256i e[4]) {
    const __m256i bias = _mm256_set1_epi16(128), high = _mm256_set1_epi16((int16_t)0xff00);
    const __m256i a = _mm256_or_si256(_mm256_add_epi16(e[0], bias), _mm256_add_epi16(e[1], bias));
    const __m256i b = _mm256_or_si256(_mm256_add_epi16(e[2], bias), _mm256_add_epi16(e[3], bias));
    return !_mm256_testz_si256(_mm256_or_si256(a, b), high);
}

QCC_HELPER qcc_table_group QCC_FN(qcc_table_exact)(const int8_t *x, int64_t count, int8_t *entries, int8_t *rest,
                                                   int32_t *lines) {
    const __m256i low = _mm256_set1_epi16(-128), high = _mm256_set1_epi16(127);
    qcc_table_group made = {0, 0};
    for (int64_t c = 0; c < count; c++, x += QCC_TABLE_K, entries += 64) {
        __m256i e[4], r[4];
        made.centers += QCC_FN(qcc_table_line)(x, e);
        if (QCC_FN(qcc_table_is_wide)(e)) {
            for (int j = 0; j < 4; j++) { /* half of what is over, away from 0 */
                const __m256i over = _mm256_sub_epi16(e[j], _mm256_max_epi16(_mm256_min_epi16(e[j], high), low));
                const __m256i up = _mm256_srli_epi16(_mm256_cmpgt_epi16(over, _mm256_setzero_si256()), 15);
                r[j] = _mm256_srai_epi16(_mm256_add_epi16(over, up), 1);
                e[j] = _mm256_sub_epi16(e[j], _mm256_add_epi16(r[j], r[j]));
            }
            QCC_FN(qcc_table_store)(r, rest + made.wide * 64);
            lines[made.wide++] = (int32_t)c;
        }
        QCC_FN(qcc_table_store)(e, entries);
    }
    return made;
}

QCC_HELPER int32_t QCC_FN(qcc_table_rounded)(const int8_t *x, int64_t count, int shift, int8_t *entries) {
    const __m256i half = _mm256_set1_epi16((int16_t)((1 << shift >> 1) - 1)), one = _mm256_set1_epi16(1);
    const __m128i places = _mm_cvtsi32_si128(shift);
    int32_t centers = 0;
    for (int64_t c = 0; c < count; c++, x += QCC_TABLE_K, entries += 64) {
        __m256i e[4];
        centers += QCC_FN(qcc_table_line)(x, e);
        for (int j = 0; j < 4 && shift; j++) { /* half to even */
            const __m256i odd = _mm256_and_si256(_mm256_sra_epi16(e[j], places), one);
            e[j] = _mm256_sra_epi16(_mm256_add_epi16(e[j], _mm256_add_epi16(half, odd)), places);
        }
        QCC_FN(qcc_table_store)(e, entries);
    }
    return centers;
}
#endif

QCC_KERNEL_FN QCC_FN(qcc_k_tables)(const qcc_tables *a, int64_t begin, int64_t end, void *scratch) {
    const int64_t groups = qcc_groups(a->k, a->group), stride = qcc_padded_k(a->k, a->group);
    (void)scratch;
    for (int64_t m = begin; m < end; m++) {
        const int8_t *x = a->x.codes + m * stride;
        int64_t line = m * stride / QCC_TABLE_K;
        for (int64_t g = 0; g < groups; g++) {
            const int64_t chunks = qcc_group_chunks(a->k, a->group, g), count = chunks * (QCC_CHUNK / QCC_TABLE_K);
            int8_t *entries = a->out.entries + line * 64;
            qcc_table_group made;
            if (a->out.rest) {
                made = QCC_FN(qcc_table_exact)(x, count, entries, a->out.rest + line * 64, a->out.lines + line);
            } else {
                const int widest = QCC_FN(qcc_table_widest)(x, chunks);
                made.wide = widest <= 255 ? 0 : widest <= 511 ? 1 : 2;
                made.centers = QCC_FN(qcc_table_rounded)(x, count, made.wide, entries);
            }
            a->out.centers[m * groups + g] = made.centers;
            a->out.wide[m * groups + g] = made.wide;
            x += count * QCC_TABLE_K;
            line += count;
        }
    }
}

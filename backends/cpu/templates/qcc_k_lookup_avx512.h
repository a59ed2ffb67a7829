/* Lookup with vpermb: one register is the tables of four quads, adjacent bytes of the indices ask for those of one
 * row, and vpdpbusd with the bit's weight adds the four answers of each row in 32 bits. */
#define QCC_LOOKUP_TARGET \
    __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")))
#define QCC_LOOKUP_TOKENS 8
#define QCC_LOOKUP_HELPER static inline __attribute__((always_inline)) QCC_LOOKUP_TARGET

/* acc += four entries (signed) times the weight of a bit (unsigned) per lane; as assembly for QCC_DP's reason. */
#define QCC_ADD_ENTRIES(acc, weight, entries) \
    __asm__("vpdpbusd\t%2, %1, %0" : "+v"(acc) : "v"(weight), "v"(entries))

/* Indices of the first and the last 16 k of a line: the low (high) halves of its bytes, plus 16 * quad. */
QCC_LOOKUP_HELPER void qcc_lookup_indices_avx512vnni(const uint8_t *line, __m512i *first, __m512i *last) {
    const __m512i low = _mm512_set1_epi8(15), quad = _mm512_set1_epi32(0x30201000), v = _mm512_loadu_si512(line);
    *first = _mm512_ternarylogic_epi32(v, low, quad, 0xea); /* (v & low) | quad */
    *last = _mm512_ternarylogic_epi32(_mm512_srli_epi16(v, 4), low, quad, 0xea);
}

/* T tokens x 16 rows of one group. The two sums of a token are parts of one, which hides the latency of vpdpbusd. */
QCC_LOOKUP_HELPER void qcc_lookup_one_avx512vnni(const uint8_t *w, const int8_t *table, int64_t stride, int64_t chunks,
                                                 __m512i acc[8][2], const int T, const int bits) {
    for (int64_t c = 0; c < chunks; c++, table += 128)
#pragma GCC unroll 4
        for (int p = bits - 1; p >= 0; p--, w += 64) {
            const __m512i weight = _mm512_set1_epi8((char)(1 << p));
            __m512i first, last;
            QCC_PREFETCH(w);
            qcc_lookup_indices_avx512vnni(w, &first, &last);
#pragma GCC unroll 8
            for (int t = 0; t < T; t++) {
                const int8_t *at = table + t * stride;
                const __m512i e0 = _mm512_permutexvar_epi8(first, _mm512_loadu_si512(at));
                const __m512i e1 = _mm512_permutexvar_epi8(last, _mm512_loadu_si512(at + 64));
                QCC_ADD_ENTRIES(acc[t][0], weight, e0);
                QCC_ADD_ENTRIES(acc[t][1], weight, e1);
            }
        }
}

/* T tokens x 32 rows of one group; acc[t][b] is of block b. */
QCC_LOOKUP_HELPER void qcc_lookup_two_avx512vnni(const uint8_t *w0, const uint8_t *w1, const int8_t *table,
                                                 int64_t stride, int64_t chunks, __m512i acc[8][2], const int T,
                                                 const int bits) {
    for (int64_t c = 0; c < chunks; c++, table += 128)
#pragma GCC unroll 4
        for (int p = bits - 1; p >= 0; p--, w0 += 64, w1 += 64) {
            const __m512i weight = _mm512_set1_epi8((char)(1 << p));
            __m512i first[2], last[2];
            qcc_lookup_indices_avx512vnni(w0, &first[0], &last[0]);
            qcc_lookup_indices_avx512vnni(w1, &first[1], &last[1]);
#pragma GCC unroll 8
            for (int t = 0; t < T; t++) {
                const __m512i t0 = _mm512_loadu_si512(table + t * stride);
                const __m512i t1 = _mm512_loadu_si512(table + t * stride + 64);
#pragma GCC unroll 2
                for (int b = 0; b < 2; b++) {
                    const __m512i e0 = _mm512_permutexvar_epi8(first[b], t0), e1 = _mm512_permutexvar_epi8(last[b], t1);
                    QCC_ADD_ENTRIES(acc[t][b], weight, e0);
                    QCC_ADD_ENTRIES(acc[t][b], weight, e1);
                }
            }
        }
}

/* 2 * the sums of the rests of one token's wide lines in one group, for 16 rows. */
QCC_LOOKUP_HELPER __m512i qcc_lookup_rests_avx512vnni(const uint8_t *w, const int8_t *rest, const int32_t *lines,
                                                      int32_t count, int bits) {
    __m512i acc = _mm512_setzero_si512();
    for (int32_t i = 0; i < count; i++, rest += 64) {
        const uint8_t *line = w + (int64_t)(lines[i] / 2) * bits * 64;
        const __m512i table = _mm512_loadu_si512(rest);
        for (int p = bits - 1; p >= 0; p--, line += 64) {
            const __m512i weight = _mm512_set1_epi8((char)(1 << p));
            __m512i first, last;
            qcc_lookup_indices_avx512vnni(line, &first, &last);
            const __m512i entry = _mm512_permutexvar_epi8(lines[i] & 1 ? last : first, table);
            QCC_ADD_ENTRIES(acc, weight, entry);
        }
    }
    return _mm512_slli_epi32(acc, 1);
}

/* Finish one group of tokens of which some are wide. Out of line: few groups come here. */
static __attribute__((noinline)) QCC_LOOKUP_TARGET void
qcc_lookup_wide_avx512vnni(const qcc_lookup *l, int b, int64_t code, int64_t table, int64_t at, __m512i (*part)[2],
                           int tokens, int blocks) {
    const qcc_tlinear *a = l->a;
    for (int t = 0; t < tokens; t++, table += l->padded_k * 4) {
        const int32_t wide = a->t.wide[at + t * l->groups];
        for (int i = 0; i < 2 && !a->t.rest; i++) part[t][i] = _mm512_sll_epi32(part[t][i], _mm_cvtsi32_si128(wide));
        for (int i = 0; i < blocks && a->t.rest && wide; i++) {
            const uint8_t *w = l->codes[b + i] + code;
            const int32_t *lines = a->t.lines + table / 64;
            const __m512i more = qcc_lookup_rests_avx512vnni(w, a->t.rest + table, lines, wide, a->w.bits);
            part[t][i] = _mm512_add_epi32(part[t][i], more);
        }
    }
}

QCC_LOOKUP_HELPER void qcc_lookup_any_avx512vnni(const qcc_lookup *l, int b, int64_t code, int64_t table, int64_t m,
                                                 int64_t g, __m512i acc[8][2], const int T, const int blocks) {
    __m512i part[8][2];
    if (!qcc_lookup_any_wide(l, g, m, T)) return;
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) part[t][0] = acc[t][0], part[t][1] = acc[t][1];
    qcc_lookup_wide_avx512vnni(l, b, code, table, m * l->groups + g, part, T, blocks);
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) acc[t][0] = part[t][0], acc[t][1] = part[t][1];
}

/* sum + scale * float(acc + start), the zero point of 16 rows taken off where rows have their own. */
QCC_LOOKUP_HELPER __m512 qcc_lookup_add_avx512vnni(const qcc_tlinear *a, int64_t index, int64_t at, __m512i acc,
                                                   int32_t start, __m512 scale, __m512 sum) {
    acc = _mm512_add_epi32(acc, _mm512_set1_epi32(start));
    if (a->w.zeros) acc = _mm512_add_epi32(acc, qcc_start_avx512vnni(&a->w, index, a->x.sums[at]));
    return qcc_scale_add_avx512vnni(&a->w, &a->x, at, scale, acc, sum);
}

/* T tokens x (blocks == 2: both blocks; 1: block b, whose rows then are read as one stream). */
QCC_LOOKUP_HELPER void qcc_lookup_tokens_avx512vnni(const qcc_lookup *l, int b, int64_t m, float *out, const int T,
                                                    const int bits, const int blocks) {
    const qcc_tlinear *a = l->a;
    const int64_t stride = l->padded_k * 4, groups = l->groups, scale_step = a->w.scale_f16 ? 32 : 64;
    const int64_t full = qcc_group_chunks(a->w.k, a->w.group, 0);
    const int64_t last = qcc_group_chunks(a->w.k, a->w.group, groups - 1);
    const int8_t *table = a->t.entries + m * stride;
    const uint8_t *w0 = l->codes[b], *w1 = l->codes[1];
    const uint8_t *scale0 = (const uint8_t *)a->w.scales + l->block[b] * groups * scale_step;
    const uint8_t *scale1 = (const uint8_t *)a->w.scales + l->block[1] * groups * scale_step;
    const int32_t *start = l->starts + (m - l->m0);
    const int f16 = a->w.scale_f16;
    __m512 sum[8][2];
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) sum[t][0] = sum[t][1] = _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; g++) {
        const int64_t chunks = g + 1 < groups ? full : last;
        __m512i acc[8][2];
#pragma GCC unroll 8
        for (int t = 0; t < T; t++) acc[t][0] = acc[t][1] = _mm512_setzero_si512();
        if (blocks == 2) qcc_lookup_two_avx512vnni(w0, w1, table, stride, chunks, acc, T, bits);
        else qcc_lookup_one_avx512vnni(w0, table, stride, chunks, acc, T, bits);
        qcc_lookup_any_avx512vnni(l, b, w0 - l->codes[b], table - a->t.entries, m, g, acc, T, blocks);
        QCC_PREFETCH(scale0);
        __m512 scale[2] = {qcc_load16_avx512vnni(scale0, f16), _mm512_setzero_ps()};
        if (blocks == 2) scale[1] = qcc_load16_avx512vnni(scale1, f16);
#pragma GCC unroll 8
        for (int t = 0; t < T; t++) {
            if (blocks == 1) acc[t][0] = _mm512_add_epi32(acc[t][0], acc[t][1]);
#pragma GCC unroll 2
            for (int i = 0; i < blocks; i++)
                sum[t][i] = qcc_lookup_add_avx512vnni(a, l->block[b + i] * groups + g, (m + t) * groups + g, acc[t][i],
                                                      start[t], scale[i], sum[t][i]);
        }
        w0 += chunks * bits * 64;
        w1 += chunks * bits * 64;
        table += chunks * 128;
        scale0 += scale_step;
        scale1 += scale_step;
        start += QCC_TABLE_M;
    }
#pragma GCC unroll 8
    for (int t = 0; t < T; t++)
#pragma GCC unroll 2
        for (int i = 0; i < blocks; i++) _mm512_storeu_ps(out + t * QCC_TILE_N + (b + i) * QCC_ROWS, sum[t][i]);
}

#define QCC_LOOKUP_BITS(name, bits) \
    static QCC_LOOKUP_TARGET void qcc_lookup_tile##name##_avx512vnni(const qcc_lookup *l, int64_t m, int64_t tokens, \
                                                                     float *out) { \
        for (; tokens >= 8 && l->groups == 1; tokens -= 8, m += 8, out += 8 * QCC_TILE_N) \
            qcc_lookup_tokens_avx512vnni(l, 0, m, out, 8, bits, 2); \
        for (; tokens >= 4; tokens -= 4, m += 4, out += 4 * QCC_TILE_N) \
            qcc_lookup_tokens_avx512vnni(l, 0, m, out, 4, bits, 2); \
        for (; tokens >= 2; tokens -= 2, m += 2, out += 2 * QCC_TILE_N) \
            for (int b = 0; b < 2; b++) qcc_lookup_tokens_avx512vnni(l, b, m, out, 2, bits, 1); \
        for (int b = 0; b < 2 && tokens; b++) qcc_lookup_tokens_avx512vnni(l, b, m, out, 1, bits, 1); \
    }
QCC_LOOKUP_BITS(1, 1)
QCC_LOOKUP_BITS(2, 2)
QCC_LOOKUP_BITS(3, 3)
QCC_LOOKUP_BITS(4, 4)
QCC_LOOKUP_BITS(_any, l->a->w.bits)
#undef QCC_LOOKUP_BITS

static QCC_LOOKUP_TARGET void qcc_lookup_tile_avx512vnni(const qcc_lookup *l, int64_t m, int64_t tokens, float *out) {
    switch (l->a->w.bits) {
    case 1: qcc_lookup_tile1_avx512vnni(l, m, tokens, out); break;
    case 2: qcc_lookup_tile2_avx512vnni(l, m, tokens, out); break;
    case 3: qcc_lookup_tile3_avx512vnni(l, m, tokens, out); break;
    case 4: qcc_lookup_tile4_avx512vnni(l, m, tokens, out); break;
    default: qcc_lookup_tile_any_avx512vnni(l, m, tokens, out); break;
    }
}
#undef QCC_ADD_ENTRIES
#undef QCC_LOOKUP_HELPER

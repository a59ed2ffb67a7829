/* Packed codes to floats: (code - zero) * scale, or (code - zero + 1/2) * scale; only the product rounds. */
#define QCC_DECODE_K 256 /* k decoded at a time: two panels of 16 KiB */

#if QCC_ISA == QCC_ISA_AVX512
typedef struct {
    __m512 offset, half, scale;
} qcc_affine_avx512vnni;

/* Scales, and 2^23 + zero: a code in the low byte of the float 2^23 is the float 2^23 + code. */
QCC_HELPER qcc_affine_avx512vnni qcc_load_affine_avx512vnni(const qcc_qweight *w, int64_t index) {
    int32_t zero[QCC_ROWS];
    float scale[QCC_ROWS];
    QCC_FN(qcc_load_zeros)(w, index, zero);
    QCC_FN(qcc_load_scales)(w, index, scale);
    const __m512i magic = _mm512_set1_epi32(0x4b000000);
    return (qcc_affine_avx512vnni){_mm512_castsi512_ps(_mm512_or_si512(magic, _mm512_loadu_si512(zero))),
                                   _mm512_set1_ps(w->mid_rise ? 0.5f : 0.0f), _mm512_loadu_ps(scale)};
}

/* Values of 16 rows at k = j of a line. */
QCC_HELPER __m512 qcc_decode16_avx512vnni(__m512i line, const int j, const qcc_affine_avx512vnni *f) {
    const __m512i pick = _mm512_set1_epi32(j), magic = _mm512_set1_epi32(0x4b000000);
    const __m512i within = _mm512_add_epi32(pick, _mm512_broadcast_i32x4(_mm_set_epi32(12, 8, 4, 0)));
    const __m512i word = _mm512_mask_shuffle_epi8(magic, 0x1111111111111111ull, line, within);
    const __m512 code = _mm512_sub_ps(_mm512_castsi512_ps(word), f->offset);
    return _mm512_mul_ps(_mm512_add_ps(code, f->half), f->scale);
}

QCC_HELPER void qcc_decode_chunk_avx512vnni(const uint8_t *bytes, int64_t valid, const qcc_affine_avx512vnni *f,
                                            float *dst) {
    for (int64_t i = 0; i < valid; i += 4) {
        const __m512i line = _mm512_loadu_si512(bytes + i / 4 * 64);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
            if (i + j < valid) _mm512_storeu_ps(dst + (i + j) * QCC_ROWS, qcc_decode16_avx512vnni(line, j, f));
    }
}

QCC_HELPER void qcc_chunk_dot_bits_avx512vnni(const uint8_t *p0, const uint8_t *p1, const int bits,
                                              const qcc_affine_avx512vnni *f0, const qcc_affine_avx512vnni *f1,
                                              const float *x, int64_t valid, __m512 *sum) {
    __m512i w0[8], w1[8];
    __m512 s0 = sum[0], s1 = sum[1];
    if (bits == 8) {
#pragma GCC unroll 8
        for (int q = 0; q < 8; q++) w0[q] = _mm512_loadu_si512(p0 + 64 * q), w1[q] = _mm512_loadu_si512(p1 + 64 * q);
    } else {
        qcc_expand_columns_avx512vnni(p0, bits, w0);
        qcc_expand_columns_avx512vnni(p1, bits, w1);
    }
#pragma GCC unroll 8
    for (int q = 0; q < 8; q++) {
        if (4 * q >= valid) break;
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            if (4 * q + j >= valid) break;
            const __m512 value = _mm512_set1_ps(x[4 * q + j]);
            s0 = _mm512_fmadd_ps(value, qcc_decode16_avx512vnni(w0[q], j, f0), s0);
            s1 = _mm512_fmadd_ps(value, qcc_decode16_avx512vnni(w1[q], j, f1), s1);
        }
    }
    sum[0] = s0, sum[1] = s1;
}

/* sum[2] += x[0..valid) times one chunk of two blocks. */
QCC_HELPER void qcc_chunk_dot_avx512vnni(const uint8_t *p0, const uint8_t *p1, int32_t bits,
                                         const qcc_affine_avx512vnni *f0, const qcc_affine_avx512vnni *f1,
                                         const float *x, int64_t valid, __m512 *sum) {
    if (bits == 4 && valid == QCC_CHUNK) {
        qcc_chunk_dot_bits_avx512vnni(p0, p1, 4, f0, f1, x, QCC_CHUNK, sum);
    } else if (bits == 8 && valid == QCC_CHUNK) {
        qcc_chunk_dot_bits_avx512vnni(p0, p1, 8, f0, f1, x, QCC_CHUNK, sum);
    } else {
        uint8_t bytes[1024];
        QCC_FN(qcc_unpack)(p0, 1, bits, bytes);
        QCC_FN(qcc_unpack)(p1, 1, bits, bytes + 512);
        qcc_chunk_dot_bits_avx512vnni(bytes, bytes + 512, 8, f0, f1, x, valid, sum);
    }
}
#else

typedef struct {
    int32_t offset[QCC_ROWS];
    float scale[QCC_ROWS], half;
} QCC_FN(qcc_affine);

QCC_HELPER QCC_FN(qcc_affine) QCC_FN(qcc_load_affine)(const qcc_qweight *w, int64_t index) {
    QCC_FN(qcc_affine) f;
    QCC_FN(qcc_load_zeros)(w, index, f.offset);
    QCC_FN(qcc_load_scales)(w, index, f.scale);
    f.half = w->mid_rise ? 0.5f : 0.0f;
    return f;
}

/* Decode one chunk of a block (bytes [8][64]) of `valid` k into dst [k][16] floats. */
QCC_HELPER void QCC_FN(qcc_decode_chunk)(const uint8_t *bytes, int64_t valid, const QCC_FN(qcc_affine) *f, float *dst) {
    for (int64_t i = 0; i < valid; i++) {
        uint32_t word[QCC_ROWS];
        memcpy(word, bytes + i / 4 * 64, 64);
        for (int r = 0; r < QCC_ROWS; r++)
            dst[i * QCC_ROWS + r] =
                ((float)((int32_t)((word[r] >> (8 * (i & 3))) & 255u) - f->offset[r]) + f->half) * f->scale[r];
    }
}
#endif

/* Decode k [k0, k1) of a block into dst [k - k0][16]. k0 is a multiple of 256 from the start of the row and
 * need not begin a group; whole chunks are decoded into a small buffer where an end cuts them. */
QCC_HELPER void QCC_FN(qcc_decode_block)(const qcc_qweight *w, int64_t block, int64_t k0, int64_t k1, float *dst) {
    const int64_t padded_group = qcc_round_up(w->group, QCC_CHUNK) / QCC_CHUNK, groups = qcc_groups(w->k, w->group);
    const uint8_t *codes = w->codes + block * qcc_block_bytes(w);
    float values[QCC_CHUNK * QCC_ROWS];
    uint8_t bytes[512];
    for (int64_t k = k0; k < k1;) {
        const int64_t g = k / w->group, inside = (k - g * w->group) / QCC_CHUNK;
        const int64_t first = g * w->group + inside * QCC_CHUNK; /* k of the chunk's first code */
        const int64_t last = qcc_min64(qcc_min64(first + QCC_CHUNK, (g + 1) * w->group), w->k);
        const QCC_FN(qcc_affine) f = QCC_FN(qcc_load_affine)(w, block * groups + g);
        QCC_FN(qcc_unpack)(codes + (g * padded_group + inside) * w->bits * 64, 1, w->bits, bytes);
        if (first >= k0 && last <= k1) {
            QCC_FN(qcc_decode_chunk)(bytes, last - first, &f, dst + (first - k0) * QCC_ROWS);
        } else {
            const int64_t from = k - first, to = qcc_min64(last, k1) - first;
            QCC_FN(qcc_decode_chunk)(bytes, to, &f, values);
            memcpy(dst + (k - k0) * QCC_ROWS, values + from * QCC_ROWS,
                   (size_t)(to - from) * QCC_ROWS * sizeof *dst);
        }
        k = qcc_min64(last, k1);
    }
}

/* One row of a packed table; its lane of each decoded block. */
QCC_HELPER void QCC_FN(qcc_decode_row)(const qcc_qweight *w, int64_t row, float *y) {
    float block[QCC_DECODE_K * QCC_ROWS];
    for (int64_t k0 = 0; k0 < w->k; k0 += QCC_DECODE_K) {
        const int64_t k1 = qcc_min64(w->k, k0 + QCC_DECODE_K);
        QCC_FN(qcc_decode_block)(w, row / QCC_ROWS, k0, k1, block);
        for (int64_t k = k0; k < k1; k++) y[k] = block[(k - k0) * QCC_ROWS + row % QCC_ROWS];
    }
}

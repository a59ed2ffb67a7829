/* Reading packed weights: bit planes to bytes, and codes to floats. */

/* Expand one chunk of `bits`-bit codes into 8 lines of bytes, QCC_W_BYTES columns at a time: line q holds
 * at byte 4*r + j the code of row r at k = 4*q + j, the layout of 8-bit weights. */
QCC_HELPER void QCC_FN(qcc_expand_columns)(const uint8_t *line, const int bits, QCC_W *q) {
#pragma GCC unroll 4
    for (int i = 0; i < (bits & 4 ? 4 : 0); i++, line += 64) {
        const QCC_W v = QCC_W_LOAD(line);
        q[2 * i] = QCC_W_AND(v, 15);
        q[2 * i + 1] = QCC_W_AND(QCC_W_SHR(v, 4), 15);
    }
#pragma GCC unroll 2
    for (int i = 0; i < (bits & 2 ? 2 : 0); i++, line += 64) {
        const QCC_W v = QCC_W_LOAD(line);
#pragma GCC unroll 4
        for (int s = 0; s < 4; s++) {
            const QCC_W low = QCC_W_AND(QCC_W_SHR(v, 2 * s), 3);
            q[4 * i + s] = bits & 4 ? QCC_W_OR(QCC_W_SHL(q[4 * i + s], 2), low) : low;
        }
    }
    if (bits & 1) {
        const QCC_W v = QCC_W_LOAD(line);
#pragma GCC unroll 8
        for (int s = 0; s < 8; s++) {
            const QCC_W low = QCC_W_AND(QCC_W_SHR(v, s), 1);
            q[s] = bits & 6 ? QCC_W_OR(QCC_W_SHL(q[s], 1), low) : low;
        }
    }
}

/* Expand `chunks` chunks: dst [chunk][8 lines][64]. */
QCC_HELPER void QCC_FN(qcc_expand)(const uint8_t *src, int64_t chunks, const int bits, uint8_t *dst) {
    for (int64_t c = 0; c < chunks; c++, src += bits * 64, dst += 512)
        for (int column = 0; column < 64; column += QCC_W_BYTES) {
            QCC_W q[8];
            QCC_FN(qcc_expand_columns)(src + column, bits, q);
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++) QCC_W_STORE(dst + 64 * i + column, q[i]);
        }
}

static QCC_TARGET void QCC_FN(qcc_unpack)(const uint8_t *src, int64_t chunks, int32_t bits, uint8_t *dst) {
    switch (bits) { /* a constant width lets the compiler drop the absent planes */
    case 1: QCC_FN(qcc_expand)(src, chunks, 1, dst); break;
    case 2: QCC_FN(qcc_expand)(src, chunks, 2, dst); break;
    case 3: QCC_FN(qcc_expand)(src, chunks, 3, dst); break;
    case 4: QCC_FN(qcc_expand)(src, chunks, 4, dst); break;
    case 5: QCC_FN(qcc_expand)(src, chunks, 5, dst); break;
    case 6: QCC_FN(qcc_expand)(src, chunks, 6, dst); break;
    case 7: QCC_FN(qcc_expand)(src, chunks, 7, dst); break;
    default: memcpy(dst, src, (size_t)chunks * 512); break;
    }
}

/* The 16 scales of one (block, group). */
QCC_HELPER void QCC_FN(qcc_load_scales)(const qcc_qweight *w, int64_t index, float *out) {
    if (!w->scale_f16) {
        memcpy(out, (const float *)w->scales + index * QCC_ROWS, QCC_ROWS * sizeof(float));
        return;
    }
    const uint16_t *half = (const uint16_t *)w->scales + index * QCC_ROWS;
#if QCC_ISA == QCC_ISA_PORTABLE
    for (int r = 0; r < QCC_ROWS; r++) out[r] = qcc_f16_to_f32(half[r]);
#else
    _mm256_storeu_ps(out, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)half)));
    _mm256_storeu_ps(out + 8, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)half + 1)));
#endif
}

/* What one step of the integer sums is worth: half the scale on a mid-rise grid, whose sums are doubled. */
QCC_HELPER void QCC_FN(qcc_load_steps)(const qcc_qweight *w, int64_t index, float *out) {
    QCC_FN(qcc_load_scales)(w, index, out);
    if (w->mid_rise)
        for (int r = 0; r < QCC_ROWS; r++) out[r] *= 0.5f;
}

QCC_HELPER void QCC_FN(qcc_load_zeros)(const qcc_qweight *w, int64_t index, int32_t *out) {
    for (int r = 0; r < QCC_ROWS; r++) out[r] = w->zeros ? w->zeros[index * QCC_ROWS + r] : w->zero;
}

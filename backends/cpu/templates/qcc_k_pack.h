/* Reading packed weights: bit planes to bytes, and codes to floats. */

/* Expand `chunks` chunks of `bits`-bit codes into bytes: dst [chunk][8 lines][64], where line q holds
 * at byte 4*r + j the code of row r at k = 4*q + j: the layout of 8-bit weights. Works on words, so
 * that every vectoriser sees plain shifts and masks. */
QCC_HELPER void QCC_FN(qcc_expand)(const uint8_t *restrict src, int64_t chunks, int32_t bits,
                                   uint8_t *restrict dst) {
    for (int64_t c = 0; c < chunks; c++, src += bits * 64, dst += 512) {
        const uint8_t *line = src;
        uint64_t out[8][8], in[8];
        memset(out, 0, sizeof out);
        if (bits & 4) {
            for (int i = 0; i < 4; i++, line += 64) {
                memcpy(in, line, 64);
                for (int s = 0; s < 2; s++)
                    for (int w = 0; w < 8; w++) out[2 * i + s][w] = (in[w] >> (4 * s)) & 0x0f0f0f0f0f0f0f0full;
            }
        }
        if (bits & 2) {
            for (int i = 0; i < 2; i++, line += 64) {
                memcpy(in, line, 64);
                for (int s = 0; s < 4; s++)
                    for (int w = 0; w < 8; w++)
                        out[4 * i + s][w] = (out[4 * i + s][w] << 2) | ((in[w] >> (2 * s)) & 0x0303030303030303ull);
            }
        }
        if (bits & 1) {
            memcpy(in, line, 64);
            for (int s = 0; s < 8; s++)
                for (int w = 0; w < 8; w++)
                    out[s][w] = (out[s][w] << 1) | ((in[w] >> s) & 0x0101010101010101ull);
        }
        memcpy(dst, out, 512);
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

QCC_HELPER void QCC_FN(qcc_load_zeros)(const qcc_qweight *w, int64_t index, int32_t *out) {
    for (int r = 0; r < QCC_ROWS; r++) out[r] = w->zeros ? w->zeros[index * QCC_ROWS + r] : w->zero;
}

/* The float matrix kernel: rows of a times a tile of 32 columns of b.
 *
 * out[rows][32] (+)= sum_k a[r][k] * b[k][0..32). The columns come as two panels of 16 (b0, b1), each with
 * `ldb` floats between successive k. k runs in ascending order with one accumulator per output, so the
 * result does not depend on how the caller tiles m, n or (with accumulate) k. */

#define QCC_GEMM_VECTORS (QCC_GEMM_PANELS * 16 / QCC_VL)

QCC_HELPER void QCC_FN(qcc_gemm_rows)(const float *a, int64_t lda, const float *b0, const float *b1, int64_t ldb,
                                      int64_t k, float *out, const int R, int accumulate) {
    enum { per_panel = 16 / QCC_VL };
    QCC_V acc[QCC_GEMM_ROWS][QCC_GEMM_VECTORS];
#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int v = 0; v < QCC_GEMM_VECTORS; v++)
            acc[r][v] = accumulate ? QCC_V_LOAD(out + r * QCC_TILE_N + v * QCC_VL) : QCC_V_ZERO();
    for (int64_t i = 0; i < k; i++, b0 += ldb, b1 += ldb) {
        QCC_V column[QCC_GEMM_VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < QCC_GEMM_VECTORS; v++)
            column[v] = QCC_V_LOAD((v < per_panel ? b0 : b1) + v % per_panel * QCC_VL);
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
            const QCC_V x = QCC_V_SET(a[r * lda + i]);
#pragma GCC unroll 4
            for (int v = 0; v < QCC_GEMM_VECTORS; v++) acc[r][v] = QCC_V_FMA(x, column[v], acc[r][v]);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int v = 0; v < QCC_GEMM_VECTORS; v++) QCC_V_STORE(out + r * QCC_TILE_N + v * QCC_VL, acc[r][v]);
}

/* Up to QCC_GEMM_ROWS rows; `columns` <= 16 skips the second panel. */
static QCC_TARGET void QCC_FN(qcc_gemm)(const float *a, int64_t lda, const float *b0, const float *b1, int64_t ldb,
                                        int64_t k, float *out, int64_t rows, int64_t columns, int accumulate) {
    for (int half = 0; half < (QCC_GEMM_PANELS == 2 || columns <= 16 ? 1 : 2); half++) {
        const float *left = half ? b1 : b0;
        const float *pa = a;
        float *po = out + half * 16;
        int64_t rest = rows;
        if (rest >= QCC_GEMM_ROWS) {
            QCC_FN(qcc_gemm_rows)(pa, lda, left, b1, ldb, k, po, QCC_GEMM_ROWS, accumulate);
            continue;
        }
        for (; rest >= 4 && QCC_GEMM_ROWS > 4; rest -= 4, pa += 4 * lda, po += 4 * QCC_TILE_N)
            QCC_FN(qcc_gemm_rows)(pa, lda, left, b1, ldb, k, po, QCC_GEMM_ROWS > 4 ? 4 : 1, accumulate);
        if (rest >= 2) {
            QCC_FN(qcc_gemm_rows)(pa, lda, left, b1, ldb, k, po, 2, accumulate);
            rest -= 2, pa += 2 * lda, po += 2 * QCC_TILE_N;
        }
        if (rest) QCC_FN(qcc_gemm_rows)(pa, lda, left, b1, ldb, k, po, 1, accumulate);
    }
}
#undef QCC_GEMM_VECTORS

/* Transposing pack: dst [k][16] from up to 16 rows of k contiguous floats; missing rows are zero. */
QCC_HELPER void QCC_FN(qcc_pack_rows)(const float *x, int64_t stride, int64_t rows, int64_t k, float *dst) {
    if (rows < QCC_ROWS) memset(dst, 0, (size_t)k * QCC_ROWS * sizeof *dst);
    for (int64_t i = 0; i < k; i += 16)
        for (int64_t r = 0; r < rows; r++)
            for (int64_t j = i; j < qcc_min64(k, i + 16); j++) dst[j * QCC_ROWS + r] = x[r * stride + j];
}

/* Pack of b[k][n] with any strides: dst [k][16] from up to 16 columns; missing columns are zero. */
QCC_HELPER void QCC_FN(qcc_pack_columns)(const float *b, int64_t stride_k, int64_t stride_n, int64_t columns, int64_t k,
                                         float *dst) {
    if (stride_k == 1 && stride_n != 1) {
        QCC_FN(qcc_pack_rows)(b, stride_n, columns, k, dst);
        return;
    }
    for (int64_t i = 0; i < k; i++) {
        for (int64_t j = 0; j < columns; j++) dst[i * 16 + j] = b[i * stride_k + j * stride_n];
        for (int64_t j = columns; j < 16; j++) dst[i * 16 + j] = 0.0f;
    }
}

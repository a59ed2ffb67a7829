/* Float linear, weight-only linear, batched matmul and embedding. */

#if QCC_ISA == QCC_ISA_AVX512
/* One row of x against one tile of columns: the steps of the tiled path without its buffers, so that the
 * bits are the same. */
static QCC_TARGET void qcc_wlinear_row_avx512vnni(const qcc_wlinear *a, int64_t n0) {
    const qcc_qweight *w = &a->w;
    const int64_t groups = qcc_groups(w->k, w->group), blocks = qcc_ceil_div(w->n, QCC_ROWS);
    const int64_t b0 = n0 / QCC_ROWS, b1 = qcc_min64(b0 + 1, blocks - 1);
    const uint8_t *p0 = w->codes + b0 * qcc_block_bytes(w), *p1 = w->codes + b1 * qcc_block_bytes(w);
    const float *x = a->x;
    float out[QCC_TILE_N];
    __m512 sum[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int64_t g = 0; g < groups; g++) {
        const qcc_affine_avx512vnni f0 = qcc_load_affine_avx512vnni(w, b0 * groups + g);
        const qcc_affine_avx512vnni f1 = qcc_load_affine_avx512vnni(w, b1 * groups + g);
        for (int64_t k = qcc_min64(w->group, w->k - g * w->group); k > 0; k -= QCC_CHUNK) {
            const int64_t valid = qcc_min64(k, QCC_CHUNK);
            qcc_chunk_dot_avx512vnni(p0, p1, w->bits, &f0, &f1, x, valid, sum);
            p0 += w->bits * 64, p1 += w->bits * 64, x += valid;
        }
    }
    _mm512_storeu_ps(out, sum[0]);
    _mm512_storeu_ps(out + 16, sum[1]);
    QCC_FN(qcc_finish_row)(out, 1.0f, &a->epilogue, 0, n0, qcc_min64(QCC_TILE_N, w->n - n0), a->y + n0);
}
#endif

/* Finish `rows` rows of a tile into y. */
QCC_HELPER void QCC_FN(qcc_finish_tile)(const float *out, const qcc_epilogue *e, int64_t m, int64_t rows, int64_t n0,
                                        int64_t n, float *y, int64_t y_stride) {
    for (int64_t r = 0; r < rows; r++)
        QCC_FN(qcc_finish_row)(out + r * QCC_TILE_N, 1.0f, e, m + r, n0, n, y + (m + r) * y_stride + n0);
}

QCC_KERNEL_FN QCC_FN(qcc_k_linear)(const qcc_linear *a, int64_t begin, int64_t end, void *scratch) {
    const int64_t row_tiles = qcc_ceil_div(a->m, QCC_TILE_M);
    float out[QCC_GEMM_ROWS * QCC_TILE_N];
    (void)scratch;
    for (int64_t u = begin; u < end; u++) {
        const int64_t n0 = u / row_tiles * QCC_TILE_N, n = qcc_min64(QCC_TILE_N, a->n - n0);
        const int64_t m0 = u % row_tiles * QCC_TILE_M, m1 = qcc_min64(a->m, m0 + QCC_TILE_M);
        const float *b0 = a->w + n0 * a->k, *b1 = n > 16 ? b0 + 16 * a->k : b0;
        for (int64_t m = m0; m < m1; m += QCC_GEMM_ROWS) {
            const int64_t rows = qcc_min64(QCC_GEMM_ROWS, m1 - m);
            QCC_FN(qcc_gemm)(a->x + m * a->x_stride, a->x_stride, b0, b1, 16, a->k, out, rows, n, 0);
            QCC_FN(qcc_finish_tile)(out, &a->epilogue, m, rows, n0, n, a->y, a->y_stride);
        }
    }
}

/* One tile of y, all k: blocks of k accumulate in y itself, the last one finishes it. */
QCC_HELPER void QCC_FN(qcc_wlinear_tile)(const qcc_wlinear *a, int64_t n0, int64_t m0, int64_t m1, float *panel) {
    const int64_t n = qcc_min64(QCC_TILE_N, a->w.n - n0), block = n0 / QCC_ROWS;
    const int64_t blocks = qcc_ceil_div(n, QCC_ROWS);
    float out[QCC_GEMM_ROWS * QCC_TILE_N] = {0};
    for (int64_t k0 = 0; k0 < a->w.k || k0 == 0; k0 += QCC_DECODE_K) {
        const int64_t k1 = qcc_min64(a->w.k, k0 + QCC_DECODE_K);
        for (int64_t b = 0; b < blocks; b++)
            QCC_FN(qcc_decode_block)(&a->w, block + b, k0, k1, panel + b * QCC_DECODE_K * QCC_ROWS);
        const float *second = blocks == 2 ? panel + QCC_DECODE_K * QCC_ROWS : panel;
        for (int64_t m = m0; m < m1; m += QCC_GEMM_ROWS) {
            const int64_t rows = qcc_min64(QCC_GEMM_ROWS, m1 - m);
            float *y = a->y + m * a->y_stride + n0;
            for (int64_t r = 0; k0 > 0 && r < rows; r++)
                memcpy(out + r * QCC_TILE_N, y + r * a->y_stride, (size_t)n * sizeof *y);
            QCC_FN(qcc_gemm)(a->x + m * a->x_stride + k0, a->x_stride, panel, second, 16, k1 - k0, out, rows, n, k0 > 0);
            if (k1 == a->w.k) {
                QCC_FN(qcc_finish_tile)(out, &a->epilogue, m, rows, n0, n, a->y, a->y_stride);
                continue;
            }
            for (int64_t r = 0; r < rows; r++)
                memcpy(y + r * a->y_stride, out + r * QCC_TILE_N, (size_t)n * sizeof *y);
        }
    }
}

QCC_KERNEL_FN QCC_FN(qcc_k_wlinear)(const qcc_wlinear *a, int64_t begin, int64_t end, void *scratch) {
    const int64_t row_tiles = qcc_ceil_div(a->m, QCC_TILE_M);
    for (int64_t u = begin; u < end; u++) {
        const int64_t m0 = u % row_tiles * QCC_TILE_M;
#if QCC_ISA == QCC_ISA_AVX512
        if (a->m == 1) {
            qcc_wlinear_row_avx512vnni(a, u * QCC_TILE_N);
            continue;
        }
#endif
        QCC_FN(qcc_wlinear_tile)(a, u / row_tiles * QCC_TILE_N, m0, qcc_min64(a->m, m0 + QCC_TILE_M), scratch);
    }
}

/* Offsets of one batch item. */
QCC_HELPER int64_t QCC_FN(qcc_batch_offset)(const int64_t *batch, const int64_t *stride, int64_t item) {
    int64_t offset = 0;
    for (int d = 3; d >= 0; d--) {
        offset += item % batch[d] * stride[d];
        item /= batch[d];
    }
    return offset;
}

QCC_HELPER void QCC_FN(qcc_matmul_tile)(const qcc_matmul *p, const float *a, const float *b, float *c, int64_t n,
                                        float *panel) {
    const float *b0 = b, *b1 = b + 16;
    float *packed_a = panel + QCC_TILE_N * p->k, out[QCC_GEMM_ROWS * QCC_TILE_N];
    int64_t ldb = p->b_stride_k;
    if (p->b_stride_n != 1 || n < QCC_TILE_N) {
        QCC_FN(qcc_pack_columns)(b, p->b_stride_k, p->b_stride_n, qcc_min64(16, n), p->k, panel);
        if (n > 16)
            QCC_FN(qcc_pack_columns)(b + 16 * p->b_stride_n, p->b_stride_k, p->b_stride_n, n - 16, p->k, panel + 16 * p->k);
        b0 = panel, b1 = n > 16 ? panel + 16 * p->k : panel, ldb = 16;
    }
    for (int64_t m = 0; m < p->m; m += QCC_GEMM_ROWS) {
        const int64_t rows = qcc_min64(QCC_GEMM_ROWS, p->m - m);
        const float *left = a + m * p->a_stride_m;
        int64_t lda = p->a_stride_m;
        if (p->a_stride_k != 1) {
            for (int64_t r = 0; r < rows; r++)
                for (int64_t k = 0; k < p->k; k++) packed_a[r * p->k + k] = left[r * lda + k * p->a_stride_k];
            left = packed_a, lda = p->k;
        }
        QCC_FN(qcc_gemm)(left, lda, b0, b1, ldb, p->k, out, rows, n, 0);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t j = 0; j < n; j++) c[(m + r) * p->c_stride_m + j] = p->alpha * out[r * QCC_TILE_N + j];
    }
}

QCC_KERNEL_FN QCC_FN(qcc_k_matmul)(const qcc_matmul *a, int64_t begin, int64_t end, void *scratch) {
    const int64_t tiles = qcc_ceil_div(a->n, QCC_TILE_N);
    for (int64_t u = begin; u < end; u++) {
        const int64_t item = u / tiles, n0 = u % tiles * QCC_TILE_N;
        QCC_FN(qcc_matmul_tile)(a, a->a + QCC_FN(qcc_batch_offset)(a->batch, a->a_batch_stride, item),
                                a->b + QCC_FN(qcc_batch_offset)(a->batch, a->b_batch_stride, item) + n0 * a->b_stride_n,
                                a->c + QCC_FN(qcc_batch_offset)(a->batch, a->c_batch_stride, item) + n0,
                                qcc_min64(QCC_TILE_N, a->n - n0), scratch);
    }
}

QCC_KERNEL_FN QCC_FN(qcc_k_embedding)(const qcc_embedding *a, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    for (int64_t i = begin; i < end; i++) {
        const int64_t id = a->ids[i];
        float *y = a->y + i * a->k;
        if (id < 0 || id >= a->rows) {
            *a->status = 1;
            memset(y, 0, (size_t)a->k * sizeof *y);
        } else if (a->qtable) {
            QCC_FN(qcc_decode_row)(a->qtable, id, y);
        } else if (a->table_dtype == QCC_F32) {
            memcpy(y, (const float *)a->table + id * a->k, (size_t)a->k * sizeof *y);
        } else {
            const qcc_word2 *row = (const qcc_word2 *)a->table + id * a->k;
            for (int64_t k = 0; k < a->k; k++)
                y[k] = a->table_dtype == QCC_F16 ? qcc_f16_to_f32(row[k]) : qcc_bf16_to_f32(row[k]);
        }
    }
}

/* Scattered weights. */

static void qcc_k_add_sparse(const qcc_add_sparse *a, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    for (int64_t i = 0; i < a->m; i++) {
        const float *x = a->x + i * a->x_stride;
        float *y = a->y + i * a->y_stride;
        for (int64_t r = begin; r < end; r++) {
            float sum = 0.0f;
            for (int32_t z = a->offsets[r]; z < a->offsets[r + 1]; z++) sum += a->values[z] * x[a->columns[z]];
            y[r] += sum;
        }
    }
}

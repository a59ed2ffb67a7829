/* Quantized linear: expand a tile of weight rows once, run all tokens over it, scale and finish. */

/* y = activation(v * scale + bias) * gate + residual for one row of up to 32 columns. */
QCC_HELPER void QCC_FN(qcc_finish_row)(const float *v, float scale, const qcc_epilogue *e, int64_t row, int64_t n0,
                                       int64_t n, float *y) {
    float t[QCC_TILE_N];
    const float *bias = e->bias ? e->bias + n0 : NULL;
    const float *gate = e->gate ? e->gate + row * e->gate_stride + n0 : NULL;
    const float *residual = e->residual ? e->residual + row * e->residual_stride + n0 : NULL;
    for (int j = 0; j < QCC_TILE_N; j++) t[j] = v[j] * scale;
    if (bias && n == QCC_TILE_N)
        for (int j = 0; j < QCC_TILE_N; j++) t[j] = t[j] + bias[j];
    else if (bias)
        for (int64_t j = 0; j < n; j++) t[j] = t[j] + bias[j];
    if (e->activation != QCC_ACT_NONE) QCC_FN(qcc_unary_span)(e->activation, t, t, n, 0.0f, 0.0f);
    if (gate)
        for (int64_t j = 0; j < n; j++) t[j] = t[j] * gate[j];
    if (residual)
        for (int64_t j = 0; j < n; j++) t[j] = t[j] + residual[j];
    memcpy(y, t, (size_t)n * sizeof *y);
}

/* Dot products of up to one tile of tokens, by the cheapest way for this M. The way depends on the
 * whole M, never on the range given to a thread (it would not change the bits; it would the timing). */
QCC_HELPER void QCC_FN(qcc_dot_any)(const qcc_dot *d, int64_t m, int64_t tokens, float *out, int stored) {
#if QCC_ISA == QCC_ISA_AVX512
    if (stored) {
        switch (d->a->w.bits) {
        case 1: qcc_dot_stored1_avx512vnni(d, m, tokens, out); return;
        case 2: qcc_dot_stored2_avx512vnni(d, m, tokens, out); return;
        case 3: qcc_dot_stored3_avx512vnni(d, m, tokens, out); return;
        case 4: qcc_dot_stored4_avx512vnni(d, m, tokens, out); return;
        case 5: qcc_dot_stored5_avx512vnni(d, m, tokens, out); return;
        case 6: qcc_dot_stored6_avx512vnni(d, m, tokens, out); return;
        default: qcc_dot_stored7_avx512vnni(d, m, tokens, out); return;
        }
    }
#endif
    (void)stored;
    QCC_FN(qcc_dot_tile)(d, m, tokens, out);
}

QCC_HELPER void QCC_FN(qcc_dot_setup)(qcc_dot *d, int64_t tile, int stored, uint8_t *scratch) {
    const qcc_qweight *w = &d->a->w;
    const int64_t blocks = qcc_ceil_div(w->n, QCC_ROWS), bytes = qcc_block_bytes(w);
    for (int b = 0; b < 2; b++) {
        d->block[b] = qcc_min64(tile * 2 + b, blocks - 1);
        d->codes[b] = w->codes + d->block[b] * bytes;
        d->rows[b] = d->codes[b];
        if (stored || w->bits == 8) continue;
        d->rows[b] = scratch + b * QCC_ROWS * d->padded_k;
        QCC_FN(qcc_unpack)(d->codes[b], d->padded_k / QCC_CHUNK, w->bits, scratch + b * QCC_ROWS * d->padded_k);
    }
}

QCC_KERNEL_FN QCC_FN(qcc_k_qlinear)(const qcc_qlinear *a, int64_t begin, int64_t end, void *scratch) {
    const int64_t row_tiles = qcc_ceil_div(a->m, QCC_TILE_M);
    const int stored = QCC_ISA == QCC_ISA_AVX512 && a->w.bits < 8 && a->m <= 8;
    qcc_dot d = {.a = a, .padded_k = qcc_padded_k(a->w.k, a->w.group), .groups = qcc_groups(a->w.k, a->w.group)};
    const int64_t step = stored ? 4 : QCC_FN(QCC_DOT_TOKENS)(d.groups);
    float out[12 * QCC_TILE_N];
    int64_t current = -1;
    for (int64_t u = begin; u < end; u++) {
        const int64_t tile = u / row_tiles, m0 = u % row_tiles * QCC_TILE_M;
        const int64_t m1 = qcc_min64(a->m, m0 + QCC_TILE_M), n0 = tile * QCC_TILE_N;
        if (tile != current) QCC_FN(qcc_dot_setup)(&d, tile, stored, scratch);
        current = tile;
        for (int64_t m = m0; m < m1; m += step) {
            const int64_t tokens = qcc_min64(step, m1 - m);
            QCC_FN(qcc_dot_any)(&d, m, tokens, out, stored);
            for (int64_t t = 0; t < tokens; t++) {
                float scale = a->x.group_scales ? 1.0f : a->x.scales[m + t];
                QCC_FN(qcc_finish_row)(out + t * QCC_TILE_N, scale, &a->epilogue, m + t, n0,
                                       qcc_min64(QCC_TILE_N, a->w.n - n0), a->y + (m + t) * a->y_stride + n0);
            }
        }
    }
}

/* Codes of k <= group elements; returns their sum. Adding 1.5 * 2^23 rounds half to even and leaves the
 * integer in the low mantissa bits: the same on every machine, and it vectorises. */
QCC_HELPER int32_t QCC_FN(qcc_encode)(const float *x, int64_t k, float scale, float low, float high, int8_t *codes) {
    const float magic = 12582912.0f;
    int32_t sum = 0;
    for (int64_t i = 0; i < k; i++) {
        float v = x[i] / scale;
        v = v < low ? low : v;
        v = v > high ? high : v;
        int32_t code = (int32_t)(qcc_bits_of(v + magic) - 0x4b400000u);
        codes[i] = (int8_t)code;
        sum += code;
    }
    return sum;
}

/* Bits of max|x|: as integers NaN > infinity > finite, so that neither is lost. */
QCC_HELPER int32_t QCC_FN(qcc_amax_bits)(const float *x, int64_t k) {
    int32_t best = 0;
    for (int64_t i = 0; i < k; i++) {
        int32_t bits = (int32_t)(qcc_bits_of(x[i]) & 0x7fffffffu);
        best = bits > best ? bits : best;
    }
    return best;
}

QCC_HELPER void QCC_FN(qcc_quantize_group)(const qcc_quantize *a, const float *x, int64_t k, int64_t padded, float scale,
                                           int8_t *codes, int32_t *sum) {
    memset(codes + k, 0, (size_t)(padded - k));
    *sum = 0;
    if (scale > 0.0f && scale <= 3.402823466e+38f) {
        *sum = QCC_FN(qcc_encode)(x, k, scale, (float)(-a->qmax - !a->narrow), (float)a->qmax, codes);
        return;
    }
    memset(codes, 0, (size_t)k);
}

QCC_HELPER float QCC_FN(qcc_scale_of)(const qcc_quantize *a, const float *x, int64_t k) {
    float amax = qcc_float_of((uint32_t)QCC_FN(qcc_amax_bits)(x, k));
    if (!a->static_scale) return amax / (float)a->qmax;
    return amax != amax ? amax : *a->static_scale;
}

QCC_KERNEL_FN QCC_FN(qcc_k_quantize)(const qcc_quantize *a, int64_t begin, int64_t end, void *scratch) {
    const int64_t groups = qcc_groups(a->k, a->group), stride = qcc_padded_k(a->k, a->group);
    (void)scratch;
    for (int64_t m = begin; m < end; m++) {
        const float *x = a->x + m * a->x_stride;
        int8_t *codes = a->out.codes + m * stride;
        float scale = 0.0f;
        if (!a->out.group_scales) a->out.scales[m] = scale = QCC_FN(qcc_scale_of)(a, x, a->k);
        for (int64_t g = 0; g < groups; g++) {
            const int64_t k = qcc_min64(a->group, a->k - g * a->group), padded = qcc_round_up(k, QCC_CHUNK);
            if (a->out.group_scales) a->out.scales[m * groups + g] = scale = QCC_FN(qcc_scale_of)(a, x, k);
            QCC_FN(qcc_quantize_group)(a, x, k, padded, scale, codes, a->out.sums + m * groups + g);
            x += k;
            codes += padded;
        }
    }
}

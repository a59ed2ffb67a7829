/* Convolution and pooling on NCHW. */

/* Output columns [lo, hi) whose tap at kernel column j is inside the input. */
QCC_HELPER void QCC_FN(qcc_tap_range)(const qcc_conv2d *a, int64_t j, int64_t *lo, int64_t *hi) {
    const int64_t shift = j * a->dilation_w - a->pad_left; /* iw = ow * stride + shift */
    *lo = shift >= 0 ? 0 : qcc_ceil_div(-shift, a->stride_w);
    const int64_t last = a->in_w - 1 - shift;
    *hi = last < 0 ? 0 : qcc_min64(a->out_w, last / a->stride_w + 1);
}

/* Input values under tap (i, j) for output pixels [p0, p0 + count), row by row of the output. */
QCC_HELPER void QCC_FN(qcc_unfold_pixels)(const qcc_conv2d *a, const float *x, int64_t i, int64_t j, int64_t p0,
                                          int64_t count, float *dst) {
    const int64_t shift = j * a->dilation_w - a->pad_left;
    int64_t lo, hi, oh = p0 / a->out_w, ow = p0 % a->out_w;
    QCC_FN(qcc_tap_range)(a, j, &lo, &hi);
    while (count > 0) {
        const int64_t stop = qcc_min64(a->out_w, ow + count), ih = oh * a->stride_h - a->pad_top + i * a->dilation_h;
        const int inside = ih >= 0 && ih < a->in_h;
        const float *row = x + (inside ? ih * a->in_w : 0);
        int64_t c = ow;
        for (; c < stop && (!inside || c < lo); c++) *dst++ = 0.0f;
        const int64_t end = qcc_min64(stop, hi);
        if (a->stride_w == 1)
            for (; c < end; c++) *dst++ = row[c + shift];
        for (; c < end; c++) *dst++ = row[c * a->stride_w + shift];
        for (; c < stop; c++) *dst++ = 0.0f;
        count -= stop - ow;
        ow = 0;
        oh++;
    }
}

/* Two panels [k][16] of unfolded pixels, k = (channel, kernel row, kernel column). */
QCC_HELPER void QCC_FN(qcc_unfold_panels)(const qcc_conv2d *a, const float *x, int64_t p0, int64_t count,
                                          float *panel) {
    const int64_t channels = a->in_channels / a->groups, taps = a->kernel_h * a->kernel_w;
    if (count < QCC_TILE_N) memset(panel, 0, (size_t)(channels * taps * QCC_TILE_N) * sizeof *panel);
    for (int64_t half = 0; half * 16 < count; half++) {
        float *dst = panel + half * 16 * channels * taps;
        for (int64_t c = 0; c < channels; c++)
            for (int64_t i = 0; i < a->kernel_h; i++)
                for (int64_t j = 0; j < a->kernel_w; j++, dst += 16)
                    QCC_FN(qcc_unfold_pixels)(a, x + c * a->in_h * a->in_w, i, j, p0 + half * 16,
                                              qcc_min64(16, count - half * 16), dst);
    }
}

/* One tile of 32 pixels, all output channels of one group. */
QCC_HELPER void QCC_FN(qcc_conv_tile)(const qcc_conv2d *a, int64_t b, int64_t g, int64_t p0, float *panel) {
    const int64_t pixels = a->out_h * a->out_w, count = qcc_min64(QCC_TILE_N, pixels - p0);
    const int64_t in = a->in_channels / a->groups, out_channels = a->out_channels / a->groups;
    const int64_t k = in * a->kernel_h * a->kernel_w;
    float out[QCC_GEMM_ROWS * QCC_TILE_N];
    QCC_FN(qcc_unfold_panels)(a, a->x + (b * a->in_channels + g * in) * a->in_h * a->in_w, p0, count, panel);
    for (int64_t c = 0; c < out_channels; c += QCC_GEMM_ROWS) {
        const int64_t rows = qcc_min64(QCC_GEMM_ROWS, out_channels - c), channel = g * out_channels + c;
        QCC_FN(qcc_gemm)(a->w + channel * k, k, panel, panel + 16 * k, 16, k, out, rows, count, 0);
        for (int64_t r = 0; r < rows; r++) {
            const float bias = a->bias ? a->bias[channel + r] : 0.0f;
            float *tile = out + r * QCC_TILE_N;
            for (int j = 0; j < QCC_TILE_N; j++) tile[j] += bias;
            if (a->activation != QCC_ACT_NONE) QCC_FN(qcc_unary_span)(a->activation, tile, tile, count, 0.0f, 0.0f);
            memcpy(a->y + (b * a->out_channels + channel + r) * pixels + p0, tile, (size_t)count * sizeof *tile);
        }
    }
}

/* One channel of a depthwise convolution: rows of taps added to rows of output. */
QCC_HELPER void QCC_FN(qcc_conv_channel)(const qcc_conv2d *a, const float *x, const float *w, float bias, float *y) {
    for (int64_t oh = 0; oh < a->out_h; oh++) {
        float *row = y + oh * a->out_w;
        for (int64_t ow = 0; ow < a->out_w; ow++) row[ow] = bias;
        for (int64_t i = 0; i < a->kernel_h; i++) {
            const int64_t ih = oh * a->stride_h - a->pad_top + i * a->dilation_h;
            if (ih < 0 || ih >= a->in_h) continue;
            for (int64_t j = 0; j < a->kernel_w; j++) {
                const float tap = w[i * a->kernel_w + j], *source = x + ih * a->in_w;
                const int64_t shift = j * a->dilation_w - a->pad_left;
                int64_t lo, hi;
                QCC_FN(qcc_tap_range)(a, j, &lo, &hi);
                if (a->stride_w == 1) {
                    QCC_IVDEP for (int64_t ow = lo; ow < hi; ow++) row[ow] = QCC_FMA(tap, source[ow + shift], row[ow]);
                } else {
                    for (int64_t ow = lo; ow < hi; ow++)
                        row[ow] = QCC_FMA(tap, source[ow * a->stride_w + shift], row[ow]);
                }
            }
        }
        if (a->activation != QCC_ACT_NONE) QCC_FN(qcc_unary_span)(a->activation, row, row, a->out_w, 0.0f, 0.0f);
    }
}

QCC_KERNEL_FN QCC_FN(qcc_k_conv2d)(const qcc_conv2d *a, int64_t begin, int64_t end, void *scratch) {
    const int64_t tiles = qcc_ceil_div(a->out_h * a->out_w, QCC_TILE_N), taps = a->kernel_h * a->kernel_w;
    for (int64_t u = begin; u < end; u++) {
        if (qcc_conv2d_depthwise(a)) {
            const int64_t c = u % a->out_channels;
            QCC_FN(qcc_conv_channel)(a, a->x + u * a->in_h * a->in_w, a->w + c * taps, a->bias ? a->bias[c] : 0.0f,
                                     a->y + u * a->out_h * a->out_w);
        } else {
            QCC_FN(qcc_conv_tile)(a, u / tiles / a->groups, u / tiles % a->groups, u % tiles * QCC_TILE_N, scratch);
        }
    }
}

QCC_KERNEL_FN QCC_FN(qcc_k_unfold)(const qcc_unfold *a, int64_t begin, int64_t end, void *scratch) {
    const qcc_conv2d *c = &a->conv;
    const int64_t in = c->in_channels / c->groups, pixels = c->out_h * c->out_w;
    (void)scratch;
    for (int64_t u = begin; u < end; u++) {
        const float *x = c->x + (u / pixels * c->in_channels + a->group_index * in) * c->in_h * c->in_w;
        float *row = a->rows + u * a->row_stride;
        for (int64_t k = 0; k < in; k++, x += c->in_h * c->in_w)
            for (int64_t i = 0; i < c->kernel_h; i++)
                for (int64_t j = 0; j < c->kernel_w; j++, row++)
                    QCC_FN(qcc_unfold_pixels)(c, x, i, j, u % pixels, 1, row);
    }
}

/* One pooled value; the window is cut at the input. */
QCC_HELPER float QCC_FN(qcc_pool_one)(const qcc_pool2d *a, const float *x, int64_t oh, int64_t ow) {
    const int64_t h0 = oh * a->stride_h - a->pad_top, w0 = ow * a->stride_w - a->pad_left;
    float best = -INFINITY, sum = 0.0f;
    int64_t count = 0, window = 0;
    for (int64_t i = 0; i < a->kernel_h; i++)
        for (int64_t j = 0; j < a->kernel_w; j++) {
            const int64_t ih = h0 + i * a->dilation_h, iw = w0 + j * a->dilation_w;
            window += ih < a->in_h + a->pad_bottom && iw < a->in_w + a->pad_right;
            if (ih < 0 || ih >= a->in_h || iw < 0 || iw >= a->in_w) continue;
            const float v = x[ih * a->in_w + iw];
            best = QCC_FN(qcc_max)(v, best);
            sum += v;
            count++;
        }
    if (!a->average) return best;
    return sum / (float)(a->count_pad ? window : count);
}

QCC_KERNEL_FN QCC_FN(qcc_k_pool2d)(const qcc_pool2d *a, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    for (int64_t u = begin; u < end; u++)
        for (int64_t oh = 0; oh < a->out_h; oh++)
            for (int64_t ow = 0; ow < a->out_w; ow++)
                a->y[(u * a->out_h + oh) * a->out_w + ow] =
                    QCC_FN(qcc_pool_one)(a, a->x + u * a->in_h * a->in_w, oh, ow);
}

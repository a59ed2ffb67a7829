/* Quantized KV caches: ranges, codes, and what codes stand for. */

/* Codes c to c + QCC_VL of a packed row, at a byte's border, as codes without offset. */
#if QCC_ISA == QCC_ISA_AVX512
#define QCC_BYTE(i) ((c + (i)) * bits >> 3)
#define QCC_CODE(i) ((int)(0x80800000u | (unsigned)QCC_BYTE(i) | (unsigned)(QCC_BYTE(i) < 15 ? QCC_BYTE(i) + 1 : 0x80) << 8))
#define QCC_SHIFT(i) ((i) * bits & 7)
#define QCC_SIXTEEN(f) \
    _mm512_setr_epi32(f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7), f(8), f(9), f(10), f(11), f(12), f(13), f(14), f(15))
/* Codes c to c + 16 (in bytes 0 to 16 of each quarter of `word`), one to each lane, with bits of the next ones above. */
QCC_HELPER __m512i QCC_FN(qcc_cache_lanes)(__m512i word, const int c, const int bits) {
    return _mm512_srlv_epi32(_mm512_shuffle_epi8(word, QCC_SIXTEEN(QCC_CODE)), QCC_SIXTEEN(QCC_SHIFT));
}
QCC_HELPER __m512i QCC_FN(qcc_cache_spread)(const uint8_t *row, int64_t c, const int bits) {
    const uint8_t *p = row + (c * bits >> 3);
    if (bits == 8) return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
    const int64_t low = (int64_t)qcc_cache_word(p, bits > 4 ? 8 : 2 * bits);
    const int64_t high = bits > 4 ? (int64_t)qcc_cache_word(p + 8, 2 * bits - 8) : 0;
    const __m512i word = _mm512_broadcast_i32x4(bits > 4 ? _mm_set_epi64x(high, low) : _mm_cvtsi64_si128(low));
    return QCC_FN(qcc_cache_lanes)(word, 0, bits);
}
/* What lanes whose low four bits are a code stand for, at most 4 bits wide. */
QCC_HELPER __m512 QCC_FN(qcc_cache_values)(const int bits, int32_t offset) {
    const __m512i all = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i codes = _mm512_and_si512(all, _mm512_set1_epi32((1 << bits) - 1));
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(codes, _mm512_set1_epi32(offset)));
}
QCC_HELPER QCC_V QCC_FN(qcc_cache_codes)(const uint8_t *row, int64_t c, const int bits, int32_t offset) {
    const __m512i code = QCC_FN(qcc_cache_spread)(row, c, bits);
    if (bits <= 4) return _mm512_permutexvar_ps(code, QCC_FN(qcc_cache_values)(bits, offset));
    const __m512i plain = _mm512_and_si512(code, _mm512_set1_epi32((1 << bits) - 1));
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(plain, _mm512_set1_epi32(offset)));
}
/* Codes of 16 bytes, looked up. */
#define QCC_CACHE_LINE(bits) (128 / (bits))
QCC_HELPER void QCC_FN(qcc_cache_look_up)(const uint8_t *p, const int bits, __m512 values, __m512 *out) {
    const __m512i word = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)p));
    for (int i = 0; i < QCC_CACHE_LINE(bits) / 16; i++)
        out[i] = _mm512_permutexvar_ps(QCC_FN(qcc_cache_lanes)(word, 16 * i, bits), values);
}
#undef QCC_SIXTEEN
#elif QCC_ISA == QCC_ISA_AVX2
#define QCC_CODE(i) \
    ((int)(0x80800000u | (unsigned)((i) * bits >> 3) | (unsigned)(((i) * bits >> 3) + 1) << 8))
#define QCC_SHIFT(i) ((i) * bits & 7)
#define QCC_EIGHT(f) _mm256_setr_epi32(f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7))
QCC_HELPER QCC_V QCC_FN(qcc_cache_codes)(const uint8_t *row, int64_t c, const int bits, int32_t offset) {
    const uint8_t *p = row + (c * bits >> 3);
    const __m128i word = _mm_cvtsi64_si128((int64_t)qcc_cache_word(p, bits));
    __m256i code = _mm256_cvtepu8_epi32(word);
    if (bits < 8) {
        code = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(word), QCC_EIGHT(QCC_CODE));
        code = _mm256_and_si256(_mm256_srlv_epi32(code, QCC_EIGHT(QCC_SHIFT)), _mm256_set1_epi32((1 << bits) - 1));
    }
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(code, _mm256_set1_epi32(offset)));
}
#undef QCC_EIGHT
#else
QCC_HELPER QCC_V QCC_FN(qcc_cache_codes)(const uint8_t *row, int64_t c, const int bits, int32_t offset) {
    float v[QCC_VL];
    for (int i = 0; i < QCC_VL; i++) v[i] = (float)((int32_t)qcc_cache_get(row, c + i, bits) - offset);
    return QCC_V_LOAD(v);
}
#endif
#undef QCC_BYTE
#undef QCC_CODE
#undef QCC_SHIFT

/* Channels [c, c + n) of a row, whose blocks are wide: one scale and zero for all. c starts a byte. */
QCC_HELPER void QCC_FN(qcc_cache_decode_wide)(const uint8_t *row, int64_t c, int64_t n, const int bits, int32_t offset,
                                              qcc_cache_step s, float *y) {
    const QCC_V scale = QCC_V_SET(s.scale), zero = QCC_V_SET(s.zero);
    int64_t i = 0;
#if QCC_ISA == QCC_ISA_AVX512
    if (bits <= 4) { /* all values that there are, looked up */
        const __m512 values = QCC_FN(qcc_cache_values)(bits, offset) * scale + zero;
        for (__m512 v[4]; 16 % bits == 0 && i + QCC_CACHE_LINE(bits) <= n; i += QCC_CACHE_LINE(bits)) {
            QCC_FN(qcc_cache_look_up)(row + ((c + i) * bits >> 3), bits, values, v);
            for (int part = 0; part < QCC_CACHE_LINE(bits) / 16; part++) _mm512_storeu_ps(y + c + i + 16 * part, v[part]);
        }
        for (; i + 16 <= n; i += 16)
            _mm512_storeu_ps(y + c + i, _mm512_permutexvar_ps(QCC_FN(qcc_cache_spread)(row, c + i, bits), values));
    }
#endif
    for (; i + QCC_VL <= n; i += QCC_VL)
        QCC_V_STORE(y + c + i, QCC_FN(qcc_cache_codes)(row, c + i, bits, offset) * scale + zero);
    for (; i < n; i++) y[c + i] = s.scale * (float)((int32_t)qcc_cache_get(row, c + i, bits) - offset) + s.zero;
}

/* Channels [c, c + n) of a row, each with its scale and zero. */
QCC_HELPER void QCC_FN(qcc_cache_decode_each)(const uint8_t *row, int64_t c, int64_t n, const int bits, int32_t offset,
                                              const float *scale, const float *zero, float *y) {
    int64_t i = 0;
#if QCC_ISA == QCC_ISA_AVX512
    const __m512 values = QCC_FN(qcc_cache_values)(bits <= 4 ? bits : 4, offset);
    for (__m512 v[4]; bits <= 4 && 16 % bits == 0 && i + QCC_CACHE_LINE(bits) <= n; i += QCC_CACHE_LINE(bits)) {
        QCC_FN(qcc_cache_look_up)(row + ((c + i) * bits >> 3), bits, values, v);
        for (int64_t part = 0; part < QCC_CACHE_LINE(bits); part += 16)
            _mm512_storeu_ps(y + c + i + part, v[part / 16] * _mm512_loadu_ps(scale + i + part) +
                                                   _mm512_loadu_ps(zero + i + part));
    }
#endif
    for (; i + QCC_VL <= n; i += QCC_VL)
        QCC_V_STORE(y + c + i, QCC_FN(qcc_cache_codes)(row, c + i, bits, offset) * QCC_V_LOAD(scale + i) +
                                   QCC_V_LOAD(zero + i));
    for (; i < n; i++) y[c + i] = scale[i] * (float)((int32_t)qcc_cache_get(row, c + i, bits) - offset) + zero[i];
}

/* Parameters [at, at + n) of a part as floats, zeros where there is none. */
QCC_HELPER void QCC_FN(qcc_cache_parameters)(const qcc_cache_format *f, const void *part, int64_t at, int64_t n,
                                             float *out) {
    if (!part) {
        memset(out, 0, (size_t)n * sizeof *out);
    } else if (f->half) {
        const uint16_t *p = (const uint16_t *)part + at;
        for (int64_t i = 0; i < n; i++) out[i] = qcc_f16_to_f32(p[i]);
    } else {
        memcpy(out, (const float *)part + at, (size_t)n * sizeof *out);
    }
}

/* Scale and zero of each of channels [c, c + n) of the group of token t. */
static QCC_TARGET void QCC_FN(qcc_cache_channels)(const qcc_cache_head *h, int64_t t, int64_t c, int64_t n, float *scale,
                                           float *zero) {
    const qcc_cache_format *f = &h->c->format;
    const int64_t at = h->first_step + t / f->token_group * h->steps;
    const void *zeros = f->has_zero ? h->c->zero : NULL;
    if (f->channel_group == 1) {
        QCC_FN(qcc_cache_parameters)(f, h->c->scale, at + c, n, scale);
        QCC_FN(qcc_cache_parameters)(f, zeros, at + c, n, zero);
        return;
    }
    for (int64_t i = 0; i < n;) {
        const int64_t j = (c + i) / f->channel_group, end = qcc_min64(n, (j + 1) * f->channel_group - c);
        const float s = qcc_cache_load(f, h->c->scale, at + j), z = zeros ? qcc_cache_load(f, zeros, at + j) : 0.0f;
        for (; i < end; i++) scale[i] = s, zero[i] = z;
    }
}

/* Ask for the codes that a later call decodes. */
QCC_HELPER void QCC_FN(qcc_cache_ahead)(const uint8_t *codes, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) QCC_PREFETCH(codes + i);
}

QCC_HELPER float QCC_FN(qcc_cache_one)(const qcc_cache_format *f, const void *part, int64_t i) {
#if QCC_ISA != QCC_ISA_PORTABLE
    if (f->half) return _cvtsh_ss(((const uint16_t *)part)[i]);
#endif
    return qcc_cache_load(f, part, i);
}

/* What the codes of tokens [t0, t1) stand for; a zero of 0 where there is none changes no bit. */
QCC_HELPER void QCC_FN(qcc_cache_decode_bits)(const qcc_cache_head *h, int64_t t0, int64_t t1, float *y, int64_t stride,
                                              const int bits) {
    const qcc_cache_format *f = &h->c->format;
    const int32_t offset = qcc_cache_limits_of(f).offset;
    const int64_t dim = h->c->dim, group = f->channel_group;
    if (group >= dim || group % 16 == 0) {
        int64_t at = h->first_step + t0 / f->token_group * h->steps, left = f->token_group - t0 % f->token_group;
        const uint8_t *row = h->codes + t0 * h->row_bytes;
        for (int64_t t = t0; t < t1; t++, row += h->row_bytes, y += stride) {
            QCC_FN(qcc_cache_ahead)(row, h->row_bytes);
            for (int64_t j = 0, c = 0; c < dim; j++, c += group) {
                const qcc_cache_step s = {QCC_FN(qcc_cache_one)(f, h->c->scale, at + j),
                                          f->has_zero ? QCC_FN(qcc_cache_one)(f, h->c->zero, at + j) : 0.0f};
                QCC_FN(qcc_cache_decode_wide)(row, c, qcc_min64(group, dim - c), bits, offset, s, y);
            }
            if (--left == 0) at += h->steps, left = f->token_group;
        }
        return;
    }
    float scale[QCC_CACHE_SPAN], zero[QCC_CACHE_SPAN];
    for (int64_t c = 0; c < dim; c += QCC_CACHE_SPAN) {
        const int64_t n = qcc_min64(QCC_CACHE_SPAN, dim - c);
        for (int64_t t = t0; t < t1; t++) {
            QCC_FN(qcc_cache_ahead)(h->codes + t * h->row_bytes + (c * bits >> 3), n * bits >> 3);
            if (t == t0 || t % f->token_group == 0) QCC_FN(qcc_cache_channels)(h, t, c, n, scale, zero);
            QCC_FN(qcc_cache_decode_each)(h->codes + t * h->row_bytes, c, n, bits, offset, scale, zero,
                                          y + (t - t0) * stride);
        }
    }
}

static QCC_TARGET void QCC_FN(qcc_cache_decode)(const qcc_cache_head *h, int64_t t0, int64_t t1, float *y,
                                                int64_t stride) {
    switch (h->c->format.bits) { /* a constant width leaves only its own instructions */
    case 2: QCC_FN(qcc_cache_decode_bits)(h, t0, t1, y, stride, 2); break;
    case 4: QCC_FN(qcc_cache_decode_bits)(h, t0, t1, y, stride, 4); break;
    case 8: QCC_FN(qcc_cache_decode_bits)(h, t0, t1, y, stride, 8); break;
    default: QCC_FN(qcc_cache_decode_bits)(h, t0, t1, y, stride, h->c->format.bits); break;
    }
}

/* What a cache of `length` tokens reads at tokens [t0, t1): rows `stride` apart. */
static QCC_TARGET void QCC_FN(qcc_cache_rows)(const qcc_cache_head *h, int64_t length, int64_t t0, int64_t t1, float *y,
                                       int64_t stride) {
    const qcc_cache_parts *c = h->c;
    const int64_t done = qcc_settled(&c->format, length), last = qcc_min64(t1, done);
    const size_t bytes = (size_t)c->dim * sizeof(float);
    if (t0 < last) QCC_FN(qcc_cache_decode)(h, t0, last, y, stride);
    for (int64_t t = t0 > done ? t0 : done; t < t1; t++) {
        if (t < length) memcpy(y + (t - t0) * stride, h->recent + t % c->ring * c->dim, bytes);
        else memset(y + (t - t0) * stride, 0, bytes);
    }
}

QCC_KERNEL_FN QCC_FN(qcc_k_cache_read)(const qcc_cache_read *a, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    const qcc_cache_parts *c = &a->cache;
    if (!qcc_cache_span(a->positions, a->count, c->tokens)) {
        *a->status = 1;
        return;
    }
    for (int64_t u = begin; u < end;) {
        const qcc_cache_head h = qcc_cache_head_of(c, u / c->tokens);
        const int64_t t = u % c->tokens, n = qcc_min64(end - u, c->tokens - t);
        QCC_FN(qcc_cache_rows)(&h, a->positions[0] + a->count, t, t + n, a->y + u * c->dim, c->dim);
        u += n;
    }
}

/* ---- Writing ---------------------------------------------------------------------------------- */

/* Widen n ranges by an element each; NaN wins. */
QCC_HELPER void QCC_FN(qcc_cache_widen)(const float *x, int64_t n, int magnitudes, float *low, float *high) {
    for (int64_t i = 0; i < n; i++) {
        const float v = magnitudes ? fabsf(x[i]) : x[i];
        const float least = low[i] != low[i] ? low[i] : v, most = high[i] != high[i] ? high[i] : v;
        low[i] = v >= low[i] ? low[i] : least;
        high[i] = v <= high[i] ? high[i] : most;
    }
}

/* The code of an element, with offset. */
QCC_HELPER float QCC_FN(qcc_cache_code)(float x, float divisor, float zero, qcc_cache_limits m) {
    const float r = rintf((x - zero) / divisor), above = r < m.least ? m.least : r;
    return above != above ? 0.0f : above > m.most ? m.most : above;
}

/* Blocks whose parameters are found and used together: all channels of one wide block, or up to QCC_CACHE_SPAN blocks
 * of one channel each. */
typedef struct {
    int64_t c, n;    /* channels */
    int64_t lanes;   /* ranges that are kept: one a channel, or up to 16 of a wide block */
    int64_t steps;   /* blocks */
    float scale[QCC_CACHE_SPAN], divisor[QCC_CACHE_SPAN], zero[QCC_CACHE_SPAN]; /* of channel c + i % QCC_CACHE_SPAN */
} QCC_FN(qcc_cache_blocks);

QCC_HELPER void QCC_FN(qcc_cache_blocks_at)(const qcc_cache_format *f, int64_t dim, int64_t c,
                                            QCC_FN(qcc_cache_blocks) * b) {
    const int each = f->channel_group == 1;
    b->c = c;
    b->n = qcc_min64(each ? QCC_CACHE_SPAN : f->channel_group, dim - c);
    b->lanes = each ? b->n : qcc_min64(b->n, 16);
    b->steps = each ? b->n : 1;
}

/* Find scales and zeros from tokens [t0, t1). */
static QCC_TARGET void QCC_FN(qcc_cache_fit)(const qcc_cache_format *f, const qcc_cache_tokens *r, int64_t t0, int64_t t1,
                                      QCC_FN(qcc_cache_blocks) * b) {
    float low[QCC_CACHE_SPAN], high[QCC_CACHE_SPAN];
    for (int64_t i = 0; i < b->lanes; i++) low[i] = INFINITY, high[i] = f->has_zero ? -INFINITY : 0.0f;
    for (int64_t t = t0; t < t1; t++) {
        const float *x = qcc_cache_token(r, t) + b->c;
        for (int64_t i = 0; i < b->n; i += b->lanes)
            QCC_FN(qcc_cache_widen)(x + i, qcc_min64(b->lanes, b->n - i), !f->has_zero, low, high);
    }
    for (int64_t i = b->steps; i < b->lanes; i++) { /* one range of a wide block's lanes */
        QCC_FN(qcc_cache_widen)(low + i, 1, 0, low, high);
        QCC_FN(qcc_cache_widen)(high + i, 1, 0, low, high);
    }
    for (int64_t i = 0; i < b->steps; i++) {
        const qcc_cache_step s = qcc_cache_step_of(f, low[i], high[i]);
        b->scale[i] = s.scale;
        b->zero[i] = s.zero;
    }
    for (int64_t i = b->steps; i < qcc_min64(b->n, QCC_CACHE_SPAN); i++)
        b->scale[i] = b->scale[0], b->zero[i] = b->zero[0];
    for (int64_t i = 0; i < qcc_min64(b->n, QCC_CACHE_SPAN); i++)
        b->divisor[i] = b->scale[i] == 0.0f ? INFINITY : b->scale[i];
}

/* Encode the tokens of one group from t on. */
QCC_HELPER void QCC_FN(qcc_cache_settle)(const qcc_cache_append *a, const qcc_cache_head *h, const qcc_cache_tokens *r,
                                         int64_t t) {
    const qcc_cache_format *f = &a->cache.format;
    const qcc_cache_limits m = qcc_cache_limits_of(f);
    const int64_t first = h->first_step + t / f->token_group * h->steps;
    QCC_FN(qcc_cache_blocks) b;
    for (int64_t c = 0, j = 0; c < a->cache.dim; c += b.n, j += b.steps) {
        QCC_FN(qcc_cache_blocks_at)(f, a->cache.dim, c, &b);
        QCC_FN(qcc_cache_fit)(f, r, t, t + f->token_group, &b);
        for (int64_t i = 0; i < b.steps; i++) {
            qcc_cache_store(f, a->cache.scale, first + j + i, b.scale[i]);
            if (f->has_zero) qcc_cache_store(f, a->cache.zero, first + j + i, b.zero[i]);
        }
        for (int64_t i = t; i < t + f->token_group; i++)
            for (int64_t k = 0; k < b.n; k += QCC_CACHE_SPAN) {
                const float *x = qcc_cache_token(r, i) + c + k;
                const int64_t n = qcc_min64(QCC_CACHE_SPAN, b.n - k);
                uint8_t codes[QCC_CACHE_SPAN];
                for (int64_t l = 0; l < n; l++)
                    codes[l] = (uint8_t)((int32_t)QCC_FN(qcc_cache_code)(x[l], b.divisor[l], b.zero[l], m) + m.offset);
                qcc_cache_pack(h->codes + i * h->row_bytes, c + k, codes, n, f->bits);
            }
    }
}

QCC_KERNEL_FN QCC_FN(qcc_k_cache_append)(const qcc_cache_append *a, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    const qcc_cache_parts *c = &a->cache;
    if (!qcc_cache_span(a->positions, a->count, c->tokens)) {
        *a->status = 1;
        return;
    }
    const int64_t first = a->positions[0], length = first + a->count, group = c->format.token_group;
    for (int64_t u = begin; u < end; u++) {
        const qcc_cache_head h = qcc_cache_head_of(c, u);
        const float *rows = a->rows + u / a->heads * a->row_stride[0] + u % a->heads * a->row_stride[1];
        const qcc_cache_tokens r = {rows, h.recent, first, a->row_stride[2], c->ring, c->dim};
        for (int64_t t = qcc_settled(&c->format, first); t < qcc_settled(&c->format, length); t += group)
            QCC_FN(qcc_cache_settle)(a, &h, &r, t);
        if (!h.recent) continue;
        for (int64_t t = first > length - c->ring ? first : length - c->ring; t < length; t++)
            memcpy(h.recent + t % c->ring * c->dim, rows + (t - first) * r.stride, (size_t)c->dim * sizeof(float));
    }
}

QCC_KERNEL_FN QCC_FN(qcc_k_cache_round)(const qcc_cache_round *a, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    const qcc_cache_format *f = &a->format;
    const qcc_cache_limits m = qcc_cache_limits_of(f);
    const int64_t groups = qcc_ceil_div(a->tokens, f->token_group), done = qcc_settled(f, a->tokens);
    QCC_FN(qcc_cache_blocks) b;
    for (int64_t u = begin; u < end; u++) {
        const int64_t head = u / groups, t0 = u % groups * f->token_group, t1 = qcc_min64(a->tokens, t0 + f->token_group);
        const float *x = a->x + head / a->heads * a->x_stride[0] + head % a->heads * a->x_stride[1];
        const qcc_cache_tokens r = {x, NULL, 0, a->x_stride[2], 0, a->dim};
        float *y = a->y + head * a->tokens * a->dim;
        for (int64_t t = t0; t0 >= done && t < t1; t++)
            memcpy(y + t * a->dim, qcc_cache_token(&r, t), (size_t)a->dim * sizeof(float));
        for (int64_t c = 0; t0 < done && c < a->dim; c += b.n) {
            QCC_FN(qcc_cache_blocks_at)(f, a->dim, c, &b);
            QCC_FN(qcc_cache_fit)(f, &r, t0, t1, &b);
            for (int64_t t = t0; t < t1; t++)
                for (int64_t k = 0; k < b.n; k++) {
                    const int64_t i = k % QCC_CACHE_SPAN;
                    const float code = QCC_FN(qcc_cache_code)(qcc_cache_token(&r, t)[c + k], b.divisor[i], b.zero[i], m);
                    y[t * a->dim + c + k] = b.scale[i] * code + b.zero[i];
                }
        }
    }
}

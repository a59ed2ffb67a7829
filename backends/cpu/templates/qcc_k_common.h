/* Helpers that need no particular instruction set. */
#define QCC_INLINE static inline __attribute__((always_inline))

QCC_INLINE int64_t qcc_min64(int64_t a, int64_t b) { return a < b ? a : b; }

QCC_INLINE uint32_t qcc_bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}
QCC_INLINE float qcc_float_of(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

QCC_INLINE uint64_t qcc_load_word(const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
QCC_INLINE void qcc_store_word(uint8_t *p, uint64_t v) { memcpy(p, &v, sizeof v); }

/* IEEE binary16 to binary32, exact (NaN stays NaN). */
QCC_INLINE float qcc_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, rest = h & 0x7fffu;
    if (rest >= 0x7c00u) return qcc_float_of(sign | 0x7f800000u | ((rest & 0x3ffu) << 13));
    /* Below infinity: rebias by a power of two, which also normalises subnormals. */
    return qcc_float_of(sign | qcc_bits_of(qcc_float_of(rest << 13) * 0x1p112f));
}

/* binary32 to binary16, round to nearest even. */
QCC_INLINE uint16_t qcc_f32_to_f16(float x) {
    uint32_t u = qcc_bits_of(x), sign = (u >> 16) & 0x8000u;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (u >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);
    if (u < 0x38800000u) { /* subnormal: let float addition round at the right bit */
        float shifted = qcc_float_of(u) + 0.5f;
        return (uint16_t)(sign | (qcc_bits_of(shifted) - 0x3f000000u));
    }
    u += 0xfffu + ((u >> 13) & 1u);
    return (uint16_t)(sign | ((u - 0x38000000u) >> 13));
}

QCC_INLINE float qcc_bf16_to_f32(uint16_t h) { return qcc_float_of((uint32_t)h << 16); }

QCC_INLINE uint16_t qcc_f32_to_bf16(float x) {
    uint32_t u = qcc_bits_of(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

/* Chunks of group g, and the chunk it starts at. */
QCC_INLINE int64_t qcc_group_chunks(int64_t k, int64_t group, int64_t g) {
    return qcc_ceil_div(qcc_min64(group, k - g * group), QCC_CHUNK);
}

/* Bytes of one block of 16 rows. */
QCC_INLINE int64_t qcc_block_bytes(const qcc_qweight *w) {
    return qcc_padded_k(w->k, w->group) / QCC_CHUNK * w->bits * 64;
}

/* Elementwise loops may run in place: tell the vectoriser that equal pointers are no dependence. (clang's
 * counterpart warns about every loop that calls libm; its run-time check is good enough.) */
#if defined(__clang__)
#define QCC_IVDEP
#else
#define QCC_IVDEP _Pragma("GCC ivdep")
#endif

/* Ask for weights that a row of the product will read 8 KB later. Hardware starts anew at every page, and reads ahead
 * too little where tables or activations are read between the weights. */
#define QCC_PREFETCH(p) __builtin_prefetch((const void *)((uintptr_t)(p) + 8192))

#define QCC_SPAN 256 /* elements staged at a time for strided operands */

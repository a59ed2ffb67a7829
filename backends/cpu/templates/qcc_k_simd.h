/* What differs between instruction sets: target attribute, vector type, tile sizes.
 *
 * QCC_FN(name) is the name of a function in this variant; QCC_HELPER starts an inlined helper and
 * QCC_KERNEL_FN an entry of the table. Plain loops are left to the compiler's vectoriser under the
 * variant's target; QCC_V_* is a float vector of QCC_VL lanes for the matrix kernels, QCC_W_* a vector of
 * packed codes (shifts may carry bits between bytes: mask afterwards). */

#if QCC_ISA == QCC_ISA_AVX512
#define QCC_FN(name) name##_avx512vnni
#define QCC_ISA_NAME "avx512vnni"
#if defined(__clang__)
#define QCC_TARGET __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))
#else
#define QCC_TARGET \
    __attribute__((target( \
        "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,prefer-vector-width=512")))
#endif
#define QCC_FMA(a, b, c) __builtin_fmaf(a, b, c)
#define QCC_VL 16
#define QCC_V __m512
#define QCC_V_LOAD(p) _mm512_loadu_ps(p)
#define QCC_V_STORE(p, v) _mm512_storeu_ps(p, v)
#define QCC_V_SET(x) _mm512_set1_ps(x)
#define QCC_V_ZERO() _mm512_setzero_ps()
#define QCC_V_FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define QCC_V_MAX(a, b) _mm512_max_ps(a, b)
#define QCC_W __m512i
#define QCC_W_BYTES 64
#define QCC_W_LOAD(p) _mm512_loadu_si512(p)
#define QCC_W_STORE(p, v) _mm512_storeu_si512(p, v)
#define QCC_W_AND(v, mask) _mm512_and_si512(v, _mm512_set1_epi8(mask))
#define QCC_W_OR(a, b) _mm512_or_si512(a, b)
#define QCC_W_SHR(v, n) _mm512_srli_epi16(v, (unsigned)(n))
#define QCC_W_SHL(v, n) _mm512_slli_epi16(v, (unsigned)(n))
#define QCC_GEMM_ROWS 12
#define QCC_GEMM_PANELS 2

#elif QCC_ISA == QCC_ISA_AVX2
#define QCC_FN(name) name##_avx2
#define QCC_ISA_NAME "avx2"
#define QCC_TARGET __attribute__((target("avx2,fma,f16c")))
#define QCC_FMA(a, b, c) __builtin_fmaf(a, b, c)
#define QCC_VL 8
#define QCC_V __m256
#define QCC_V_LOAD(p) _mm256_loadu_ps(p)
#define QCC_V_STORE(p, v) _mm256_storeu_ps(p, v)
#define QCC_V_SET(x) _mm256_set1_ps(x)
#define QCC_V_ZERO() _mm256_setzero_ps()
#define QCC_V_FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define QCC_V_MAX(a, b) _mm256_max_ps(a, b)
#define QCC_W __m256i
#define QCC_W_BYTES 32
#define QCC_W_LOAD(p) _mm256_loadu_si256((const __m256i *)(p))
#define QCC_W_STORE(p, v) _mm256_storeu_si256((__m256i *)(p), v)
#define QCC_W_AND(v, mask) _mm256_and_si256(v, _mm256_set1_epi8(mask))
#define QCC_W_OR(a, b) _mm256_or_si256(a, b)
#define QCC_W_SHR(v, n) _mm256_srli_epi16(v, n)
#define QCC_W_SHL(v, n) _mm256_slli_epi16(v, n)
#define QCC_GEMM_ROWS 6
#define QCC_GEMM_PANELS 1

#else
#define QCC_FN(name) name##_portable
#define QCC_ISA_NAME "portable"
#define QCC_TARGET
/* Without a hardware FMA, fmaf is a library call: round twice instead. */
#define QCC_FMA(a, b, c) ((a) * (b) + (c))
#define QCC_VL 4
#define QCC_V qcc_vector4
#define QCC_V_LOAD(p) (*(const qcc_vector4 *)(p))
#define QCC_V_STORE(p, v) (*(qcc_vector4 *)(p) = (v))
#define QCC_V_SET(x) ((qcc_vector4){(x), (x), (x), (x)})
#define QCC_V_ZERO() ((qcc_vector4){0.0f, 0.0f, 0.0f, 0.0f})
#define QCC_V_FMA(a, b, c) ((a) * (b) + (c))
#define QCC_V_MAX(a, b) qcc_vector4_max(a, b)
#define QCC_W uint64_t
#define QCC_W_BYTES 8
#define QCC_W_LOAD(p) qcc_load_word(p)
#define QCC_W_STORE(p, v) qcc_store_word(p, v)
#define QCC_W_AND(v, mask) ((v) & (0x0101010101010101ull * (mask)))
#define QCC_W_OR(a, b) ((a) | (b))
#define QCC_W_SHR(v, n) ((v) >> (n))
#define QCC_W_SHL(v, n) ((v) << (n))
#define QCC_GEMM_ROWS 3
#define QCC_GEMM_PANELS 1
typedef float qcc_vector4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t qcc_mask4 __attribute__((vector_size(16), aligned(4)));
static inline qcc_vector4 qcc_vector4_max(qcc_vector4 a, qcc_vector4 b) {
    const qcc_mask4 first = a > b;
    return (qcc_vector4)((first & (qcc_mask4)a) | (~first & (qcc_mask4)b));
}
#endif

#define QCC_HELPER static inline __attribute__((always_inline)) QCC_TARGET
#define QCC_KERNEL_FN static QCC_TARGET void

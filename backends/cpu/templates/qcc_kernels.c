/* One translation unit with every variant of the kernels, and the choice between them. */
#include "qcc_kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) || defined(__i386__)
#define QCC_X86 1
#include <immintrin.h>
#endif

/* Products and sums round one by one, whatever the build's flags; and no code here reads the exception
 * flags, which would keep gcc from vectorising a selection between two floats. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off", "no-trapping-math")
#endif

#include "qcc_k_common.h"
#include "qcc_k_walk.h"
#include "qcc_k_data.h"
#include "qcc_k_cache.h"
#include "qcc_k_integer.h"
#include "qcc_k_fixed.h"
#include "qcc_k_sparse.h"

#define QCC_ISA_PORTABLE 0
#define QCC_ISA_AVX2 1
#define QCC_ISA_AVX512 2

#define QCC_ISA QCC_ISA_PORTABLE
#include "qcc_k_isa.h"
#undef QCC_ISA

#ifdef QCC_X86
#define QCC_ISA QCC_ISA_AVX2
#include "qcc_k_isa.h"
#undef QCC_ISA

#define QCC_ISA QCC_ISA_AVX512
#include "qcc_k_isa.h"
#undef QCC_ISA
#endif

const qcc_kernels *qcc_select_kernels(void) {
    const char *wanted = getenv("QCC_ISA");
    const qcc_kernels *best = &qcc_kernels_portable;
    if (wanted && strcmp(wanted, "portable") == 0) return best;
#ifdef QCC_X86
    __builtin_cpu_init();
    /* Every processor with AVX2 and FMA also has F16C. */
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        best = &qcc_kernels_avx2;
        if (wanted && strcmp(wanted, "avx2") == 0) return best;
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
            __builtin_cpu_supports("avx512vnni"))
            best = &qcc_kernels_avx512vnni;
    }
#endif
    return best;
}

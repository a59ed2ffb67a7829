/* What the timing programs have in common: clocks, memory on large pages, random numbers, reading, medians. */
#ifndef MACHINE_H
#define MACHINE_H
#include "qcc_runtime.h"

#include <time.h>
#if defined(__x86_64__) || defined(__i386__)
#define X86 1
#include <immintrin.h>
#endif

#define BURST 0.004 /* seconds of one turn */
#define TURNS 2000

/* Time of this process on one thread, which other processes do not prolong; of the clock on several. */
static clockid_t used_clock = CLOCK_MONOTONIC;

static double now(void) {
    struct timespec t;
    clock_gettime(used_clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Memory on 2 MB pages where the system grants them. */
static void *memory(int64_t bytes) {
    const size_t page = (size_t)2 << 20, size = ((size_t)bytes + page) / page * page;
    void *p = aligned_alloc(page, size);
    if (!p) exit(3);
#ifdef MADV_HUGEPAGE
    madvise(p, size, MADV_HUGEPAGE);
#endif
    memset(p, 0, size);
    return p;
}

static uint64_t random_word(void) {
    static uint64_t s = 88172645463325252u;
    s ^= s << 13, s ^= s >> 7, s ^= s << 17;
    return s;
}

/* Numbers close to normal: the sum of 12 uniform ones. */
static float *numbers(int64_t count) {
    float *x = memory(count * 4);
    for (int64_t i = 0; i < count; i++) {
        int64_t sum = 0;
        for (int j = 0; j < 3; j++) {
            const uint64_t r = random_word();
            for (int part = 0; part < 64; part += 16) sum += (int64_t)(r >> part & 0xffff);
        }
        x[i] = (float)(sum - 12 * 32768) / 65536.0f;
    }
    return x;
}

#ifdef X86
/* Two streams, as the kernels read two blocks of rows. */
__attribute__((target("avx2"))) static uint64_t read_all(const uint8_t *p, int64_t bytes) {
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    const uint8_t *q = p + bytes / 2;
    for (int64_t i = 0; i < bytes / 2; i += 64) {
        a = _mm256_xor_si256(a, _mm256_load_si256((const __m256i *)(p + i)));
        b = _mm256_xor_si256(b, _mm256_load_si256((const __m256i *)(p + i + 32)));
        c = _mm256_xor_si256(c, _mm256_load_si256((const __m256i *)(q + i)));
        d = _mm256_xor_si256(d, _mm256_load_si256((const __m256i *)(q + i + 32)));
    }
    a = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
    return (uint64_t)_mm256_extract_epi64(a, 0);
}
#else
static uint64_t read_all(const uint8_t *p, int64_t bytes) {
    uint64_t s[8] = {0}, word;
    for (int64_t i = 0; i < bytes; i += 64)
        for (int j = 0; j < 8; j++) {
            memcpy(&word, p + i + 8 * j, sizeof word);
            s[j] ^= word;
        }
    return s[0] ^ s[1] ^ s[2] ^ s[3] ^ s[4] ^ s[5] ^ s[6] ^ s[7];
}
#endif

static volatile uint64_t sink;

/* GB/s of reading the next 64 MB of some data on all threads. */
static double reading(const uint8_t *data, int64_t bytes, int threads, int64_t turn) {
    const int64_t piece = (int64_t)64 << 20, part = piece / threads / 4096 * 4096;
    const uint8_t *at = data + turn % (bytes / piece) * piece;
    uint64_t found = 0;
    const double start = now();
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) reduction(^ : found)
#endif
    for (int i = 0; i < threads; i++) found ^= read_all(at + i * part, part);
    sink = found;
    return (double)(part * threads) / (now() - start) * 1e-9;
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int64_t count) {
    qsort(values, (size_t)count, sizeof *values, ascending);
    return values[count / 2];
}

#endif

/* Time the linear kernels on one core; prints one JSON object a line. Weights rotate over copies that
 * together exceed the caches when `cold` is set, so that a product with one row shows memory bandwidth. */
#define _GNU_SOURCE
#include "qcc_kernels.c"

#include <stdio.h>
#include <sys/mman.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Memory on 2 MB pages where the system grants them, filled with a pattern. */
static void *memory(int64_t bytes) {
    const size_t page = (size_t)2 << 20, size = ((size_t)bytes + page - 1) / page * page;
    uint8_t *p = aligned_alloc(page, size);
    if (!p) exit(3);
#ifdef MADV_HUGEPAGE
    madvise(p, size, MADV_HUGEPAGE);
#endif
    for (size_t i = 0; i < size; i++) p[i] = (uint8_t)(i * 2654435761u >> 24);
    return p;
}

static float *numbers(int64_t count) {
    float *x = memory(count * 4);
    for (int64_t i = 0; i < count; i++) x[i] = (float)((i * 7919) % 1000) / 500.0f - 1.0f;
    return x;
}

#ifdef QCC_X86
#define DP(n) "vpdpbusd %%zmm31, %%zmm31, %%zmm" #n "\n\t"
/* Gop/s of 16 independent chains. */
__attribute__((target("avx512f,avx512vnni"))) static double vnni_peak(void) {
    double best = 1e9;
    for (int r = 0; r < 15; r++) {
        const double t = now();
        for (int i = 0; i < 1000000; i++)
            __asm__ volatile(DP(0) DP(1) DP(2) DP(3) DP(4) DP(5) DP(6) DP(7) DP(8) DP(9) DP(10) DP(11) DP(12) DP(13)
                                 DP(14) DP(15)::
                                     : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                                       "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
        const double seconds = now() - t;
        best = seconds < best ? seconds : best;
    }
    return 16e6 * 128 / best * 1e-9;
}

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
    uint64_t s[8] = {0};
    for (int64_t i = 0; i < bytes; i += 64)
        for (int j = 0; j < 8; j++) s[j] ^= qcc_load_word(p + i + 8 * j);
    return s[0] ^ s[1] ^ s[2] ^ s[3] ^ s[4] ^ s[5] ^ s[6] ^ s[7];
}
#endif

static double read_bandwidth(void) {
    const int64_t bytes = (int64_t)256 << 20;
    uint8_t *p = memory(bytes);
    volatile uint64_t sink = 0;
    double best = 1e9;
    for (int r = 0; r < 15; r++) {
        const double t = now();
        sink ^= read_all(p, bytes);
        const double seconds = now() - t;
        best = seconds < best ? seconds : best;
    }
    free(p);
    return (double)bytes / best * 1e-9;
}

typedef struct {
    int64_t m, n, k, group;
    int bits; /* 0: float weights */
    int weight_only;
} bench_case;

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median time of one product in milliseconds. */
static double bench(const qcc_kernels *kernels, const bench_case *c, int64_t copies, int64_t bytes) {
    const int64_t group = c->group ? c->group : c->k, groups = qcc_groups(c->k, group);
    float *x = numbers(c->m * c->k), *y = numbers(c->m * c->n);
    uint8_t *weights = c->bits ? memory(copies * bytes) : (uint8_t *)numbers(copies * bytes / 4);
    uint16_t *scales = memory(qcc_round_up(c->n, 16) * groups * 2);
    for (int64_t i = 0; i < qcc_round_up(c->n, 16) * groups; i++) scales[i] = 0x1c00;
    const qcc_epilogue none = {.activation = QCC_ACT_NONE};
    qcc_qweight w = {weights, scales, NULL, 8, c->bits, 1, c->n, c->k, group};
    qcc_qrows rows = {memory(c->m * qcc_padded_k(c->k, group)), memory(c->m * 4), memory(c->m * groups * 4), 0};
    qcc_quantize q = {x, c->k, c->m, c->k, group, 127, 1, NULL, rows};
    qcc_qlinear integer = {rows, w, y, c->n, c->m, none};
    qcc_wlinear decoded = {x, c->k, w, y, c->n, c->m, none};
    qcc_linear real = {x, c->k, (const float *)(void *)weights, y, c->n, c->m, c->n, c->k, none};
    void *scratch = memory(qcc_qlinear_scratch(&integer) + qcc_wlinear_scratch(&decoded));
    double times[400], spent = 0;
    int64_t count = 0;
    for (int64_t r = 0; r < 5 || (r < 400 && spent < 0.3); r++) {
        const uint8_t *at = weights + r % copies * bytes;
        integer.w.codes = decoded.w.codes = at;
        real.w = (const float *)(const void *)at;
        const double t = now();
        if (!c->bits) {
            kernels->linear(&real, 0, qcc_linear_units(&real), NULL);
        } else if (c->weight_only) {
            kernels->wlinear(&decoded, 0, qcc_wlinear_units(&decoded), scratch);
        } else { /* quantizing the activations is part of the price */
            kernels->quantize(&q, 0, c->m, NULL);
            kernels->qlinear(&integer, 0, qcc_qlinear_units(&integer), scratch);
        }
        const double seconds = now() - t;
        spent += seconds;
        times[count++] = seconds;
    }
    qsort(times, (size_t)count, sizeof *times, ascending);
    void *all[] = {x, y, weights, scales, rows.codes, rows.scales, rows.sums, scratch};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    return times[count / 2] * 1e3;
}

/* Arguments: quick (0 or 1). */
int main(int argc, char **argv) {
    const int quick = argc > 1 && argv[1][0] == '1';
    const qcc_kernels *kernels = qcc_select_kernels();
    const double bandwidth = read_bandwidth();
    double peak = 0;
#ifdef QCC_X86
    if (strcmp(kernels->isa, "avx512vnni") == 0) peak = vnni_peak();
#endif
    const int64_t shapes[][3] = {{128, 384, 384}, {128, 384, 1536}, {128, 1536, 384}, {1, 4096, 4096}, {8, 4096, 4096}};
    const struct { int bits, weight_only; int64_t group; } plans[] = {
        {8, 0, 0}, {4, 0, 32}, {4, 0, 128}, {3, 0, 128}, {2, 0, 128}, {1, 0, 128}, {8, 1, 0}, {4, 1, 32}, {0, 0, 0}};
    for (size_t s = quick ? 1 : 0; s < sizeof shapes / sizeof *shapes - (quick ? 1 : 0); s++)
        for (size_t p = 0; p < sizeof plans / sizeof *plans; p++) {
            const bench_case c = {shapes[s][0], shapes[s][1], shapes[s][2], plans[p].group, plans[p].bits, plans[p].weight_only};
            const int64_t bytes = c.n * c.k * (c.bits ? c.bits : 32) / 8;
            const int64_t copies = c.m == 1 ? qcc_ceil_div((int64_t)192 << 20, bytes) : 1;
            const double ms = bench(kernels, &c, copies, bytes);
            printf("{\"kernel\": \"%s\", \"plan\": \"%s\", \"bits\": %d, \"m\": %ld, \"n\": %ld, \"k\": %ld, \"group\": %ld, "
                   "\"threads\": 1, \"ms\": %.4f, \"weight_gbps\": %.2f, \"gops\": %.1f, \"read_gbps\": %.1f, "
                   "\"vnni_gops\": %.0f, \"peers\": {}}\n",
                   !c.bits ? "linear" : c.weight_only ? "wlinear" : "qlinear", kernels->isa, c.bits ? c.bits : 32,
                   (long)c.m, (long)c.n, (long)c.k, (long)(c.group ? c.group : c.k), ms, (double)bytes / ms * 1e-6,
                   2e-6 * (double)(c.m * c.n * c.k) / ms, bandwidth, peak);
            fflush(stdout);
        }
    return 0;
}

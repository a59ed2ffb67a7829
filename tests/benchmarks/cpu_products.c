/* Time one product after another, each beside the machine's limits at that very moment.
 *
 * A line of input is `kernel m n k bits group threads seconds`; a line of output is a JSON object. Kernels: qlinear
 * (integer dot), tlinear and tlinear_int8 (lookup, exact and rounded tables), wlinear (decoded weights), linear
 * (float). Activations are normal numbers; quantizing them and building tables is part of the time. Products with
 * one row rotate over more weights than the caches hold. Bursts of the kernel, of reading memory and of vpdpbusd
 * take turns, so that whatever else the machine does meets all three alike. */
#define _GNU_SOURCE
#include "machine.h"

#define WEIGHT_BYTES ((int64_t)256 << 20) /* what products with one row rotate over */
#define SCALE_BYTES ((int64_t)128 << 20)

static void fill(uint64_t *p, int64_t bytes) {
    for (int64_t i = 0; i < bytes / 8; i++) p[i] = random_word();
}

/* ---- Limits ----------------------------------------------------------------------------------- */

#ifdef X86
#define DP(n) "vpdpbusd %%zmm31, %%zmm31, %%zmm" #n "\n\t"
/* Operations of 16 independent chains. */
__attribute__((target("avx512f,avx512vnni"))) static double multiply(int64_t rounds) {
    for (int64_t i = 0; i < rounds; i++)
        __asm__ volatile(DP(0) DP(1) DP(2) DP(3) DP(4) DP(5) DP(6) DP(7) DP(8) DP(9) DP(10) DP(11) DP(12) DP(13)
                             DP(14) DP(15)::
                                 : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                                   "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
    return (double)rounds * 16 * 128;
}
#else
static double multiply(int64_t rounds) { return 0.0 * (double)rounds; }
#endif

/* Gop/s of vpdpbusd on all threads, 0 without the instruction. */
static double peak(const qcc_kernels *kernels, int threads) {
    const int64_t rounds = (int64_t)(BURST / 8 * 5e8);
    if (strcmp(kernels->isa, "avx512vnni") != 0) return 0;
    double operations = 0, start = now();
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) reduction(+ : operations)
#endif
    for (int i = 0; i < threads; i++) operations += multiply(rounds);
    return operations / (now() - start) * 1e-9;
}

/* ---- Products --------------------------------------------------------------------------------- */

typedef struct {
    char kernel[32];
    int64_t m, n, k, group;
    int bits, threads;
    double seconds;
} job;

typedef struct {
    const job *job;
    const qcc_kernels *kernels;
    qcc_pool pool;
    qcc_quantize quantize;
    qcc_tables tables;
    qcc_qlinear dot;
    qcc_tlinear lookup;
    qcc_wlinear decoded;
    qcc_linear real;
} product;

#define BODY(op) \
    static void body_##op(const void *k, const void *a, int64_t begin, int64_t end, void *scratch) { \
        ((const qcc_kernels *)k)->op(a, begin, end, scratch); \
    }
BODY(quantize)
BODY(tables)
BODY(qlinear)
BODY(tlinear)
BODY(wlinear)
BODY(linear)

/* One product with the weights at `codes`, through the loop over threads that generated programs use. */
static void compute(product *p, const uint8_t *codes, const uint8_t *scales) {
    const job *j = p->job;
    const int64_t work = j->m * j->n * j->k / 16, row_work = j->m * j->k;
    qcc_pool *pool = &p->pool;
    const qcc_kernels *k = p->kernels;
    if (j->bits == 32) {
        p->real.w = (const float *)(const void *)codes;
        qcc_parallel_for(pool, body_linear, k, &p->real, qcc_linear_units(&p->real), 0, work);
    } else if (strcmp(j->kernel, "wlinear") == 0) {
        p->decoded.w.codes = codes, p->decoded.w.scales = scales;
        qcc_parallel_for(pool, body_wlinear, k, &p->decoded, qcc_wlinear_units(&p->decoded),
                         qcc_wlinear_scratch(&p->decoded), work);
    } else {
        qcc_parallel_for(pool, body_quantize, k, &p->quantize, j->m, 0, row_work);
        if (strcmp(j->kernel, "qlinear") == 0) {
            p->dot.w.codes = codes, p->dot.w.scales = scales;
            qcc_parallel_for(pool, body_qlinear, k, &p->dot, qcc_qlinear_units(&p->dot), qcc_qlinear_scratch(&p->dot),
                             work);
            return;
        }
        p->lookup.w.codes = codes, p->lookup.w.scales = scales;
        qcc_parallel_for(pool, body_tables, k, &p->tables, j->m, 0, row_work);
        qcc_parallel_for(pool, body_tlinear, k, &p->lookup, qcc_tlinear_units(&p->lookup),
                         qcc_tlinear_scratch(&p->lookup), work);
    }
}

/* Take turns until the time is up; print the medians. */
static void measure(product *p, const uint8_t *weights, const uint8_t *scales, int64_t bytes, int64_t scale_bytes) {
    static double ms[TURNS], read[TURNS], dp[TURNS];
    const job *j = p->job;
    int64_t copies = j->m > 1 ? 1 : qcc_min(WEIGHT_BYTES / bytes, SCALE_BYTES / qcc_max(scale_bytes, 1));
    int64_t count = 0, turn = 0, calls = 0, shares = 1;
    compute(p, weights, scales);
    for (const double start = now(); count < TURNS && (count < 5 || now() - start < j->seconds); count++) {
        const double t = now();
        for (int64_t i = 0; i < shares; i++, calls++)
            compute(p, weights + calls % copies * bytes, scales + calls % copies * scale_bytes);
        ms[count] = (now() - t) * 1e3 / (double)shares;
        if (count == 1) shares = 1 + (int64_t)(BURST * 1e3 / ms[1]);
        if (count < 2 || count % 2 == 0) continue;
        read[turn] = reading(weights, WEIGHT_BYTES, j->threads, turn);
        dp[turn++] = peak(p->kernels, j->threads);
    }
    printf("{\"ms\": %.5f, \"read_gbps\": %.2f, \"vnni_gops\": %.1f, \"isa\": \"%s\"}\n", median(ms + 2, count - 2),
           median(read, turn), median(dp, turn), p->kernels->isa);
    fflush(stdout);
}

static void run(const job *j, const uint8_t *weights, const uint8_t *scales) {
    const int64_t m = j->m, n = j->n, k = j->k, group = j->group ? j->group : k, groups = qcc_groups(k, group);
    const int64_t length = qcc_padded_k(k, group);
    const int rounded = strcmp(j->kernel, "tlinear_int8") == 0;
    const qcc_epilogue none = {.activation = QCC_ACT_NONE};
    float *x = numbers(m * k), *y = memory(m * n * 4);
    const qcc_qweight w = {.codes = weights, .scales = scales, .zero = 1 << (j->bits - 1) % 8, .bits = j->bits,
                           .scale_f16 = 1, .n = n, .k = k, .group = group};
    const qcc_qrows rows = {memory(m * length), memory(m * 4), memory(m * groups * 4), 0};
    const qcc_table_rows tables = {
        .entries = memory(m * length * 4),
        .rest = rounded ? NULL : memory(m * length * 4),
        .lines = rounded ? NULL : memory(m * length / 4),
        .centers = memory(m * groups * 4),
        .wide = memory(m * groups * 4),
    };
    product p = {.job = j, .kernels = qcc_select_kernels(), .pool = {.threads = j->threads}};
    p.quantize = (qcc_quantize){x, k, m, k, group, 127, 1, NULL, rows};
    p.tables = (qcc_tables){rows, m, k, group, tables};
    p.dot = (qcc_qlinear){rows, w, y, n, m, none};
    p.lookup = (qcc_tlinear){tables, rows, w, y, n, m, none};
    p.decoded = (qcc_wlinear){x, k, w, y, n, m, none};
    p.real = (qcc_linear){x, k, (const float *)(const void *)weights, y, n, m, n, k, none};
    const int64_t scale_bytes = j->bits == 32 ? 0 : qcc_round_up(qcc_round_up(n, 16) * groups * 2, 64);
    measure(&p, weights, scales, qcc_round_up(n, 16) * length * j->bits / 8, scale_bytes);
    void *all[] = {x, y, rows.codes, rows.scales, rows.sums, tables.entries, tables.rest, tables.lines, tables.centers,
                   tables.wide};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    qcc_release(&p.pool.scratch);
}

int main(void) {
    void *weights = memory(WEIGHT_BYTES), *scales = memory(SCALE_BYTES);
    fill(weights, WEIGHT_BYTES);
    for (int64_t i = 0; i < SCALE_BYTES / 2; i++) ((uint16_t *)scales)[i] = 0x1c00; /* 2^-8 */
    job j;
    long m, n, k, group;
    const char *format = "%31s %ld %ld %ld %d %ld %d %lf";
    while (scanf(format, j.kernel, &m, &n, &k, &j.bits, &group, &j.threads, &j.seconds) == 8) {
        j.m = m, j.n = n, j.k = k, j.group = group;
        used_clock = j.threads == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC;
        run(&j, weights, scales);
    }
    return 0;
}

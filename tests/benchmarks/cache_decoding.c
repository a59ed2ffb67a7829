/* Time the attention of decoding one token, layer after layer, over caches of floats and of codes.
 *
 * A line of input is `kernel layers heads kv_heads dim tokens seconds`, then `bits token_group channel_group has_zero` of
 * keys and of values, and the window; a line of output is a JSON object. Kernels: float (the new rows are copied into
 * float32 caches, then attention), read (codes are appended, both caches read as floats, then attention), cached (codes
 * are appended, attention reads the caches). The caches hold all tokens but the one that is decoded. Bursts of decoding
 * and of reading memory take turns, so that whatever else the machine does meets both alike. One thread; its own time. */
#define _GNU_SOURCE
#include "machine.h"

#define READ_BYTES ((int64_t)256 << 20)

typedef struct {
    char kernel[16];
    int64_t layers, heads, kv_heads, dim, tokens;
    double seconds;
    qcc_cache_format format[2];
} job;

/* Keys or values of all layers. */
typedef struct {
    float *floats;
    uint8_t *codes, *scale, *zero, *recent;
    int64_t code_bytes, scale_bytes, recent_floats, ring; /* of a layer */
} caches;

typedef struct {
    const job *job;
    const qcc_kernels *kernels;
    caches c[2];
    float *rows, *q, *out, *read[2];
    void *scratch;
    int64_t positions, row_floats; /* position of the token; floats of one cache of a layer */
    int32_t status;
} decoding;

static qcc_cache_parts parts_of(const decoding *d, int which, int64_t layer) {
    const job *j = d->job;
    const caches *c = &d->c[which];
    return (qcc_cache_parts){
        .format = j->format[which],
        .codes = c->codes + layer * c->code_bytes,
        .scale = c->scale + layer * c->scale_bytes,
        .zero = c->zero + layer * c->scale_bytes,
        .recent = c->ring ? (float *)(void *)c->recent + layer * c->recent_floats : NULL,
        .tokens = j->tokens,
        .dim = j->dim,
        .ring = c->ring,
    };
}

/* Write `count` rows from the first position on into keys or values of a layer. */
static void append(decoding *d, int which, int64_t layer, const int64_t *positions, int64_t count) {
    const job *j = d->job;
    const qcc_cache_append a = {d->rows, positions, parts_of(d, which, layer), 1, j->kv_heads, count,
                                {0, j->tokens * j->dim, j->dim}, &d->status};
    d->kernels->cache_append(&a, 0, j->kv_heads, NULL);
}

static void decode_layer(decoding *d, int64_t layer) {
    const job *j = d->job;
    const int64_t row = j->tokens * j->dim, position = d->positions;
    const qcc_cache_parts parts[2] = {parts_of(d, 0, layer), parts_of(d, 1, layer)};
    qcc_attention a = {.q = d->q, .out = d->out, .batch = 1, .heads = j->heads, .kv_heads = j->kv_heads, .queries = 1,
                       .keys = j->tokens, .dim = j->dim, .v_dim = j->dim, .q_stride = {0, j->dim, j->dim},
                       .k_stride = {0, row, j->dim}, .v_stride = {0, row, j->dim}, .out_stride = {0, j->dim, j->dim},
                       .scale = 0.0883883f, .positions = &d->positions, .count = 1, .status = &d->status};
    const float *from[2] = {d->read[0], d->read[1]};
    for (int which = 0; which < 2; which++) {
        float *floats = d->c[which].floats + layer * d->row_floats;
        if (strcmp(j->kernel, "float") == 0) {
            for (int64_t h = 0; h < j->kv_heads; h++)
                memcpy(floats + h * row + position * j->dim, d->rows + h * row, (size_t)j->dim * sizeof(float));
            from[which] = floats;
            continue;
        }
        append(d, which, layer, &d->positions, 1);
        if (strcmp(j->kernel, "cached") == 0) continue;
        const qcc_cache_read r = {&d->positions, parts[which], d->read[which], 1, j->kv_heads, 1, &d->status};
        d->kernels->cache_read(&r, 0, qcc_cache_read_units(&r), NULL);
    }
    if (strcmp(j->kernel, "cached") == 0) a.k_cache = &parts[0], a.v_cache = &parts[1];
    else a.k = from[0], a.v = from[1];
    d->kernels->attention(&a, 0, qcc_attention_units(&a), d->scratch);
}

static void make_caches(decoding *d, int which) {
    const job *j = d->job;
    const qcc_cache_format *f = &j->format[which];
    caches *c = &d->c[which];
    const int64_t rows = j->kv_heads * j->tokens;
    const int64_t blocks = qcc_ceil_div(j->tokens, f->token_group) * qcc_ceil_div(j->dim, f->channel_group);
    if (strcmp(j->kernel, "float") == 0) {
        c->floats = memory(j->layers * d->row_floats * 4);
        for (int64_t i = 0; i < j->layers; i++) memcpy(c->floats + i * d->row_floats, d->rows, (size_t)d->row_floats * 4);
        return;
    }
    c->ring = f->window > 0 || f->token_group > 1 ? qcc_min(f->window + f->token_group, j->tokens) : 0;
    c->code_bytes = rows * qcc_ceil_div(j->dim * f->bits, 8);
    c->scale_bytes = j->kv_heads * blocks * 2;
    c->recent_floats = j->kv_heads * c->ring * j->dim;
    c->codes = memory(j->layers * c->code_bytes);
    c->scale = memory(j->layers * c->scale_bytes);
    c->zero = memory(j->layers * c->scale_bytes);
    c->recent = memory(j->layers * c->recent_floats * 4);
    int64_t *positions = memory(j->tokens * 8);
    for (int64_t i = 0; i < j->tokens - 1; i++) positions[i] = i;
    for (int64_t i = 0; i < j->layers; i++) append(d, which, i, positions, j->tokens - 1);
    free(positions);
}

/* Bytes of codes, parameters and floats that decoding a token reads in a layer. */
static int64_t bytes_of(const decoding *d) {
    if (strcmp(d->job->kernel, "float") == 0) return 2 * d->row_floats * 4;
    int64_t bytes = 0;
    for (int which = 0; which < 2; which++) {
        const caches *c = &d->c[which];
        const int parameters = d->job->format[which].has_zero ? 2 : 1;
        bytes += c->code_bytes + parameters * c->scale_bytes + c->recent_floats * 4;
    }
    return bytes;
}

static void measure(decoding *d, const uint8_t *data) {
    static double ms[TURNS], read[TURNS];
    const job *j = d->job;
    int64_t count = 0;
    for (int64_t layer = 0; layer < j->layers; layer++) decode_layer(d, layer);
    for (const double start = now(); count < TURNS && (count < 5 || now() - start < j->seconds); count++) {
        const double t = now();
        for (int64_t layer = 0; layer < j->layers; layer++) decode_layer(d, layer);
        ms[count] = (now() - t) * 1e3 / (double)j->layers;
        read[count] = reading(data, READ_BYTES, 1, count);
    }
    const double bytes = (double)bytes_of(d), typical = median(ms, count);
    printf("{\"ms\": %.5f, \"mb\": %.3f, \"gbps\": %.2f, \"read_gbps\": %.2f, \"isa\": \"%s\", \"status\": %d}\n", typical,
           bytes * 1e-6, bytes * 1e-6 / typical, median(read, count), d->kernels->isa, d->status);
    fflush(stdout);
}

static void run(const job *j, const uint8_t *data) {
    decoding d = {.job = j, .kernels = qcc_select_kernels(), .positions = j->tokens - 1};
    d.row_floats = j->kv_heads * j->tokens * j->dim;
    d.rows = numbers(d.row_floats), d.q = numbers(j->heads * j->dim), d.out = memory(j->heads * j->dim * 4);
    const int floats = strcmp(j->kernel, "read") == 0;
    for (int which = 0; which < 2; which++) d.read[which] = floats ? memory(d.row_floats * 4) : NULL;
    const qcc_attention sizes = {.queries = 1, .keys = j->tokens, .dim = j->dim, .v_dim = j->dim};
    d.scratch = memory(qcc_attention_scratch(&sizes));
    for (int which = 0; which < 2; which++) make_caches(&d, which);
    measure(&d, data);
    void *all[] = {d.rows, d.q, d.out, d.read[0], d.read[1], d.scratch};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    for (int which = 0; which < 2; which++) {
        const caches *c = &d.c[which];
        void *parts[] = {c->floats, c->codes, c->scale, c->zero, c->recent};
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) free(parts[i]);
    }
}

int main(void) {
    uint8_t *data = memory(READ_BYTES);
    long n[5], f[2][4], window;
    job j;
    used_clock = CLOCK_PROCESS_CPUTIME_ID;
    while (scanf("%15s %ld %ld %ld %ld %ld %lf %ld %ld %ld %ld %ld %ld %ld %ld %ld", j.kernel, &n[0], &n[1], &n[2], &n[3],
                 &n[4], &j.seconds, &f[0][0], &f[0][1], &f[0][2], &f[0][3], &f[1][0], &f[1][1], &f[1][2], &f[1][3],
                 &window) == 16) {
        j.layers = n[0], j.heads = n[1], j.kv_heads = n[2], j.dim = n[3], j.tokens = n[4];
        for (int i = 0; i < 2; i++)
            j.format[i] = (qcc_cache_format){f[i][1], f[i][2], window, (int32_t)f[i][0], (int32_t)f[i][3], 1};
        run(&j, data);
    }
    free(data);
    return 0;
}

/* What every generated program needs besides its kernels: the mapped weights file, one arena, and one
 * loop that splits a kernel's units over threads. Included by the generated model.c only. */
#ifndef QCC_RUNTIME_H
#define QCC_RUNTIME_H

#include <fcntl.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "qcc_kernels.h"

/* ---- Integer functions of shape expressions: quotients round down, as in Python -------------- */

static inline int64_t qcc_floor_div(int64_t a, int64_t b) {
    if (b == 0) return 0;
    int64_t q = a / b;
    return q - (a % b != 0 && (a < 0) != (b < 0));
}
static inline int64_t qcc_floor_mod(int64_t a, int64_t b) { return a - qcc_floor_div(a, b) * b; }
static inline int64_t qcc_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t qcc_min(int64_t a, int64_t b) { return a < b ? a : b; }

/* The same functions bounded from above in doubles, to refuse sizes that would overflow. */
static inline double qcc_bound_div(double a, double b) { return fabs(b) < 1 ? a : a / b; }

/* ---- Memory ---------------------------------------------------------------------------------- */

typedef struct {
    unsigned char *data; /* 64-byte aligned */
    int64_t size;
} qcc_memory;

/* Make at least `size` bytes available; old contents are lost. Returns 0 when there is no memory. */
static inline int qcc_reserve(qcc_memory *memory, int64_t size) {
    if (size <= memory->size) return 1;
    free(memory->data);
    memory->data = NULL;
    memory->size = 0;
    if (size > INT64_MAX / 2) return 0;
    int64_t rounded = qcc_round_up(size, 4096);
    void *data = NULL;
    if (posix_memalign(&data, 64, (size_t)rounded) != 0) return 0;
    memory->data = data;
    memory->size = rounded;
    return 1;
}

static inline void qcc_release(qcc_memory *memory) {
    free(memory->data);
    memory->data = NULL;
    memory->size = 0;
}

/* ---- Threads --------------------------------------------------------------------------------- */

#define QCC_STEPS_PER_THREAD 16384 /* elementary steps that are worth waking a thread for */

typedef struct {
    int threads;
    int failed; /* scratch could not be allocated: a call was left out */
    qcc_memory scratch;
} qcc_pool;

typedef void (*qcc_body)(const void *kernels, const void *args, int64_t begin, int64_t end, void *scratch);

/* Compute `units` units of a kernel, on as many threads as `work` elementary steps are worth. */
static inline void qcc_parallel_for(qcc_pool *pool, qcc_body body, const void *kernels, const void *args,
                                    int64_t units, int64_t scratch, int64_t work) {
    if (units <= 0) return;
    int64_t threads = qcc_min(qcc_min(pool->threads, units), 1 + work / QCC_STEPS_PER_THREAD);
    int64_t step = qcc_round_up(scratch, 256);
    if (!qcc_reserve(&pool->scratch, threads * step)) {
        pool->failed = 1;
        return;
    }
    unsigned char *memory = pool->scratch.data;
#ifdef _OPENMP
    if (threads > 1) {
        int64_t chunks = qcc_min(units, threads * 4);
#pragma omp parallel for num_threads((int)threads) schedule(dynamic, 1)
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            void *mine = memory ? memory + omp_get_thread_num() * step : NULL;
            body(kernels, args, units * chunk / chunks, units * (chunk + 1) / chunks, mine);
        }
        return;
    }
#endif
    body(kernels, args, 0, units, memory);
}

/* ---- The weights file: see the header's layout in weights.bin's writer ----------------------- */

typedef struct {
    const unsigned char *data;
    int64_t size;
    void *memory;  /* of a copy, else NULL */
    size_t length; /* of the memory */
} qcc_file;

static inline uint64_t qcc_read_u64(const unsigned char *p) {
    uint64_t value;
    memcpy(&value, p, sizeof value);
    return value;
}

static inline void qcc_unmap(qcc_file *file) {
    if (file->memory) munmap(file->memory, file->length);
    else if (file->data) munmap((void *)(uintptr_t)file->data, (size_t)file->size);
    file->data = NULL;
    file->memory = NULL;
}

#define QCC_HUGE ((size_t)2 << 20)

/* Whether the system gives private memory pages of 2 MB to those who ask. */
static inline int qcc_has_huge_pages(void) {
    char text[64] = "[never]";
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    int descriptor = open("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY);
    if (descriptor < 0) return 0;
    ssize_t length = read(descriptor, text, sizeof text - 1);
    close(descriptor);
    text[length > 0 ? length : 0] = 0;
    if (length <= 0) return 0;
#endif
    return strstr(text, "[never]") == NULL;
}

/* Read a file into private memory on pages of 2 MB, and let the system forget its own copy. Returns 0 where that
 * cannot be: the file is then mapped. */
static inline int qcc_read_huge(qcc_file *file, int descriptor) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (!qcc_has_huge_pages()) return 0;
    const size_t size = (size_t)file->size, length = (size + 2 * QCC_HUGE - 1) / QCC_HUGE * QCC_HUGE;
    void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 0;
    unsigned char *data = (unsigned char *)(((uintptr_t)memory + QCC_HUGE - 1) / QCC_HUGE * QCC_HUGE);
    ssize_t part = madvise(data, size, MADV_HUGEPAGE) == 0;
    for (size_t done = 0; part > 0 && done < size; done += (size_t)part)
        part = pread(descriptor, data + done, size - done, (off_t)done);
    if (part <= 0) {
        munmap(memory, length);
        return 0;
    }
    posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED);
    file->memory = memory;
    file->length = length;
    file->data = data;
    return 1;
#else
    (void)file, (void)descriptor;
    return 0;
#endif
}

static inline const char *qcc_check_file(const qcc_file *file, uint64_t size, uint64_t fingerprint) {
    uint32_t version;
    if (memcmp(file->data, "QCCWEIGH", 8) != 0) return "is no weights file";
    memcpy(&version, file->data + 8, sizeof version);
    if (version != 1) return "is of another version (or byte order)";
    if (qcc_read_u64(file->data + 24) != fingerprint) return "belongs to another program";
    if (qcc_read_u64(file->data + 16) != size || (uint64_t)file->size != size) return "is truncated";
    uint64_t sum = 0, weighted = 0;
    for (int64_t i = 64; i < file->size; i += 8) {
        uint64_t word = qcc_read_u64(file->data + i);
        sum += word;
        weighted += word * (uint64_t)(i / 8 - 7);
    }
    if (sum != qcc_read_u64(file->data + 32) || weighted != qcc_read_u64(file->data + 40))
        return "is damaged: its checksum does not match";
    return NULL;
}

/* Map a weights file, or copy it to pages of 2 MB (`huge`), and check it. Returns NULL, or what is wrong. */
static inline const char *qcc_map(qcc_file *file, const char *path, uint64_t size, uint64_t fingerprint, int huge) {
    struct stat status;
    *file = (qcc_file){0};
    int descriptor = open(path, O_RDONLY);
    if (descriptor < 0) return "cannot be opened";
    if (fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode) || status.st_size < 64) {
        close(descriptor);
        return "is too short to be a weights file";
    }
    file->size = (int64_t)status.st_size;
    if (!huge || (uint64_t)file->size != size || !qcc_read_huge(file, descriptor)) {
        void *data = mmap(NULL, (size_t)file->size, PROT_READ, MAP_PRIVATE, descriptor, 0);
        if (data != MAP_FAILED) file->data = data;
#ifdef MADV_HUGEPAGE
        if (file->data) madvise(data, (size_t)file->size, MADV_HUGEPAGE); /* for file systems that have such pages */
#endif
    }
    close(descriptor);
    if (file->data == NULL) return "cannot be mapped into memory";
    const char *problem = qcc_check_file(file, size, fingerprint);
    if (problem) qcc_unmap(file);
    return problem;
}

/* ---- Rows of codes back to numbers ------------------------------------------------------------ */

/* y[m][k] = scale * code for rows that `quantize` wrote; units: rows. */
typedef struct {
    qcc_qrows x;
    float *y;
    int64_t m, k, group;
} qcc_dequantize;

static inline int64_t qcc_dequantize_units(const qcc_dequantize *a) { return a->m; }

static inline void qcc_dequantize_rows(const qcc_dequantize *a, int64_t begin, int64_t end) {
    int64_t padded = qcc_padded_k(a->k, a->group), groups = qcc_groups(a->k, a->group);
    int64_t step = qcc_round_up(a->group, QCC_CHUNK);
    for (int64_t row = begin; row < end; row++) {
        for (int64_t k = 0; k < a->k; k++) {
            int64_t g = k / a->group;
            float scale = a->x.group_scales ? a->x.scales[row * groups + g] : a->x.scales[row];
            a->y[row * a->k + k] = scale * (float)a->x.codes[row * padded + g * step + k % a->group];
        }
    }
}

#endif

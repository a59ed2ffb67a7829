/* Load and launch compiled kernels through the CUDA driver.
 *
 * The driver (libcuda) is opened at run time: a program that links this file starts on a machine without a GPU, and is
 * told so by QCC_NO_DRIVER. Every function that can fail returns a status and says in `error` what is wrong. Functions
 * may be called from any thread, also side by side; no context needs to be current, and none is left so.
 */
#ifndef QCC_CUDA_H
#define QCC_CUDA_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum qcc_status {
    QCC_OK = 0,
    QCC_NO_DRIVER,          /* no libcuda, or one that lacks a function */
    QCC_NO_DEVICE,          /* no GPU, or none of this number */
    QCC_OTHER_ARCHITECTURE, /* no cubin for this GPU */
    QCC_FILE,               /* a cubin is missing, or is not the one that was compiled */
    QCC_ARGUMENT,           /* an argument that the kernel was not compiled for */
    QCC_MEMORY,             /* no memory left on the host */
    QCC_DRIVER              /* a call of the driver failed */
} qcc_status;

typedef struct qcc_error {
    char text[512];
} qcc_error;

typedef uint64_t qcc_address; /* device memory: a CUdeviceptr */

/* An argument of a kernel in order: its name, bytes, and whether it must be a multiple of 16. */
typedef struct qcc_argument {
    const char *name;
    uint32_t bytes;
    uint32_t divisible;
} qcc_argument;

/* An architecture that kernels are compiled for; code for an `exact` one runs on this compute capability (90 for 9.0)
 * and on no other. */
typedef struct qcc_architecture {
    const char *name;
    int capability;
    int exact;
} qcc_architecture;

/* Machine code for one architecture: its file with size and hash, and bytes of shared memory a block. */
typedef struct qcc_cubin {
    int capability;
    const char *file;
    uint64_t bytes;
    uint64_t fnv1a;
    uint32_t shared;
} qcc_cubin;

/* A kernel cut into blocks of `tokens` by `channels`, `parts` of them along K. */
typedef struct qcc_variant {
    const char *name;
    const char *symbol;
    uint32_t threads;
    uint32_t tokens;
    uint32_t channels;
    uint32_t parts;
    const qcc_cubin *cubins; /* for the architectures that use this variant */
    uint32_t cubin_count;
} qcc_variant;

typedef struct qcc_kernel {
    const char *name;
    const qcc_argument *arguments;
    uint32_t argument_count;
} qcc_kernel;

/* Up to how many tokens (0: any number) a variant serves a call on an architecture, and the steps in which it takes K:
 * the only argument that differs between the variants of a call. */
typedef struct qcc_choice {
    int capability;
    uint32_t most_tokens;
    uint32_t variant;
    int32_t steps;
} qcc_choice;

/* A place in the program where a kernel is launched: `n` channels (0 row-wise), `k` columns. */
typedef struct qcc_call {
    const char *label;
    const qcc_kernel *kernel;
    uint32_t n;
    uint32_t k;
    const qcc_choice *choices;
    uint32_t choice_count;
} qcc_call;

/* A tensor in weights.bin. */
typedef struct qcc_weight {
    const char *name;
    uint64_t offset;
    uint64_t bytes;
} qcc_weight;

typedef struct qcc_table {
    const qcc_variant *variants;
    uint32_t variant_count;
    const qcc_architecture *architectures;
    uint32_t architecture_count;
    uint32_t scratch; /* null pointers that follow the arguments */
} qcc_table;

typedef struct qcc_program qcc_program;

/* Open GPU number `ordinal` and load every kernel that it uses of a table from a folder, or refuse. */
qcc_status qcc_open(const qcc_table *table, const char *folder, int ordinal, qcc_program **program, qcc_error *error);
void qcc_close(qcc_program *program);

/* Compute capability of the GPU, as 90 for 9.0. */
int qcc_capability(const qcc_program *program);

/* The steps of K in a call of so many tokens, 0 if nothing serves it. Launch functions fill them in. */
int32_t qcc_steps(const qcc_program *program, const qcc_call *call, uint32_t tokens);

/* The variant that serves a call of so many tokens, or null: its blocks tell the size of the workspace. */
const qcc_variant *qcc_choose(const qcc_program *program, const qcc_call *call, uint32_t tokens);

/* Launch a kernel on a stream (a CUstream, null for the default one). `values[i]` is the address of argument i. */
qcc_status qcc_launch(qcc_program *program, const qcc_call *call, uint32_t tokens, void *stream,
                      const void *const *values, qcc_error *error);

#ifdef __cplusplus
}
#endif

#endif

/* Entry points for the tests: run a whole kernel, its units cut into `pieces` ranges, in any order. */
#include "qcc_kernels.c"

void *t_alloc(int64_t bytes) { return aligned_alloc(QCC_ALIGN, (size_t)qcc_round_up(bytes > 0 ? bytes : 1, QCC_ALIGN)); }
void t_free(void *p) { free(p); }
const char *t_isa(void) { return qcc_select_kernels()->isa; }

#define ENTRY(op, bytes) \
    int64_t t_##op(const qcc_##op *args, int64_t pieces) { \
        const qcc_kernels *kernels = qcc_select_kernels(); \
        const int64_t units = qcc_##op##_units(args), size = qcc_ceil_div(units, pieces); \
        for (int64_t p = pieces - 1; p >= 0; p--) { \
            void *scratch = t_alloc(bytes); \
            memset(scratch, 0xff, (size_t)(bytes)); \
            int64_t begin = qcc_min64(units, p * size), end = qcc_min64(units, begin + size); \
            if (begin < end) kernels->op(args, begin, end, scratch); \
            free(scratch); \
        } \
        return units; \
    } \
    int64_t t_sizeof_##op(void) { return (int64_t)sizeof(qcc_##op); }
#define PLAIN(op) ENTRY(op, 64)
#define WITH_SCRATCH(op) ENTRY(op, qcc_##op##_scratch(args))

PLAIN(quantize)
WITH_SCRATCH(qlinear)
PLAIN(tables)
WITH_SCRATCH(tlinear)
WITH_SCRATCH(wlinear)
PLAIN(linear)
WITH_SCRATCH(matmul)
WITH_SCRATCH(attention)
WITH_SCRATCH(conv2d)
PLAIN(unfold)
PLAIN(pool2d)
PLAIN(norm)
PLAIN(channel_affine)
PLAIN(softmax)
PLAIN(rope)
PLAIN(embedding)
PLAIN(unary)
PLAIN(binary)
PLAIN(where)
PLAIN(cast)
PLAIN(copy)
PLAIN(reduce)
PLAIN(cumsum)
PLAIN(iota)
PLAIN(index)
PLAIN(gather)
PLAIN(cache_append)
PLAIN(cache_read)
PLAIN(cache_round)

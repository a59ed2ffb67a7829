/* All kernels for one instruction set, QCC_ISA; included once for each. */
#include "qcc_k_simd.h"

#include "qcc_k_math.h"
#include "qcc_k_elementwise.h"
#include "qcc_k_nd.h"
#include "qcc_k_rows.h"
#include "qcc_k_pack.h"
#include "qcc_k_dot.h"
#include "qcc_k_qlinear.h"
#include "qcc_k_tables.h"
#include "qcc_k_tlinear.h"
#include "qcc_k_decode.h"
#include "qcc_k_gemm.h"
#include "qcc_k_linear.h"
#include "qcc_k_cache_isa.h"
#include "qcc_k_rounding.h"
#include "qcc_k_dots.h"
#include "qcc_k_attention.h"
#include "qcc_k_conv.h"
#include "qcc_k_fixed_isa.h"

static const qcc_kernels QCC_FN(qcc_kernels) = {
    QCC_ISA_NAME,
    QCC_FN(qcc_k_quantize),
    QCC_FN(qcc_k_qlinear),
    QCC_FN(qcc_k_tables),
    QCC_FN(qcc_k_tlinear),
    QCC_FN(qcc_k_wlinear),
    QCC_FN(qcc_k_linear),
    QCC_FN(qcc_k_matmul),
    QCC_FN(qcc_k_attention),
    QCC_FN(qcc_k_conv2d),
    QCC_FN(qcc_k_unfold),
    QCC_FN(qcc_k_pool2d),
    QCC_FN(qcc_k_norm),
    QCC_FN(qcc_k_channel_affine),
    QCC_FN(qcc_k_softmax),
    QCC_FN(qcc_k_rope),
    QCC_FN(qcc_k_embedding),
    QCC_FN(qcc_k_unary),
    QCC_FN(qcc_k_binary),
    qcc_k_where,
    qcc_k_cast,
    qcc_k_copy,
    QCC_FN(qcc_k_reduce),
    qcc_k_cumsum,
    qcc_k_iota,
    qcc_k_index,
    qcc_k_gather,
    QCC_FN(qcc_k_cache_append),
    QCC_FN(qcc_k_cache_read),
    QCC_FN(qcc_k_cache_round),
    qcc_k_round_root,
    QCC_FN(qcc_k_round_rows),
    qcc_k_encode,
    QCC_FN(qcc_k_requant),
    qcc_k_table_lookup,
    qcc_k_take_rows,
    QCC_FN(qcc_k_integer_dot),
    qcc_k_integer_softmax,
    qcc_k_integer_norm,
    qcc_k_add_sparse,
};

#undef QCC_FN
#undef QCC_TARGET
#undef QCC_ISA_NAME
#undef QCC_HELPER
#undef QCC_KERNEL_FN
#undef QCC_FMA
#undef QCC_VL
#undef QCC_V
#undef QCC_V_LOAD
#undef QCC_V_STORE
#undef QCC_V_SET
#undef QCC_V_ZERO
#undef QCC_V_FMA
#undef QCC_V_MAX
#undef QCC_LANES
#undef QCC_W
#undef QCC_W_BYTES
#undef QCC_W_LOAD
#undef QCC_W_STORE
#undef QCC_W_AND
#undef QCC_W_OR
#undef QCC_W_SHR
#undef QCC_W_SHL
#undef QCC_DECODE_K
#undef QCC_GEMM_ROWS
#undef QCC_GEMM_PANELS

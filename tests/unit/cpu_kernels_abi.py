"""The kernels' C structs as ctypes, the test library's build, and how to run a kernel on numpy arrays."""

from __future__ import annotations

import ctypes as c
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from qcc.backends.cpu.pack import PackedWeight

HERE = Path(__file__).parent
TEMPLATES = HERE.parent.parent / "backends" / "cpu" / "templates"
RANK = 6
F32, F16, BF16, I64, I32, I8, U8, BOOL, F64 = range(9)
UNARY = (
    "copy neg abs sign square sqrt rsqrt reciprocal exp expm1 log log1p sin cos tanh erf sigmoid relu silu "
    "gelu gelu_tanh leaky_relu elu softplus hard_sigmoid hard_swish clamp floor ceil round trunc add_scalar "
    "mul_scalar pow_scalar not"
).split()
BINARY = "add sub mul div pow min max mod floor_div and or xor eq ne lt le gt ge".split()
REDUCE = "sum mean prod max min any all argmax argmin".split()
DTYPES = {"float32": F32, "float16": F16, "int64": I64, "int32": I32, "int8": I8, "uint8": U8, "bool": BOOL}
DTYPES["float64"] = F64

P, L, INT, F, D = c.c_void_p, c.c_int64, c.c_int32, c.c_float, c.c_double
DIMS = L * RANK


def _struct(name: str, *fields: tuple[str, Any]) -> type[c.Structure]:
    """Declare a struct from (names separated by blanks, type) pairs."""
    flat = [(field, kind) for names, kind in fields for field in names.split()]
    return type(name, (c.Structure,), {"_fields_": flat})


QWeight = _struct("QWeight", ("codes scales zeros", P), ("zero bits scale_f16 mid_rise", INT), ("n k group", L))
Epilogue = _struct(
    "Epilogue", ("bias gate", P), ("gate_stride", L), ("residual", P), ("residual_stride", L), ("activation", INT)
)
QRows = _struct("QRows", ("codes scales sums", P), ("group_scales", INT))
TableRows = _struct("TableRows", ("entries rest lines centers wide", P))
Shape = _struct("Shape", ("rank", INT), ("shape", DIMS))
CacheFormat = _struct("CacheFormat", ("token_group channel_group window", L), ("bits has_zero half", INT))
CacheParts = _struct("CacheParts", ("format", CacheFormat), ("codes scale zero recent", P), ("tokens dim ring", L))
_CONV = (("x w bias y", P), ("batch in_channels out_channels groups in_h in_w out_h out_w", L))
_WINDOW = ("kernel_h kernel_w stride_h stride_w pad_top pad_left dilation_h dilation_w", L)
Conv2d = _struct("Conv2d", *_CONV, _WINDOW, ("activation", INT))
_XY = ("x_stride y_stride", DIMS)
STRUCTS: dict[str, type[c.Structure]] = {
    "quantize": _struct(
        "Quantize",
        ("x", P),
        ("x_stride m k group", L),
        ("qmax narrow", INT),
        ("static_scale", P),
        ("out", QRows),
    ),
    "qlinear": _struct("QLinear", ("x", QRows), ("w", QWeight), ("y", P), ("y_stride m", L), ("epilogue", Epilogue)),
    "tables": _struct("Tables", ("x", QRows), ("m k group", L), ("out", TableRows)),
    "tlinear": _struct(
        "TLinear",
        ("t", TableRows),
        ("x", QRows),
        ("w", QWeight),
        ("y", P),
        ("y_stride m", L),
        ("epilogue", Epilogue),
    ),
    "wlinear": _struct(
        "WLinear",
        ("x", P),
        ("x_stride", L),
        ("w", QWeight),
        ("y", P),
        ("y_stride m", L),
        ("epilogue", Epilogue),
    ),
    "linear": _struct("Linear", ("x", P), ("x_stride", L), ("w y", P), ("y_stride m n k", L), ("epilogue", Epilogue)),
    "matmul": _struct(
        "MatMul",
        ("a b c", P),
        ("batch a_batch_stride b_batch_stride c_batch_stride", L * 4),
        ("m n k a_stride_m a_stride_k b_stride_k b_stride_n c_stride_m", L),
        ("alpha", F),
    ),
    "attention": _struct(
        "Attention",
        ("q k v out mask", P),
        ("mask_is_bool causal", INT),
        ("causal_offset batch heads kv_heads queries keys dim v_dim", L),
        ("q_stride k_stride v_stride out_stride", L * 3),
        ("mask_stride", L * 4),
        ("scale", F),
        ("k_cache v_cache positions", P),
        ("count", L),
        ("status", P),
    ),
    "conv2d": Conv2d,
    "unfold": _struct("Unfold", ("conv", Conv2d), ("group_index", L), ("rows", P), ("row_stride", L)),
    "pool2d": _struct(
        "Pool2d",
        ("x y", P),
        ("batch channels in_h in_w out_h out_w", L),
        _WINDOW,
        ("pad_bottom pad_right", L),
        ("average count_pad", INT),
    ),
    "norm": _struct("Norm", ("x gamma beta y", P), ("x_stride y_stride rows k", L), ("eps", F), ("kind", INT)),
    "channel_affine": _struct("ChannelAffine", ("x scale shift y", P), ("rows channels k", L)),
    "softmax": _struct("Softmax", ("x y", P), ("x_stride y_stride rows k", L), ("log", INT)),
    "rope": _struct(
        "Rope",
        ("x cos sin y", P),
        ("batch heads positions dim rotary_dim", L),
        ("x_stride y_stride", L * 3),
        ("table_stride", L * 2),
        ("interleaved half_table", INT),
    ),
    "embedding": _struct(
        "Embedding", ("ids table qtable y", P), ("count rows k", L), ("table_dtype", INT), ("status", P)
    ),
    "unary": _struct("Unary", ("x y", P), ("shape", Shape), _XY, ("op dtype", INT), ("p0 p1", D)),
    "binary": _struct(
        "Binary", ("a b y", P), ("shape", Shape), ("a_stride b_stride y_stride", DIMS), ("op dtype", INT)
    ),
    "where": _struct(
        "Where",
        ("condition a b y", P),
        ("shape", Shape),
        ("condition_stride a_stride b_stride y_stride", DIMS),
        ("element_size", INT),
    ),
    "cast": _struct("Cast", ("x y", P), ("shape", Shape), _XY, ("x_dtype y_dtype", INT)),
    "copy": _struct("Copy", ("x y", P), ("shape", Shape), _XY, ("element_size", INT)),
    "reduce": _struct("Reduce", ("x y", P), ("shape", Shape), _XY, ("length axis_stride", L), ("op dtype", INT)),
    "cumsum": _struct(
        "Cumsum", ("x y", P), ("shape", Shape), _XY, ("length x_axis_stride y_axis_stride", L), ("dtype", INT)
    ),
    "iota": _struct("Iota", ("y", P), ("count", L), ("start step", D), ("dtype", INT)),
    "index": _struct(
        "Index",
        ("x y", P),
        ("shape", Shape),
        _XY,
        ("indices", INT),
        ("index", P * 4),
        ("index_stride", DIMS * 4),
        ("axis_size axis_stride", L * 4),
        ("element_size write", INT),
        ("status", P),
    ),
    "gather": _struct(
        "Gather",
        ("x index y", P),
        ("shape", Shape),
        ("x_stride index_stride y_stride", DIMS),
        ("axis element_size", INT),
        ("axis_size", L),
        ("status", P),
    ),
    "cache_append": _struct(
        "CacheAppend",
        ("rows positions", P),
        ("cache", CacheParts),
        ("batch heads count", L),
        ("row_stride", L * 3),
        ("status", P),
    ),
    "cache_read": _struct(
        "CacheRead", ("positions", P), ("cache", CacheParts), ("y", P), ("batch heads count", L), ("status", P)
    ),
    "cache_round": _struct(
        "CacheRound",
        ("x y", P),
        ("format", CacheFormat),
        ("batch heads tokens dim", L),
        ("x_stride", L * 3),
    ),
}


FLAGS_VARIABLE = "QCC_TEST_CFLAGS"
"""Environment variable with further compiler flags, for the run under sanitizers."""


def build(folder: Path) -> c.CDLL:
    """Compile the kernels with the tests' entry points into a shared library."""
    flags = os.environ.get(FLAGS_VARIABLE, "").split()
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    assert compiler, "the kernel tests need a C compiler"
    library = folder / "libkernels.so"
    command = [compiler, "-std=c11", "-O3", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", *flags]
    command += [f"-I{TEMPLATES}", str(HERE / "cpu_kernels_shim.c"), "-o", str(library), "-lm"]
    subprocess.run(command, check=True)
    return load(library)


def load(library: Path) -> c.CDLL:
    """Load a built test library and check the struct sizes against C's."""
    lib = c.CDLL(str(library))
    lib.t_alloc.restype = P
    lib.t_alloc.argtypes = [L]
    lib.t_free.argtypes = [P]
    lib.t_isa.restype = c.c_char_p
    for op, struct in STRUCTS.items():
        getattr(lib, f"t_{op}").argtypes = [P, L]
        getattr(lib, f"t_{op}").restype = L
        assert getattr(lib, f"t_sizeof_{op}")() == c.sizeof(struct), op
    return lib


def isas() -> list[str]:
    """The instruction sets this machine runs, by /proc/cpuinfo (portable everywhere)."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        flags = set[str]()
    found = ["portable"]
    if {"avx2", "fma"} <= flags:
        found.append("avx2")
        if {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"} <= flags:
            found.append("avx512vnni")
    return found


class Kernels:
    """A built library at one instruction set; keeps the arrays of a call alive while it runs."""

    def __init__(self, lib: c.CDLL, isa: str) -> None:
        self.lib = lib
        os.environ["QCC_ISA"] = isa
        assert lib.t_isa().decode() == isa
        self.isa = isa

    def run(self, op: str, pieces: int = 1, /, **fields: Any) -> int:
        """Run `op` with numpy arrays for pointers, tuples for C arrays, structs as they are."""
        os.environ["QCC_ISA"] = self.isa
        return getattr(self.lib, f"t_{op}")(c.byref(fill(STRUCTS[op], **fields)), pieces)

    def place(self, packed: PackedWeight) -> Placed:
        """Copy a packed weight to exactly sized, aligned memory, as a mapped file would hold it."""
        return Placed(self.lib, packed)


class Placed:
    """A packed weight in C memory; `.struct` is its qcc_qweight."""

    def __init__(self, lib: c.CDLL, packed: PackedWeight) -> None:
        self.lib, size = lib, len(packed.blob)
        self.address: int = lib.t_alloc(size)
        c.memmove(self.address, packed.blob, size)
        zeros = None if packed.zeros_offset is None else self.address + packed.zeros_offset
        self.struct = QWeight(
            codes=self.address + packed.codes_offset,
            scales=self.address + packed.scales_offset,
            zeros=zeros,
            zero=packed.zero,
            bits=packed.bits,
            scale_f16=packed.scale_f16,
            mid_rise=packed.mid_rise,
            n=packed.n,
            k=packed.k,
            group=packed.group,
        )

    def __del__(self) -> None:
        self.lib.t_free(self.address)


def fill(struct: type[c.Structure], **fields: Any) -> c.Structure:
    """Make a struct, taking addresses of arrays and padding tuples to the C array's length."""
    out = struct()
    kinds = {name: kind for name, kind, *_ in struct._fields_}
    for name, value in fields.items():
        setattr(out, name, _convert(kinds[name], value))
    return out


def _convert(kind: Any, value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.ctypes.data
    if isinstance(value, tuple):
        return kind(*(_convert(kind._type_, item) for item in value))
    return value


def epilogue(bias: Any = None, residual: Any = None, activation: str | None = None, gate: Any = None) -> c.Structure:
    """An epilogue struct; gate and residual are contiguous."""
    return fill(
        Epilogue,
        bias=bias,
        gate=gate,
        gate_stride=0 if gate is None else gate.shape[-1],
        residual=residual,
        residual_stride=0 if residual is None else residual.shape[-1],
        activation=-1 if activation is None else UNARY.index(activation),
    )


def shape(dims: tuple[int, ...]) -> c.Structure:
    """A shape struct."""
    return fill(Shape, rank=len(dims), shape=dims)


def strides(array: np.ndarray, dims: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """Strides in elements, of `array` broadcast to `dims`."""
    view = array if dims is None else np.broadcast_to(array, dims)
    return tuple(step // array.itemsize for step in view.strides)

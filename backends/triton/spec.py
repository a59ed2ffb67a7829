"""What one Triton kernel computes: everything that changes its source, and nothing about tensors or sizes.

A `GemmSpec` is a contraction with its epilogue, a `RowSpec` the row-wise step in front of it. Two kernels of a model
with equal specs share one source. How a kernel is cut into blocks is `qcc.backends.triton.config`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qcc.errors import Problem, UnsupportedOp

Float = Literal["f16", "bf16", "f32"]
Input = Literal["f16", "bf16", "i8"]
Output = Literal["f16", "bf16", "f32", "i8"]
InputScale = Literal["none", "token", "tensor", "group"]
ZeroPoint = Literal["none", "integer", "half"]
Activation = Literal["relu", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh"]
Norm = Literal["none", "rms", "rms_plus1", "layer"]

GROUPS = (32, 64, 128, 256)
"""Columns of K that may share one scale; a whole row is the other choice."""

WEIGHT_BITS = (2, 4, 8)
MAX_ROW = 32768
"""Columns that one program of a row-wise kernel holds in registers."""


@dataclass(frozen=True)
class Unary:
    """Apply an activation function."""

    function: Activation

    @property
    def tag(self) -> str:
        """Give the step's part of a kernel's name."""
        return self.function


@dataclass(frozen=True)
class Combine:
    """Add or multiply by a tensor `[M, N]` (`full`), `[N]` (`channel`) or of one element (`scalar`)."""

    function: Literal["add", "mul"]
    dtype: Float
    shape: Literal["full", "channel", "scalar"] = "full"

    @property
    def tag(self) -> str:
        """Give the step's part of a kernel's name."""
        return self.function if self.shape == "full" else f"{self.function}_{self.shape}"


@dataclass(frozen=True)
class Requantize:
    """Divide by one stored scale, round half to even and clamp to the codes `low`..`high`."""

    low: int
    high: int

    @property
    def tag(self) -> str:
        """Give the step's part of a kernel's name."""
        return "quantize"


Step = Unary | Combine | Requantize


@dataclass(frozen=True)
class GemmSpec:
    """A quantized contraction `[M, K] x [N, K] -> [M, N]` and the steps after it.

    - `weight_bits` codes of 2, 4 or 8 bits under scales of dtype `scale`, one a row (`group` None) or one a row and
      `group` columns. `zero`: `integer` zero points of the codes' width, or `half` for codes that stand for code + 1/2.
    - `input` is float (then the codes are made floats and multiplied) or int8 codes (integer sums) under
      `input_scale`; `input_group` columns share a scale where that is `group`.
    - `step` columns of K, or one block if that is wider, are taken in one step of the main loop.
    - `bias` is the dtype of a bias [N]; `steps` follow in order; `output` is the element type of the result.
    - `ragged`: K does not fill the blocks, or N is no multiple of 16: loads are masked and unaligned.

    Raises:
        UnsupportedOp: parts that no kernel covers, all of them named.
    """

    weight_bits: int
    group: int | None
    input: Input
    zero: ZeroPoint = "none"
    scale: Float = "f16"
    input_scale: InputScale = "token"
    input_group: int | None = None
    bias: Float | None = None
    steps: tuple[Step, ...] = ()
    output: Output = "f16"
    step: Literal[64, 128, 256] = 128
    ragged: bool = False

    def __post_init__(self) -> None:
        found = gemm_problems(self)
        if found:
            raise UnsupportedOp("no Triton kernel covers this contraction", [Problem("", one) for one in found])

    @property
    def plan(self) -> str:
        """Name the widths, as in `w4a8`."""
        return f"w{self.weight_bits}a{8 if self.input == 'i8' else 16}"

    @property
    def integer(self) -> bool:
        """Whether sums are integers."""
        return self.input == "i8"


@dataclass(frozen=True)
class RowSpec:
    """A row-wise step on `[M, K]`: a norm, a Hadamard rotation, and quantization to int8, each of them optional.

    - `norm` with a weight of the input's dtype (`layer` with a bias where `norm_bias`); `hadamard` is the size of the
      rotation's diagonal blocks.
    - `scale` says what one scale belongs to: `none` leaves the row in float, `tensor` reads one stored scale, `token`
      and `group` (of `group` columns) compute max|x| / `high` at run time.
    - `values`: the float row is a result too. `sums`: the sums of the codes over this many columns (0: over the row)
      are results, for weights with zero points.
    - `ragged`: K is no multiple of 16.

    Raises:
        UnsupportedOp: parts that no kernel covers, all of them named.
    """

    input: Float
    norm: Norm = "none"
    norm_weight: bool = False
    norm_bias: bool = False
    hadamard: int | None = None
    scale: InputScale = "token"
    group: int | None = None
    low: int = -128
    high: int = 127
    values: bool = False
    sums: int | None = None
    ragged: bool = False

    def __post_init__(self) -> None:
        found = row_problems(self)
        if found:
            raise UnsupportedOp("no Triton kernel covers this row-wise step", [Problem("", one) for one in found])


KernelSpec = GemmSpec | RowSpec


FLOATS = ("f16", "bf16", "f32")


def gemm_problems(spec: GemmSpec) -> list[str]:
    """List what no kernel covers."""
    operands = [step.dtype for step in spec.steps if isinstance(step, Combine)]
    used = {spec.scale, *operands, *([] if spec.bias is None else [spec.bias])} | ({spec.output} - {"i8"})
    found = [f"floats of {one}; the kernels take float32, float16 and bfloat16" for one in sorted(used - set(FLOATS))]
    if spec.input not in ("i8", "f16", "bf16"):
        found.append(f"inputs of {spec.input}; the kernels take float16, bfloat16 and int8 codes")
        return found
    if spec.weight_bits not in WEIGHT_BITS:
        found.append(f"weights of {spec.weight_bits} bits; the kernels take {_either(WEIGHT_BITS)}")
    if spec.group is not None and spec.group not in GROUPS:
        found.append(f"groups of {spec.group} columns; the kernels take {_either(GROUPS)}, or one scale a row")
    if spec.integer and spec.weight_bits == 8 and spec.zero == "half":
        found.append("8-bit weights on a mid-rise grid; the kernels take them with 2 or 4 bits")
    if not spec.integer and spec.zero == "half":
        found.append("weights on a mid-rise grid with a float input; quantize the input to int8")
    if not spec.integer and spec.weight_bits != 4:
        found.append(f"{spec.weight_bits}-bit weights with a float input; the kernels take 4 bits, or int8 inputs")
    if spec.integer == (spec.input_scale == "none"):
        found.append("an int8 input needs a scale" if spec.integer else "a float input has no scale")
    if (spec.input_scale == "group") != (spec.input_group is not None):
        found.append("input_group goes with input_scale 'group'")
    if spec.input_group is not None and (spec.group is None or spec.input_group % spec.group):
        found.append(f"inputs with a scale per {spec.input_group} columns need groups of weights that divide it")
    places = [index for index, step in enumerate(spec.steps) if isinstance(step, Requantize)]
    if places not in ([], [len(spec.steps) - 1]):
        found.append("a quantization before the end of the epilogue")
    if bool(places) != (spec.output == "i8"):
        found.append("an int8 result comes of a quantization at the end, and of nothing else")
    return found


def row_problems(spec: RowSpec) -> list[str]:
    """List what no kernel covers."""
    found = _norm_problems(spec)
    if spec.input not in FLOATS:
        found.append(f"rows of {spec.input}; the kernels take float32, float16 and bfloat16")
    if (spec.scale == "group") != (spec.group is not None):
        found.append("group goes with scale 'group'")
    if spec.scale == "none" and (spec.sums is not None or not spec.values):
        found.append("a step that gives neither codes nor values")
    for what, size in (("groups", spec.group), ("sums over", spec.sums or None)):
        if size is not None and size not in GROUPS:
            found.append(f"{what} {size} columns; the kernels take {_either(GROUPS)}")
    if spec.scale == "group" and spec.sums not in (None, spec.group):
        found.append(f"sums over {spec.sums or 'all'} columns beside scales per {spec.group}")
    if not -128 <= spec.low < 0 < spec.high <= 127:
        found.append(f"codes from {spec.low} to {spec.high}; the kernels make int8")
    return found


def _norm_problems(spec: RowSpec) -> list[str]:
    found: list[str] = []
    if (spec.norm, spec.hadamard, spec.scale) == ("none", None, "none"):
        found.append("a step that computes nothing")
    if spec.norm == "none" and (spec.norm_weight or spec.norm_bias):
        found.append("parameters without a norm")
    if spec.norm_bias and spec.norm != "layer":
        found.append(f"a bias of the norm '{spec.norm}'")
    if spec.norm == "rms_plus1" and not spec.norm_weight:
        found.append("the norm 'rms_plus1' without a weight")
    if spec.hadamard is not None and (spec.hadamard < 2 or spec.hadamard & (spec.hadamard - 1)):
        found.append(f"a Hadamard rotation of size {spec.hadamard}; the kernels take powers of two")
    return found


def _either(values: tuple[int, ...]) -> str:
    return f"{', '.join(map(str, values[:-1]))} or {values[-1]}"

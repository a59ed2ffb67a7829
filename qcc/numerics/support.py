"""Say which quantization types the numerics can compute, and refuse the others by name."""

from __future__ import annotations

from collections.abc import Iterator

from qcc.errors import Problem, UnsupportedOp
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import (
    FuseGroup,
    IntDecode,
    KAxis,
    Level,
    Rotate,
    Slice,
    Zero,
    is_integer_dtype,
)

FLOAT_LEVELS = ("f32", "f16", "bf16")
STATISTICS = ("amax", "minmax", "rms", "mean_abs", "constant")


def require_supported(qtype: QType) -> None:
    """Raise unless the numerics can quantize and dequantize this type.

    Raises:
        UnsupportedOp: with one problem for each part that is described but not computed.
    """
    found = list(_unsupported(qtype))
    if found:
        raise UnsupportedOp(
            f"the numerics of the format {qtype} are not there yet",
            [Problem("", what) for what in found],
            fix="use integer codes of 1 to 8 bits with one or two levels of f32, f16, bf16 or integer scales",
        )


def _unsupported(qtype: QType) -> Iterator[str]:
    if not isinstance(qtype.decode, IntDecode):
        yield f"the decode {qtype.decode} (only integers are)"
    elif qtype.decode.bits > 8:
        yield f"codes of {qtype.decode.bits} bits (at most 8 are)"
    if qtype.rounding == "stochastic":
        yield "stochastic rounding"
    if len(qtype.levels) > 2:
        yield f"{len(qtype.levels)} levels of scales (at most two are)"
    for index, level in enumerate(qtype.levels):
        yield from _unsupported_level(level, is_root=index == len(qtype.levels) - 1)
    if qtype.zero is not None:
        yield from _unsupported_zero(qtype.zero, qtype)
    for side in qtype.sides:
        # These say where the codes came from or how they are read; encoding does not depend on them.
        if not isinstance(side, FuseGroup | KAxis | Rotate | Slice):
            yield f"the side tensor {side}"
    protective = [level for level in qtype.levels if level.protective is not None]
    if protective and (
        len(qtype.levels) != 2 or protective != [qtype.levels[1]] or not is_integer_dtype(qtype.levels[0].dtype)
    ):
        yield "a protective range other than at the root over an integer level"
    if protective and qtype.zero is not None and qtype.zero.kind == "post":
        yield "a post zero point under a protective range"


def _unsupported_level(level: Level, *, is_root: bool) -> Iterator[str]:
    constant = level.statistic == "constant"
    known = level.dtype in FLOAT_LEVELS or (level.dtype == "pow2" and constant)
    if not known and not (is_integer_dtype(level.dtype) and not is_root):
        yield f"scales in {level.dtype} at level {level}"
    if level.statistic not in STATISTICS:
        yield f"the statistic {level.statistic}"
    if level.rounding != "rne" and not is_integer_dtype(level.dtype):
        yield f"scales in {level.dtype} rounded by {level.rounding}"
    if level.offset != "none":
        yield "scales stored relative to an offset"


def _unsupported_zero(zero: Zero, qtype: QType) -> Iterator[str]:
    if zero.kind == "min" or zero.levels:
        yield f"the zero point {zero}, which has levels of its own"
    elif zero.dtype not in FLOAT_LEVELS and not is_integer_dtype(zero.dtype):
        yield f"a zero point in {zero.dtype}"
    if zero.kind == "post" and is_integer_dtype(zero.dtype):
        yield f"a post zero point in {zero.dtype}"
    if zero.kind == "scaled" and (zero.dtype != "i8" or qtype.levels[-1].protective is None):
        yield "a scaled zero point other than i8 under a protective range"
    if any(level.statistic in ("rms", "mean_abs") for level in qtype.levels):
        yield "a zero point with a statistic other than the range"

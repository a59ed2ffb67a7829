"""Which quantized formats the kernels take, read as the fields of a spec; what they do not take, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from qcc.backends.triton.spec import GROUPS, WEIGHT_BITS, Float, InputScale, ZeroPoint
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import FuseGroup, IntDecode, Rotate, expand_block, is_integer_dtype, is_whole

HARMLESS = (FuseGroup, Rotate)
"""Side notes that change no value."""

SCALES: tuple[Float, ...] = ("f16", "bf16", "f32")


@dataclass(frozen=True)
class WeightFormat:
    """A weight's width as stored, columns of its scales (None: a row), zero point and dtype of scales."""

    bits: int
    group: int | None
    zero: ZeroPoint
    scale: Float


@dataclass(frozen=True)
class InputFormat:
    """An int8 input's range of codes, what a scale belongs to, and whether scales are given."""

    low: int
    high: int
    scale: InputScale
    group: int | None


def weight_format(qtype: QType, columns: int) -> WeightFormat | list[str]:
    """Read the format of a weight of `columns` columns, or list what the kernels do not take.

    Codes narrower than 2, 4 or 8 bits are stored in the next of these widths.
    """
    faults = _decode_faults(qtype)
    if not qtype.levels:
        faults.append("weights without scales")
    if qtype.zero is not None and (qtype.zero.kind != "pre" or not is_integer_dtype(qtype.zero.dtype)):
        faults.append(f"a zero point '{qtype.zero}'; integers taken off the codes ('pre') are taken")
    if qtype.grid == "mid_rise" and (qtype.zero is not None or not _signed(qtype)):
        faults.append("a mid-rise grid of unsigned codes or with a zero point")
    if faults or not isinstance(qtype.decode, IntDecode):
        return faults
    bits = next(width for width in WEIGHT_BITS if width >= qtype.decode.bits)
    zero: ZeroPoint = (
        "half" if qtype.grid == "mid_rise" else "none" if qtype.zero is None and _signed(qtype) else "integer"
    )
    if qtype.zero is not None and int(qtype.zero.dtype[1:]) > bits:
        faults.append(f"zero points of {qtype.zero.dtype} beside codes of {qtype.decode.bits} bits")
    group = _columns(qtype, columns)
    if group is not None and group not in GROUPS:
        faults.append(f"groups of {group} columns; {', '.join(map(str, GROUPS))} or rows are taken")
    level = qtype.levels[0]
    known = len(qtype.levels) == 1 and level.dtype in SCALES
    scale = cast(Float, level.dtype) if known else "f32"
    return faults or WeightFormat(bits, group, zero, scale)


def input_format(qtype: QType, columns: int) -> InputFormat | list[str]:
    """Read the format of a quantized input of `columns` columns, or list what the kernels do not take."""
    faults = _decode_faults(qtype)
    decode = qtype.decode
    if isinstance(decode, IntDecode) and (not decode.signed or qtype.zero is not None or decode.bits < 2):
        faults.append("inputs with unsigned codes, a zero point or 1 bit; symmetric int2 to int8 are taken")
    if qtype.grid != "mid_tread" or qtype.rounding != "rne" or qtype.overflow != "saturate":
        faults.append("inputs are rounded half to even on a mid-tread grid, and saturate")
    if len(qtype.levels) != 1:
        faults.append(f"{len(qtype.levels)} levels of scales of an input; 1 is taken")
    if faults or not isinstance(decode, IntDecode):
        return faults
    level, group = qtype.levels[0], _columns(qtype, columns)
    block = expand_block(level.block, 2)
    if qtype.when == "static":
        if not is_whole(level.block):
            faults.append("static scales of an input per row or group; one for the whole tensor is taken")
        return faults or InputFormat(decode.minimum, decode.maximum, "tensor", None)
    if block[0] != 1 or level.statistic != "amax" or level.constant is not None or level.dtype != "f32":
        faults.append("dynamic scales other than max|x| / qmax in f32 per token, or per token and group")
    if group is not None and group not in GROUPS:
        faults.append(f"inputs in groups of {group} columns; {', '.join(map(str, GROUPS))} or tokens are taken")
    return faults or InputFormat(decode.minimum, decode.maximum, "token" if group is None else "group", group)


def _decode_faults(qtype: QType) -> list[str]:
    faults: list[str] = []
    if not isinstance(qtype.decode, IntDecode) or not 1 <= qtype.decode.bits <= 8:
        faults.append(f"codes '{qtype.decode}'; integers of 1 to 8 bits are taken")
    if sides := [str(side) for side in qtype.sides if not isinstance(side, HARMLESS)]:
        faults.append(f"side tensors inside the format ({', '.join(sides)})")
    if qtype.layout != "dense":
        faults.append(f"the code layout '{qtype.layout}'")
    return faults


def _signed(qtype: QType) -> bool:
    return isinstance(qtype.decode, IntDecode) and qtype.decode.signed


def _columns(qtype: QType, columns: int) -> int | None:
    """Return how many columns share a scale; None for all of them."""
    extent = expand_block(qtype.levels[0].block, 2)[1]
    return None if extent == -1 or extent >= columns else extent

"""Which quantized formats the integer kernels take, and how weights of those formats are laid out for them.

The kernels read a weight as `scale * (code - zero)`, or `scale * (code - zero + 1/2)` on a mid-rise grid, with unsigned
codes of 1 to 8 bits, one scale and one integer zero point per row and group of K. Signed codes are stored with an
offset of 2^(b-1). The bits stored are those of the format.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from qcc.backends.cpu.pack import MAX_GROUP, PackedWeight, pack_weights
from qcc.backends.cpu.refusal import Refusal
from qcc.backends.cpu.rounding_formats import rounding_problem
from qcc.numerics.levels import chain_product
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import FuseGroup, IntDecode, Rotate, expand_block, is_integer_dtype, is_whole
from qcc.numerics.tensor import QuantizedTensor

HARMLESS = (FuseGroup, Rotate)
"""Side notes that change no value."""


@dataclass(frozen=True)
class Activation:
    """A quantized activation that the kernels take: `group` 0 is one scale per row."""

    bits: int
    narrow: bool
    group: int
    static: bool


def integer_decode(qtype: QType, role: str) -> IntDecode:
    """Return the decode of an integer format; refuse every other, naming it."""
    if not isinstance(qtype.decode, IntDecode):
        raise Refusal(f"its {role} has the format '{qtype}'; the kernels take integers of 1 to 8 bits")
    if sides := [str(side) for side in qtype.sides if not isinstance(side, HARMLESS)]:
        raise Refusal(f"its {role} '{qtype}' has side tensors ({', '.join(sides)}) inside the format")
    return qtype.decode


def activation_format(qtype: QType, columns: int) -> Activation:
    """Read the format of an activation; refuse what the quantizing kernel cannot make."""
    decode = integer_decode(qtype, "input")
    faults: list[str] = []
    if not decode.signed or decode.low is not None or decode.bits < 2 or qtype.zero is not None:
        faults.append("codes must be signed, symmetric and of 2 to 8 bits")
    if qtype.grid != "mid_tread" or qtype.rounding != "rne" or qtype.overflow != "saturate":
        faults.append("codes must round half to even on a mid-tread grid and saturate")
    static = qtype.when == "static"
    group = 0
    if len(qtype.levels) != 1:
        faults.append("one level of scales is taken")
    else:
        level = qtype.levels[0]
        block = expand_block(level.block, 2)
        plain = level.statistic == "amax" and level.constant is None and level.dtype == "f32"
        if not static and (not plain or is_whole(block) or block[0] != 1):
            faults.append("dynamic scales must be max|x| / qmax in f32, one per token or per token and group")
        if not static and 0 < block[1] < columns:
            group = block[1]
    if faults:
        raise Refusal(
            f"its input has the format '{qtype}': {'; '.join(faults)}",
            "use int8 with 'granularity: token' or 'group: N', when dynamic",
        )
    return Activation(decode.bits, decode.narrow, group, static)


def activation_problem(qtype: QType) -> str:
    """Say why no kernel can make a format, whatever the columns; empty where one can."""
    if not isinstance(qtype.decode, IntDecode):
        return rounding_problem(qtype)
    try:
        activation_format(qtype, 2**31)
    except Refusal as refusal:
        return refusal.what
    return ""


def weight_group(qtype: QType, columns: int, activation: Activation | None = None) -> int:
    """Return the length along K of the groups that a contraction is computed in.

    A weight's group may be a multiple of the activation's: its scales are then repeated.
    """
    block = expand_block(qtype.levels[0].block, 2) if qtype.levels else (-1, -1)
    group = columns if block[1] == -1 else min(block[1], columns)
    if activation is None or not activation.group or activation.group == group:
        return group
    if group == columns or group % activation.group == 0:
        return activation.group
    raise Refusal(
        f"groups of {activation.group} of its input do not fit groups of {group} of its weight",
        f"give the input one scale per token, or 'group: {group}'",
    )


def check_weight(qtype: QType, group: int) -> None:
    """Refuse a weight format that the kernels cannot read."""
    decode = integer_decode(qtype, "weight")
    faults: list[str] = []
    if qtype.zero is not None and (qtype.zero.kind != "pre" or not is_integer_dtype(qtype.zero.dtype)):
        faults.append("zero points must be integers taken off the codes ('pre')")
    if not qtype.levels or decode.bits > 8 or (qtype.grid == "mid_rise" and decode.bits > 7):
        faults.append("codes of 1 to 8 bits with scales are taken (7 bits on a mid-rise grid)")
    if not 1 <= group <= MAX_GROUP:
        faults.append(f"the sum of a group of {group} may overflow 32 bits; {MAX_GROUP} is the longest")
    if faults:
        raise Refusal(f"its weight has the format '{qtype}': {'; '.join(faults)}")


def is_native(qtype: QType) -> bool:
    """Say whether the kernels read weights of a format as they are."""
    try:
        check_weight(qtype, 1)
    except Refusal:
        return False
    return True


def stored_bits(qtype: QType) -> int:
    """Return the bits of a stored code."""
    return integer_decode(qtype, "weight").bits


def stores_f16_scales(qtype: QType) -> bool:
    """Say whether scales are stored in two bytes."""
    return len(qtype.levels) == 1 and qtype.levels[0].dtype == "f16"


def is_mid_rise(qtype: QType) -> bool:
    """Say whether levels lie half a step beside the integers."""
    return qtype.grid == "mid_rise"


def constant_zero(qtype: QType) -> int | None:
    """Return the zero point of every stored code, or None where it varies."""
    decode = integer_decode(qtype, "weight")
    if qtype.zero is not None:
        return None
    return 2 ** (decode.bits - 1) if decode.signed else 0


def pack_quantized(weight: QuantizedTensor, group: int, where: str, *, lookup: bool = False) -> PackedWeight:
    """Pack a weight [N, K] for the kernels, in groups of `group` along K; in planes of one bit each for `lookup`."""
    qtype, (rows, columns) = weight.qtype, weight.shape
    decode = integer_decode(qtype, "weight")
    half = 2 ** (decode.bits - 1) if decode.signed else 0
    codes = weight.codes.to(torch.int16) + half
    scales = chain_product(weight.parameters.scales, qtype.levels, weight.shape, torch.float32)
    zeros: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] | int
    constant = constant_zero(qtype)
    if constant is not None:
        zeros = constant
    else:
        assert weight.zero is not None
        spread = _spread(weight.zero.to(torch.int16) + half, qtype, rows, columns, group)
        zeros = spread.numpy().astype(np.uint8)
    return pack_weights(
        codes.numpy().astype(np.uint8),
        stored_bits(qtype),
        group,
        _spread(scales, qtype, rows, columns, group).numpy(),
        zeros,
        scale_f16=stores_f16_scales(qtype),
        mid_rise=is_mid_rise(qtype),
        lookup=lookup,
        where=where,
    )


def _spread(grid: torch.Tensor, qtype: QType, rows: int, columns: int, group: int) -> torch.Tensor:
    """Repeat one value per leaf block to one per row and group."""
    block = expand_block(qtype.levels[0].block, 2)
    tall = rows if block[0] == -1 else block[0]
    wide = columns if block[1] == -1 else min(block[1], columns)
    grid = grid.repeat_interleave(tall, dim=0)[:rows]
    sources = [start // max(wide, 1) for start in range(0, columns, group)]
    return grid[:, sources].contiguous()

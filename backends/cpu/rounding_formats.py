"""Say which formats of activations the rounding kernel makes: small floats and tables."""

from __future__ import annotations

from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import FloatDecode, Level, TableDecode, expand_block, is_whole

SCALES = {
    ("f32", "rne"): "QCC_SCALE_F32",
    ("f16", "rne"): "QCC_SCALE_F16",
    ("bf16", "rne"): "QCC_SCALE_BF16",
    ("e4m3", "rne"): "QCC_SCALE_E4M3",
    ("e8m0", "floor"): "QCC_SCALE_E8M0_FLOOR",
    ("e8m0", "ceil"): "QCC_SCALE_E8M0_CEIL",
    ("e8m0", "rne"): "QCC_SCALE_E8M0",
}
"""How a block's scale is stored, by dtype and rounding; `pow2` is stored as `e8m0` is."""

_ROUNDINGS = ("rne", "half_up", "half_down", "floor")


def rounding_problem(qtype: QType) -> str:
    """Say why the rounding kernel cannot make a format; empty where it can."""
    decode = qtype.decode
    if not isinstance(decode, FloatDecode) and not (isinstance(decode, TableDecode) and len(decode.tables) == 1):
        return f"its input has the format '{qtype}', whose codes are neither floats nor one table"
    faults: list[str] = []
    if qtype.zero is not None or qtype.sides or qtype.layout != "dense":
        faults.append("zero points and side tensors are not taken")
    if qtype.rounding not in _ROUNDINGS or qtype.overflow == "nonsaturating":
        faults.append("codes must round to a neighbour and saturate")
    if qtype.when not in ("static", "dynamic") or not 1 <= len(qtype.levels) <= 2:
        faults.append("one or two levels of scales are taken, static or dynamic")
    elif qtype.when == "dynamic":
        faults += _level_problems(qtype.levels)
    elif any(row_block(level)[0] != -1 for level in qtype.levels):
        faults.append("static scales must not differ from token to token")
    return f"its input has the format '{qtype}': {'; '.join(faults)}" if faults else ""


def row_block(level: Level) -> tuple[int, ...]:
    """Return how many tokens and columns share a scale of a level, -1 for all."""
    return expand_block(level.block, 2)


def _level_problems(levels: tuple[Level, ...]) -> list[str]:
    leaf, root = levels[0], levels[-1]
    faults: list[str] = []
    if any(one.statistic != "amax" or one.offset != "none" or one.protective is not None for one in levels):
        faults.append("dynamic scales must be those of the largest magnitude")
    if row_block(leaf)[0] != 1 or scale_dtype(leaf) not in SCALES:
        faults.append("dynamic scales of blocks must be those of one token, in f32, f16, bf16, e4m3 or e8m0")
    if len(levels) == 2 and not (is_whole(row_block(root)) and root.dtype == "f32"):
        faults.append("above them one f32 scale for the whole tensor is taken")
    return faults


def scale_dtype(level: Level) -> tuple[str, str]:
    """Return how scales of a level are stored: its key in `SCALES`."""
    return ("e8m0" if level.dtype == "pow2" else level.dtype, level.rounding)

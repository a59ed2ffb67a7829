"""Say which tokens of a KV cache are codes, and in which formats keys and values can be kept.

Tokens become codes in whole groups: a format with one scale for each channel and `group` tokens cannot encode a token
before the last one of its group is known. Until then, and while it is one of the `window` latest, a token stays as it
is. Importing this module does not import torch.
"""

from __future__ import annotations

from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import IntDecode, Level, Zero

PARAMETER_DTYPES = ("f16", "f32")
"""Element types that scales and zero points of a cache are stored in."""


def cache_qtype(bits: int, *, symmetric: bool, group: int, by_channel: bool, scale: str = "f16") -> QType:
    """Return the format of keys or values `[..., tokens, channels]`, computed as tokens come.

    With `by_channel` (KIVI, Liu et al., arXiv 2402.02750) a scale is that of one channel and `group` tokens, else of
    one token and `group` channels, -1 for all of a head. Asymmetric codes stand for scale * code + zero with a real
    zero point, so that a range far from 0 costs no bits.

    Raises:
        RecipeError: if bits are outside 1..8.
    """
    level = Level((group, 1) if by_channel else (1, group), scale)
    zero = None if symmetric else Zero("post", scale)
    return QType(IntDecode(bits, signed=symmetric), (level,), zero, "dynamic")


def format_problem(qtype: QType) -> str:
    """Say why a cache cannot be kept in a format; empty if it can."""
    found: list[str] = []
    if not isinstance(qtype.decode, IntDecode) or not 2 <= qtype.decode.bits <= 8 or qtype.decode.narrow:
        found.append("codes are integers of 2 to 8 bits, the whole range of them")
    if (qtype.grid, qtype.rounding, qtype.overflow, qtype.layout, qtype.sides) != (*_PLAIN, ()):
        found.append("codes round half to even on a mid-tread grid, saturate, and have no side tensors")
    if qtype.when != "dynamic":
        found.append("scales are dynamic")
    if len(qtype.levels) != 1:
        return "; ".join([*found, "one level of scales is kept"])
    (level,) = qtype.levels
    if level.dtype not in PARAMETER_DTYPES or level.statistic != "amax" or level.offset != "none":
        found.append("scales are f16 or f32 of the largest magnitude")
    if len(level.block) != 2 or 1 not in level.block or level.block[0] == -1:
        found.append("a scale is that of one token, or of one channel and a number of tokens")
    if qtype.zero is not None and (qtype.zero.kind != "post" or qtype.zero.dtype != level.dtype or qtype.zero.levels):
        found.append("zero points are real ones behind the scale (post), stored as the scales are")
    return "; ".join(found)


_PLAIN = ("mid_tread", "rne", "saturate", "dense")


def tokens_a_group(qtype: QType) -> int:
    """Return how many tokens share their parameters."""
    return int(qtype.levels[0].block[0])


def keeps_tokens(qtype: QType, window: int) -> bool:
    """Say whether some tokens stay as they are for a while."""
    return window > 0 or tokens_a_group(qtype) > 1


def ring_size(qtype: QType, window: int, tokens: int | None) -> int:
    """Return for how many tokens as they are a cache needs room: one more than stay so, and no more than it holds."""
    needed = window + tokens_a_group(qtype)
    return needed if tokens is None else min(needed, tokens)


def settled(length: int, qtype: QType, window: int) -> int:
    """Return how many of the first `length` tokens are codes: whole groups that end before the window.

    Of the rest there are at least min(window, length) and fewer than window + group.
    """
    group = tokens_a_group(qtype)
    return max(length - window, 0) // group * group

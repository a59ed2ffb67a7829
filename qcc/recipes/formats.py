"""Formats as recipes write them: `int4`, `f32`, the name of a preset, or a whole type."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from qcc.errors import RecipeError
from qcc.numerics.presets import format_of
from qcc.numerics.qtype import Granularity, QType, int_qtype
from qcc.numerics.qtype_parts import Block

FLOAT_FORMATS = ("f32", "f16", "bf16")


def check_format(text: str) -> str:
    """Return the text if it names a format.

    Raises:
        ValueError: saying what could be written; of a misspelt preset the nearest one.
    """
    if text in FLOAT_FORMATS or not is_whole(text):
        return text
    try:
        format_of(text)
    except RecipeError as error:
        reason = "; ".join([error.message, *(str(problem) for problem in error.problems), *filter(None, [error.fix])])
        raise ValueError(
            f"'{text}' is no format ({reason}): write int1..int8 (symmetric), uint1..uint8 (asymmetric), "
            f"{', '.join(FLOAT_FORMATS)}, the name of a preset such as mxfp4 or nf4-g64, or a whole type such as "
            "'uint4 | (1,32) f16 | pre u4'"
        ) from error
    return text


def is_whole(text: str) -> bool:
    """Say whether a format names its own groups and scales: a preset, or a whole type."""
    return text not in FLOAT_FORMATS and integer_bits(text) is None


def integer_bits(text: str) -> tuple[int, bool] | None:
    """Read `int4` as (4, symmetric) and `uint4` as (4, not symmetric)."""
    for prefix, symmetric in (("uint", False), ("int", True)):
        if text.startswith(prefix) and text[len(prefix) :] in tuple("12345678"):
            return int(text[len(prefix) :]), symmetric
    return None


def quantized_type(text: str, group: Granularity, scale: str, when: Literal["static", "dynamic"]) -> QType:
    """Return the type behind a format; `group` and `scale` are for `int4` and the like.

    A whole type is taken as it is, but that a static one is computed at run time where `when` is dynamic.

    Raises:
        RecipeError: if the format is a float, or makes no sense.
    """
    if text in FLOAT_FORMATS:
        raise RecipeError(f"'{text}' is a floating-point format, not a quantized one")
    parsed = integer_bits(text)
    if parsed is not None:
        bits, symmetric = parsed
        return int_qtype(bits, symmetric=symmetric, group=group, scale=scale, when=when)
    whole = format_of(text)
    return replace(whole, when=when) if whole.when == "static" else whole


def with_statistic(qtype: QType, clip: Literal["amax", "mse"] | float, block: Block | None = None) -> QType:
    """Return a format of one level with scales that cover another range, for each `block` if one is given.

    `clip` is a statistic, or a percentile.
    """
    (level,) = qtype.levels
    statistic, constant = (clip, None) if isinstance(clip, str) else ("percentile", clip)
    return replace(qtype, levels=(replace(level, block=block or level.block, statistic=statistic, constant=constant),))

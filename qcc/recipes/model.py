"""The recipe: what to quantize, in which format, by which solver. YAML in, JSON in the artifact."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from qcc.errors import RecipeError
from qcc.numerics.qtype import QType, int_qtype
from qcc.numerics.qtype_text import parse_qtype

FLOAT_FORMATS = ("f32", "f16", "bf16")
Group = Literal["row", "tensor"] | Annotated[int, Field(ge=1)]
Transform = Literal[
    "fold_norm",
    "rotate",
    "permute",
    "smooth",
    "awq",
    "smooth_attention",
    "qsm",
    "expand_k",
    "diagonal",
]
Solver = Literal["rtn", "mse", "gptq", "decoupleq", "hlq", "tritplanes", "adaround"]


def _known_format(text: str) -> str:
    if text in FLOAT_FORMATS or "|" in text or _integer_bits(text) is not None:
        return text
    raise ValueError(
        f"'{text}' is no format: write int1..int8 (symmetric), uint1..uint8 (asymmetric), {', '.join(FLOAT_FORMATS)}, "
        "or a whole type such as 'uint4 | (1,32) f16 | pre u4'"
    )


def _integer_bits(text: str) -> tuple[int, bool] | None:
    """Read `int4` as (4, symmetric) and `uint4` as (4, not symmetric)."""
    for prefix, symmetric in (("uint", False), ("int", True)):
        if text.startswith(prefix) and text[len(prefix) :] in tuple("12345678"):
            return int(text[len(prefix) :]), symmetric
    return None


Format = Annotated[str, AfterValidator(_known_format)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Formatted(_Strict):
    format: Format = "f32"

    @property
    def is_float(self) -> bool:
        """Whether the tensor stays in floating point."""
        return self.format in FLOAT_FORMATS


class WeightScheme(_Formatted):
    """How the weights of a layer are stored.

    `int<k>` is symmetric, `uint<k>` asymmetric with an integer zero point per group. `group` counts columns (the
    reduction axis); `row` is one scale per output channel.
    """

    group: Group = "row"
    scale: Literal["f32", "f16", "bf16"] = "f16"
    solver: Solver = "rtn"

    def qtype(self) -> QType:
        """Return the type of the quantized weight.

        Raises:
            RecipeError: if the format is a float, or makes no sense.
        """
        return _qtype(self.format, self.group, self.scale, "static")


class ActivationScheme(_Formatted):
    """How the input of a contraction is quantized: one scale per token (row), per group of columns or per tensor."""

    granularity: Literal["token", "tensor"] = "token"
    group: Annotated[int, Field(ge=1)] | None = None
    when: Literal["dynamic", "static"] = "dynamic"

    def qtype(self) -> QType:
        """Return the type of the quantized activation.

        Raises:
            RecipeError: if the format is a float, or makes no sense.
        """
        block: Group = self.group or ("row" if self.granularity == "token" else "tensor")
        return _qtype(self.format, block, "f32", self.when)


def _qtype(text: str, group: Group, scale: str, when: Literal["static", "dynamic"]) -> QType:
    if "|" in text:
        return parse_qtype(text)
    parsed = _integer_bits(text)
    if parsed is None:
        raise RecipeError(f"'{text}' is a floating-point format, not a quantized one")
    bits, symmetric = parsed
    return int_qtype(bits, symmetric=symmetric, group=group, scale=scale, when=when)


class TensorScheme(_Formatted):
    """Format of a tensor that is read row by row, such as an embedding table or a KV cache."""

    group: Group = "row"

    def qtype(self) -> QType:
        """Return the type of the quantized tensor."""
        return _qtype(self.format, self.group, "f16", "static")


class Outliers(_Strict):
    """The largest `fraction` of a layer's weights, kept apart in a wider format."""

    format: Format = "f16"
    fraction: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0


class Rotation(_Strict):
    """Options of the transform `rotate`."""

    r1: bool = True
    r2: bool = True
    r3: bool = False
    r4: bool = False
    block: Annotated[int, Field(ge=2)] | None = None


class Override(_Strict):
    """Other settings for the layers whose name matches; the last match wins.

    `match` is a layer's name, a shell pattern (`encoder.*.query`), or a regular expression after `re:`.
    """

    match: str
    weights: WeightScheme | None = None
    activations: ActivationScheme | None = None


class Recipe(_Strict):
    """A whole recipe. Layers left in float by it are listed in the report, never skipped silently."""

    version: Literal[1] = 1
    description: str = ""
    weights: WeightScheme = WeightScheme()
    activations: ActivationScheme = ActivationScheme()
    embeddings: TensorScheme = TensorScheme()
    kv_cache: TensorScheme = TensorScheme()
    transforms: tuple[Transform, ...] = ()
    rotate: Rotation = Rotation()
    outliers: Outliers = Outliers()
    overrides: tuple[Override, ...] = ()

"""The recipe: what to quantize, in which format, by which solver. YAML in, JSON in the artifact."""

from __future__ import annotations

import re
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from qcc.numerics.presets import format_of
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import LowRank, Sparse
from qcc.recipes.formats import FLOAT_FORMATS, check_format, is_whole, quantized_type, with_statistic
from qcc.recipes.kv_cache import CacheAllocation, KvCache

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
    "residual_channels",
]
Solver = Literal["rtn", "mse", "gptq", "descent", "decoupleq", "hlq", "tritplanes", "adaround"]


Format = Annotated[str, AfterValidator(check_format)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Formatted(_Strict):
    format: Format = "f32"

    @property
    def is_float(self) -> bool:
        """Whether the tensor stays in floating point."""
        return self.format in FLOAT_FORMATS

    @property
    def is_whole(self) -> bool:
        """Whether the format is a preset or a whole type, which names its own groups and scales."""
        return is_whole(self.format)

    def _refuse_beside_whole(self, **defaults: object) -> None:
        """Refuse settings other than their defaults beside a format that names them itself."""
        beside = [name for name, default in defaults.items() if getattr(self, name) != default]
        if self.is_whole and beside:
            what = f"'{self.format}' says its own {', '.join(beside)}"
            raise ValueError(f"{what}: leave that away, or write int4 or uint4")

    def refuse_dynamic(self) -> None:
        """Refuse a format computed at run time for values that are stored."""
        if self.is_whole and (when := format_of(self.format).when) != "static":
            raise ValueError(f"'{self.format}' is {when}, but these values are stored: leave '{when}' away")


class WeightScheme(_Formatted):
    """How the weights of a layer are stored.

    `int<k>` is symmetric, `uint<k>` asymmetric with an integer zero point per group. `group` counts columns (the
    reduction axis); `row` is one scale per output channel. A preset or a whole type says both itself. `clip` is the
    range that scales cover: the largest magnitude, or that of least squared error.
    """

    group: Group = "row"
    scale: Literal["f32", "f16", "bf16"] = "f16"
    clip: Literal["amax", "mse"] = "amax"
    solver: Solver = "rtn"

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._refuse_beside_whole(group="row", scale="f16", clip="amax")
        self.refuse_dynamic()
        return self

    def qtype(self) -> QType:
        """Return the type of the quantized weight.

        Raises:
            RecipeError: if the format is a float, or makes no sense.
        """
        qtype = quantized_type(self.format, self.group, self.scale, "static")
        return with_statistic(qtype, self.clip) if self.clip != "amax" else qtype


class ActivationScheme(_Formatted):
    """How the input of a contraction is quantized: one scale per token (row), group of columns, channel or tensor.

    A preset or a whole type says that itself; where it does not say when, `when` does. Static scales come from
    calibration samples and know no token: they are per tensor, channel or group of columns. `clip` is the range they
    cover: the largest magnitude (`amax`), that of least squared error (`mse`), or a percentile such as 99.99.
    """

    granularity: Literal["token", "tensor", "channel"] = "token"
    group: Annotated[int, Field(ge=1)] | None = None
    when: Literal["dynamic", "static"] = "dynamic"
    clip: Literal["amax", "mse"] | Annotated[float, Field(gt=0, le=100)] = "amax"

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._refuse_beside_whole(granularity="token", group=None, clip="amax")
        if self.is_whole and self.when == "static" and (when := format_of(self.format).when) != "static":
            raise ValueError(f"'{self.format}' is {when}, and 'when: static' says otherwise: leave one of them away")
        if self.when == "dynamic" and (self.clip != "amax" or self.granularity == "channel"):
            raise ValueError("clip and granularity: channel are for static scales: add when: static")
        if self.when == "static" and not (self.is_float or self.is_whole or self.group) and self.granularity == "token":
            raise ValueError("a static scale cannot go by token: write granularity: tensor or channel, or a group")
        return self

    def qtype(self) -> QType:
        """Return the type of the quantized activation.

        Raises:
            RecipeError: if the format is a float, or makes no sense.
        """
        if self.when == "static" and not self.is_whole:
            columns = self.group or (1 if self.granularity == "channel" else -1)
            plain = quantized_type(self.format, "tensor", "f32", "static")
            return with_statistic(plain, self.clip, (-1, columns))
        block: Group = self.group or ("row" if self.granularity == "token" else "tensor")
        return quantized_type(self.format, block, "f32", self.when)


class TensorScheme(_Formatted):
    """Format of a tensor that is read row by row, such as an embedding table."""

    group: Group = "row"

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._refuse_beside_whole(group="row")
        return self

    def qtype(self) -> QType:
        """Return the type of the quantized tensor."""
        return quantized_type(self.format, self.group, "f16", "static")


class Outliers(_Strict):
    """A `fraction` of a layer's weights, kept apart in a wider format: single elements, or whole input channels.

    By `magnitude` those that are largest; by `sensitivity` those whose rounding costs the layer's outputs most on
    calibration samples (SpQR, arXiv 2306.03078).
    """

    format: Literal["f32", "f16", "bf16"] = "f16"
    fraction: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    by: Literal["magnitude", "sensitivity"] = "magnitude"
    of: Literal["elements", "columns"] = "elements"

    def side(self) -> Sparse | None:
        """Return the side tensor of the type of a weight; None where nothing is kept apart."""
        kind = "csr" if self.of == "elements" else "columns"
        return Sparse(kind, self.format, self.fraction) if self.fraction else None


class Factors(_Strict):
    """Two thin factors of `rank` whose product is added to the codes of a layer's weights; rank 0 is none.

    `svd` takes them off the weight before it is quantized (SVDQuant, arXiv 2411.05007), `lorc` makes them of what
    quantization lost (ZeroQuant-FP, arXiv 2307.09782), `alternating` does the latter and quantizes again what they
    leave, in turns until the error no longer falls (LQ-LoRA, arXiv 2311.12023). `weighted` counts the errors of a
    column as much as calibration samples use it.
    """

    rank: Annotated[int, Field(ge=0)] = 0
    method: Literal["svd", "lorc", "alternating"] = "alternating"
    format: Literal["f32", "f16", "bf16", "int8", "int4"] = "f16"
    weighted: bool = False

    def side(self) -> LowRank | None:
        """Return the side tensor of the type of a weight; None where there are no factors."""
        return LowRank(self.rank, self.format.replace("int", "i")) if self.rank else None


def split_type(qtype: QType, outliers: Outliers, low_rank: Factors) -> QType:
    """Return the type of a weight whose codes are of type `qtype`, with what a recipe keeps apart from them."""
    added = [side for side in (outliers.side(), low_rank.side()) if side is not None]
    return replace(qtype, sides=(*qtype.sides, *added))


class Rotation(_Strict):
    """Options of the transform `rotate`: which rotations, and in blocks of how many channels.

    Without `block`, the largest block that divides the channels and has a Hadamard matrix. `inputs` rotates what every
    layer reads, at run time.
    """

    r1: bool = True
    r2: bool = True
    r3: bool = False
    r4: bool = False
    inputs: bool = False
    block: Annotated[int, Field(ge=2)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0


class Smoothing(_Strict):
    """Options of `smooth_attention`: how much of the outliers moves, from none (0) to all (1)."""

    alpha: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5


class SmoothingOfNorms(_Strict):
    """Options of `smooth`: how much of the outliers moves, from none (0) to all (1), or what a search finds best."""

    alpha: Annotated[float, Field(ge=0.0, le=1.0)] | Literal["search"] = 0.5


class Sorting(_Strict):
    """Options of `permute`: whether channels are sorted by their largest activation or by their largest weight.

    `inputs` sorts what every layer reads, each in an order of its own, at run time, and leaves streams as they are.
    """

    by: Literal["activations", "weights"] = "activations"
    inputs: bool = False


class Migration(_Strict):
    """Options of `qsm`: the range that the scale of a channel covers.

    The largest magnitude, that of least squared error of the channel, or, `adaptive`, of the output: with what the
    weights lose that take the scale.
    """

    clip: Literal["amax", "mse", "adaptive"] = "mse"


class Expansion(_Strict):
    """Options of `expand_k`: how many channels are split, to which multiple, and whether others go instead."""

    share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.05
    multiple: Annotated[int, Field(ge=1)] = 8
    drop: bool = False


class Residuals(_Strict):
    """Options of `residual_channels`: which channels get a second code, by their largest magnitude on samples.

    Those above `threshold` times the largest of all, at most `share` of them, up to the next `multiple`.
    """

    threshold: Annotated[float, Field(gt=0.0, le=1.0)] = 0.125
    share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.25
    multiple: Annotated[int, Field(ge=1)] = 16


class Override(_Strict):
    """Other settings for the layers whose name matches; the last match wins.

    `match` is a layer's name, a shell pattern (`encoder.*.query`), or a regular expression after `re:`. `kv_cache` is
    for attentions, which are named after the module that they are computed in.
    """

    match: str
    weights: WeightScheme | None = None
    activations: ActivationScheme | None = None
    kv_cache: KvCache | None = None
    outliers: Outliers | None = None
    low_rank: Factors | None = None

    def matches(self, name: str) -> bool:
        """Say whether the layer of a name is meant."""
        if self.match.startswith("re:"):
            return re.search(self.match[3:], name) is not None
        return fnmatchcase(name, self.match) or name.endswith("." + self.match)

    @property
    def is_for_layers(self) -> bool:
        """Whether some layer is meant; else it is an attention."""
        sections = (self.weights, self.activations, self.outliers, self.low_rank)
        return self.kv_cache is None or any(one is not None for one in sections)


class Budget(_Strict):
    """What the weights of all quantized layers may take: one of the keys.

    `bits_per_weight` and `bytes` count scales and zero points. `latency` is a share of what the target predicts for the
    layers in the recipe's own `weights`; `lut`, `dsp` and `bram18` are resources of an FPGA, by the target's estimate.
    """

    bits_per_weight: Annotated[float, Field(gt=0, le=64)] | None = None
    bytes: Annotated[int, Field(ge=1)] | None = None
    latency: Annotated[float, Field(gt=0, le=64)] | None = None
    lut: Annotated[int, Field(ge=0)] | None = None
    dsp: Annotated[int, Field(ge=0)] | None = None
    bram18: Annotated[int, Field(ge=0)] | None = None

    @property
    def limit(self) -> tuple[str, float | int]:
        """The key that is given, and the most that is allowed."""
        (one,) = self.model_dump(exclude_none=True).items()
        return one

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.model_dump(exclude_none=True)) != 1:
            known = list(type(self).model_fields)
            raise ValueError(f"a budget is one of {', '.join(known[:-1])} or {known[-1]}: write one of them")
        return self


class Allocation(_Strict):
    """Formats to choose from for each layer, and the budget for all; `by` is how their harm is measured.

    Layers that an override gives weights keep them, and count against the budget. `kv_cache` chooses bits of keys and
    values; without it, or beside it, `candidates` and `budget` choose weights.
    """

    candidates: tuple[WeightScheme, ...] = ()
    budget: Budget | None = None
    by: Literal["output", "hessian"] = "output"
    kv_cache: CacheAllocation | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.candidates) != (self.budget is not None):
            raise ValueError("candidates and budget belong together: write both")
        if len(self.candidates) == 1 or not (self.candidates or self.kv_cache):
            raise ValueError("write at least 2 candidates with a budget, or kv_cache, or both")
        if floats := [one.format for one in self.candidates if one.is_float]:
            what = f"candidates are quantized formats, not {', '.join(floats)}"
            raise ValueError(f"{what}: leave layers in float by overrides")
        if twice := sorted({str(one.qtype()) for one in self.candidates if self.candidates.count(one) > 1}):
            raise ValueError(f"candidates are named twice: {', '.join(twice)}")
        return self

    def without_weights(self) -> Allocation | None:
        """Return what is left to choose once the weights are."""
        return None if self.kv_cache is None else Allocation(kv_cache=self.kv_cache)


class Recipe(_Strict):
    """A whole recipe. Layers left in float by it are listed in the report, never skipped silently."""

    version: Literal[1] = 1
    description: str = ""
    weights: WeightScheme = WeightScheme()
    activations: ActivationScheme = ActivationScheme()
    embeddings: TensorScheme = TensorScheme()
    kv_cache: KvCache = KvCache()
    transforms: tuple[Transform, ...] = ()
    rotate: Rotation = Rotation()
    permute: Sorting = Sorting()
    smooth: SmoothingOfNorms = SmoothingOfNorms()
    smooth_attention: Smoothing = Smoothing()
    qsm: Migration = Migration()
    expand_k: Expansion = Expansion()
    residual_channels: Residuals = Residuals()
    illegal_folds: Literal["refuse", "keep"] = "refuse"
    outliers: Outliers = Outliers()
    low_rank: Factors = Factors()
    allocate: Allocation | None = None
    overrides: tuple[Override, ...] = ()

    @field_validator("embeddings")
    @classmethod
    def _stored(cls, value: TensorScheme) -> TensorScheme:
        value.refuse_dynamic()
        return value

    @model_validator(mode="after")
    def _allocates(self) -> Self:
        allocation = self.allocate
        if allocation is not None and allocation.candidates and self.weights.is_float:
            raise ValueError("allocate chooses among quantized layers, and weights leaves all in float: set its format")
        if allocation is not None and allocation.kv_cache is not None and self.kv_cache.keeps_floats:
            raise ValueError("allocate.kv_cache chooses bits of a cache that kv_cache keeps in float: set its format")
        apart = [one.side() for part in (self, *self.overrides) for one in (part.outliers, part.low_rank) if one]
        if self.allocate is not None and any(apart):
            what = "allocate counts the formats of its candidates, and outliers and low_rank would come on top"
            raise ValueError(f"{what}: name them in the formats, as in 'uint3 | (1,64) f16 | pre u3 | lowrank(8, f16)'")
        return self

"""The section of a recipe that says how keys and values are kept."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from qcc.numerics.kv_cache import cache_qtype
from qcc.numerics.qtype import QType
from qcc.recipes.formats import FLOAT_FORMATS, integer_bits


def _check_format(text: str) -> str:
    parsed = integer_bits(text)
    if text in FLOAT_FORMATS or (parsed is not None and parsed[0] > 1):
        return text
    what = f"keys and values cannot be kept as '{text}'"
    raise ValueError(f"{what}: write int2..int8 (symmetric), uint2..uint8 (asymmetric), or {', '.join(FLOAT_FORMATS)}")


CacheFormat = Annotated[str, AfterValidator(_check_format)]


class CacheTensor(BaseModel):
    """How keys, or values, are kept.

    `axis: token` has scales for each token, and `group` counts channels of a head (`row`: all of them); `channel` has
    scales for each channel, and `group` counts tokens.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: CacheFormat = "f32"
    axis: Literal["token", "channel"] = "token"
    group: Literal["row"] | Annotated[int, Field(ge=1)] = "row"
    scale: Literal["f16", "f32"] = "f16"

    @model_validator(mode="after")
    def _check_group(self) -> Self:
        if self.axis == "channel" and self.group == "row" and not self.is_float:
            raise ValueError("axis: channel needs a group of tokens that share a scale: write group: 32")
        return self

    @property
    def is_float(self) -> bool:
        """Whether keys or values stay in floating point."""
        return self.format in FLOAT_FORMATS

    def qtype(self) -> QType:
        """Return the format of the codes; of a floating-point one there is none."""
        parsed = integer_bits(self.format)
        assert parsed is not None, "whoever asks has looked at is_float"
        bits, symmetric = parsed
        group = -1 if self.group == "row" else self.group
        return cache_qtype(bits, symmetric=symmetric, group=group, by_channel=self.axis == "channel", scale=self.scale)


class KvCache(CacheTensor):
    """How the keys and values of attention are kept: both alike, or each by its own section.

    The `window` latest tokens stay in float, and so do the tokens of a group that is not full yet.
    """

    keys: CacheTensor | None = None
    values: CacheTensor | None = None
    window: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _check_both(self) -> Self:
        if self.keys is not None and self.values is not None and not self._says_nothing:
            raise ValueError("keys and values say all there is to say: leave away what stands beside them")
        if self.window and self.key_scheme.is_float and self.value_scheme.is_float:
            raise ValueError("a window of tokens in float is for a cache that is quantized: set a format")
        return self

    @property
    def _says_nothing(self) -> bool:
        plain = CacheTensor()
        return all(getattr(self, name) == getattr(plain, name) for name in CacheTensor.model_fields)

    @property
    def _both(self) -> CacheTensor:
        return CacheTensor(format=self.format, axis=self.axis, group=self.group, scale=self.scale)

    @property
    def key_scheme(self) -> CacheTensor:
        """How keys are kept."""
        return self.keys or self._both

    @property
    def value_scheme(self) -> CacheTensor:
        """How values are kept."""
        return self.values or self._both

    @property
    def keeps_floats(self) -> bool:
        """Whether keys and values both stay in floating point."""
        return self.key_scheme.is_float and self.value_scheme.is_float

    def with_bits(self, keys: int, values: int) -> KvCache:
        """Return the same with other widths of codes; what stays in floating point does so."""
        changed = [
            one if one.is_float else one.model_copy(update={"format": f"{one.format[:-1]}{bits}"})
            for one, bits in ((self.key_scheme, keys), (self.value_scheme, values))
        ]
        return KvCache(keys=changed[0], values=changed[1], window=self.window)


class CacheAllocation(BaseModel):
    """Widths to choose from for the keys and for the values of each attention (KVTuner, Li et al., arXiv 2502.04420).

    `bits_per_value` is what all keys and values may take on average, scales and zero points counted. Everything else
    about a cache is as `kv_cache` says; attentions that an override gives a `kv_cache` keep it, and count.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bits: Annotated[tuple[Annotated[int, Field(ge=2, le=8)], ...], Field(min_length=1)] = (8, 4, 2)
    bits_per_value: Annotated[float, Field(gt=0, le=64)]

"""The operations of transformer blocks and of normalisation."""

from __future__ import annotations

from xdsl.dialects.builtin import BoolAttr, FloatAttr
from xdsl.dialects.utils import EnumAttribute
from xdsl.ir import SpacedOpaqueSyntaxAttribute
from xdsl.irdl import (
    AttrSizedOperandSegments,
    ParsePropInAttrDict,
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    prop_def,
    result_def,
    traits_def,
)
from xdsl.traits import Pure
from xdsl.utils.str_enum import StrEnum

from qcc.ir.base import (
    Operand,
    OptionalOperand,
    QccOperation,
    expect_float,
    expect_same_element,
    expect_shape,
    operand_type,
    optional,
    real,
    refuse,
    show,
)
from qcc.ir.dims import broadcast
from qcc.ir.types import TensorType, type_of


class NormKind(StrEnum):
    """`rms`: x / rms(x) * w; `rms_plus1`: x / rms(x) * (1 + w); `layer`: (x - mean) / std * w + b."""

    RMS = "rms"
    RMS_PLUS1 = "rms_plus1"
    LAYER = "layer"


@irdl_attr_definition
class NormKindAttr(EnumAttribute[NormKind], SpacedOpaqueSyntaxAttribute):
    """A kind of normalisation, `#qcc<norm_kind rms>` (bare where an operation names it)."""

    name = "qcc.norm_kind"


@irdl_op_definition
class NormOp(QccOperation):
    """Normalise over the last axis (Ba et al., arXiv 1607.06450; Zhang & Sennrich, arXiv 1910.07467).

    Statistics are taken in float32 for float16 and bfloat16 inputs; `eps` is added to the mean square. For these
    inputs `rms` rounds the normalised value to the element type before the weight multiplies it, as Llama does;
    `rms_plus1` (Gemma) and `layer` stay in float32 up to the result.
    """

    name = "qcc.norm"

    kind = prop_def(NormKindAttr)
    eps = prop_def(FloatAttr)
    input = operand_def(TensorType)
    weight = opt_operand_def(TensorType)
    bias = opt_operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    irdl_options = (AttrSizedOperandSegments(as_property=True), ParsePropInAttrDict())
    assembly_format = (
        "$kind $input (`weight` $weight^ `:` type($weight))? (`bias` $bias^ `:` type($bias))?"
        " attr-dict `:` type($input) `->` type($result)"
    )

    def __init__(
        self,
        kind: str,
        value: Operand,
        weight: OptionalOperand = None,
        bias: OptionalOperand = None,
        *,
        eps: float,
    ) -> None:
        super().__init__(
            properties={"kind": NormKindAttr(NormKind(kind)), "eps": real(eps)},
            operands=[value, optional(weight), optional(bias)],
            result_types=[operand_type(value)],
        )

    def verify_(self) -> None:
        """Refuse parameters that do not fit the last axis, and a bias of an rms norm."""
        kind = expect_float(self, self.input, "input")
        expect_shape(self, self.result, kind.shape)
        expect_same_element(self, [*self.operands, self.result])
        for name, value in (("weight", self.weight), ("bias", self.bias)):
            if value is not None and type_of(value).shape != kind.shape[-1:]:
                raise refuse(self, f"{name} {value.type} does not fit the last axis of {show(kind.shape)}")
        if self.bias is not None and self.kind.data is not NormKind.LAYER:
            raise refuse(self, f"{self.kind.data} has no bias")
        if self.weight is None and self.kind.data is NormKind.RMS_PLUS1:
            raise refuse(self, "rms_plus1 needs a weight")


@irdl_op_definition
class BatchNormOp(QccOperation):
    """`(x - mean) / sqrt(variance + eps) * weight + bias` on axis 1 with stored statistics (arXiv 1502.03167)."""

    name = "qcc.batch_norm"

    eps = prop_def(FloatAttr)
    input = operand_def(TensorType)
    mean = operand_def(TensorType)
    variance = operand_def(TensorType)
    weight = opt_operand_def(TensorType)
    bias = opt_operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    irdl_options = (AttrSizedOperandSegments(as_property=True), ParsePropInAttrDict())
    assembly_format = (
        "$input `,` $mean `,` $variance (`weight` $weight^ `:` type($weight))? (`bias` $bias^ `:` type($bias))?"
        " attr-dict `:` type($input) `,` type($mean) `,` type($variance) `->` type($result)"
    )

    def __init__(
        self,
        value: Operand,
        mean: Operand,
        variance: Operand,
        weight: OptionalOperand = None,
        bias: OptionalOperand = None,
        *,
        eps: float,
    ) -> None:
        super().__init__(
            properties={"eps": real(eps)},
            operands=[value, mean, variance, optional(weight), optional(bias)],
            result_types=[operand_type(value)],
        )

    def verify_(self) -> None:
        """Refuse parameters that do not fit axis 1."""
        kind = expect_float(self, self.input, "input")
        expect_shape(self, self.result, kind.shape)
        expect_same_element(self, [*self.operands, self.result])
        for value in self.operands[1:]:
            if kind.rank < 2 or type_of(value).shape != kind.shape[1:2]:
                raise refuse(self, f"parameter {value.type} does not fit axis 1 of {show(kind.shape)}")


class RopePairing(StrEnum):
    """Which elements rotate together: `half`: (i, i + D/2); `interleaved`: (2i, 2i + 1)."""

    HALF = "half"
    INTERLEAVED = "interleaved"


@irdl_attr_definition
class RopePairingAttr(EnumAttribute[RopePairing], SpacedOpaqueSyntaxAttribute):
    """A pairing of rotary embeddings, `#qcc<rope_pairing half>` (bare where an operation names it)."""

    name = "qcc.rope_pairing"


@irdl_op_definition
class RopeOp(QccOperation):
    """Rotary position embedding on the last axis (Su et al., arXiv 2104.09864).

    `input` is [..., D]; `cos` and `sin` are [..., D] and broadcast against it. The result is
    `input * cos + turned * sin`, where turning the pair (a, b) gives (-b, a); where both members of a pair carry the
    same angle, as they do in models, that rotates it. float16 and bfloat16 are computed in float32, rounded once.
    """

    name = "qcc.rope"

    pairing = prop_def(RopePairingAttr)
    input = operand_def(TensorType)
    cos = operand_def(TensorType)
    sin = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$pairing $input `,` $cos `,` $sin attr-dict `:` functional-type(operands, results)"

    def __init__(self, pairing: str, value: Operand, cos: Operand, sin: Operand) -> None:
        super().__init__(
            properties={"pairing": RopePairingAttr(RopePairing(pairing))},
            operands=[value, cos, sin],
            result_types=[operand_type(value)],
        )

    def verify_(self) -> None:
        """Refuse an odd last axis, and angles that do not broadcast against the input."""
        kind = expect_float(self, self.input, "input")
        expect_same_element(self, [*self.operands, self.result])
        expect_shape(self, self.result, kind.shape)
        if kind.shape[-1].exact_div(2) is None:
            raise refuse(self, f"the last axis of {show(kind.shape)} does not split into pairs")
        for angle in (self.cos, self.sin):
            if broadcast([type_of(angle).shape, kind.shape]) != kind.shape:
                raise refuse(self, f"angles {angle.type} do not broadcast to {show(kind.shape)}")


@irdl_op_definition
class AttentionOp(QccOperation):
    """Scaled dot-product attention with grouped heads (Vaswani et al., arXiv 1706.03762; GQA: arXiv 2305.13245).

    `query` [B, H, S, D], `key` [B, Hkv, T, D], `value` [B, Hkv, T, Dv] -> [B, H, S, Dv]; query head h reads key head
    `h // (H / Hkv)`. `mask` broadcasts to [B, H, S, T]: `i1` keeps where true, floats are added to the scores.
    `causal` keeps key t for query s when t <= s. A row that keeps no key (all its scores are -inf) gives zeros.
    float16 and bfloat16 are computed in float32, rounded once at the result.
    """

    name = "qcc.attention"

    scale = prop_def(FloatAttr)
    causal = prop_def(BoolAttr)
    query = operand_def(TensorType)
    key = operand_def(TensorType)
    value = operand_def(TensorType)
    mask = opt_operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$query `,` $key `,` $value (`mask` $mask^)? attr-dict `:` functional-type(operands, results)"

    def __init__(
        self,
        query: Operand,
        key: Operand,
        value: Operand,
        mask: OptionalOperand = None,
        *,
        scale: float,
        causal: bool = False,
    ) -> None:
        kind = operand_type(query)
        super().__init__(
            properties={"scale": real(scale), "causal": BoolAttr.from_bool(causal)},
            operands=[query, key, value, optional(mask)],
            result_types=[kind.with_shape((*kind.shape[:-1], operand_type(value).shape[-1]))],
        )

    def verify_(self) -> None:
        """Refuse heads that do not group, and sizes that do not meet."""
        query, key, value = (type_of(one).shape for one in (self.query, self.key, self.value))
        expect_float(self, self.query, "query")
        expect_same_element(self, [self.query, self.key, self.value, self.result])
        if not len(query) == len(key) == len(value) == 4:
            raise refuse(self, "query, key and value must have rank 4")
        if query[0] != key[0] or key[:3] != value[:3] or query[3] != key[3]:
            raise refuse(self, f"query {show(query)}, key {show(key)} and value {show(value)} do not meet")
        if query[1].exact_div(key[1]) is None:
            raise refuse(self, f"{query[1]} query heads do not group over {key[1]} key heads")
        scores = (*query[:3], key[2])
        if self.mask is not None and broadcast([type_of(self.mask).shape, scores]) != scores:
            raise refuse(self, f"mask {self.mask.type} does not broadcast to {show(scores)}")
        expect_shape(self, self.result, (*query[:3], value[3]))

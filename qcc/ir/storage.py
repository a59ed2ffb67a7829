"""The operations of KV caches and of storage: what a quantized tensor is between calls and on disk."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.utils import EnumAttribute
from xdsl.ir import SpacedOpaqueSyntaxAttribute
from xdsl.irdl import (
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.str_enum import StrEnum

from qcc.ir.base import (
    Operand,
    QccOperation,
    expect_float,
    expect_same_element,
    expect_shape,
    operand_type,
    refuse,
    show,
)
from qcc.ir.parameters import parameter_types
from qcc.ir.types import TensorType, tensor, type_of
from qcc.numerics.stored_parts import packed_bits, side_parts


class CachePolicy(StrEnum):
    """What a quantized KV cache keeps: codes per token with their own scales (`token`), codes under the scales that
    the cache has already (`channel`), or a window of recent tokens in float besides codes (`window`)."""

    TOKEN = "token"
    CHANNEL = "channel"
    WINDOW = "window"


@irdl_attr_definition
class CachePolicyAttr(EnumAttribute[CachePolicy], SpacedOpaqueSyntaxAttribute):
    """A cache policy, `#qcc<cache_policy token>` (bare where an operation names it)."""

    name = "qcc.cache_policy"


@irdl_op_definition
class CacheOp(QccOperation):
    """A KV cache [B, H, T, D] in which the rows at `positions` [n] are `rows` [B, H, n, D], in the cache's format."""

    name = "qcc.cache"

    policy = prop_def(CachePolicyAttr)
    cache = operand_def(TensorType)
    rows = operand_def(TensorType)
    positions = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$policy $cache `,` $rows `,` $positions attr-dict `:` functional-type(operands, results)"

    def __init__(self, policy: str, cache: Operand, rows: Operand, positions: Operand) -> None:
        super().__init__(
            properties={"policy": CachePolicyAttr(CachePolicy(policy))},
            operands=[cache, rows, positions],
            result_types=[operand_type(cache)],
        )

    def verify_(self) -> None:
        """Refuse rows that do not fit the cache."""
        cache, rows = type_of(self.cache), expect_float(self, self.rows, "rows")
        positions = type_of(self.positions)
        if cache.rank != 4 or rows.rank != 4 or positions.rank != 1 or positions.scalar != "i64":
            raise refuse(self, f"{rows} at {positions} do not fit the cache {cache}")
        if (rows.shape[:2], rows.shape[3]) != (cache.shape[:2], cache.shape[3]):
            raise refuse(self, f"rows {show(rows.shape)} do not fit the cache {show(cache.shape)}")
        if rows.shape[2] != positions.shape[0]:
            raise refuse(self, f"{rows.shape[2]} rows for {positions.shape[0]} positions")
        expect_same_element(self, [self.cache, self.result])
        expect_shape(self, self.result, cache.shape)


@irdl_op_definition
class PackOp(QccOperation):
    """Storage of a quantized tensor: the dense little-endian bit stream of the codes along the last axis (`u8`), then
    the format's parameters in its order (see `qcc.quantize`).

    Codes above 8 bits take the bytes of whole integers of 16, 32 or 64 bits.
    """

    name = "qcc.pack"

    input = operand_def(TensorType)
    outputs = var_result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$input attr-dict `:` functional-type(operands, results)"

    def __init__(self, value: Operand) -> None:
        super().__init__(operands=[value], result_types=[storage_types(operand_type(value))])

    def verify_(self) -> None:
        """Refuse results that are not the format's storage."""
        if [one.type for one in self.outputs] != storage_types(type_of(self.input)):
            raise refuse(self, f"results are not the storage of {self.input.type}")


@irdl_op_definition
class UnpackOp(QccOperation):
    """The quantized tensor whose storage `qcc.pack` gives."""

    name = "qcc.unpack"

    inputs = var_operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$inputs attr-dict `:` functional-type(operands, results)"

    def __init__(self, values: Sequence[Operand], kind: TensorType) -> None:
        super().__init__(operands=[list(values)], result_types=[kind])

    def verify_(self) -> None:
        """Refuse operands that are not the format's storage."""
        if [one.type for one in self.inputs] != storage_types(type_of(self.result)):
            raise refuse(self, f"operands are not the storage of {self.result.type}")


def storage_types(kind: TensorType) -> list[TensorType]:
    """Return the types of packed codes and parameters of a quantized tensor.

    Raises:
        VerifyException: if the tensor is not quantized, or its format has side tensors.
    """
    qtype = kind.qtype
    if qtype is None:
        raise VerifyException(f"{kind} is not quantized, so it has no packed storage")
    if sides := side_parts(qtype):
        what = f"side tensors ({', '.join(map(str, sides))}) are not part of packed storage"
        raise VerifyException(f"{kind}: {what}; keep them in operations of their own")
    row = (kind.shape[-1] * packed_bits(qtype.decode) + 7) // 8
    return [tensor((*kind.shape[:-1], row), "u8"), *parameter_types(kind.shape, qtype)]

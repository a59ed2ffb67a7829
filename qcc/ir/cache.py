"""The operations of quantized KV caches: rows become codes when they are written, and attention reads the codes.

A cache of `[B, H, T, D]` is held in parts, plain tensors that live in mutable buffers between calls:

    codes     [B, H, T, ceil(D * bits / 8)] u8, packed as `qcc.pack` does
    scale     one for each block of the format, in the dtype that it stores
    zero      likewise, where the format has zero points
    recent    [B, H, R, D], the latest tokens as they are, token t in row t mod R; only where some stay so

Which tokens are codes follows from how many there are: see `qcc.numerics.kv_cache`.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import IntegerAttr
from xdsl.irdl import (
    irdl_op_definition,
    operand_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.traits import Pure

from qcc.ir.base import Operand, QccOperation, expect_float, integer, operand_type, refuse, show
from qcc.ir.dims import Dim, Shape
from qcc.ir.parameters import block_grid
from qcc.ir.types import QTypeAttr, TensorType, tensor, type_of
from qcc.numerics.kv_cache import format_problem, keeps_tokens, ring_size
from qcc.numerics.qtype import QType
from qcc.numerics.stored_parts import packed_bits, parameter_parts

RECENT = "recent"
"""Name of the part with tokens as they are."""


def cache_parts(shape: Shape, qtype: QType, window: int, scalar: str) -> dict[str, TensorType]:
    """Return the types of the parts of a cache of `shape` by name, `scalar` being the element type of its rows."""
    row = (shape[-1] * packed_bits(qtype.decode) + 7) // 8
    parts = {"codes": tensor((*shape[:-1], row), "u8")}
    for part in parameter_parts(qtype):
        parts[part.role] = tensor(block_grid(shape, part.block), part.dtype)
    if keeps_tokens(qtype, window):
        rows = ring_size(qtype, window, shape[2].constant)
        parts[RECENT] = tensor((*shape[:2], Dim.of(rows), shape[3]), scalar)
    return parts


class CacheOperation(QccOperation):
    """What the operations of quantized caches share: the format, and how many of the latest tokens stay as they are."""

    format = prop_def(QTypeAttr)
    window = prop_def(IntegerAttr)

    @property
    def part_names(self) -> tuple[str, ...]:
        """The names of the parts, in their order."""
        return tuple(cache_parts((Dim.of(1),) * 4, self.format.data, self.window.value.data, "f32"))

    def check_format(self) -> None:
        """Refuse a format that no cache is kept in, and a window of a negative length."""
        if problem := format_problem(self.format.data):
            raise refuse(self, f"a cache cannot be kept in '{self.format.data}': {problem}")
        if self.window.value.data < 0:
            raise refuse(self, f"a window of {self.window.value.data} tokens")

    def check_parts(self, values: Sequence[Operand], shape: Shape, scalar: str) -> None:
        """Refuse parts that are not those of a cache of `shape`."""
        wanted = cache_parts(shape, self.format.data, self.window.value.data, scalar)
        found = [operand_type(value) for value in values]
        if found != list(wanted.values()):
            listed = ", ".join(f"{name} {kind}" for name, kind in wanted.items())
            raise refuse(
                self, f"the parts are {', '.join(map(str, found))}; of a cache {show(shape)} they are {listed}"
            )

    def check_positions(self, positions: Operand, rows: Dim | None = None) -> None:
        """Refuse positions that are no `i64` vector with one for each row."""
        kind = operand_type(positions)
        if kind.rank != 1 or kind.scalar != "i64" or (rows is not None and kind.shape[0] != rows):
            raise refuse(self, f"positions {kind} are not one i64 for each row")


@irdl_op_definition
class CacheAppendOp(CacheOperation):
    """Write `rows` [B, H, n, D] at consecutive `positions` [n] into a cache given and returned in parts.

    The call continues where the last one ended, repeats the last token, or starts anew at position 0; what is behind
    the last position counts as gone. Groups of tokens that leave the window become codes, once: codes never change
    after. Positions that are not consecutive, or outside the cache, are an error of the call.
    """

    name = "qcc.cache_append"

    rows = operand_def(TensorType)
    positions = operand_def(TensorType)
    parts = var_operand_def(TensorType)
    outputs = var_result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$rows `at` $positions `in` $parts attr-dict `:` functional-type(operands, results)"

    def __init__(
        self, rows: Operand, positions: Operand, parts: Sequence[Operand], qtype: QType, *, window: int = 0
    ) -> None:
        super().__init__(
            properties={"format": QTypeAttr(qtype), "window": integer(window)},
            operands=[rows, positions, list(parts)],
            result_types=[[operand_type(part) for part in parts]],
        )

    def verify_(self) -> None:
        """Refuse a format, rows, positions or parts that do not belong together."""
        self.check_format()
        rows = expect_float(self, self.rows, "rows")
        if rows.rank != 4 or not self.parts or type_of(self.parts[0]).rank != 4:
            raise refuse(self, f"rows {rows} do not fit a cache")
        self.check_positions(self.positions, rows.shape[2])
        shape = (*rows.shape[:2], type_of(self.parts[0]).shape[2], rows.shape[3])
        self.check_parts(self.parts, shape, rows.scalar)
        self.check_parts(self.outputs, shape, rows.scalar)


@irdl_op_definition
class CacheReadOp(CacheOperation):
    """What a cache in parts stands for, [B, H, T, D]: codes decoded, recent tokens as they are.

    Tokens behind the last of `positions` read as zeros.
    """

    name = "qcc.cache_read"

    positions = operand_def(TensorType)
    parts = var_operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$parts `up` `to` $positions attr-dict `:` functional-type(operands, results)"

    def __init__(
        self, positions: Operand, parts: Sequence[Operand], kind: TensorType, qtype: QType, *, window: int = 0
    ) -> None:
        super().__init__(
            properties={"format": QTypeAttr(qtype), "window": integer(window)},
            operands=[positions, list(parts)],
            result_types=[kind],
        )

    def verify_(self) -> None:
        """Refuse a format, positions or parts that do not belong to the result."""
        self.check_format()
        kind = expect_float(self, self.result, "result")
        if kind.rank != 4:
            raise refuse(self, f"a cache has 4 axes, the result is {kind}")
        self.check_positions(self.positions)
        self.check_parts(self.parts, kind.shape, kind.scalar)


@irdl_op_definition
class CacheRoundOp(CacheOperation):
    """What a cache would read of `input` [B, H, T, D] after all T tokens are written: an append and a read at once."""

    name = "qcc.cache_round"

    input = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$input attr-dict `:` functional-type(operands, results)"

    def __init__(self, value: Operand, qtype: QType, *, window: int = 0) -> None:
        super().__init__(
            properties={"format": QTypeAttr(qtype), "window": integer(window)},
            operands=[value],
            result_types=[operand_type(value)],
        )

    def verify_(self) -> None:
        """Refuse a format that no cache is kept in, and another result than the input's type."""
        self.check_format()
        kind = expect_float(self, self.input, "input")
        if kind.rank != 4 or type_of(self.result) != kind:
            raise refuse(self, f"keys and values have 4 axes and keep their type: {kind} -> {self.result.type}")

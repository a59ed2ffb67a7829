"""The operations of folds, expansions and side tensors.

Each is an exact function of real numbers, so that a pass may insert it, move it or fold it away.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import BoolAttr, IntegerAttr
from xdsl.dialects.utils import EnumAttribute
from xdsl.ir import SpacedOpaqueSyntaxAttribute
from xdsl.irdl import (
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.traits import Pure
from xdsl.utils.str_enum import StrEnum

from qcc.ir.base import (
    Operand,
    OptionalOperand,
    QccOperation,
    expect_axis,
    expect_float,
    expect_same_element,
    expect_shape,
    integer,
    operand_type,
    optional,
    present,
    refuse,
    show,
)
from qcc.ir.dims import Dim
from qcc.ir.parameters import check_given
from qcc.ir.types import QTypeAttr, TensorType, type_of
from qcc.numerics.hadamard_sizes import has_hadamard
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import IntDecode


class RotationKind(StrEnum):
    """`hadamard` and `block_hadamard` are built from their size; `dense` takes its matrix as an operand."""

    HADAMARD = "hadamard"
    BLOCK_HADAMARD = "block_hadamard"
    DENSE = "dense"


@irdl_attr_definition
class RotationKindAttr(EnumAttribute[RotationKind], SpacedOpaqueSyntaxAttribute):
    """A kind of rotation, `#qcc<rotation_kind hadamard>` (bare where an operation names it)."""

    name = "qcc.rotation_kind"


class ExpansionMode(StrEnum):
    """`duplicate`: x[source]; `split`: x[source] divided by how often the source occurs; `residual`: x joined with
    (x - fake_quantize(x))[source]."""

    DUPLICATE = "duplicate"
    SPLIT = "split"
    RESIDUAL = "residual"


@irdl_attr_definition
class ExpansionModeAttr(EnumAttribute[ExpansionMode], SpacedOpaqueSyntaxAttribute):
    """A way to expand the K axis, `#qcc<expansion_mode split>` (bare where an operation names it)."""

    name = "qcc.expansion_mode"


@irdl_op_definition
class RotateOp(QccOperation):
    """Multiply along one axis by an orthogonal matrix: `x @ R`, or `x @ R^T` if `inverse`.

    Hadamard matrices (of 2^k channels, and of 12, 20, 28, ... times 2^k) are normalised by 1/sqrt(n); `block`
    is the size n of each diagonal block.
    """

    name = "qcc.rotate"

    kind = prop_def(RotationKindAttr)
    axis = prop_def(IntegerAttr)
    block = opt_prop_def(IntegerAttr)
    inverse = prop_def(BoolAttr)
    input = operand_def(TensorType)
    matrix = opt_operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$kind $input (`matrix` $matrix^)? attr-dict `:` functional-type(operands, results)"

    def __init__(
        self,
        kind: str,
        value: Operand,
        axis: int,
        *,
        block: int | None = None,
        matrix: OptionalOperand = None,
        inverse: bool = False,
    ) -> None:
        super().__init__(
            properties=present(
                {
                    "kind": RotationKindAttr(RotationKind(kind)),
                    "axis": integer(axis),
                    "block": None if block is None else integer(block),
                    "inverse": BoolAttr.from_bool(inverse),
                }
            ),
            operands=[value, optional(matrix)],
            result_types=[operand_type(value)],
        )

    def verify_(self) -> None:
        """Refuse a block that does not divide the axis, and a dense rotation without its matrix."""
        kind = expect_float(self, self.input, "input")
        axis = expect_axis(self, self.axis.value.data, kind.rank)
        expect_same_element(self, [self.input, self.result])
        expect_shape(self, self.result, kind.shape)
        dense = self.kind.data is RotationKind.DENSE
        if dense != (self.matrix is not None) or dense == (self.block is not None):
            raise refuse(self, "a dense rotation takes a matrix, a Hadamard rotation takes a block size")
        if self.matrix is not None and type_of(self.matrix).shape != (kind.shape[axis],) * 2:
            raise refuse(self, f"matrix {self.matrix.type} does not fit axis {axis} of {show(kind.shape)}")
        if self.block is not None:
            self._verify_block(kind.shape[axis], self.block.value.data)

    def _verify_block(self, size: Dim, block: int) -> None:
        if not has_hadamard(block):
            raise refuse(self, f"no Hadamard matrix of size {block} is known here")
        if size.exact_div(block) is None:
            raise refuse(self, f"blocks of {block} do not divide {size}")
        if self.kind.data is RotationKind.HADAMARD and size != Dim.of(block):
            raise refuse(self, f"a Hadamard rotation of {size} channels has one block, not blocks of {block}")


@irdl_op_definition
class PermuteOp(QccOperation):
    """Reorder channels along one axis: `result[..., i, ...] = input[..., order[i], ...]`."""

    name = "qcc.permute"

    axis = prop_def(IntegerAttr)
    input = operand_def(TensorType)
    order = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$input `,` $order attr-dict `:` functional-type(operands, results)"

    def __init__(self, value: Operand, order: Operand, axis: int) -> None:
        super().__init__(
            properties={"axis": integer(axis)}, operands=[value, order], result_types=[operand_type(value)]
        )

    def verify_(self) -> None:
        """Refuse an order that is no `i64` vector of the axis's length."""
        kind, order = type_of(self.input), type_of(self.order)
        axis = expect_axis(self, self.axis.value.data, kind.rank)
        if order.scalar != "i64" or order.shape != (kind.shape[axis],):
            raise refuse(self, f"order {order} does not fit axis {axis} of {show(kind.shape)}")
        expect_same_element(self, [self.input, self.result])
        expect_shape(self, self.result, kind.shape)


@irdl_op_definition
class ScaleAxisOp(QccOperation):
    """Multiply by one factor per channel of an axis."""

    name = "qcc.scale_axis"

    axis = prop_def(IntegerAttr)
    input = operand_def(TensorType)
    factors = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$input `,` $factors attr-dict `:` functional-type(operands, results)"

    def __init__(self, value: Operand, factors: Operand, axis: int) -> None:
        super().__init__(
            properties={"axis": integer(axis)}, operands=[value, factors], result_types=[operand_type(value)]
        )

    def verify_(self) -> None:
        """Refuse factors that do not fit the axis."""
        kind = expect_float(self, self.input, "input")
        axis = expect_axis(self, self.axis.value.data, kind.rank)
        if type_of(self.factors).shape != (kind.shape[axis],):
            raise refuse(self, f"factors {self.factors.type} do not fit axis {axis} of {show(kind.shape)}")
        expect_same_element(self, [self.input, self.factors, self.result])
        expect_shape(self, self.result, kind.shape)


@irdl_op_definition
class ExpandKOp(QccOperation):
    """Repeat channels along the last axis (MergeQuant arXiv 2503.07654; ARCQuant's residual channels).

    A residual is what `format` loses; the format's parameters are given or computed as for `qcc.quantize`.
    """

    name = "qcc.expand_k"

    mode = prop_def(ExpansionModeAttr)
    format = opt_prop_def(QTypeAttr)
    input = operand_def(TensorType)
    source = operand_def(TensorType)
    parameters = var_operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = (
        "$mode $input `,` $source (`parameters` $parameters^)? attr-dict `:` functional-type(operands, results)"
    )

    def __init__(
        self,
        mode: str,
        value: Operand,
        source: Operand,
        qtype: QType | None = None,
        parameters: Sequence[Operand] = (),
    ) -> None:
        kind, count = operand_type(value), operand_type(source).shape[0]
        width = kind.shape[-1] + count if mode == "residual" else count
        super().__init__(
            properties=present(
                {
                    "mode": ExpansionModeAttr(ExpansionMode(mode)),
                    "format": None if qtype is None else QTypeAttr(qtype),
                }
            ),
            operands=[value, source, list(parameters)],
            result_types=[kind.with_shape((*kind.shape[:-1], width))],
        )

    def verify_(self) -> None:
        """Refuse a source that is no `i64` vector, and a residual without its format."""
        kind, source = expect_float(self, self.input, "input"), type_of(self.source)
        if source.rank != 1 or source.scalar != "i64":
            raise refuse(self, f"source must be an i64 vector, got {source}")
        residual = self.mode.data is ExpansionMode.RESIDUAL
        if residual != (self.format is not None):
            raise refuse(self, "a residual expansion, and no other, names the format it is the residual of")
        if self.format is not None:
            check_given(self, kind.shape, self.format.data, self.parameters)
        elif self.parameters:
            raise refuse(self, f"{self.mode.data} takes no parameters of a format")
        width = kind.shape[-1] + source.shape[0] if residual else source.shape[0]
        expect_same_element(self, [self.input, self.result])
        expect_shape(self, self.result, (*kind.shape[:-1], width))


@irdl_op_definition
class SliceBitsOp(QccOperation):
    """Keep the top `bits` of integer codes; scales and zero point stay (MatQuant, arXiv 2502.06786).

    With d dropped bits: `clamp((code + 2**(d-1)) >> d, ceil(low / 2**d), high >> d) << d`, where low..high are the
    codes of the master.
    """

    name = "qcc.slice_bits"

    bits = prop_def(IntegerAttr)
    input = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$input attr-dict `:` functional-type(operands, results)"

    def __init__(self, value: Operand, bits: int) -> None:
        super().__init__(properties={"bits": integer(bits)}, operands=[value], result_types=[operand_type(value)])

    def verify_(self) -> None:
        """Refuse codes that are no integers, and a width outside the master's."""
        kind = type_of(self.input)
        decode = None if kind.qtype is None else kind.qtype.decode
        if not isinstance(decode, IntDecode):
            raise refuse(self, f"only integer codes have bits to slice, got {kind}")
        if not 1 <= self.bits.value.data <= decode.bits:
            raise refuse(self, f"cannot keep {self.bits.value.data} bits of {kind}")
        expect_same_element(self, [self.input, self.result])
        expect_shape(self, self.result, kind.shape)


@irdl_op_definition
class AddLowrankOp(QccOperation):
    """`base + (input @ down^T) @ up^T`: the low-rank side tensors of a contraction.

    `input` [..., K], `down` [R, K], `up` [N, R], `base` [..., N] (LQ-LoRA, arXiv 2311.12023).
    """

    name = "qcc.add_lowrank"

    base = operand_def(TensorType)
    input = operand_def(TensorType)
    down = operand_def(TensorType)
    up = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = "$base `,` $input `,` $down `,` $up attr-dict `:` functional-type(operands, results)"

    def __init__(self, base: Operand, value: Operand, down: Operand, up: Operand) -> None:
        super().__init__(operands=[base, value, down, up], result_types=[operand_type(base)])

    def verify_(self) -> None:
        """Refuse factors whose sizes do not meet."""
        base, kind = type_of(self.base).shape, expect_float(self, self.input, "input").shape
        down, up = type_of(self.down).shape, type_of(self.up).shape
        if len(down) != 2 or len(up) != 2 or down[1] != kind[-1] or up[1] != down[0] or up[0] != base[-1]:
            raise refuse(self, f"factors {show(down)} and {show(up)} do not lead {show(kind)} to {show(base)}")
        expect_shape(self, self.result, base)


@irdl_op_definition
class AddSparseOp(QccOperation):
    """`base + input @ S^T` with S [N, K] in compressed rows: the outliers of a contraction (SpQR, arXiv 2306.03078).

    `values` [Z] floats, `columns` [Z] i32, `offsets` [N + 1] i32.
    """

    name = "qcc.add_sparse"

    base = operand_def(TensorType)
    input = operand_def(TensorType)
    values = operand_def(TensorType)
    columns = operand_def(TensorType)
    offsets = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = (
        "$base `,` $input `,` $values `,` $columns `,` $offsets attr-dict `:` functional-type(operands, results)"
    )

    def __init__(self, base: Operand, value: Operand, values: Operand, columns: Operand, offsets: Operand) -> None:
        super().__init__(operands=[base, value, values, columns, offsets], result_types=[operand_type(base)])

    def verify_(self) -> None:
        """Refuse index vectors of other types or lengths."""
        base = type_of(self.base).shape
        values, columns, offsets = (type_of(one) for one in (self.values, self.columns, self.offsets))
        if columns.scalar != "i32" or offsets.scalar != "i32" or values.shape != columns.shape:
            raise refuse(self, f"{values}, {columns} and {offsets} are no compressed rows")
        if offsets.shape != (base[-1] + 1,):
            raise refuse(self, f"offsets {show(offsets.shape)} do not fit {base[-1]} rows")
        expect_shape(self, self.result, base)

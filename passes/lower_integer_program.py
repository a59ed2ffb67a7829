"""Lower one program to integers: operation by operation, by a table, with the quantizers between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from xdsl.ir import BlockArgument, Operation, SSAValue

from qcc.ir.base import LEFT_IN_FLOAT
from qcc.ir.elementwise import BinaryOp, UnaryOp, WhereOp
from qcc.ir.gather import GatherOp, IndexOp, ReduceOp
from qcc.ir.integer import CodesOp, OfCodesOp
from qcc.ir.nn import ConvOp, EmbeddingOp, LinearOp, MatmulOp, PoolOp, SoftmaxOp, UnfoldOp
from qcc.ir.program import ProgramOp, ReturnOp, WeightOp
from qcc.ir.quant import ContractOp, DequantizeOp, QuantizeOp
from qcc.ir.shape import ConcatOp, ExpandOp, PadOp, ReshapeOp, SliceOp, TransposeOp
from qcc.ir.store import WeightStore
from qcc.ir.transformer import AttentionOp, BatchNormOp, NormOp
from qcc.ir.types import TensorType, type_of
from qcc.numerics.qtype_parts import IntDecode, is_whole
from qcc.passes import lower_integer_contraction as contraction
from qcc.passes import lower_integer_elementwise as elementwise
from qcc.passes import lower_integer_rows as rows
from qcc.passes.fixed_values import Deferred, Fixed, Refusal, Scope, Target

Lower = Callable[[Scope, Any], Fixed | Deferred]

LOWERINGS: dict[type[Operation], Lower] = {
    ContractOp: contraction.lower_contract,
    ConvOp: contraction.lower_conv,
    MatmulOp: contraction.lower_matmul,
    UnaryOp: elementwise.lower_unary,
    BinaryOp: elementwise.lower_binary,
    WhereOp: elementwise.lower_where,
    BatchNormOp: elementwise.lower_batch_norm,
    ReshapeOp: elementwise.lower_moves,
    TransposeOp: elementwise.lower_moves,
    ExpandOp: elementwise.lower_moves,
    SliceOp: elementwise.lower_moves,
    UnfoldOp: elementwise.lower_picks,
    GatherOp: elementwise.lower_picks,
    IndexOp: elementwise.lower_picks,
    PadOp: elementwise.lower_pad,
    ConcatOp: elementwise.lower_concat,
    PoolOp: elementwise.lower_pool,
    ReduceOp: elementwise.lower_reduce,
    EmbeddingOp: elementwise.lower_embedding,
    SoftmaxOp: rows.lower_softmax,
    NormOp: rows.lower_norm,
    AttentionOp: rows.lower_attention,
}
"""What each operation on floats becomes."""


class IntegerProgram:
    """The integer form of a program, made beside its float operations; `finish` returns it in their place."""

    def __init__(self, program: ProgramOp, store: WeightStore) -> None:
        self._program = program
        self._scope = Scope(store)
        self.refused: list[tuple[Operation, str, str]] = []
        self._refused_values: set[SSAValue] = set()
        for op in list(program.body.block.ops):
            if _computes_floats(op) and not any(one in self._refused_values for one in op.operands):
                self._lower(op)
            else:
                self._refused_values.update(op.results if _computes_floats(op) else ())

    def _lower(self, op: Operation) -> None:
        self._scope.at = op
        try:
            if isinstance(op, QuantizeOp):
                self._quantize(op)
            elif isinstance(op, DequantizeOp):
                if (found := self._scope.values.get(op.input)) is not None:
                    self._scope.values[op.result] = found
            elif all(self._is_constant(one) for one in op.results):
                return
            else:
                self._scope.values[op.results[0]] = _lowering(op)(self._scope, op)
        except Refusal as refusal:
            self.refused.append((op, refusal.what, refusal.fix))
            self._refused_values.update(op.results)

    def _is_constant(self, value: SSAValue) -> bool:
        return isinstance(value.owner, WeightOp) or self._scope.constant(value) is not None

    def _quantize(self, op: QuantizeOp) -> None:
        target, scope = _target(scope=self._scope, op=op), self._scope
        source = scope.values.get(op.input)
        if isinstance(op.input, BlockArgument):
            # stays, with its codes behind it: the way in
            codes = CodesOp(op, target.scalar)
            op_after = op.next_op
            assert op_after is not None  # a program ends in its return
            scope.at = op_after
            value = scope.add(codes)
        elif source is None:
            raise Refusal("rounds a value that is computed in floats", "")
        elif isinstance(source, Fixed):
            value = scope.rounded(contraction.refined(scope, source, target), target)
        else:
            value = source(target)
        scale = torch.tensor([target.scale], dtype=torch.float64)
        low, high = target.low, target.high
        if isinstance(source, Fixed) and source.least >= 0:
            low = max(low, 0)
        scope.values[op.result] = Fixed(value, scale, low, high, codes=True, origin=op)

    def finish(self) -> None:
        """Return integers, decoded, in place of the float results."""
        last = self._program.terminator
        self._scope.at = last
        for index, value in enumerate(last.values):
            found = self._scope.values.get(value)
            if found is not None:
                last.operands[index] = self._decoded(value)

    def _decoded(self, value: SSAValue) -> SSAValue:
        scope, found = self._scope, self._scope.codes(value)
        assert found.origin is not None  # codes come from a quantizer
        kind, parameters = type_of(found.origin.result), list(found.origin.parameters)
        assert kind.qtype is not None  # the result of a quantizer
        if kind.rank != type_of(found.value).rank:
            scale = found.scale.to(torch.float32).reshape((1,) * type_of(found.value).rank)
            parameters = [scope.weight(scale, "scale")]
        return scope.add(DequantizeOp(scope.add(OfCodesOp(found.value, kind.qtype, parameters)), type_of(value).scalar))


def _computes_floats(op: Operation) -> bool:
    if isinstance(op, ReturnOp):
        return False
    kinds = [one.type for one in op.results if isinstance(one.type, TensorType)]
    return any(kind.qtype is not None or kind.is_float for kind in kinds)


def _lowering(op: Operation) -> Lower:
    reason = op.attributes.get(LEFT_IN_FLOAT)
    if isinstance(op, LinearOp | ConvOp) and reason is not None:
        raise Refusal(f"is left in float: {getattr(reason, 'data', reason)}", "give its layer an integer format")
    if type(op) not in LOWERINGS:
        raise Refusal("has no integer form", "leave it out of the program")
    return LOWERINGS[type(op)]


def _target(scope: Scope, op: QuantizeOp) -> Target:
    """Return scale and range of a static quantizer.

    Raises:
        Refusal: if it has no scale yet, or a format of another kind.
    """
    qtype = type_of(op.result).qtype
    assert qtype is not None  # the verifier holds this
    decode = qtype.decode
    if isinstance(op.input.owner, WeightOp):
        raise Refusal("its weight has no codes yet", "run solve-weights first")
    if not isinstance(decode, IntDecode) or qtype.zero is not None or qtype.grid != "mid_tread" or qtype.sides:
        raise Refusal(f"'{qtype}' is no symmetric integer format", "use int8")
    if qtype.when != "static" or len(qtype.levels) != 1 or not is_whole(qtype.levels[0].block):
        raise Refusal(f"'{qtype}' has not one static scale", "use {granularity: tensor, when: static}")
    if not op.parameters or (scale := scope.constant(op.parameters[0])) is None:
        raise Refusal(f"'{qtype}' has no scale yet", "run calibrate on samples first")
    return Target(float(scale), decode.minimum, decode.maximum)

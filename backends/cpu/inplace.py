"""Find the last use of every value, so that updates write into a buffer whose old value is dead."""

from __future__ import annotations

from xdsl.ir import Operation, SSAValue

from qcc.ir.cache import CacheReadOp
from qcc.ir.elementwise import CastOp
from qcc.ir.kernel import flat_operations, kernel_of, origin_of
from qcc.ir.program import ProgramOp, ReturnOp, StateOp, UpdateStateOp
from qcc.ir.quant import QuantizeOp
from qcc.ir.shape import ExpandOp, ReshapeOp, SliceOp, TransposeOp

SHARING = (ReshapeOp, TransposeOp, ExpandOp, SliceOp, CastOp, QuantizeOp)
"""Operations whose result may be read from the memory of their first operand."""


class Uses:
    """Last uses of the values of a program; values that may share memory through views count as one."""

    def __init__(self, program: ProgramOp) -> None:
        self._root: dict[SSAValue, SSAValue] = {}
        self._index: dict[Operation, int] = {}
        self._last: dict[SSAValue, int] = {}
        states: dict[str, SSAValue] = {}
        operations = flat_operations(program.body.block)
        for index, op in enumerate(operations):
            self._index[op] = index
            end = len(operations) if isinstance(op, ReturnOp | UpdateStateOp) else index
            for operand in op.operands:
                root = self.root(operand)
                self._last[root] = max(end, self._last.get(root, -1))
            if isinstance(op, StateOp):
                self._root[op.result] = states.setdefault(op.key.data, op.result)
            if isinstance(op, SHARING):
                self._root[op.results[0]] = self.root(op.operands[0])
        for op in operations:
            if isinstance(op, CacheReadOp):  # attention may read the parts when it is computed
                for operand in op.operands:
                    root = self.root(operand)
                    self._last[root] = max(self._last[root], self._last.get(op.result, -1))

    def root(self, value: SSAValue) -> SSAValue:
        """Return the value whose memory this one may share."""
        origin = origin_of(value)
        return self._root.get(origin, origin)

    def is_last(self, value: SSAValue, op: Operation) -> bool:
        """Whether no operation after `op` reads the value or a view of it."""
        return self._last.get(self.root(value), -1) <= self._index[op]

    def may_overwrite(self, value: SSAValue, op: Operation) -> bool:
        """Whether `op` may write its result over an operand: it dies here and no other operand shares its memory."""
        root = self.root(value)
        sharing = sum(self.root(operand) is root for operand in op.operands)
        return sharing == 1 and self.is_last(value, op)


def live_operations(program: ProgramOp) -> frozenset[Operation]:
    """Return the operations that outputs or state depend on, kernels among them if they hold one."""
    needed: set[Operation] = set()
    for op in reversed(flat_operations(program.body.block)):
        if isinstance(op, ReturnOp | UpdateStateOp) or op in needed:
            needed.add(op)
            needed |= {owner for value in op.operands if isinstance(owner := origin_of(value).owner, Operation)}
    return frozenset(needed | {kernel for op in needed if (kernel := kernel_of(op)) is not None})

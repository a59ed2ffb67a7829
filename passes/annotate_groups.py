"""Note which layers belong together; nothing is rewritten.

    q = linear(x, w_q); k = linear(x, w_k); v = linear(x, w_v)   each gets fuse_group = "layers.0.attn.q_k_v"
    y = add(x, linear(..))                                       the operations of one residual stream get
                                                                 residual_stream = 0

A fuse group is all linear layers with stored weights that read one value: a backend may run them as one, and formats
whose root scale spans the group take it from all of them. A residual stream is what is joined by additions of equal
shape of which at least one adds the output of a layer: rotations and scales of its channels must be the same
everywhere on it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass

from qcc.ir.base import FUSE_GROUP, integer
from qcc.ir.elementwise import BinaryOp
from qcc.ir.nn import ConvOp, LinearOp
from qcc.ir.program import WeightOp
from qcc.ir.quant import ContractOp
from qcc.ir.types import type_of
from qcc.passes.matching import number_of, shape_of

RESIDUAL_STREAM = "residual_stream"


@dataclass(frozen=True)
class AnnotateGroups(ModulePass):
    """The pass."""

    name: ClassVar[str] = "annotate-groups"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Set the attributes; those of an earlier run are dropped."""
        annotate_groups(op)


def annotate_groups(module: ModuleOp) -> None:
    """Set the attributes of a module anew."""
    for one in module.walk():
        one.attributes.pop(FUSE_GROUP, None)
        one.attributes.pop(RESIDUAL_STREAM, None)
    _name_fuse_groups(module)
    _number_streams(module)


def _name_fuse_groups(module: ModuleOp) -> None:
    readers: dict[SSAValue, list[tuple[LinearOp | ContractOp, str]]] = defaultdict(list)
    for op in module.walk():
        if isinstance(op, LinearOp | ContractOp) and isinstance(op.weight.owner, WeightOp):
            readers[op.input].append((op, op.weight.owner.key.data))
    taken: set[str] = set()
    for members in readers.values():
        if len(members) > 1:
            name = _group_name([key for _, key in members])
            while name in taken:
                name += "_"
            taken.add(name)
            for op, _ in members:
                op.attributes[FUSE_GROUP] = StringAttr(name)


def _group_name(keys: list[str]) -> str:
    """Join what the names share and what tells them apart: `layers.0.attn.q_proj_k_proj`."""
    paths = [key.split(":")[0].split("/")[0].removesuffix(".weight").split(".") for key in keys]
    shared = 0
    while all(len(path) > shared + 1 and path[shared] == paths[0][shared] for path in paths):
        shared += 1
    leaves = "_".join(".".join(path[shared:]) for path in paths)
    return ".".join([*paths[0][:shared], leaves])


class _Streams:
    """Sets of values joined by additions (union-find)."""

    def __init__(self) -> None:
        self._parent: dict[SSAValue, SSAValue] = {}

    def find(self, value: SSAValue) -> SSAValue:
        """Return the set's representative."""
        root = value
        while (parent := self._parent.get(root, root)) is not root:
            root = parent
        self._parent[value] = root
        return root

    def join(self, one: SSAValue, other: SSAValue) -> None:
        """Let two values be in one set; the earlier one represents it."""
        self._parent[self.find(other)] = self.find(one)


def _number_streams(module: ModuleOp) -> None:
    streams = _Streams()
    additions = [op for op in module.walk() if isinstance(op, BinaryOp) and _is_stream_addition(op)]
    for op in additions:
        streams.join(op.lhs, op.rhs)
        streams.join(op.lhs, op.result)
    layers = {streams.find(op.result) for op in additions if any(map(_is_layer, op.operands))}
    numbers: dict[SSAValue, int] = {}
    for op in module.walk():
        for result in op.results:
            root = streams.find(result)
            if root in layers:
                op.attributes[RESIDUAL_STREAM] = integer(numbers.setdefault(root, len(numbers)))


def _is_stream_addition(op: BinaryOp) -> bool:
    if op.function.data != "add" or not type_of(op.result).is_float or type_of(op.result).rank < 2:
        return False
    if any(number_of(one) is not None for one in op.operands):
        return False
    return shape_of(op.lhs) == shape_of(op.rhs) == shape_of(op.result)


def _is_layer(value: SSAValue) -> bool:
    """Say whether a value comes from a layer, normalised or moved or not."""
    owner: object = value.owner
    for _ in range(4):
        if isinstance(owner, LinearOp | ContractOp | ConvOp):
            return True
        if not isinstance(owner, Operation) or not owner.operands:
            return False
        owner = owner.operands[0].owner
    return False

"""Let weights that a format joins by `fuse_group(name)` share what they have in common as one matrix: the root scale.

    quantize(weight "q") : W fuse_group(qkv)          the rows of one matrix [q; k; v], quantized at once under W:
    quantize(weight "k") : W fuse_group(qkv)    ->    one root scale, the same number in every part; leaf scales and
    quantize(weight "v") : W fuse_group(qkv)          codes as they are under that root

A group is the layers that read one value and whose formats name it. What runs them as one layer multiplies by one root
scale: that of the first would scale the others wrongly, and so would the largest with leaf scales as they are. So
nothing is reconciled afterwards: every solver gets the one matrix, under the one Hessian that the layers share.
Legality: the formats are the same, no block of rows holds rows of two layers, nothing but the group reads the weights,
and codes are all there is (outliers and factors are found tensor by tensor). Everything else is refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.ir import Operation, SSAValue

from qcc.errors import IllegalFold, Problem
from qcc.ir.base import LAYER, location_of
from qcc.ir.program import WeightOp
from qcc.ir.quant import ContractOp, QuantizeOp
from qcc.ir.types import type_of
from qcc.numerics.qtype import QType
from qcc.numerics.qtype_parts import FuseGroup, expand_block
from qcc.numerics.stored_parts import parameter_parts, side_parts

if TYPE_CHECKING:
    from qcc.ir.store import WeightStore
    from qcc.numerics.tensor import QuantizedTensor

_LEAVE = "or leave fuse_group away, and every layer has a root scale of its own"


@dataclass(frozen=True, eq=False)
class Member:
    """A layer of a fuse group, and the stored weight that it reads, solved or not."""

    op: ContractOp
    weight: WeightOp
    qtype: QType

    @property
    def name(self) -> str:
        """The layer's name in recipes."""
        noted = self.op.attributes.get(LAYER)
        key = self.weight.key.data.split(":")[0].split("/")[0].removesuffix(".weight")
        return noted.data if isinstance(noted, StringAttr) else key

    @property
    def where(self) -> str:
        """The layer's name and its line in the user's model."""
        location = location_of(self.op)
        return f"{self.name} at {location}" if location else self.name


def group_name(qtype: QType) -> str:
    """Return the name of the fuse group of a format, empty if it has none."""
    return next((side.name for side in qtype.sides if isinstance(side, FuseGroup)), "")


def fuse_groups(module: ModuleOp) -> list[list[Member]]:
    """Return the fuse groups of two layers or more, each in the order of the program.

    Raises:
        IllegalFold: listing the layers that cannot be quantized as one matrix.
    """
    found: dict[tuple[SSAValue, str], list[Member]] = defaultdict(list)
    for op in module.walk():
        if isinstance(op, ContractOp) and (member := _member(op)) is not None:
            coded = op.input.owner
            value = coded.input if isinstance(coded, QuantizeOp) else op.input
            found[value, group_name(member.qtype)].append(member)
    groups = [one for one in found.values() if len(one) > 1]
    readers = _readers(module) if groups else {}
    if problems := [problem for one in groups for problem in _problems(one, readers)]:
        raise IllegalFold("fused layers cannot have one root scale", problems, fix=_LEAVE)
    return groups


def refuse_apart(groups: Sequence[Sequence[Member]], store: WeightStore) -> None:
    """Refuse layers of a fuse group that were solved apart, so that their root scales differ.

    Raises:
        IllegalFold: listing them with their root scales.
    """
    problems: list[Problem] = []
    for group in groups:
        solved = [(one, _root(store.quantized(one.weight.key.data))) for one in group if _is_solved(one)]
        if solved and (len(solved) < len(group) or len({root for _, root in solved}) > 1):
            fix = f"solve {', '.join(one.name for one in group)} together, from their float weights"
            what = f"was solved apart from the rest of fuse_group({group_name(group[0].qtype)})"
            problems += [Problem(one.where, f"{what}, under the root scale {root}", fix) for one, root in solved]
    if problems:
        raise IllegalFold("fused layers have no common root scale", problems, fix=_LEAVE)


def rows_of(joined: QuantizedTensor, counts: Sequence[int]) -> Iterator[QuantizedTensor]:
    """Cut a quantized matrix into parts of so many rows, each with the parameters of its own blocks."""
    from qcc.numerics.slices import slice_parameters
    from qcc.numerics.tensor import QuantizedTensor

    start = 0
    for count in counts:
        rows = slice(start, start := start + count)
        parameters = slice_parameters(joined.parameters, joined.qtype, joined.shape, (rows,))
        shape = (count, *joined.shape[1:])
        yield QuantizedTensor(joined.qtype, shape, joined.codes[rows].contiguous(), parameters, joined.sides)


def _member(op: ContractOp) -> Member | None:
    qtype, owner = type_of(op.weight).qtype, op.weight.owner
    weight = owner.input.owner if isinstance(owner, QuantizeOp) else owner
    if qtype is None or not group_name(qtype) or not isinstance(weight, WeightOp):
        return None
    return Member(op, weight, qtype)


def _is_solved(member: Member) -> bool:
    return member.op.weight.owner is member.weight


def _root(weight: QuantizedTensor) -> tuple[float, ...]:
    return tuple(weight.scales[-1].double().flatten().tolist()) if weight.scales[-1:] else ()


def _problems(group: Sequence[Member], readers: Mapping[str, Sequence[Operation]]) -> Iterator[Problem]:
    name, qtype = group_name(group[0].qtype), group[0].qtype
    if len({one.qtype for one in group}) > 1:
        fix = f"give {', '.join(one.name for one in group)} one format"
        for one in group:
            yield Problem(one.where, f"has '{one.qtype}', and others of fuse_group({name}) another format", fix)
        return
    if sides := side_parts(qtype):
        what = f"{', '.join(map(str, sides))} beside fuse_group({name}) is found tensor by tensor"
        yield Problem(", ".join(one.where for one in group), what, "use a format of codes alone")
    steps = {step for part in parameter_parts(qtype) if (step := expand_block(part.block, 2)[0]) > 1}
    ops = {one.op for one in group}
    for one in group:
        rows = type_of(one.weight.result).shape[0].constant or 0
        for step in sorted(step for step in steps if rows % step):
            yield Problem(one.where, f"its {rows} rows are no whole blocks of {step} rows", "use scales of single rows")
        if others := [op.name for op in readers.get(one.weight.key.data, ()) if op not in ops]:
            what = f"its weight '{one.weight.key.data}' is read outside fuse_group({name}) too, by {', '.join(others)}"
            yield Problem(one.where, what, "name the group in the formats of layers that share no weight")


def _readers(module: ModuleOp) -> dict[str, list[Operation]]:
    """Return what reads each stored tensor, as it is or quantized."""
    found: dict[str, list[Operation]] = defaultdict(list)
    for op in module.walk():
        if isinstance(op, WeightOp):
            for use in op.result.uses:
                coded = use.operation
                found[op.key.data] += (
                    [one.operation for one in coded.result.uses] if isinstance(coded, QuantizeOp) else [coded]
                )
    return found

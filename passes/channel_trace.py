"""Follow the channels of one space through a module, operation by operation.

The rules (`channel_rules_*`) say for each operation where channels that lie on one of its values lie on the others.
What is followed becomes a graph: nodes are values that share the space, edges the operations between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NoReturn

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from xdsl.ir import Block, Operation, SSAValue

from qcc.errors import Problem
from qcc.ir.base import location_of
from qcc.ir.nn import LinearOp
from qcc.ir.program import ConstantOp, ProgramOp, ReturnOp, WeightOp
from qcc.ir.transformer import NormOp, RopeOp
from qcc.passes.channels import OUTSIDE, Atoms, Misplaced, Place, settle, squeezed


class Kind(StrEnum):
    """What acts on the channels x of a space.

    `diagonal`: x * f with positive f; `permutation`: x[order]; `rotation`: x @ R with orthogonal R; `centring`:
    x - mean(x), which has no inverse, so that only what ignores the mean may read it.
    """

    DIAGONAL = "diagonal"
    PERMUTATION = "permutation"
    ROTATION = "rotation"
    CENTRING = "centring"


@dataclass(frozen=True)
class Binding:
    """A stored tensor to rewrite, as one operand of one operation reads it."""

    op: Operation
    operand: int
    place: Place

    @property
    def key(self) -> str:
        """The tensor's name in the weight store."""
        owner = self.place.value.owner
        assert isinstance(owner, WeightOp)  # nothing else is bound
        return owner.key.data


class Blocked(Exception):
    """An operation through which the transform cannot be carried."""

    def __init__(self, op: Operation, problem: Problem) -> None:
        super().__init__(str(problem))
        self.op = op
        self.problem = problem


class Undecided(Exception):
    """An operation whose result can get the transform from either of some operands."""

    def __init__(self, op: Operation, options: tuple[int, ...]) -> None:
        super().__init__(op.name)
        self.op = op
        self.options = options


Rule = Callable[["Trace", Any, "int | None", Place], None]
"""(trace, operation, number of the operand the channels lie on or None for the result, place) -> reaches more."""


class Trace:
    """One search. `reach`, `tie`, `separate` and the other verbs are for the rules."""

    def __init__(
        self, kind: Kind, size: int, choices: Mapping[Operation, int], cuts: tuple[type[Operation], ...]
    ) -> None:
        self.kind, self.size, self.cuts = kind, size, cuts
        self.choices = choices
        self.graph: nx.DiGraph[SSAValue] = nx.DiGraph()
        self.places: dict[SSAValue, list[Place]] = {}
        self.bound: dict[tuple[Operation, int, tuple[int, ...]], list[Place]] = {}
        self.states: dict[str, list[Place]] = {}
        self.affine: dict[NormOp, list[Place]] = {}
        self.centred: dict[NormOp, None] = {}
        self.inserted: dict[SSAValue, list[Place]] = {}
        self.ropes: dict[RopeOp, list[Place]] = {}
        self.positive: dict[Operation, None] = {}
        self.cells: NDArray[np.int64] = np.zeros(size, dtype=np.int64)
        self.tied: nx.Graph[int] = nx.Graph()
        self.tied.add_nodes_from(range(size))
        self.alike = False
        self._carriers: dict[Operation, int] = {}
        self._pending: list[Place] = []
        self._now: Place | None = None

    def run(self, seed: Place, table: Mapping[type[Operation], Rule], *, insert: bool) -> None:
        """Follow a place to its ends; `insert` means that an operation at the seed makes it, nothing before it.

        Raises:
            Blocked: by the first operation in the way.
            Undecided: where a choice is missing.
        """
        seed = squeezed(seed)
        self.graph.add_node(seed.value)
        if insert:
            settle(self.inserted.setdefault(seed.value, []), seed, self.size)
        self._add(seed)
        while self._pending:
            place = self._pending.pop()
            if not any(one is place for one in self.places[place.value]):
                continue  # a larger one has taken its place
            self._now = place
            self._visit(place, table)

    def _visit(self, place: Place, table: Mapping[type[Operation], Rule]) -> None:
        owner = place.value.owner
        if isinstance(owner, Block):
            self._refuse_input(owner, place.value)
        if isinstance(owner, self.cuts):
            settle(self.inserted.setdefault(place.value, []), place, self.size)
        elif place.value not in self.inserted:
            self._apply(table, owner, None, place)
        for use in list(place.value.uses):
            self._apply(table, use.operation, use.index, place)

    def _apply(self, table: Mapping[type[Operation], Rule], op: Operation, at: int | None, place: Place) -> None:
        rule = table.get(type(op))
        if rule is None:
            self.block(op, "it is no operation that channels can be followed through", _FIX_ORDER)
        try:
            rule(self, op, at, place)
        except Misplaced as error:
            self.block(op, str(error), "")

    def reach(self, op: Operation, at: int | None, place: Place) -> None:
        """Say that channels lie on an operand of `op`, or on its result: a stored tensor is bound, others followed."""
        if bool((place.atoms == OUTSIDE).all()):
            return
        place = squeezed(place)
        if self.kind in (Kind.ROTATION, Kind.PERMUTATION) and place.dual:
            place = Place(place.value, place.axes, place.atoms)  # these are their own dual
        if self.kind is Kind.CENTRING and place.dual:
            self.block(op, "it reads the mean of the channels", "")
        owner = place.value.owner
        if at is not None and isinstance(owner, WeightOp):
            if any(
                set(axes) & set(place.axes) and axes != place.axes for o, i, axes in self.bound if (o, i) == (op, at)
            ):
                raise Misplaced("the channels lie on it in two ways")
            settle(self.bound.setdefault((op, at, place.axes), []), place, self.size)
        elif isinstance(owner, ConstantOp):
            self.constant(op, owner)
        else:
            if self._now is not None:
                self.graph.add_edge(self._now.value, place.value, op=op)
            self._add(place)

    def _add(self, place: Place) -> None:
        settled = settle(self.places.setdefault(place.value, []), place, self.size)
        if settled is not None:
            self._pending.append(settled)

    def constant(self, op: Operation, owner: ConstantOp) -> None:
        """Accept a number in place of channels if the transform leaves it as it is."""
        if self.kind is not Kind.PERMUTATION and owner.number != 0:
            self.block(op, f"it adds the number {owner.number} to every channel", "")

    def carry(self, op: Operation, at: int) -> None:
        """Note which of the factors of a product carries a diagonal; refuse a second one."""
        if self._carriers.setdefault(op, at) != at:
            self.block(op, "both factors carry the diagonal, so the product would carry its square", "")

    def choose(self, op: Operation, options: tuple[int, ...]) -> int:
        """Return the operand that was chosen to carry the transform.

        Raises:
            Undecided: if none was chosen yet.
        """
        if op in self._carriers:
            return self._carriers[op]
        if op not in self.choices:
            raise Undecided(op, options)
        return self.choices[op]

    def tie(self, one: Atoms, other: Atoms) -> None:
        """Require that pairs of channels get equal factors, or stay partners in a permutation."""
        pairs = np.stack((one.ravel(), other.ravel()), 1)
        if bool(((pairs == OUTSIDE).sum(1) == 1).any()):
            raise Misplaced("a channel of the space is tied to one outside it")
        pairs = pairs[pairs[:, 0] != OUTSIDE] % self.size
        self.tied.add_edges_from((int(a), int(b)) for a, b in pairs)

    def separate(self, atoms: Atoms, axis: int) -> None:
        """Require that channels at different positions of one axis of a layout are not mixed."""
        if self.kind is Kind.CENTRING and atoms.shape[axis] > 1:
            raise Misplaced("it treats parts of the channels apart, each of which has a mean of its own")
        labels = np.zeros(self.size, dtype=np.int64)
        positions = np.broadcast_to(
            np.arange(atoms.shape[axis]).reshape([-1 if i == axis else 1 for i in range(atoms.ndim)]), atoms.shape
        )
        inside = atoms != OUTSIDE
        labels[atoms[inside] % self.size] = positions[inside]
        joint = np.stack((self.cells, labels), 1)
        self.cells = np.unique(joint, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)

    def check_whole(self) -> None:
        """Refuse a value that holds some of the channels that a transform mixes, but not all of them.

        Raises:
            Blocked: naming the operation that makes it.
        """
        if self.kind is Kind.DIAGONAL:
            return
        lengths = np.bincount(self.cells)
        for place in (one for held in self.places.values() for one in held):
            inside = place.atoms[place.atoms != OUTSIDE]
            copies = inside // self.size * len(lengths) + self.cells[inside % self.size]
            found, counts = np.unique(copies, return_counts=True)
            if bool((counts != lengths[found % len(lengths)]).any()):
                owner = place.value.owner
                op = owner if isinstance(owner, Operation) else owner.parent_op()
                assert op is not None  # blocks of a module belong to an operation
                self._now = place
                self.block(op, "its result holds some of the channels that are mixed, not all of them", "")

    def block(self, op: Operation, what: str, fix: str) -> NoReturn:
        """Refuse: name the operation, its line, how it was reached, and the way out.

        Raises:
            Blocked: always.
        """
        where = location_of(op) or ("the program" if isinstance(op, ProgramOp | ReturnOp) else op.name)
        text = f"{op.name} is in the way of the {self.kind}: {what}{self._route()}"
        raise Blocked(op, Problem(where, text, fix))

    def _refuse_input(self, block: Block, value: SSAValue) -> NoReturn:
        program = block.parent_op()
        assert program is not None  # blocks of a module belong to an operation
        names = program.input_names if isinstance(program, ProgramOp) else []
        index = next(number for number, one in enumerate(block.args) if one is value)
        name = f"input '{names[index]}'" if index < len(names) else f"argument {index}"
        self.block(program, f"{name} of the program comes in the order and scale the caller gives it", "")

    def _route(self) -> str:
        """Name the layers and norms between the seed and the place being visited."""
        if self._now is None or self._now.value not in self.graph:
            return ""
        seed = next(iter(self.graph.nodes))
        try:
            path = nx.shortest_path(self.graph, seed, self._now.value)
        except nx.NetworkXNoPath:
            return ""
        names = [_name(value) for value in path]
        return f"{ROUTE}through {' > '.join(names[-4:])})" if len(names) > 1 else f"{ROUTE}at {names[0]})"


ROUTE = " (reached "
"""What stands between the reason of a refusal and the way to it."""

_FIX_ORDER = "run the folds on the float graph, before formats are assigned and kernels are fused"


def _name(value: SSAValue) -> str:
    owner = value.owner
    if isinstance(owner, Block):
        return "an input"
    if isinstance(owner, LinearOp) and isinstance(owner.weight.owner, WeightOp):
        return f"linear '{owner.weight.owner.key.data}'"
    return owner.name.removeprefix("qcc.")

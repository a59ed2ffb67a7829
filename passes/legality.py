"""The one place that proves folds.

A fold changes what flows between operations by a transform T of the channels of a space: x becomes T(x) on every value
that shares the space. It is legal if every operation that touches these values either absorbs T into a stored tensor
(a layer's rows or columns, an embedding's columns, a norm's weight), or commutes with it. `prove` follows the channels
from a seed through the whole module and gives a `Proof`, the list of all there is to rewrite, or raises `IllegalFold`
with the operation that is in the way.

What commutes with what is in `channel_rules_layers` and `channel_rules_data`, one rule for an operation; no rule
knows an architecture. The algebra is that of QuaRot (arXiv 2404.00456), SmoothQuant (arXiv 2211.10438), AWQ
(arXiv 2306.00978) and QoQ (arXiv 2405.04532).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.ir import Operation, SSAValue

from qcc.errors import IllegalFold, Problem
from qcc.ir.base import location_of
from qcc.ir.transformer import NormOp, RopeOp
from qcc.ir.types import type_of
from qcc.passes.annotate_groups import RESIDUAL_STREAM, annotate_groups
from qcc.passes.channel_rules_data import RULES
from qcc.passes.channel_trace import ROUTE, Binding, Blocked, Kind, Trace, Undecided
from qcc.passes.channels import Misplaced, Place, whole

__all__ = ["Binding", "Kind", "Place", "Proof", "Refusals", "keeps", "prove", "space_on", "stream_norms", "streams"]

_FIX = "leave these channels as they are, or transform a value behind which every reader can take it"

NOT_FOLDED = "not_folded"
"""Name of the attribute that says why an operation could not be folded."""


@dataclass(frozen=True, eq=False)
class Proof:
    """What a transform of a space has to rewrite, and what it may be.

    `bindings` are stored tensors: those at a place that is not dual write the channels, those at a dual place read
    them. `states` are buffers by key, `affine` norms whose weight takes a diagonal, `centred` norms that read a mean
    which is zero from now on, `inserted` values behind which an operation must compute the transform, `ropes` rotary
    embeddings whose tables a permutation moves too. `classes` numbers the channels so that those with one number get
    one factor, `cells` so that only channels with one number may be mixed; `alike` asks for the same transform in
    every cell; `positive` are operations that a diagonal passes only because its factors are positive. `graph` joins
    the values that share the channels.
    """

    kind: Kind
    seed: Place
    size: int
    places: tuple[Place, ...]
    bindings: tuple[Binding, ...]
    states: Mapping[str, Sequence[Place]]
    affine: Mapping[NormOp, Sequence[Place]]
    centred: tuple[NormOp, ...]
    inserted: tuple[Place, ...]
    ropes: Mapping[RopeOp, Sequence[Place]]
    classes: NDArray[np.int64]
    cells: NDArray[np.int64]
    alike: bool
    positive: tuple[Operation, ...]
    graph: nx.DiGraph[SSAValue] = field(repr=False)

    @property
    def producers(self) -> tuple[Binding, ...]:
        """The stored tensors that write the channels."""
        return tuple(one for one in self.bindings if not self._reads(one))

    @property
    def consumers(self) -> tuple[Binding, ...]:
        """The stored tensors that read the channels: columns of layers."""
        return tuple(one for one in self.bindings if self._reads(one))

    @property
    def siblings(self) -> tuple[tuple[Binding, ...], ...]:
        """The consumers, those that read one value together: they share every scale of their input."""
        groups: dict[SSAValue, list[Binding]] = {}
        for one in self.consumers:
            groups.setdefault(one.op.operands[0], []).append(one)
        return tuple(map(tuple, groups.values()))

    @property
    def cell_size(self) -> int:
        """The number of channels that may be mixed, where all cells are runs of one length.

        Raises:
            IllegalFold: if the cells are no such runs.
        """
        count = int(self.cells.max(initial=0)) + 1
        size, rest = divmod(self.size, count)
        runs = self.cells.reshape(count, size) if not rest else None
        if runs is None or bool((runs != runs[:, :1]).any()):
            raise IllegalFold("the channels that may be mixed do not lie side by side")
        return size

    @staticmethod
    def _reads(one: Binding) -> bool:
        return one.operand == 1 and one.op.name in ("qcc.linear", "qcc.conv") and one.place.axes == (1,)


def space_on(value: SSAValue, axes: Sequence[int]) -> Place:
    """Number the channels of a value along some axes, counted from the end where negative.

    Raises:
        IllegalFold: if the size of an axis depends on a symbol.
    """
    rank = type_of(value).rank
    try:
        return whole(value, tuple(sorted(axis % rank for axis in axes)))
    except Misplaced as error:
        raise IllegalFold(f"{_where(value)}: {error}") from error


def prove(kind: Kind, seed: Place, what: str, *, cuts: tuple[type[Operation], ...] = (), insert: bool = False) -> Proof:
    """Prove that a transform of the channels of a value can be absorbed by the module.

    `what` names the fold in the error. Behind results of the operations in `cuts`, and behind the seed if `insert`, an
    operation that computes the transform may be put.

    Raises:
        IllegalFold: naming the operation in the way, its line in the user's model, and the way out.
    """
    size = int(seed.atoms.max(initial=-1)) + 1
    try:
        trace = _search(kind, seed, size, cuts, insert, {})
    except Blocked as blocked:
        raise IllegalFold(f"{what} is not legal", [blocked.problem], fix=_FIX) from blocked
    except Misplaced as error:
        raise IllegalFold(f"{what} is not legal", [Problem(_where(seed.value), str(error))], fix=_FIX) from error
    return _proof(trace, seed)


def _search(
    kind: Kind,
    seed: Place,
    size: int,
    cuts: tuple[type[Operation], ...],
    insert: bool,
    choices: Mapping[Operation, int],
) -> Trace:
    """Follow the channels; where one of some factors can carry a diagonal, take the first that gets through."""
    trace = Trace(kind, size, choices, cuts)
    try:
        trace.run(seed, RULES, insert=insert)
        trace.check_whole()
        return trace
    except Undecided as undecided:
        op, options = undecided.op, undecided.options
    blocked: list[Blocked] = []
    for option in options:
        try:
            return _search(kind, seed, size, cuts, insert, {**choices, op: option})
        except Blocked as one:
            blocked.append(one)
    problem = blocked[0].problem
    others = "; ".join(str(one.problem.where) + ": " + one.problem.what for one in blocked[1:])
    raise Blocked(op, Problem(problem.where, f"{problem.what}; nor by the other factor: {others}", problem.fix))


def _proof(trace: Trace, seed: Place) -> Proof:
    classes = np.zeros(trace.size, dtype=np.int64)
    for number, members in enumerate(nx.connected_components(trace.tied)):
        classes[list(members)] = number
    return Proof(
        kind=trace.kind,
        seed=seed,
        size=trace.size,
        places=tuple(one for held in trace.places.values() for one in held),
        bindings=tuple(Binding(op, at, one) for (op, at, _), held in trace.bound.items() for one in held),
        states=dict(trace.states),
        affine=dict(trace.affine),
        centred=tuple(trace.centred),
        inserted=tuple(one for held in trace.inserted.values() for one in held),
        ropes=dict(trace.ropes),
        classes=classes,
        cells=trace.cells,
        alike=trace.alike,
        positive=tuple(trace.positive),
        graph=trace.graph,
    )


def _where(value: SSAValue) -> str:
    owner = value.owner
    return (location_of(owner) or owner.name) if isinstance(owner, Operation) else "an input of the program"


def stream_norms(module: ModuleOp) -> list[NormOp]:
    """Return the norms that read a residual stream: a value that additions join with the output of a layer."""
    annotate_groups(module)
    norms = [one for one in module.walk() if isinstance(one, NormOp)]
    return [
        one for one in norms if isinstance(one.input.owner, Operation) and RESIDUAL_STREAM in one.input.owner.attributes
    ]


def streams(kind: Kind, refusals: Refusals, norms: Sequence[NormOp]) -> list[Proof]:
    """Prove a transform of the residual streams that some norms read, one proof for each stream.

    What is in the way of a stream goes to `refusals`.
    """
    proofs: list[Proof] = []
    known: set[SSAValue] = set()
    for norm in norms:
        if norm.input in known:
            continue
        with refusals.collect(norm):
            proof = prove(kind, space_on(norm.input, [-1]), refusals.what)
            known |= {place.value for place in proof.places}
            proofs.append(proof)
    return proofs


class Refusals:
    """Gathers what is in the way of several folds, so that one error lists all of it.

    With `keep`, an operation whose fold is not legal keeps its form instead, and says why in its attribute
    `not_folded`.
    """

    def __init__(self, what: str, *, keep: bool = False) -> None:
        self.what = what
        self.keep = keep
        self.problems: dict[tuple[str, str], Problem] = {}

    @contextmanager
    def collect(self, op: Operation) -> Generator[None]:
        """Keep the problems of an `IllegalFold` that is raised inside about `op`."""
        try:
            yield
        except IllegalFold as error:
            if self.keep:
                op.attributes[NOT_FOLDED] = StringAttr("; ".join(one.what for one in error.problems) or error.message)
            else:
                for one in error.problems or (Problem("", error.message),):
                    self.problems.setdefault((one.where, one.what.partition(ROUTE)[0]), one)

    def raise_any(self) -> None:
        """Raise what was gathered, if anything was.

        Raises:
            IllegalFold: listing every problem once.
        """
        if self.problems:
            count = len(self.problems)
            fix = "leave the transform away, or keep what cannot be folded as it is (illegal_folds: keep)"
            raise IllegalFold(
                f"{self.what} is not legal at {count} place{'s' if count > 1 else ''}", self.problems.values(), fix=fix
            )


def keeps(illegal: str) -> bool:
    """Read the option `illegal` of a fold: `refuse` or `keep`.

    Raises:
        IllegalFold: for another word.
    """
    if illegal not in ("refuse", "keep"):
        raise IllegalFold(f"'{illegal}' says nothing about illegal folds", fix="write refuse or keep")
    return illegal == "keep"

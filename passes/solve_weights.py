"""Choose the codes of the weights and put them in the store.

    quantize(weight "w") : W  ->  weight "w:W"

By the solver that the attribute `solver` names, by rounding to nearest where there is none; a format with outliers or
low-rank factors is split as the attributes `outliers` and `low_rank` say (`solvers/split.py`). One entry per name and
format, so tied weights stay tied. Float weights that nothing reads any more leave the store.

Solvers that read samples get the Hessian of their layer's inputs. Layers are solved in the order of the program, and
the samples go on through solved layers, so that a layer makes up for what the ones before it lost. One Hessian is held
at a time; layers that read one value share it. A weight that several layers read, as tied ones are, is solved when the
last of them is reached, on the sum of their Hessians: what is lost is the sum of what each of them loses. Weights that
a format joins by `fuse_group` are solved as one matrix (`fuse_groups`).
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import TYPE_CHECKING, ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.ir import Block, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from qcc.errors import Problem, QccError, ShapeError
from qcc.ir.base import LOW_RANK, OUTLIERS, SOLVER
from qcc.ir.context import Calibration, QccContext, calibration_of, store_of
from qcc.ir.program import StateOp, WeightOp
from qcc.ir.quant import ContractOp, QuantizeOp
from qcc.ir.types import TensorType, type_of
from qcc.numerics.qtype import QType
from qcc.passes.float_view import FloatView, float_view, solved_key
from qcc.passes.footprint import solving_of
from qcc.passes.fuse_groups import fuse_groups, refuse_apart, rows_of
from qcc.passes.solvers.table import SOLVERS, Solver, SplitChoice, is_split
from qcc.version import __version__

if TYPE_CHECKING:
    from torch import Tensor

    from qcc.calibrate.statistics import Hessian
    from qcc.ir.store import WeightStore
    from qcc.numerics.tensor import QuantizedTensor


SHARED = 1 << 20
"""Elements from which weights of one shape and format share a stand-in: layers of a large model are alike."""


class _Later(Enum):
    LATER = "later"


_LATER = _Later.LATER


@dataclass(frozen=True)
class SolveWeights(ModulePass):
    """The pass; needs the weight store, and samples where a solver reads them.

    With `stand_ins`, weights are rounded to nearest whatever their solver, for a look at what comes after: those of
    `SHARED` elements or more once for each shape and format, which others then take as it is.
    """

    name: ClassVar[str] = "solve-weights"

    stand_ins: bool = False

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module and its store.

        Raises:
            QccError: if the weights are not beside the module or not finite, samples are needed and missing, or a
                solver is unknown.
            IllegalFold: for layers of one `fuse_group` that cannot have one root scale.
            ShapeError: if samples do not fit the program.
        """
        store = store_of(ctx, "solve-weights")
        nodes = [one for one in op.walk() if isinstance(one, QuantizeOp) and _weight_of(one) is not None]
        _refuse_unknown(nodes)
        fused = _Fused.of(op, store)
        reads_samples = any(_reads_samples(one) for one in nodes)
        if self.stand_ins:
            if reads_samples:
                _samples_of(ctx)
            _round_instead(nodes, store, fused)
        elif reads_samples:
            _solve_on_samples(ctx, op, store, fused)
        for node in nodes:
            key = _key(node)
            if key not in store:
                _put(members := fused.joined(node), _solve(members, store, None), store)
            Rewriter.replace_op(node, [solved := WeightOp(key, type_of(node.result))], [solved.result])
        _drop_unread(op, store)


def _weight_of(node: QuantizeOp) -> WeightOp | None:
    weight = node.input.owner
    return weight if isinstance(weight, WeightOp) and not node.parameters else None


def _qtype(node: QuantizeOp) -> QType:
    qtype = type_of(node.result).qtype
    assert qtype is not None  # the verifier holds this
    return qtype


def _key(node: QuantizeOp) -> str:
    weight = _weight_of(node)
    assert weight is not None
    return solved_key(weight.key.data, _qtype(node))


def _solver_name(node: QuantizeOp) -> str:
    name = node.attributes.get(SOLVER)
    return name.data if isinstance(name, StringAttr) else "rtn"


def _solver(node: QuantizeOp) -> Solver:
    return SOLVERS[_solver_name(node)]


def _split_choice(node: QuantizeOp) -> SplitChoice | None:
    """Return how a weight is split, if its format has outliers or factors that solvers find."""
    if not is_split(_qtype(node)):
        return None
    outliers, factors = (node.attributes.get(name) for name in (OUTLIERS, LOW_RANK))
    words = factors.data.split() if isinstance(factors, StringAttr) else []
    by = outliers.data if isinstance(outliers, StringAttr) else "magnitude"
    method = next((one for one in words if one != "weighted"), "lorc")
    if by not in ("magnitude", "sensitivity") or method not in ("svd", "lorc", "alternating"):
        what = f"asks for outliers by '{by}' and low rank by '{method}'"
        fix = "known: outliers by magnitude or sensitivity, low rank by svd, lorc or alternating"
        raise QccError("weights cannot be solved", [Problem(_key(node), what, fix)])
    return SplitChoice(by, method, "weighted" in words)


def _reads_samples(node: QuantizeOp) -> bool:
    choice = _split_choice(node)
    return _solver(node).reads_samples or (choice is not None and choice.reads_samples)


def _refuse_unknown(nodes: list[QuantizeOp]) -> None:
    problems = [
        Problem(
            _key(one), f"asks for the solver '{_solver_name(one)}', which is unknown", f"known: {', '.join(SOLVERS)}"
        )
        for one in nodes
        if _solver_name(one) not in SOLVERS
    ]
    if problems:
        raise QccError("weights cannot be solved", problems)


@dataclass(frozen=True)
class _Fused:
    """Which weights are solved as one matrix with others."""

    groups: dict[QuantizeOp, list[QuantizeOp]]

    @staticmethod
    def of(op: ModuleOp, store: WeightStore) -> _Fused:
        groups = fuse_groups(op)
        refuse_apart(groups, store)
        found: dict[QuantizeOp, list[QuantizeOp]] = {}
        for group in groups:
            nodes = [node for one in group if isinstance(node := one.op.weight.owner, QuantizeOp)]
            members = list({_key(node): node for node in nodes}.values())
            found |= dict.fromkeys(nodes, members)
        return _Fused(found)

    def joined(self, node: QuantizeOp) -> list[QuantizeOp]:
        """Return the weights whose rows are one matrix with those of a weight, itself included."""
        return self.groups.get(node, [node])


def _solve(members: list[QuantizeOp], store: WeightStore, hessian: Tensor | None) -> QuantizedTensor:
    """Return the codes of a weight, or of the matrix of the rows of several."""
    given, choice = (_rows(members, store), _qtype(members[0]), hessian, _names(members)), _split_choice(members[0])
    if choice is None:
        return _solver(members[0]).load()(*given)
    from qcc.passes.solvers.split import solve_split  # torch stays out of the import of the pass

    return solve_split(*given, _solver(members[0]), choice)


def _put(members: list[QuantizeOp], solved: QuantizedTensor, store: WeightStore) -> None:
    """Put codes in the store, those of several weights under the names of each."""
    if len(members) == 1:
        store[_key(members[0])] = solved
        return
    counts = [_float_weight(one, store).shape[0] for one in members]
    for one, part in zip(members, rows_of(solved, counts), strict=True):
        store[_key(one)] = part


def _rows(members: list[QuantizeOp], store: WeightStore) -> Tensor:
    import torch

    weights = [_float_weight(one, store) for one in members]
    return weights[0] if len(weights) == 1 else torch.cat(weights)


def _names(members: list[QuantizeOp]) -> str:
    return ", ".join(map(_float_key, members))


def _samples_of(ctx: Context) -> Calibration:
    return calibration_of(ctx, "a solver that reads samples", "use solver: mse, which reads none")


def _round_instead(nodes: list[QuantizeOp], store: WeightStore, fused: _Fused) -> None:
    """Put weights that are rounded to nearest where the solved ones belong."""
    made: dict[TensorType, str] = {}
    for node in nodes:
        kind = type_of(node.result)
        node.attributes[SOLVER] = StringAttr("rtn")
        if is_split(_qtype(node)):
            node.attributes |= {OUTLIERS: StringAttr("magnitude"), LOW_RANK: StringAttr("svd")}
        if _key(node) in store:
            continue
        if kind in made:
            store[_key(node)] = store.entry(made[kind])
            continue
        members = fused.joined(node)
        _put(members, _solve(members, store, None), store)
        if len(members) == 1 and prod(kind.static_shape or ()) >= SHARED:
            made[kind] = _key(node)


def _solve_on_samples(ctx: Context, op: ModuleOp, store: WeightStore, fused: _Fused) -> None:
    """Solve the layers one after another on what the solved ones before them give."""
    from qcc.calibrate.statistics import Hessian  # torch stays out of the import of the pass
    from qcc.numerics.quantize import dequantize

    calibration = _samples_of(ctx)
    view = float_view(op, own_weights=True)
    layers = _layers(op, view)
    weights = store.copy()
    for node in (node for nodes in layers.values() for node in nodes):
        weights[_key(node)] = store.entry(_float_key(node))
    shared = _Shared(Counter(_key(node) for nodes in layers.values() for node in nodes))
    walk = calibration.walk(view.module, weights)
    solver = _Solving(ctx, store, {one.name: one.work for one in solving_of(op)})
    for value, nodes in layers.items():
        hessian = None
        if any(_reads_samples(one) for one in nodes):
            hessian = Hessian(_float_weight(nodes[0], store).shape[1])
            walk.advance(value, hessian.add)
            _refuse_not_finite(hessian, nodes)
        for node in nodes:
            sums = shared.at(node, hessian)
            if sums is not _LATER and _key(node) not in store:
                solver.solve(members := fused.joined(node), sums)
                for one in members:
                    dtype = _float_weight(one, store).dtype
                    walk.replace_weight(_key(one), dequantize(store.quantized(_key(one)), dtype))
    solver.done()


class _Shared:
    """The Hessians of weights that several layers read: their sum, once the last of these layers is reached."""

    def __init__(self, readers: Counter[str]) -> None:
        self._left = readers
        self._sums: dict[str, Hessian] = {}

    def at(self, node: QuantizeOp, hessian: Hessian | None) -> Hessian | _Later | None:
        """Return what a weight is to be solved on, `_LATER` where more of it is to come."""
        key = _key(node)
        self._left[key] -= 1
        before = self._sums.pop(key, None)
        total = before.joined(hessian) if before is not None and hessian is not None else before or hessian
        if not self._left[key]:
            return total
        if total is not None:
            self._sums[key] = total
        return _LATER


class _Solving:
    """Solves weights one by one: says how far it is, and takes what was kept from a compilation that was stopped."""

    def __init__(self, ctx: Context, store: WeightStore, work: dict[str, int]) -> None:
        self._store, self._work, self._done, self._worked, self._solved_work = store, work, 0, 0, 0
        self._context = ctx if isinstance(ctx, QccContext) else None
        self._kept = ctx.kept if isinstance(ctx, QccContext) else None
        self._start = time.perf_counter()

    def solve(self, members: list[QuantizeOp], hessian: Hessian | None) -> None:
        """Put the codes of a weight in the store, or of several that are one matrix."""
        self._tell(members)
        work = sum(self._work.get(_float_key(one), 0) for one in members)
        solved, is_kept = self._solved(members, None if hessian is None else hessian.matrix)
        _put(members, solved, self._store)
        self._done += len(members)
        self._worked += work
        if not is_kept:
            self._solved_work += work
        elif not self._solved_work:
            self._start = time.perf_counter()  # what was taken as it is says nothing of how long the rest takes

    def _solved(self, members: list[QuantizeOp], matrix: Tensor | None) -> tuple[QuantizedTensor, bool]:
        """Return the codes of a matrix, and whether they were kept."""
        if self._kept is None or matrix is None:
            return _solve(members, self._store, matrix), False
        first, weight = members[0], _rows(members, self._store)
        digest = _digest(f"{_solver_name(first)} {_split_choice(first)}", str(_qtype(first)), weight, matrix)
        found = self._kept.get(digest)
        if found is not None and found.qtype == _qtype(first) and found.shape == tuple(weight.shape):
            self._say(f"taking {_names(members)}, solved before")
            return found, True
        found = _solve(members, self._store, matrix)
        self._kept.put(digest, found)
        return found, False

    def _tell(self, members: list[QuantizeOp]) -> None:
        """Say what comes next; the time that is left goes by the work of what is done and what is not."""
        if self._context is None:
            return
        total, passed = sum(self._work.values()), time.perf_counter() - self._start
        left = ""
        if self._solved_work:
            left = f", about {passed / self._solved_work * (total - self._worked):.0f} s left"
        self._say(f"solving {_names(members)}, {self._done + 1} of {len(self._work)}{left}")
        self._context.share(self._worked / max(1, total))

    def _say(self, text: str) -> None:
        if self._context is not None:
            self._context.say(text)

    def done(self) -> None:
        """Say that nothing is left."""
        if self._context is not None:
            self._context.share(None)


def _digest(solver: str, qtype: str, weight: Tensor, hessian: Tensor) -> str:
    """Return a digest of everything that the codes of a weight depend on."""
    import torch

    found = hashlib.sha256(f"{solver}\n{qtype}\n{__version__}\n{weight.dtype} {tuple(weight.shape)}\n".encode())
    for tensor in (weight, hessian):
        found.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _float_key(node: QuantizeOp) -> str:
    weight = _weight_of(node)
    assert weight is not None
    return weight.key.data


def _float_weight(node: QuantizeOp, store: WeightStore) -> Tensor:
    return store.tensor(_float_key(node))


def _layers(op: ModuleOp, view: FloatView) -> dict[SSAValue, list[QuantizeOp]]:
    """Return the weights of contractions by the value that they read in the view, in the order these are computed."""
    found: dict[SSAValue, list[QuantizeOp]] = {}
    for contract in [one for one in op.walk() if isinstance(one, ContractOp)]:
        node = contract.weight.owner
        if isinstance(node, QuantizeOp) and _weight_of(node) is not None:
            found.setdefault(view.of(contract.input), []).append(node)
    place: dict[Operation | Block, int] = {one: index for index, one in enumerate(view.module.walk())}
    return dict(sorted(found.items(), key=lambda item: place.get(item[0].owner, -1)))


def _refuse_not_finite(hessian: Hessian, nodes: list[QuantizeOp]) -> None:
    if hessian.not_finite or not hessian.count:
        what = f"{hessian.not_finite} inputs are not finite" if hessian.not_finite else "no sample has inputs here"
        problems = [Problem(_key(one), what, "look at the samples, or leave the layer in float") for one in nodes]
        raise ShapeError("weights cannot be solved on these samples", problems)


def _drop_unread(op: ModuleOp, store: WeightStore) -> None:
    for weight in [one for one in op.walk() if isinstance(one, WeightOp)]:
        if not weight.result.uses:
            Rewriter.erase_op(weight)
    used = {one.key.data for one in op.walk() if isinstance(one, WeightOp | StateOp)}
    for key in [key for key in store if key not in used]:
        del store[key]

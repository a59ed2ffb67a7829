"""Carry out a proved fold: rewrite the stored tensors that a proof names, in float64.

Folded tensors stay in float64 in the store, whatever type the program declares, until `round-folds` rounds them once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from qcc.errors import IllegalFold, Problem
from qcc.ir.base import location_of, set_location
from qcc.ir.nn import ConvOp, LinearOp
from qcc.ir.program import StateOp, WeightOp
from qcc.ir.store import WeightStore
from qcc.ir.transformer import NormKind, NormOp
from qcc.ir.types import TensorType, type_of
from qcc.passes.channels import OUTSIDE, Place
from qcc.passes.legality import Binding, Proof
from qcc.passes.matching import shape_of


class Transform(ABC):
    """What is done to the channels of a space, on a tensor whose last axis holds the channels with these atoms."""

    @abstractmethod
    def apply(self, tensor: Tensor, atoms: Tensor, *, dual: bool) -> Tensor:
        """Transform the last axis of a float64 tensor `[..., P]`; `atoms` is i64[P].

        A dual application is that of the inverse transpose.
        """


@dataclass(frozen=True, eq=False)
class Diagonal(Transform):
    """x * factors; `inverse` is given apart where it is not 1 / factors, as for factors that are zero."""

    factors: Tensor
    inverse: Tensor | None = None

    def apply(self, tensor: Tensor, atoms: Tensor, *, dual: bool) -> Tensor:
        """Multiply."""
        chosen = self.factors
        if dual:
            chosen = 1 / self.factors if self.inverse is None else self.inverse
        inside = atoms != OUTSIDE
        return tensor * torch.where(inside, chosen[atoms % len(chosen)], 1.0)


@dataclass(frozen=True, eq=False)
class Permutation(Transform):
    """x[order]."""

    order: Tensor

    def apply(self, tensor: Tensor, atoms: Tensor, *, dual: bool) -> Tensor:
        """Pick the channel that comes to each position; a permutation is its own dual."""
        return tensor[..., self.positions(atoms)]

    def positions(self, atoms: Tensor) -> Tensor:
        """Return the position on an axis that comes to each position of it, i64[P]."""
        size = len(self.order)
        position = torch.full((int(atoms.max()) // size * size + size,), OUTSIDE)
        inside = (atoms != OUTSIDE).nonzero().flatten()
        position[atoms[inside]] = inside
        found = torch.arange(len(atoms))
        held = atoms[inside]
        found[inside] = position[self.order[held % size] + held // size * size]
        return found


@dataclass(frozen=True, eq=False)
class Rotation(Transform):
    """x @ matrix on every run of b channels; `matrix` is f64[b, b], or f64[N / b, b, b] with one for each run."""

    matrix: Tensor

    def apply(self, tensor: Tensor, atoms: Tensor, *, dual: bool) -> Tensor:
        """Multiply; a rotation is its own dual."""
        block = self.matrix.shape[-1]
        positions = torch.argsort(torch.where(atoms == OUTSIDE, torch.iinfo(torch.int64).max, atoms))
        positions = positions[: int((atoms != OUTSIDE).sum())].reshape(-1, block)
        matrix = self.matrix
        if matrix.dim() == 3:
            matrix = matrix[atoms[positions[:, 0]] // block % len(matrix)]
        turned = (tensor[..., positions].unsqueeze(-2) @ matrix).squeeze(-2)
        result = tensor.clone()
        result[..., positions.flatten()] = turned.flatten(-2)
        return result


@dataclass(frozen=True, eq=False)
class Centring(Transform):
    """x - mean(x)."""

    def apply(self, tensor: Tensor, atoms: Tensor, *, dual: bool) -> Tensor:
        """Subtract the mean; all channels must be there, which the proof sees to."""
        return tensor - tensor.mean(-1, keepdim=True)


def transform_tensor(tensor: Tensor, place: Place, transform: Transform) -> Tensor:
    """Transform a stored tensor along the axes of a place, in float64."""
    first = tensor.dim() - len(place.axes)
    last = tuple(range(first, tensor.dim()))
    moved = tensor.double().movedim(place.axes, last)
    atoms = torch.from_numpy(place.atoms).flatten()
    result = transform.apply(moved.flatten(first), atoms, dual=place.dual)
    return result.reshape(moved.shape).movedim(last, place.axes).contiguous()


def fold(module: ModuleOp, store: WeightStore, proof: Proof, transform: Transform, suffix: str) -> None:
    """Rewrite every stored tensor of a proof, and the weights of its norms.

    A tensor that other operations read as it was, or read in another role, is untied: it gets a key of its own, its
    old one with `suffix` behind a slash.
    """
    rewrite_bindings(module, store, proof.bindings, transform, suffix)
    for key, places in proof.states.items():
        for place in places:
            store[key] = transform_tensor(store.tensor(key), place, transform)
    for norm, places in proof.affine.items():
        scale_norm(module, store, norm, places, transform, suffix)


def rewrite_bindings(
    module: ModuleOp, store: WeightStore, bindings: Sequence[Binding], transform: Transform, suffix: str
) -> None:
    """Rewrite the tensors of some bindings; what is read in several roles is untied."""
    by_key: dict[str, dict[tuple[Operation, int], list[Binding]]] = defaultdict(lambda: defaultdict(list))
    for one in bindings:
        by_key[one.key][one.op, one.operand].append(one)
    readers = readers_of(module)
    for key, uses in by_key.items():
        made: list[tuple[Tensor, list[tuple[Operation, int]]]] = []
        for use, held in uses.items():
            tensor = store.tensor(key)
            for one in held:
                tensor = transform_tensor(tensor, one.place, transform)
            for other, group in made:
                if torch.equal(other, tensor):
                    group.append(use)
                    break
            else:
                made.append((tensor, [use]))
        free = set(readers[key]) == set(uses)
        for index, (tensor, group) in enumerate(made):
            if free and index == 0:
                store[key] = tensor
            else:
                _untie(module, store, key, tensor, group, suffix)


def readers_of(module: ModuleOp) -> dict[str, list[tuple[Operation, int]]]:
    """Return the operands that read each tensor of the store."""
    readers: dict[str, list[tuple[Operation, int]]] = defaultdict(list)
    for op in module.walk():
        if isinstance(op, WeightOp):
            readers[op.key.data] += [(use.operation, use.index) for use in op.result.uses]
    return readers


def _untie(
    module: ModuleOp, store: WeightStore, key: str, tensor: Tensor, uses: Sequence[tuple[Operation, int]], suffix: str
) -> None:
    fresh = store.fresh_key(f"{key}/{suffix}")
    store[fresh] = tensor
    for op, index in uses:
        old = op.operands[index].owner
        assert isinstance(old, WeightOp)  # only stored tensors are bound
        made = WeightOp(fresh, type_of(old.result))
        set_location(made, location_of(old))
        Rewriter.insert_op(made, InsertPoint.after(old))
        op.operands[index] = made.result
        if not old.result.uses:
            erase_weight(module, store, old)


def scale_norm(
    module: ModuleOp, store: WeightStore, norm: NormOp, places: Sequence[Place], transform: Transform, suffix: str
) -> NormOp:
    """Let the weight and the bias of a norm carry a diagonal: gamma * f, beta * f; `rms_plus1` keeps its one."""
    shift = 1.0 if norm.kind.data is NormKind.RMS_PLUS1 else 0.0
    gamma, beta = affine_of(store, norm)
    gamma = torch.ones(len(places[0].atoms), dtype=torch.float64) if gamma is None else gamma
    gamma = gamma + shift
    for place in places:
        at = Place(norm.result, (0,), place.atoms, place.dual)
        gamma = transform_tensor(gamma, at, transform)
        beta = None if beta is None else transform_tensor(beta, at, transform)
    return replace_norm(module, store, norm, norm.kind.data.value, gamma - shift, beta, suffix)


def affine_of(store: WeightStore, norm: NormOp) -> tuple[Tensor | None, Tensor | None]:
    """Return the stored weight and bias of a norm in float64, None for what it has not.

    Raises:
        IllegalFold: if one is computed at run time.
    """
    found: list[Tensor | None] = []
    for value in (norm.weight, norm.bias):
        owner = None if value is None else value.owner
        if value is not None and not isinstance(owner, WeightOp):
            what = "the weight or bias of a norm is computed at run time"
            raise IllegalFold("a norm cannot be folded", [Problem(norm.where, what)])
        found.append(store.tensor(owner.key.data).double() if isinstance(owner, WeightOp) else None)
    return found[0], found[1]


def replace_norm(
    module: ModuleOp,
    store: WeightStore,
    norm: NormOp,
    kind: str,
    gamma: Tensor | None,
    beta: Tensor | None,
    suffix: str,
) -> NormOp:
    """Put a norm of another kind, weight or bias in the place of one."""
    element = type_of(norm.result).with_shape(shape_of(norm.result)[-1:])
    old = (norm.weight, norm.bias)
    parts = [
        None if tensor is None else store_vector(module, store, norm, value, tensor, f"norm.{part}/{suffix}", element)
        for value, tensor, part in zip(old, (gamma, beta), ("weight", "bias"), strict=True)
    ]
    made = NormOp(kind, norm.input, *parts, eps=norm.eps.value.data)
    made.attributes.update(norm.attributes)
    Rewriter.replace_op(norm, [made], [made.result])
    for value in old:
        if value is not None and not value.uses and isinstance(value.owner, WeightOp):
            erase_weight(module, store, value.owner)
    return made


def store_vector(
    module: ModuleOp,
    store: WeightStore,
    op: Operation,
    old: SSAValue | None,
    tensor: Tensor,
    wish: str,
    kind: TensorType,
) -> SSAValue:
    """Store a vector that one operand of `op` reads: under its old key if nothing else reads that."""
    owner = None if old is None else old.owner
    if isinstance(owner, WeightOp) and [one for one, _ in readers_of(module)[owner.key.data]] == [op]:
        store[owner.key.data] = tensor
        return owner.result
    key = store.fresh_key(f"{owner.key.data}/{wish.partition('/')[2]}" if isinstance(owner, WeightOp) else wish)
    store[key] = tensor
    made = WeightOp(key, kind)
    set_location(made, location_of(op))
    Rewriter.insert_op(made, InsertPoint.before(op))
    return made.result


def add_to_bias(module: ModuleOp, store: WeightStore, layer: LinearOp | ConvOp, delta: Tensor, suffix: str) -> None:
    """Add a vector to the bias of a layer, which gets one where it has none."""
    bias = layer.bias
    kind = type_of(layer.result).with_shape(shape_of(layer.weight)[:1])
    total = delta
    wish = f"bias/{suffix}"
    if bias is not None:
        if not isinstance(bias.owner, WeightOp):
            raise IllegalFold("a bias cannot be folded", [Problem(layer.where, "it is computed at run time")])
        total = store.tensor(bias.owner.key.data).double() + delta
    elif isinstance(layer.weight.owner, WeightOp):
        wish = f"{layer.weight.owner.key.data.split('/')[0].removesuffix('.weight')}.bias/{suffix}"
    value = store_vector(module, store, layer, bias, total, wish, kind)
    if bias is None:
        layer.operands = [*layer.operands, value]
    elif value is not bias:
        layer.operands[2] = value


def erase_weight(module: ModuleOp, store: WeightStore, weight: WeightOp) -> None:
    """Erase a weight that nothing reads, and its tensor if no operation names it any more."""
    key = weight.key.data
    Rewriter.erase_op(weight)
    if key in store and not any(isinstance(one, WeightOp | StateOp) and one.key.data == key for one in module.walk()):
        del store[key]

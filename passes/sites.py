"""Where scales and permutations may go: what is between a layer that writes channels and the layers that read them.

A site is a place on a value: the result of a norm, what attention gives its output layer (numbered on the values, so
that grouped query heads stay together), or a product or activation that a layer reads.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue

from qcc.ir.base import QccOperation
from qcc.ir.elementwise import BinaryOp, UnaryOp
from qcc.ir.gather import IndexUpdateOp, SliceUpdateOp
from qcc.ir.nn import LinearOp
from qcc.ir.shape import ReshapeOp, TransposeOp
from qcc.ir.storage import CacheOp
from qcc.ir.transform import RotateOp
from qcc.ir.transformer import AttentionOp, NormOp
from qcc.passes.channels import Place
from qcc.passes.fold_norm import layers_behind
from qcc.passes.legality import Kind, Proof, Refusals, prove, space_on


def norm_sites(module: ModuleOp) -> list[tuple[QccOperation, Place]]:
    """Return the results of norms that layers read, in program order."""
    norms = [op for op in module.walk() if isinstance(op, NormOp)]
    return [(op, space_on(op.result, [-1])) for op in norms if layers_behind(op.result)]


def key_sites(module: ModuleOp) -> list[tuple[QccOperation, Place]]:
    """Return the keys of every attention, by head and channel.

    Keys that a rotation has spread over the channels are none: no channel of them stands out.
    """
    found = [op for op in module.walk() if isinstance(op, AttentionOp) and not _is_rotated(op.key)]
    return [(op, space_on(op.key, [1, 3])) for op in found]


def _is_rotated(value: SSAValue) -> bool:
    owner = value.owner
    while isinstance(owner, ReshapeOp | TransposeOp | IndexUpdateOp | SliceUpdateOp | CacheOp):
        written = isinstance(owner, IndexUpdateOp | SliceUpdateOp | CacheOp)
        owner = owner.operands[1 if written else 0].owner
    return isinstance(owner, RotateOp)


def value_sites(module: ModuleOp) -> list[tuple[QccOperation, Place]]:
    """Return the values of every attention, by head and channel."""
    return [(op, space_on(op.value, [1, 3])) for op in module.walk() if isinstance(op, AttentionOp)]


def layer_sites(module: ModuleOp, *, products: bool = True) -> list[tuple[QccOperation, Place]]:
    """Return the sites of a module in program order, each with the operation that it is named after.

    With `products`, products of two values are sites too; plain activations never are, since no scale goes through.
    """
    found: dict[SSAValue, tuple[QccOperation, Place]] = {}
    for op in module.walk():
        if isinstance(op, NormOp) and layers_behind(op.result):
            found[op.result] = (op, space_on(op.result, [-1]))
        elif isinstance(op, LinearOp):
            maker = _maker(op.input)
            if isinstance(maker, AttentionOp):
                found.setdefault(maker.value, (maker, space_on(maker.value, [1, 3])))
            elif products and isinstance(maker, BinaryOp) and maker.function.data == "mul" and maker.result is op.input:
                found.setdefault(op.input, (op, space_on(op.input, [-1])))
    return list(found.values())


def _maker(value: SSAValue) -> Operation | None:
    """Return the operation that computes a value, before movements of its elements."""
    owner = value.owner
    while isinstance(owner, ReshapeOp | TransposeOp):
        owner = owner.input.owner
    return owner if isinstance(owner, Operation) else None


def activation_sites(module: ModuleOp) -> list[tuple[QccOperation, Place]]:
    """Return the inputs of layers that are activations or products: what is between two layers of a block."""
    layers = [op for op in module.walk() if isinstance(op, LinearOp) and isinstance(op.input.owner, UnaryOp | BinaryOp)]
    inputs = {op.input: op for op in reversed(layers)}
    wide = {value: op for value, op in inputs.items() if not _is_sum(value)}
    return [(op, space_on(value, [-1])) for value, op in reversed(wide.items())]


def _is_sum(value: SSAValue) -> bool:
    return isinstance(value.owner, BinaryOp) and value.owner.function.data in ("add", "sub")


def prove_sites(
    kind: Kind,
    sites: Sequence[tuple[QccOperation, Place]],
    refusals: Refusals,
    *,
    cuts: tuple[type[Operation], ...] = (),
) -> list[Proof]:
    """Prove a transform on every site, each space once.

    Raises:
        IllegalFold: naming what is in the way of each, unless `refusals` keep what is illegal.
    """
    proofs: list[Proof] = []
    known: set[SSAValue] = set()
    for op, seed in sites:
        if seed.value in known:
            continue
        with refusals.collect(op):
            proof = prove(kind, seed, refusals.what, cuts=cuts)
            known |= {place.value for place in proof.places}
            proofs.append(proof)
    refusals.raise_any()
    return proofs

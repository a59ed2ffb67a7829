"""What passes share that give linear layers another input: layers by the value they read, and weights to match.

A layer sums over its columns, so whatever else reads the value, a layer may read another one if its weight makes up
for that. The new weight gets a name of its own, so that a weight that is tied to something else stays there as it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue
from xdsl.rewriter import Rewriter

from qcc.ir.base import location_of, set_location
from qcc.ir.nn import LinearOp
from qcc.ir.program import WeightOp
from qcc.ir.types import type_of
from qcc.passes.online import point_after

if TYPE_CHECKING:
    from torch import Tensor

    from qcc.ir.store import WeightStore


def layers_by_input(module: ModuleOp) -> dict[SSAValue, list[LinearOp]]:
    """Return the linear layers with stored weights by the value they read, in program order."""
    groups: dict[SSAValue, list[LinearOp]] = {}
    for op in module.walk():
        if isinstance(op, LinearOp) and isinstance(op.weight.owner, WeightOp):
            groups.setdefault(op.input, []).append(op)
    return groups


def stored_weight(store: WeightStore, layer: LinearOp) -> Tensor:
    """Return the weight of a layer with a stored one, f64[N, K]."""
    owner = layer.weight.owner
    assert isinstance(owner, WeightOp)  # layers_by_input takes no others
    return store.tensor(owner.key.data).double()


def read_instead(
    module: ModuleOp, store: WeightStore, layer: LinearOp, value: SSAValue, weight: Tensor, suffix: str
) -> None:
    """Let a layer read another value by another weight f64[N, K'], stored under the old name and a suffix."""
    from qcc.passes.fold_weights import erase_weight

    old = layer.weight.owner
    assert isinstance(old, WeightOp)  # layers_by_input takes no others
    made = stored_beside(store, old, weight, suffix)
    Rewriter.insert_op(made, point_after(layer.weight))
    layer.operands[0], layer.operands[1] = value, made.result
    if not old.result.uses:
        erase_weight(module, store, old)


def stored_beside(store: WeightStore, old: WeightOp, weight: Tensor, suffix: str) -> WeightOp:
    """Store a tensor under the name of another and a suffix, declared with the other's element type."""
    key = store.fresh_key(f"{old.key.data}/{suffix}")
    store[key] = weight
    made = WeightOp(key, type_of(old.result).with_shape(weight.shape))
    set_location(made, location_of(old))
    return made

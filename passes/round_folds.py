"""Round what folds have left in float64 to the types that the program declares.

    weight "w" : f32, stored in float64  ->  weight "w" : f32, stored in float32

Folds compute in float64 and each would round anew if it stored its results as declared; so all of them leave float64
behind, and this pass rounds once, after the last. Equal up to that rounding; nothing is rewritten in the program.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from qcc.errors import IllegalFold, Problem
from qcc.ir.context import store_of
from qcc.ir.program import StateOp, WeightOp
from qcc.ir.types import type_of


@dataclass(frozen=True)
class RoundFolds(ModulePass):
    """The pass; needs the weight store."""

    name: ClassVar[str] = "round-folds"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the store.

        Raises:
            IllegalFold: naming every tensor that a fold has brought beyond the range of its type.
        """
        import torch  # stays out of the import of the pass

        from qcc.numerics.torch_dtypes import TORCH_DTYPES

        store = store_of(ctx, self.name)
        problems: list[Problem] = []
        for node in [one for one in op.walk() if isinstance(one, WeightOp | StateOp)]:
            kind, key = type_of(node.result), node.key.data
            if not kind.is_float or store.tensor(key).dtype is TORCH_DTYPES[kind.scalar]:
                continue
            wide = store.tensor(key)
            store[key] = narrow = wide.to(TORCH_DTYPES[kind.scalar])
            if bool((narrow.isinf() & ~torch.isinf(wide)).any()):
                what = f"holds {float(wide.abs().max()):.3g} after folding, beyond the range of {kind.scalar}"
                problems.append(Problem(key, what, "leave the transform away, or compile the model in float32"))
        if problems:
            raise IllegalFold(f"{len(problems)} folded tensors do not fit their types", problems)

"""Sort channels by magnitude, so that those of one group are alike (Accurate Block Quantization, arXiv 2403.20137).

    x + linear(.., w)                          ->  rows of w in the stream's order, columns of what reads it too
    linear(silu(linear(x, g)) * linear(x, u), d)  ->  rows of g and u and columns of d in one order
    attention(rope q, rope k, linear v)        ->  rows of q, k and v sorted inside each head, angles with q and k

The spaces are residual streams, inputs of layers behind activations, and the channels of heads. Legality, proved by
`legality`: whatever reads the channels does so in the new order. A rotary embedding turns pairs, so pairs stay pairs,
every head has one order, and the tables of angles are read in that order. The magnitudes are the largest of
calibration samples, or with `by=weights` of the columns that read a channel. Exact: nothing is computed anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from qcc.errors import IllegalFold, Problem
from qcc.ir.base import location_of, set_location
from qcc.ir.context import chosen, store_of
from qcc.ir.gather import IndexOp
from qcc.ir.program import WeightOp
from qcc.ir.transformer import RopePairing
from qcc.ir.types import tensor, type_of
from qcc.passes.legality import Kind, Proof, Refusals, keeps, stream_norms, streams
from qcc.passes.online import point_after
from qcc.passes.settled import refuse_settled
from qcc.passes.sites import activation_sites, key_sites, prove_sites, value_sites

if TYPE_CHECKING:
    from torch import Tensor

    from qcc.ir.store import WeightStore


@dataclass(frozen=True)
class Permute(ModulePass):
    """The pass; needs the weight store, and samples where `by` is `activations`."""

    name: ClassVar[str] = "permute"

    by: str = "activations"
    illegal: str = "refuse"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module and its store.

        Raises:
            IllegalFold: naming what is in the way of every space that cannot be sorted;
                or what was settled before.
            QccError: if activations are asked for and there are no samples.
        """
        refuse_settled(op, self.name)
        refusals = Refusals("sorting channels", keep=keeps(self.illegal))
        proofs = streams(Kind.PERMUTATION, refusals, stream_norms(op))
        proofs += prove_sites(Kind.PERMUTATION, [*activation_sites(op), *value_sites(op), *key_sites(op)], refusals)
        if not proofs:
            return
        from qcc.passes.fold_weights import Permutation, fold

        store = store_of(ctx, self.name)
        every = chosen(ctx, self.name, len(proofs), lambda: self._choose(ctx, op, proofs))
        for proof, order in zip(proofs, every, strict=True):
            fold(op, store, proof, Permutation(order), "permuted")
            permute_angles(store, proof, order)

    def _choose(self, ctx: Context, module: ModuleOp, proofs: list[Proof]) -> Iterator[Tensor]:
        for proof, magnitudes in zip(proofs, self._magnitudes(ctx, module, proofs), strict=True):
            yield sorted_order(proof, magnitudes)

    def _magnitudes(self, ctx: Context, module: ModuleOp, proofs: list[Proof]) -> list[Tensor]:
        from qcc.passes.scales import column_amax, observe_channels

        if self.by == "weights":
            return [column_amax(store_of(ctx, self.name), proof) for proof in proofs]
        if self.by != "activations":
            raise IllegalFold(f"channels cannot be sorted by '{self.by}'", fix="write activations or weights")
        found = observe_channels(ctx, module, f"transform {self.name}", [proof.seed for proof in proofs])
        return [one.amax.double() for one in found]


def sorted_order(proof: Proof, magnitudes: Tensor) -> Tensor:
    """Return the order i64[N] that sorts the channels of each cell, the largest first, as far as the proof allows.

    Where rotary pairs must stay pairs, these are sorted, by the larger member.
    """
    import torch

    size = proof.cell_size
    cells = magnitudes.reshape(-1, size)
    if proof.alike:
        cells = cells.amax(0, keepdim=True).expand_as(cells)
    pairing = _pairing(proof)
    if pairing is None:
        local = torch.argsort(cells, dim=1, descending=True, stable=True)
    elif pairing is RopePairing.HALF:
        half = size // 2
        pairs = torch.argsort(torch.maximum(cells[:, :half], cells[:, half:]), dim=1, descending=True, stable=True)
        local = torch.cat((pairs, pairs + half), 1)
    else:
        pairs = torch.argsort(torch.maximum(cells[:, ::2], cells[:, 1::2]), dim=1, descending=True, stable=True)
        local = torch.stack((2 * pairs, 2 * pairs + 1), 2).flatten(1)
    return (local + size * torch.arange(len(cells))[:, None]).flatten()


def _pairing(proof: Proof) -> RopePairing | None:
    kinds = {op.pairing.data for op in proof.ropes}
    if len(kinds) > 1:
        problems = [Problem(op.where, f"pairs channels as {op.pairing.data.value}") for op in proof.ropes]
        raise IllegalFold("queries and keys cannot be sorted", problems)
    return kinds.pop() if kinds else None


def permute_angles(store: WeightStore, proof: Proof, order: Tensor) -> None:
    """Let the rotary embeddings of a space read their angles in the order of one head."""
    if not proof.ropes:
        return
    local = order[: proof.cell_size]
    key = store.fresh_key("permutation")
    store[key] = local.clone()
    made: dict[SSAValue, SSAValue] = {}
    for rope in proof.ropes:
        for index in (1, 2):
            table = rope.operands[index]
            if table not in made:
                kind = type_of(table)
                numbers = WeightOp(key, tensor([len(local)], "i64"))
                moved = IndexOp(table, [numbers], kind.rank - 1)
                for one in (numbers, moved):
                    set_location(one, location_of(rope))
                Rewriter.insert_op([numbers, moved], point_after(table))
                made[table] = moved.result
            rope.operands[index] = made[table]

"""What a proof of a fold says: what it rewrites, which channels go together, and what is in the way."""

from __future__ import annotations

import pytest
import torch
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass

from qcc.calibrate.run import SampleRun
from qcc.errors import IllegalFold, ShapeError
from qcc.ir.context import QccContext
from qcc.ir.elementwise import BinaryOp, UnaryOp
from qcc.ir.gather import IndexOp
from qcc.ir.nn import LinearOp
from qcc.ir.shape import ReshapeOp
from qcc.ir.transformer import AttentionOp, NormOp, RopeOp
from qcc.passes.fold_norm import FoldNorm
from qcc.passes.legality import Kind, prove, space_on
from qcc.passes.permute import Permute
from qcc.passes.pipeline import run_passes
from qcc.passes.rotate_streams import RotateStreams
from qcc.passes.smooth_attention import SmoothAttention
from tests import blocks
from tests.folding import outputs, relative
from tests.hand_made import built, forced, located, randn, refusal
from tests.modules import Made

BROKEN = 1e-3
"""What a forced fold changes at least, relative to the largest output."""


def test_a_naive_fold_of_one_plus_the_weight() -> None:
    def build(x: SSAValue, g: SSAValue, a: SSAValue) -> Made:
        return LinearOp(NormOp("rms_plus1", x, g, eps=1e-6), a)

    stored = {"g": 0.3 * randn(8), "a": randn(4, 8, seed=1)}
    module, store, inputs = built(stored, build, x=randn(5, 8, seed=2))
    naive = {"a": stored["a"] * stored["g"], "g": torch.zeros(8, dtype=torch.float64)}
    assert forced((module, store, inputs), **naive) > BROKEN
    before = outputs(module, store, inputs)
    run_passes([FoldNorm()], QccContext(store), module)
    assert relative(outputs(module, store, inputs), before) < 1e-14
    torch.testing.assert_close(store.tensor("a"), stored["a"] * (1 + stored["g"]))


def test_a_scale_through_the_gate_of_an_activation() -> None:
    def build(x: SSAValue, a: SSAValue, u: SSAValue, d: SSAValue) -> Made:
        gate = UnaryOp("silu", LinearOp(x, a))
        located(gate, "gate (net.py:1)")
        return LinearOp(BinaryOp("mul", gate, LinearOp(x, u)), d)

    stored = {"a": randn(8, 8), "u": randn(8, 8, seed=1), "d": randn(3, 8, seed=2)}
    model = built(stored, build, x=randn(5, 8, seed=3))
    gate = next(op for op in model[0].walk() if isinstance(op, UnaryOp))
    with pytest.raises(IllegalFold, match=r"gate \(net.py:1\): qcc.unary is in the way of the diagonal: silu"):
        prove(Kind.DIAGONAL, space_on(gate.input, [-1]), "scaling the gate")
    with pytest.raises(IllegalFold, match="silu is not linear"):
        prove(Kind.DIAGONAL, space_on(gate.result, [-1]), "scaling the gate")
    scales = 1 + randn(8, seed=5).abs()
    assert forced(model, a=stored["a"] / scales[:, None], d=stored["d"] * scales) > BROKEN
    product = next(op for op in model[0].walk() if isinstance(op, BinaryOp))
    proof = prove(Kind.DIAGONAL, space_on(product.result, [-1]), "scaling the product")
    assert [one.key for one in proof.producers] == ["u"]  # the legal factor is found
    assert [one.key for one in proof.consumers] == ["d"]
    assert forced(model, u=stored["u"] / scales[:, None], d=stored["d"] * scales) < 1e-14


def test_scales_of_rotary_pairs_are_tied() -> None:
    kind = blocks.Kind(norm="rms", leak="")
    model = blocks.block(kind)
    attention = next(op for op in model[0].walk() if isinstance(op, AttentionOp))
    proof = prove(Kind.DIAGONAL, space_on(attention.key, [1, 3]), "smoothing keys")
    assert proof.classes.reshape(2, 4).tolist() == [[0, 1, 0, 1], [2, 3, 2, 3]]
    assert {one.key for one in proof.producers} == {"q.weight", "q.bias", "k.weight", "k.bias"}
    untied = 1 + randn(4, seed=6).abs()
    store = model[1]
    changed = {
        name: store.tensor(name) * (factor.repeat(count) if "bias" in name else factor.repeat(count)[:, None])
        for layer, count, factor in (("q", 4, untied), ("k", 2, 1 / untied))
        for name in (f"{layer}.weight", f"{layer}.bias")
    }
    assert forced(model, **changed) > BROKEN
    before = outputs(*model)
    run_passes([SmoothAttention(0.8)], QccContext(store, SampleRun([model[2]])), model[0])
    assert relative(outputs(*model), before) < 1e-12


def test_a_permutation_across_the_rotary_embedding_moves_the_angles() -> None:
    module, store, inputs = blocks.block(blocks.Kind(kv=1, groups=1, bias=False))
    order = torch.tensor([1, 0, 3, 2])
    changed = {name: store.tensor(name)[order] for name in ("q.weight", "k.weight")}
    assert forced((module, store, inputs), **changed) > BROKEN  # without the table
    before = outputs(module, store, inputs)
    run_passes([Permute("weights")], QccContext(store), module)
    assert relative(outputs(module, store, inputs), before) < 1e-12
    ropes = [op for op in module.walk() if isinstance(op, RopeOp)]
    assert all(isinstance(op.cos.owner, IndexOp) and isinstance(op.sin.owner, IndexOp) for op in ropes)


def test_values_of_grouped_heads_share_their_rotation() -> None:
    module, _, _ = blocks.block(blocks.Kind(kv=2, groups=3, dim=4))
    attention = next(op for op in module.walk() if isinstance(op, AttentionOp))
    proof = prove(Kind.ROTATION, space_on(attention.value, [1, 3]), "rotating values")
    (output,) = proof.consumers
    assert output.key == "o.weight"
    assert (output.place.atoms % proof.size).reshape(2, 3, 4).tolist() == [[[0, 1, 2, 3]] * 3, [[4, 5, 6, 7]] * 3]
    assert len(set(output.place.atoms.tolist())) == 24  # every query head is a copy of its own
    assert proof.cell_size == 4
    with pytest.raises(IllegalFold, match="query heads share each key and value head"):
        prove(Kind.ROTATION, space_on(attention.result, [1, 3]), "rotating outputs")


@pytest.mark.parametrize(("leak", "what"), [("stream", "output 'y1'"), ("norm", "output 'y1'")])
def test_outputs_of_the_program_stay(leak: str, what: str) -> None:
    model = blocks.block(blocks.Kind(leak=leak))
    one: ModulePass = Permute("weights") if leak == "stream" else FoldNorm()
    assert what in refusal(model, one)


def test_inputs_of_the_program_stay() -> None:
    def build(x: SSAValue, a: SSAValue) -> Made:
        return LinearOp(NormOp("rms", x, eps=1e-6), a)

    module, _, _ = built({"a": randn(4, 8)}, build, x=randn(5, 8))
    norm = next(op for op in module.walk() if isinstance(op, NormOp))
    with pytest.raises(IllegalFold, match="input 'x' of the program comes in the order"):
        prove(Kind.ROTATION, space_on(norm.input, [-1]), "rotating")


def test_a_weight_computed_at_run_time_is_no_place_to_fold_into() -> None:
    def build(x: SSAValue, w: SSAValue, a: SSAValue) -> Made:
        return LinearOp(NormOp("rms", LinearOp(x, w), eps=1e-6), a)

    module, _, _ = built({"a": randn(4, 8)}, build, x=randn(5, 8), w=randn(8, 8))
    norm = next(op for op in module.walk() if isinstance(op, NormOp))
    with pytest.raises(IllegalFold, match="input 'w' of the program"):
        prove(Kind.ROTATION, space_on(norm.input, [-1]), "rotating")


def test_siblings_and_shared_channels_of_a_proof() -> None:
    module, _, _ = blocks.block(blocks.Kind())
    norm = next(op for op in module.walk() if isinstance(op, NormOp))
    proof = prove(Kind.DIAGONAL, space_on(norm.result, [-1]), "scaling")
    (group,) = proof.siblings
    assert {one.key for one in group} == {"q.weight", "k.weight", "v.weight"}
    assert set(proof.graph.nodes) == {place.value for place in proof.places}
    assert not proof.producers
    assert list(proof.affine) == [norm]


def test_a_stream_that_a_norm_reads_in_parts_rotates_in_parts() -> None:
    def build(x: SSAValue, a: SSAValue, b: SSAValue, c: SSAValue) -> list[Made]:
        first = LinearOp(x, a)
        total = BinaryOp("add", first, LinearOp(UnaryOp("silu", LinearOp(x, a)), a))
        parts = NormOp("rms", ReshapeOp(total, [5, 2, 4]), eps=1e-6)
        return [LinearOp(NormOp("rms", total, eps=1e-6), b), LinearOp(ReshapeOp(parts, [5, 8]), c)]

    stored = {"a": randn(8, 8), "b": randn(3, 8, seed=1), "c": randn(3, 8, seed=2)}
    module, store, inputs = built(stored, build, x=randn(5, 8, seed=3))
    norms = [op for op in module.walk() if isinstance(op, NormOp)]
    proof = prove(Kind.ROTATION, space_on(norms[1].input, [-1]), "rotating")
    assert (proof.size, proof.cell_size) == (8, 4)
    with pytest.raises(IllegalFold, match=r"has a mean of its own|reads the mean"):
        prove(Kind.CENTRING, space_on(norms[1].input, [-1]), "centring")
    with pytest.raises(ShapeError, match="blocks of 8 do not divide 4 channels"):
        run_passes([RotateStreams(8)], QccContext(store), module)
    before = outputs(module, store, inputs)
    run_passes([RotateStreams()], QccContext(store), module)
    assert relative(outputs(module, store, inputs), before) < 1e-12
    assert not torch.equal(store.tensor("b"), stored["b"])

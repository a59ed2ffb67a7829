"""Transforms of what was settled before: refused by name, line and way out, and what doing them anyway would break.

Static scales, steps migrated into norms, solved codes, Hessians and cached keys are all facts about values as they
were. `breaks` is what the forced order changes at least, relative to the largest output.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass

from qcc.calibrate.run import SampleRun
from qcc.errors import IllegalFold
from qcc.interpreter import Interpreter
from qcc.ir.base import set_location
from qcc.ir.cache import CacheAppendOp, CacheReadOp, cache_parts
from qcc.ir.context import QccContext
from qcc.ir.dims import Dim
from qcc.ir.elementwise import UnaryOp
from qcc.ir.nn import LinearOp
from qcc.ir.program import StateOp, UpdateStateOp
from qcc.ir.quant import ContractOp, DequantizeOp, QuantizeOp
from qcc.ir.shape import ReshapeOp, TransposeOp
from qcc.ir.transformer import AttentionOp, NormOp, RopeOp
from qcc.ir.types import type_of
from qcc.kept import KeptWeights
from qcc.numerics.hadamard import hadamard
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import dequantize
from qcc.numerics.tensor import QuantizedTensor
from qcc.numerics.torch_dtypes import TORCH_DTYPES
from qcc.passes.allocate_bits import AllocateBits
from qcc.passes.assign_formats import AssignFormats
from qcc.passes.calibrate import Calibrate
from qcc.passes.expand_k import ExpandK
from qcc.passes.permute import Permute
from qcc.passes.pipeline import run_passes
from qcc.passes.qsm import Qsm
from qcc.passes.quantize_cache import QuantizeCache
from qcc.passes.residual_channels import ResidualChannels
from qcc.passes.rotate_keys import RotateKeys
from qcc.passes.smooth import Smooth
from qcc.passes.smooth_attention import SmoothAttention
from qcc.passes.solve_weights import SolveWeights
from qcc.passes.solvers.decoupleq import solve as decoupleq
from qcc.passes.solvers.gptq import gptq, gptq_around
from qcc.passes.solvers.hessian import output_loss
from qcc.passes.transforms import transforming, transforming_codes
from qcc.recipes.load import load_recipe
from tests import blocks
from tests.folding import relative
from tests.hand_made import Model, Row, built, by, forced, located, plain_of, randn, refusal
from tests.modules import Made

SCALES = 4 ** randn(8, seed=5)
ORDER = torch.tensor([7, 0, 6, 1, 5, 2, 4, 3])
STEPS = {"weights": {"format": "int8", "group": "row"}, "activations": {"format": "int8"}}
EVERYTHING = {
    "transforms": [
        "fold_norm",
        "rotate",
        "permute",
        "diagonal",
        "smooth",
        "awq",
        "smooth_attention",
        "qsm",
        "expand_k",
    ],
    "rotate": {"r1": True, "r2": True, "r3": True, "r4": True, "inputs": True},
}


def settled(model: Model, *passes: ModulePass) -> Model:
    module, store, inputs = model
    run_passes(passes, QccContext(store, SampleRun([inputs])), module)
    return module, store, inputs


def norm_and_layer() -> Model:
    def build(x: SSAValue, g: SSAValue, w: SSAValue) -> Made:
        normed = located(NormOp("rms", x, g, eps=1e-6), "norm (net.py:1)")
        return located(LinearOp(normed, w), "up (net.py:2)")

    return built({"g": 1 + 0.3 * randn(8), "w": randn(6, 8, seed=1)}, build, x=randn(5, 8, seed=2))


def layer_behind_static_codes() -> Model:
    """A layer whose input has a static scale, taken from what the norm gave."""

    def build(x: SSAValue, g: SSAValue, w: SSAValue) -> Made:
        normed = located(NormOp("rms", x, g, eps=1e-6), "norm (net.py:1)")
        coded = located(QuantizeOp(normed, parse_qtype("int8n | tensor f32")), "input (net.py:2)")
        return located(LinearOp(DequantizeOp(coded.results[0], "f64"), w), "up (net.py:2)")

    stored = {"g": 1 + 0.3 * randn(8), "w": randn(6, 8, seed=1)}
    return settled(built(stored, build, x=randn(5, 8, seed=2)), Calibrate())


def layer_of_migrated_steps() -> Model:
    """The same after `qsm`: the norm gives numbers in units of codes, and rounding them is all that is left."""
    return settled(norm_and_layer(), Qsm(json.dumps(STEPS), "amax"))


def quantized_layer_of_migrated_steps() -> Model:
    model = settled(layer_of_migrated_steps(), AssignFormats(json.dumps(STEPS)), Calibrate(), SolveWeights())
    (key,) = (key for key in model[1] if key.startswith("w:"))
    decoded = dequantize(model[1].quantized(key), torch.float64)

    def build(x: SSAValue, g: SSAValue, w: SSAValue, s: SSAValue) -> Made:
        coded = QuantizeOp(NormOp("rms", x, g, eps=1e-6), parse_qtype("int8n | tensor f32 constant(1)"), [s])
        return LinearOp(DequantizeOp(coded, "f64"), w)

    stored = {"g": model[1].tensor("g"), "w": decoded, "s": torch.ones(1, 1)}
    return built(stored, build, **model[2])


def solved_in_groups() -> Model:
    """A layer whose weight is solved in groups of 4 columns, behind a layer that writes the columns."""

    def build(x: SSAValue, a: SSAValue, w: SSAValue) -> Made:
        active = UnaryOp("relu", LinearOp(x, a))
        return located(LinearOp(active, w), "down (net.py:4)")

    wide = randn(6, 8, seed=1) * torch.tensor([1.0, 1, 1, 1, 20, 20, 20, 20])
    recipe = {"weights": {"format": "int4 | (1,4) f32"}, "overrides": [{"match": "a", "weights": {"format": "f32"}}]}
    model = built({"a": randn(8, 8), "w": wide}, build, x=randn(5, 8, seed=2))
    return settled(model, AssignFormats(json.dumps(recipe)), SolveWeights())


def sort_codes_and_not_their_scales(w: dict[str, Tensor]) -> dict[str, Tensor | QuantizedTensor]:
    store = solved_in_groups()[1]
    key = next(key for key in store if key.startswith("w:"))
    coded = store.quantized(key)
    moved = QuantizedTensor(coded.qtype, coded.shape, coded.codes[:, ORDER].contiguous(), coded.parameters)
    return {"a": w["a"][ORDER], key: moved}


def scale_norm_and_layer(w: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"g": w["g"] / SCALES, "w": w["w"] * SCALES}


def static_keys(*, behind: bool = False) -> Model:
    """Attention whose keys are codes with a static scale a channel, in front of the rotary embedding or behind it."""
    angle = torch.arange(6.0, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0.5, 1.0, 0.5]).double()

    def build(x: SSAValue, cos: SSAValue, sin: SSAValue, q: SSAValue, k: SSAValue) -> Made:
        query = RopeOp("half", _heads(LinearOp(x, q)), cos, sin)
        key: SSAValue = _heads(LinearOp(x, k)).result
        key = key if not behind else RopeOp("half", key, cos, sin).result
        coded = located(QuantizeOp(key, parse_qtype("int8n | (-1,-1,-1,1) f32")), "keys (net.py:7)")
        decoded: SSAValue = DequantizeOp(coded.results[0], "f64").result
        decoded = decoded if behind else RopeOp("half", decoded, cos, sin).result
        return located(AttentionOp(query, decoded, _heads(LinearOp(x, q)), scale=0.5, causal=True), "attn (net.py:9)")

    rows = torch.tensor([40.0, 1, 0.05, 1]).double()[:, None]  # channel 0 is an outlier, its partner 2 is small
    stored = {"q": randn(4, 8), "k": randn(4, 8, seed=1) * rows}
    inputs = {"x": randn(1, 6, 8, seed=2), "cos": angle.cos(), "sin": angle.sin()}
    return settled(built(stored, build, **inputs), Calibrate())


def _heads(value: LinearOp) -> TransposeOp:
    return TransposeOp(ReshapeOp(value, [1, type_of(value.result).shape[1], 1, 4]), [0, 2, 1, 3])


def turn_queries_and_keys(w: dict[str, Tensor]) -> dict[str, Tensor]:
    turn = hadamard(4) / 2
    return {name: turn.T @ w[name] for name in ("q", "k")}


ROWS = [
    Row(
        "a norm scaled after static scales were taken", layer_behind_static_codes, by(Smooth()),
        ("input (net.py:2): qcc.quantize: its static scales are", "run smooth before calibrate"),
        scale_norm_and_layer, 0.05,
    ),
    Row(
        "channels sorted after their groups were solved", solved_in_groups, by(Permute("weights")),
        ("down (net.py:4): qcc.contract: the codes of its weight 'w:", "run permute before solve-weights"),
        sort_codes_and_not_their_scales, 0.3,
    ),
    Row(
        "keys rotated after their static scales were taken", static_keys, by(RotateKeys()),
        ("keys (net.py:7): qcc.quantize: its static scales are", "run rotate-keys before calibrate"),
        turn_queries_and_keys, 0.05,
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.fold.replace(" ", "-"))
def test_it_is_refused_and_would_have_broken_the_output(row: Row) -> None:
    row.check()


def test_a_norm_scaled_after_its_steps_went_into_it_is_refused_and_would_have_broken_the_output() -> None:
    said = refusal(layer_of_migrated_steps(), Smooth())
    assert "up (net.py:2): qcc.linear: its input is in steps of the static 'int8 | tensor f32 constant(1)'" in said
    assert "fix: run smooth before qsm" in said
    model = quantized_layer_of_migrated_steps()
    assert forced(model, **scale_norm_and_layer(plain_of(model[1]))) > 0.05
    module, store, inputs = layer_of_migrated_steps()
    run_passes([ExpandK(0.2, 1)], QccContext(store, SampleRun([inputs])), module)  # copies keep their steps


INPUTS = {"transforms": ["permute"], "permute": {"inputs": True}}
TRANSFORMS = [
    one
    for recipe in (EVERYTHING, INPUTS)
    for one in transforming(load_recipe(recipe))
    if one.name not in ("round-folds", "canonicalize", "annotate-groups")
]


@pytest.mark.parametrize("one", TRANSFORMS, ids=lambda one: one.name)
@pytest.mark.parametrize("model", [layer_behind_static_codes, solved_in_groups, static_keys])
def test_every_transform_of_the_pipeline_asks(model: Callable[[], Model], one: ModulePass) -> None:
    said = refusal(model(), one)
    assert f"{one.name} comes too late: 1 place is settled by values that it would change" in said


def test_a_transform_of_codes_may_follow_their_formats_and_nothing_later() -> None:
    recipe = {"weights": {"format": "nvfp4"}, "activations": {"format": "nvfp4", "when": "dynamic"}}
    (one,) = transforming_codes(load_recipe({"transforms": ["residual_channels"]}))
    assert isinstance(one, ResidualChannels)

    def build(x: SSAValue, w: SSAValue) -> Made:
        return located(LinearOp(x, w), "up (net.py:2)")

    def planned(*passes: ModulePass) -> Model:
        model = built({"w": randn(6, 32).float()}, build, x=randn(5, 32, seed=2).float())
        return settled(model, AssignFormats(json.dumps(recipe)), *passes)

    planned(one)
    assert "run residual-channels before solve-weights" in refusal(planned(SolveWeights()), one)


def test_bits_are_allocated_behind_transforms() -> None:
    allocate = {"candidates": [{"format": "int3"}, {"format": "int8"}], "budget": {"bits_per_weight": 6}}
    model = settled(norm_and_layer(), AllocateBits(json.dumps({"weights": {"format": "int4"}, "allocate": allocate})))
    said = refusal(model, Smooth())
    assert "up (net.py:2): qcc.linear: its format {format: int3" in said
    assert "run smooth before allocate-bits" in said


def correlated(seed: int) -> Tensor:
    return randn(200, 16, seed=seed) @ randn(16, 16, seed=seed + 1) ** 3


def test_the_hessian_of_another_input_loses_more_than_none() -> None:
    weight, qtype = randn(24, 16).float(), parse_qtype("int3n | (1,-1) f32")
    own, other = (one.T @ one for one in (correlated(1), correlated(7)))
    losses = [output_loss(weight - dequantize(gptq(weight, qtype, h)), own) for h in (own, torch.eye(16), other)]
    assert losses[0] < 0.5 * losses[1]
    assert losses[2] > 1.2 * losses[1]  # what is made up for where it does not count is lost where it does


@pytest.mark.parametrize("width", [8, 24])
def test_a_hessian_of_another_width_is_refused(width: int) -> None:
    weight, qtype, hessian = randn(4, 16).float(), parse_qtype("int3n | (1,-1) f32"), torch.eye(width)
    apart = torch.zeros(4, 16, dtype=torch.bool)
    calls: list[Callable[[], object]] = [
        lambda: gptq(weight, qtype, hessian, "up"),
        lambda: gptq_around(weight, apart, qtype, hessian, "up"),
        lambda: decoupleq(weight, qtype, hessian, "up"),
    ]
    for call in calls:
        with pytest.raises(IllegalFold) as caught:
            call()
        assert f"up: its Hessian is [{width}, {width}], and it has 16 columns" in str(caught.value)
        assert "fix: take the Hessian of what this layer reads" in str(caught.value)
    with pytest.raises(IllegalFold, match="as no sum of squares of inputs has"):
        gptq(weight, qtype, -torch.eye(16), "up")


def test_codes_kept_of_other_inputs_are_solved_again(tmp_path: Path) -> None:
    recipe = json.dumps({"weights": {"format": "int3n | (1,-1) f32", "solver": "gptq"}})

    def solved(x: Tensor, kept: KeptWeights | None) -> QuantizedTensor:
        def build(x: SSAValue, w: SSAValue) -> Made:
            return LinearOp(x, w)

        module, store, inputs = built({"w": randn(24, 16).float()}, build, x=x.float())
        passes = [AssignFormats(recipe), SolveWeights()]
        run_passes(passes, QccContext(store, SampleRun([inputs]), kept=kept), module)
        return store.quantized("w:int3n | (1,-1) f32")

    kept = KeptWeights(tmp_path / "kept")
    first, again = solved(correlated(1), kept), solved(correlated(1), kept)
    other = solved(correlated(7), kept)
    assert torch.equal(first.codes, again.codes)
    assert not torch.equal(first.codes, other.codes)
    assert torch.equal(other.codes, solved(correlated(7), None).codes)


def test_scales_of_keys_in_front_of_the_rotary_embedding_are_none_behind_it() -> None:
    """The embedding turns an outlier channel into its partner, whose scale does not reach it."""
    module, store, inputs = static_keys(behind=True)
    (key,) = (key for key in store if "scale" in key)
    front = static_keys()
    (other,) = (key for key in front[1] if "scale" in key)
    assert forced((module, store, inputs), **{key: front[1].tensor(other)}) > 0.05
    # what would carry the scales over is a diagonal across the embedding, and pairs must share one
    for model in (static_keys(), static_keys(behind=True)):
        assert "keys (net.py:7)" in refusal(model, SmoothAttention())


def cached(window: int) -> Model:
    """A decoder of one head that keeps its keys as codes, the latest tokens as they are."""
    qtype = parse_qtype("uint4 | (1,-1) f32 | post f32 | dynamic")
    kinds = cache_parts(tuple(map(Dim.of, (1, 1, 12, 4))), qtype, window, "f64")

    def build(x: SSAValue, positions: SSAValue, q: SSAValue, k: SSAValue, v: SSAValue) -> Made:
        rows = _heads(LinearOp(x, k))
        states = [StateOp(name, kind) for name, kind in kinds.items()]
        append = located(CacheAppendOp(rows, positions, states, qtype, window=window), "cache (net.py:6)")
        for name, value in zip(kinds, append.results, strict=True):
            UpdateStateOp(name, value)
        kind = type_of(rows.result).with_shape((1, 1, 12, 4))
        read = CacheReadOp(positions, append.results, kind, qtype, window=window)
        set_location(read, "cache (net.py:6)")
        return AttentionOp(_heads(LinearOp(x, q)), read, v, scale=0.5)

    stored = {"q": randn(4, 8), "k": randn(4, 8, seed=1), "v": randn(1, 1, 12, 4, seed=4)}
    model = built(stored, build, x=randn(1, 5, 8, seed=2), positions=torch.arange(5))
    for name, kind in kinds.items():
        model[1][name] = torch.zeros(kind.static_shape or (), dtype=TORCH_DTYPES[kind.scalar])
    return model


@pytest.mark.parametrize("window", [0, 3])
def test_keys_are_not_rotated_once_a_cache_holds_them(window: int) -> None:
    """Neither codes nor the tokens of the window turn with the rows that write the next ones."""
    said = refusal(cached(window), RotateKeys())
    assert "cache (net.py:6): qcc.cache_append: keys or values are kept as codes of what they were" in said
    assert "fix: run rotate-keys before quantize-cache" in said
    found: list[dict[str, Tensor]] = []
    for late in (False, True):
        module, store, inputs = cached(window)
        before = Interpreter(module, store, "f64")
        before.run(inputs)
        if late:
            for key, value in turn_queries_and_keys(plain_of(store)).items():
                store[key] = value
        after = Interpreter(module, store, "f64")
        after.state = before.state
        found.append(after.run({"x": randn(1, 5, 8, seed=3), "positions": torch.arange(5, 10)}))
    assert relative(found[1], found[0]) > 0.05


def test_keys_that_are_rounded_without_a_cache_are_not_rotated_either() -> None:
    recipe = {"weights": {"format": "f32"}, "kv_cache": {"format": "int4"}}
    module, store, inputs = blocks.block(blocks.Kind())
    for op in module.walk():
        if isinstance(op, AttentionOp):
            set_location(op, "attn (net.py:9)")
    model = settled((module, store, inputs), QuantizeCache(json.dumps(recipe)))
    assert "attn (net.py:9): qcc.cache_round: keys or values are kept" in refusal(model, RotateKeys())


def test_a_module_in_which_nothing_is_settled_is_not_refused() -> None:
    for one in TRANSFORMS:
        module, store, inputs = norm_and_layer()
        before = Interpreter(module, store, "f64").run(inputs)
        run_passes([one], QccContext(store, SampleRun([inputs])), module)
        assert relative(Interpreter(module, store, "f64").run(inputs), before) <= 1e-12


def test_a_format_that_is_assigned_settles_its_input() -> None:

    def build(x: SSAValue, g: SSAValue, w: SSAValue) -> Made:
        coded = located(QuantizeOp(w, parse_qtype("int8n | row f32")), "up (net.py:2)")
        return ContractOp(NormOp("rms", x, g, eps=1e-6), coded.results[0])

    said = refusal(built({"g": randn(8), "w": randn(6, 8)}, build, x=randn(5, 8)), Smooth())
    assert "up (net.py:2): qcc.quantize: 'int8n | (1,-1) f32' is assigned to its input" in said
    assert "run smooth before assign-formats" in said

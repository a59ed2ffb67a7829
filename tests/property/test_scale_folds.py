"""Scales, sorting and splitting: whole models keep their function, and each fold does what it is for."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.passes import ModulePass

from qcc.calibrate.run import SampleRun
from qcc.errors import IllegalFold, QccError, RecipeError, ShapeError
from qcc.interpreter import Interpreter
from qcc.ir.context import QccContext
from qcc.ir.nn import LinearOp
from qcc.ir.quant import QuantizeOp
from qcc.ir.store import WeightStore
from qcc.ir.transformer import NormOp
from qcc.ir.types import type_of
from qcc.numerics.quantize import fake_quantize
from qcc.passes.assign_formats import AssignFormats
from qcc.passes.awq import Awq
from qcc.passes.centre_streams import CentreStreams
from qcc.passes.diagonal import DiagonalScale
from qcc.passes.expand_k import ExpandK, copies_of
from qcc.passes.fold_norm import FoldNorm
from qcc.passes.layer_schemes import INPUT_FORMAT
from qcc.passes.lower_transforms import factor_of
from qcc.passes.permute import Permute
from qcc.passes.pipeline import run_passes
from qcc.passes.qsm import Qsm
from qcc.passes.rotate_streams import RotateStreams
from qcc.passes.scale_search import RowSample
from qcc.passes.scales import as_declared
from qcc.passes.smooth import Smooth
from qcc.passes.smooth_attention import SmoothAttention
from tests import blocks
from tests.folding import outputs, raised, relative

EXACT = 1e-10
INT4 = json.dumps({"weights": {"format": "int4", "group": 8}, "activations": {"format": "int4"}})
FOLDS: dict[str, list[ModulePass]] = {
    "smooth": [Smooth(0.6)],
    "awq": [Awq(INT4)],
    "smooth_attention": [SmoothAttention(0.7)],
    "qsm": [Qsm(INT4)],
    "expand_k": [ExpandK(0.1, 16)],
    "permute": [Permute()],
    "diagonal": [FoldNorm(), CentreStreams(), RotateStreams(), DiagonalScale(INT4)],
}


def folded(name: str, passes: list[ModulePass]) -> tuple[float, ModuleOp, WeightStore, WeightStore]:
    """Return the error that passes bring in float64, the module, its store, and the store before."""
    module, store, inputs = raised(name)
    before, wanted = WeightStore({key: store[key] for key in store}), outputs(module, store, inputs)
    run_passes(passes, QccContext(store, SampleRun([inputs])), module)
    return relative(outputs(module, store, inputs), wanted), module, store, before


@pytest.mark.parametrize("fold", ["smooth", "awq", "qsm", "permute"])
def test_norms_of_a_post_norm_encoder_take_no_scale(fold: str) -> None:
    module, store, inputs = raised("bert")
    with pytest.raises(IllegalFold, match="not legal at"):
        run_passes(FOLDS[fold], QccContext(store, SampleRun([inputs])), module)
    error, *_ = folded("bert", [SmoothAttention(), ExpandK()])
    assert error <= EXACT


@pytest.mark.parametrize("fold", ["smooth", "awq", "smooth_attention", "qsm", "permute", "diagonal"])
def test_without_samples_the_way_out_is_said(fold: str) -> None:
    module, store, _ = raised("llama")
    with pytest.raises(QccError, match=r"needs calibration(.|\n)*leave the transform away"):
        run_passes(FOLDS[fold][-1:], QccContext(store), module)


def test_samples_that_are_not_finite_are_refused() -> None:
    module, store, inputs = blocks.block(blocks.Kind())
    store["norm1.weight"] = store.tensor("norm1.weight").clone().fill_(torch.inf)
    with pytest.raises(ShapeError, match="values are not finite"):
        run_passes([Smooth()], QccContext(store, SampleRun([inputs])), module)


def norm_outputs(module: ModuleOp, store: WeightStore, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Return the largest magnitude of every channel of every norm."""
    found: list[Tensor] = []

    def see(op: object, results: tuple[object, ...]) -> None:
        if isinstance(op, NormOp) and isinstance(results[0], Tensor):
            found.append(results[0].abs().flatten(0, -2).amax(0))

    Interpreter(module, store, "f64").run_with(inputs, see)  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_smoothing_moves_as_much_as_it_says(alpha: float) -> None:
    module, store, inputs = blocks.block(blocks.Kind(tied=False, bias=False))
    before = norm_outputs(module, store, inputs)[0]
    keys = ["q.weight", "k.weight", "v.weight"]
    columns = torch.cat([store.tensor(key) for key in keys]).abs().amax(0)
    run_passes([Smooth(alpha)], QccContext(store, SampleRun([inputs])), module)
    after = norm_outputs(module, store, inputs)[0]
    torch.testing.assert_close(after, (before * columns) ** (1 - alpha))
    smoothed = torch.cat([store.tensor(key) for key in keys]).abs().amax(0)
    torch.testing.assert_close(smoothed, (before * columns) ** alpha)


@pytest.mark.parametrize("last", [Qsm(INT4), FoldNorm()], ids=lambda one: one.name)
def test_dead_channels_stay_as_they_are(last: ModulePass) -> None:
    module, store, inputs = blocks.block(blocks.Kind(tied=False, bias=False))
    for key in ("q.weight", "k.weight", "v.weight"):
        store[key] = store.tensor(key).clone().index_fill(1, torch.tensor([3]), 0.0)
    store["norm2.weight"] = store.tensor("norm2.weight").clone().index_fill(0, torch.tensor([5]), 0.0)
    before, gamma = outputs(module, store, inputs), store.tensor("norm1.weight")
    run_passes([Smooth(), last], QccContext(store, SampleRun([inputs])), module)
    assert relative(outputs(module, store, inputs), before) <= EXACT
    assert all(bool(torch.isfinite(store.tensor(key)).all()) for key in store)
    assert gamma[3] != 0


def test_outlier_channels_lose_less_with_awq() -> None:
    """Columns that large activations read are rounded finer."""

    def loss(passes: list[ModulePass]) -> float:
        module, store, inputs = blocks.block(blocks.Kind(tied=False, batch=2, seq=3, hidden=16))
        store["norm2.weight"] = store.tensor("norm2.weight").clone().index_fill(0, torch.tensor([2]), 40.0)
        for key in ("gate.weight", "up.weight"):
            store[key] = store.tensor(key) / store.tensor("norm2.weight")
        before = outputs(module, store, inputs)
        run_passes(passes, QccContext(store, SampleRun([inputs])), module)
        for key in ("gate.weight", "up.weight"):
            store[key] = fake_quantize(store.tensor(key).float(), "int4 | (1,-1) f32").double()
        return relative(outputs(module, store, inputs), before)

    recipe = json.dumps({"weights": {"format": "int4"}})
    assert loss([Awq(recipe)]) < 0.7 * loss([])


def test_where_no_scale_is_better_nothing_changes() -> None:
    """Rounding that loses nothing cannot be bettered: weights stay those of rounding to nearest, bit for bit."""
    module, store, inputs = blocks.block(blocks.Kind(tied=False))
    for key in [key for key in store if key.endswith("weight") and "norm" not in key]:
        store[key] = store.tensor(key).sign()
    before = {key: store.tensor(key) for key in store}
    recipe = json.dumps({"weights": {"format": "int4"}})
    run_passes([Awq(recipe)], QccContext(store, SampleRun([inputs])), module)
    assert all(torch.equal(store.tensor(key), value) for key, value in before.items())


def test_migrated_steps_leave_static_codes_of_scale_one() -> None:
    error, module, store, _ = folded("llama", [Qsm(INT4, "amax")])
    assert error <= EXACT
    _, _, inputs = raised("llama")
    for amax in norm_outputs(module, store, inputs):
        torch.testing.assert_close(amax, torch.full_like(amax, 7.0), rtol=1e-6, atol=0)
    marked = [op for op in module.walk() if isinstance(op, LinearOp) and INPUT_FORMAT in op.attributes]
    assert len(marked) == 11  # five of seven layers in each of two blocks, and the head
    assert {op.attributes[INPUT_FORMAT] for op in marked} == {StringAttr("int4 | tensor f32 constant(1)")}
    recipe = json.dumps({"weights": {"format": "int4"}, "activations": {"format": "int4"}})
    run_passes([AssignFormats(recipe)], QccContext(store), module)
    taken = [type_of(op.result).qtype for op in module.walk() if isinstance(op, QuantizeOp)]
    when = [one.when for one in taken if one is not None and one.levels[0].statistic == "constant"]
    assert when == ["static"] * 5


def test_codes_do_not_change_when_steps_move_into_the_norm() -> None:
    module, store, inputs = blocks.block(blocks.Kind(tied=False, seq=3, batch=2))
    given: list[Tensor] = []

    def see(op: object, results: tuple[object, ...]) -> None:
        if isinstance(op, NormOp) and isinstance(results[0], Tensor):
            given.append(results[0])

    Interpreter(module, store, "f64").run_with(inputs, see)  # type: ignore[arg-type]
    before = given[:3]
    given.clear()
    run_passes([Qsm(INT4, "amax")], QccContext(store, SampleRun([inputs])), module)
    Interpreter(module, store, "f64").run_with(inputs, see)  # type: ignore[arg-type]
    for plain, migrated in zip(before, given, strict=True):
        steps = plain.abs().flatten(0, -2).amax(0).float().double() / 7
        flips = (migrated.round() - (plain / steps).round()).abs()
        assert float(flips.max()) <= 1
        assert int((flips > 0).sum()) <= 1


def test_siblings_with_different_formats_are_refused() -> None:
    module, store, inputs = raised("llama")
    overrides = [{"match": "*.0.self_attn.k_proj", "activations": {"format": "int8"}}]
    recipe = {"weights": {"format": "int4"}, "activations": {"format": "int4"}, "overrides": overrides}
    with pytest.raises(RecipeError, match="read one norm in different formats: int4, int8"):
        run_passes([Qsm(json.dumps(recipe))], QccContext(store, SampleRun([inputs])), module)


def test_splitting_flattens_the_largest_columns() -> None:
    columns = torch.tensor([8.0, 1.0, 3.0, 0.0], dtype=torch.float64)
    assert copies_of(columns, 4).tolist() == [4, 1, 2, 1]
    assert copies_of(columns, 0).tolist() == [1, 1, 1, 1]
    error, module, store, _ = folded("llama", [ExpandK(0.1, 16)])
    assert error <= EXACT
    for op in module.walk():
        if isinstance(op, LinearOp):
            assert (type_of(op.weight).shape[1].constant or 1) % 16 == 0
    assert any(key.endswith("/expanded") for key in store)


def test_dropping_keeps_the_width_and_loses_least() -> None:
    module, store, inputs = blocks.block(blocks.Kind(tied=False))
    for key in ("q.weight", "k.weight", "v.weight"):
        store[key] = store.tensor(key).clone().index_fill(1, torch.tensor([3, 7, 8, 9]), 0.0)
    widths = [type_of(op.weight).shape[1] for op in module.walk() if isinstance(op, LinearOp)]
    run_passes([ExpandK(0.3, 4, drop=True)], QccContext(store, SampleRun([inputs])), module)
    layers = [op for op in module.walk() if isinstance(op, LinearOp)]
    assert [type_of(op.weight).shape[1] for op in layers] == widths
    source = store.tensor("expansion")
    assert not set(source.tolist()) & {3, 7, 8, 9}


def test_sorted_channels_descend_inside_heads() -> None:
    module, store, _ = blocks.block(blocks.Kind(tied=False, rope="", bias=False))
    run_passes([Permute("weights")], QccContext(store), module)
    columns = store.tensor("o.weight").abs().amax(0).reshape(2, 2, 4).amax(1)
    assert bool((columns.diff(dim=1) <= 0).all())
    inner = store.tensor("down.weight").abs().amax(0)
    assert bool((inner.diff() <= 0).all())


def test_rows_are_sampled_evenly() -> None:
    sample = RowSample(limit=4)
    for start in range(0, 40, 5):
        sample.add(torch.arange(start, start + 5).float()[:, None])
    kept = sample.rows.flatten().tolist()
    assert len(kept) <= 4
    assert kept == sorted(kept)
    gaps = {b - a for a, b in pairwise(kept)}
    assert len(gaps) == 1


def test_statistics_are_those_of_the_weights_as_declared() -> None:
    """Folds leave float64 behind; samples run on the types that the program declares."""
    module, store, inputs = raised("llama")
    run_passes([FoldNorm(), RotateStreams(), Smooth()], QccContext(store, SampleRun([inputs])), module)
    assert store.tensor("model.lm_head.weight").dtype is torch.float64
    declared = as_declared(module, store)
    assert {declared.tensor(key).dtype for key in declared} == {torch.float32}
    assert set(declared) == set(store)


@pytest.mark.parametrize(("block", "wide"), [(1, 1), (2, 1), (16, 4), (12, 1), (24, 2), (96, 8), (4096, 64)])
def test_factors_of_hadamard_matrices(block: int, wide: int) -> None:
    from qcc.numerics.hadamard import hadamard

    assert block % factor_of(block) == 0
    found = factor_of(block)
    assert found in (wide, 2 * wide, max(1, wide // 2))
    if block <= 96:
        assert torch.equal(torch.kron(hadamard(found), hadamard(block // found)), hadamard(block))

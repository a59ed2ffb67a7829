"""Every fold leaves the function of whole models as it was: interpreted in float64 before and after."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from qcc.errors import IllegalFold, ShapeError
from qcc.ir.context import QccContext
from qcc.ir.program import WeightOp
from qcc.ir.store import WeightStore
from qcc.ir.transformer import BatchNormOp, NormOp
from qcc.passes.centre_streams import CentreStreams
from qcc.passes.fold_batch_norm import FoldBatchNorm
from qcc.passes.fold_norm import FoldNorm
from qcc.passes.pipeline import run_passes
from qcc.passes.rotate_activations import RotateActivations
from qcc.passes.rotate_keys import RotateKeys
from qcc.passes.rotate_streams import RotateStreams
from qcc.passes.rotate_values import RotateValues
from qcc.passes.round_folds import RoundFolds
from tests.folding import error_of, outputs, raised, relative

EXACT = 1e-10
DECODERS = ["llama", "qwen2", "gemma", "gpt2", "gpt2_eager", "cached_llama"]
MODELS = [*DECODERS, "bert", "vit"]
NORMS: list[ModulePass] = [FoldNorm(), CentreStreams()]


def changed(module: ModuleOp, store: WeightStore, name: str) -> int:
    """Count the tensors that are not those of the model."""
    before = raised(name)[1]
    return sum(key not in before or not torch.equal(store.tensor(key), before.tensor(key)) for key in store)


@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
def test_batch_norms_fold_into_convolutions(name: str) -> None:
    error, module, store = error_of(name, [FoldBatchNorm()])
    assert error <= EXACT
    assert not any(isinstance(op, BatchNormOp) for op in module.walk())
    assert {op.key.data for op in module.walk() if isinstance(op, WeightOp)} == set(store)


@pytest.mark.parametrize("name", DECODERS)
def test_norm_weights_fold_into_layers(name: str) -> None:
    error, module, store = error_of(name, [FoldNorm()])
    assert error <= EXACT
    norms = [op for op in module.walk() if isinstance(op, NormOp)]
    assert all(op.weight is None and op.bias is None for op in norms)
    assert {op.kind.data.value for op in norms} == ({"layer"} if "gpt2" in name else {"rms"})
    assert changed(module, store, name) >= len(norms)


@pytest.mark.parametrize("name", ["gpt2", "gpt2_eager"])
def test_layer_norms_become_rms_norms(name: str) -> None:
    error, module, _ = error_of(name, NORMS)
    assert error <= EXACT
    assert {op.kind.data.value for op in module.walk() if isinstance(op, NormOp)} == {"rms"}


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_what_cannot_be_folded_is_kept_and_says_why(name: str) -> None:
    with pytest.raises(IllegalFold, match="last_hidden_state"):
        error_of(name, [FoldNorm()])
    error, module, _ = error_of(name, [FoldNorm("keep"), CentreStreams("keep")])
    assert error <= EXACT
    norms = [op for op in module.walk() if isinstance(op, NormOp)]
    kept = [op for op in norms if op.weight is not None]
    assert kept
    assert all("not_folded" in op.attributes for op in kept)
    assert len(kept) == (5 if name == "bert" else 1)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("block", [0, 4])
def test_streams_rotate(name: str, block: int) -> None:
    error, module, store = error_of(name, [*NORMS, RotateStreams(block, seed=3)])
    assert error <= EXACT
    assert changed(module, store, name) > 10


@pytest.mark.parametrize("name", MODELS)
def test_values_rotate_in_every_head(name: str) -> None:
    error, module, store = error_of(name, [RotateValues(seed=5)])
    assert error <= EXACT
    layers = 2
    assert changed(module, store, name) >= 2 * layers


@pytest.mark.parametrize("name", MODELS)
def test_keys_rotate_behind_the_rotary_embedding(name: str) -> None:
    error, module, store = error_of(name, [RotateKeys()])
    assert error <= EXACT
    inserted = sum(op.name == "qcc.rotate" for op in module.walk())
    with_rope = name in ("llama", "qwen2", "gemma", "cached_llama")
    assert inserted == (4 if with_rope else 0)
    assert with_rope or changed(module, store, name) >= 2


@pytest.mark.parametrize("name", MODELS)
def test_activations_rotate_at_run_time(name: str) -> None:
    error, module, _ = error_of(name, [RotateActivations()])
    assert error <= EXACT
    assert sum(op.name == "qcc.rotate" for op in module.walk()) == 2


@pytest.mark.parametrize("name", DECODERS)
def test_all_rotations_together(name: str) -> None:
    passes = [*NORMS, RotateStreams(), RotateValues(), RotateKeys(), RotateActivations()]
    error, module, store = error_of(name, passes)
    assert error <= EXACT
    used = {op.key.data for op in module.walk() if isinstance(op, WeightOp)}
    assert used <= set(store)


def test_a_cache_goes_on_with_rotated_rows() -> None:
    from qcc.interpreter import Interpreter

    passes: Sequence[ModulePass] = [*NORMS, RotateStreams(), RotateValues(), RotateKeys()]
    module, store, inputs = raised("cached_llama")
    plain = Interpreter(module.clone(), WeightStore({key: store[key] for key in store}), "f64")
    run_passes(passes, QccContext(store), module)
    folded = Interpreter(module, store, "f64")
    for start in (0, 5, 10):
        call = {"input_ids": inputs["input_ids"] + start, "cache_position": torch.arange(start, start + 5)}
        assert relative(folded.run(call), plain.run(call)) <= EXACT
    assert any(not torch.allclose(folded.state[key], plain.state[key]) for key in folded.state)  # type: ignore[arg-type]


def test_a_block_must_divide_the_channels() -> None:
    with pytest.raises(ShapeError, match="blocks of 7 do not divide 64"):
        error_of("llama", [*NORMS, RotateStreams(7)])
    with pytest.raises(ShapeError, match="blocks of 24 do not divide 16"):
        error_of("llama", [RotateKeys(24)])


def test_folded_tensors_are_rounded_once() -> None:
    module, store, inputs = raised("llama")
    before = outputs(module, store, inputs)
    run_passes([*NORMS, RotateStreams(), RoundFolds()], QccContext(store), module)
    assert {store.tensor(key).dtype for key in store} == {torch.float32}
    assert relative(outputs(module, store, inputs), before) < 1e-5


def test_what_exceeds_its_type_after_folding_is_refused() -> None:
    module, store, _ = raised("llama")
    key = next(key for key in store if "o_proj" in key)
    store[key] = store.tensor(key) * 1e300
    with pytest.raises(IllegalFold, match=r"o_proj.*beyond the range of f32"):
        RoundFolds().apply(QccContext(store), module)


def test_a_word_that_says_nothing_is_refused() -> None:
    with pytest.raises(IllegalFold, match="write refuse or keep"):
        error_of("llama", [FoldNorm("maybe")])

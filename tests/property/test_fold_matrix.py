"""Every fold on every family of models: applied, and the function stays; or refused, and nothing changes."""

from __future__ import annotations

import json

import pytest
import torch
from xdsl.passes import ModulePass

from qcc.calibrate.run import SampleRun
from qcc.errors import IllegalFold
from qcc.ir.context import QccContext
from qcc.ir.store import WeightStore
from qcc.passes.awq import Awq
from qcc.passes.centre_streams import CentreStreams
from qcc.passes.diagonal import DiagonalScale
from qcc.passes.expand_k import ExpandK
from qcc.passes.fold_norm import FoldNorm
from qcc.passes.permute import Permute
from qcc.passes.permute_inputs import PermuteInputs
from qcc.passes.pipeline import run_passes
from qcc.passes.qsm import Qsm
from qcc.passes.rotate_activations import RotateActivations
from qcc.passes.rotate_inputs import RotateInputs
from qcc.passes.rotate_keys import RotateKeys
from qcc.passes.rotate_streams import RotateStreams
from qcc.passes.rotate_values import RotateValues
from qcc.passes.smooth import Smooth
from qcc.passes.smooth_attention import SmoothAttention
from tests.folding import outputs, raised, relative

EXACT = 1e-10
INT4 = json.dumps({"weights": {"format": "int4", "group": 8}, "activations": {"format": "int4"}})
NORMS: list[ModulePass] = [FoldNorm(), CentreStreams()]
FOLDS: dict[str, list[ModulePass]] = {
    "fold_norm": [FoldNorm()],
    "centre": NORMS,
    "r1": [*NORMS, RotateStreams(0, seed=3)],
    "r2": [RotateValues(seed=5)],
    "r3": [RotateKeys()],
    "r4": [RotateActivations()],
    "inputs": [RotateInputs(8)],
    "permute": [Permute()],
    "permute inputs": [PermuteInputs()],
    "diagonal": [DiagonalScale(INT4)],
    "ost": [*NORMS, RotateStreams(), RotateValues(), RotateKeys(), RotateActivations(), DiagonalScale(INT4)],
    "smooth": [Smooth(0.6)],
    "smooth+": [Smooth(search=True, recipe=INT4)],
    "awq": [Awq(INT4)],
    "smooth_attention": [SmoothAttention(0.7)],
    "qsm": [Qsm(INT4)],
    "qsm adaptive": [Qsm(INT4, "adaptive")],
    "expand_k": [ExpandK(0.1, 16)],
}
MODELS = ("llama", "qwen2", "gemma", "gpt2", "bert", "cached_llama")

# A norm of a post-norm encoder feeds the residual too: what goes through the next norm cannot take a scale.
POST_NORM = "a scale of single channels does not go through it"
SHOWN = "output 'last_hidden_state"
REFUSED = {
    ("bert", "fold_norm"): SHOWN,
    ("bert", "centre"): SHOWN,
    ("bert", "r1"): SHOWN,
    ("bert", "ost"): SHOWN,
    **{("bert", fold): POST_NORM for fold in ("diagonal", "smooth", "smooth+", "awq", "qsm", "qsm adaptive")},
    ("bert", "permute"): SHOWN,
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("fold", FOLDS)
def test_a_fold_keeps_the_function_or_is_refused(fold: str, name: str) -> None:
    module, store, inputs = raised(name)
    before = WeightStore({key: store[key] for key in store})
    wanted, text = outputs(module, store, inputs), str(module)
    context = QccContext(store, SampleRun([inputs]))
    if (reason := REFUSED.get((name, fold))) is not None:
        with pytest.raises(IllegalFold, match="illegal_folds: keep") as caught:
            run_passes(FOLDS[fold], context, module)
        assert reason in str(caught.value)
        assert relative(outputs(module, store, inputs), wanted) == 0.0
        return
    run_passes(FOLDS[fold], context, module)
    assert relative(outputs(module, store, inputs), wanted) <= EXACT
    changed = sum(key not in before or not torch.equal(store.tensor(key), before.tensor(key)) for key in store)
    assert changed >= 4 or text != str(module)
    assert not any("not_folded" in op.attributes for op in module.walk())

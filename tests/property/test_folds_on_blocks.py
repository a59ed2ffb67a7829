"""On blocks of any kind a fold keeps the function, or leaves what it cannot fold as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.passes import ModulePass

from qcc.calibrate.run import SampleRun
from qcc.ir.context import QccContext
from qcc.passes.awq import Awq
from qcc.passes.centre_streams import CentreStreams
from qcc.passes.diagonal import DiagonalScale
from qcc.passes.expand_k import ExpandK
from qcc.passes.fold_norm import FoldNorm
from qcc.passes.lower_transforms import LowerTransforms
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
from tests.blocks import Kind, block
from tests.folding import outputs, relative

EXACT = 1e-10
KEEP = "keep"
PASSES: list[ModulePass] = [
    FoldNorm(KEEP),
    CentreStreams(KEEP),
    RotateStreams(0, 0, KEEP),
    RotateValues(0, 0, KEEP),
    RotateKeys(0, KEEP),
    RotateActivations(0, KEEP),
    Permute("activations", KEEP),
    Permute("weights", KEEP),
    DiagonalScale("w4", KEEP),
    Smooth(0.7, KEEP),
    Awq("w4", KEEP),
    SmoothAttention(0.5, KEEP),
    Qsm("w8a8", "mse", KEEP),
    PermuteInputs("weights"),
    ExpandK(0.2, 2),
    LowerTransforms(),
    RotateInputs(),
]

KINDS = st.builds(
    Kind,
    batch=st.integers(1, 2),
    seq=st.integers(1, 3),
    kv=st.integers(1, 3),
    groups=st.integers(1, 3),
    dim=st.sampled_from([2, 4, 6, 12]),
    rope=st.sampled_from(["", "half", "interleaved"]),
    norm=st.sampled_from(["rms", "rms_plus1", "layer"]),
    fused=st.booleans(),
    repeat=st.booleans(),
    activation=st.sampled_from(["silu", "relu", "gelu", "neg"]),
    gated=st.booleans(),
    hidden=st.sampled_from([1, 5, 8]),
    post_norm=st.booleans(),
    qk_norm=st.booleans(),
    tied=st.booleans(),
    bias=st.booleans(),
    positions=st.booleans(),
    cut=st.booleans(),
    leak=st.sampled_from(["", "", "", "stream", "norm", "keys", "values", "inner"]),
)


def error_after(kind: Kind, passes: Sequence[ModulePass]) -> float:
    module, store, inputs = block(kind)
    before = outputs(module, store, inputs)
    run_passes(passes, QccContext(store, SampleRun([inputs])), module)
    return relative(outputs(module, store, inputs), before)


@settings(max_examples=60, deadline=None)
@given(KINDS, st.sampled_from(PASSES))
def test_one_fold(kind: Kind, one: ModulePass) -> None:
    assert error_after(kind, [one]) <= EXACT


def steps_late(passes: list[ModulePass]) -> list[ModulePass]:
    """Move `qsm`, which settles the steps of inputs, behind the last pass that is refused where these are."""
    (qsm,) = (one for one in passes if isinstance(one, Qsm))
    rest = [one for one in passes if one is not qsm]
    last = max(
        place for place, one in enumerate(rest) if not isinstance(one, PermuteInputs | ExpandK | LowerTransforms)
    )
    place = max(last + 1, passes.index(qsm))
    return [*rest[:place], qsm, *rest[place:]]


@settings(max_examples=50, deadline=None)
@given(KINDS, st.permutations(PASSES).map(steps_late))
def test_folds_in_any_order(kind: Kind, passes: list[ModulePass]) -> None:
    assert error_after(kind, passes) <= EXACT


def test_nothing_is_kept_back_where_all_is_legal() -> None:
    module, store, inputs = block(Kind())
    before = {key: store.tensor(key) for key in store}
    order = [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 12, 14]
    run_passes([PASSES[i] for i in order], QccContext(store, SampleRun([inputs])), module)
    assert not any("not_folded" in op.attributes for op in module.walk())
    kept = [key for key in store if key in before and torch.equal(store.tensor(key), before[key])]
    assert not [key for key in kept if key.endswith("weight")]
    names = Counter(op.name.removeprefix("qcc.") for op in module.walk())
    assert names["rotate"] == 3
    assert names["expand_k"] == 5

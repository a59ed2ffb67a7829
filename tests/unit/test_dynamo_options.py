"""Options of `torch.compile`, and the choice of a target by device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from qcc.dynamo import architectures_of, target_of
from qcc.errors import QccError, RecipeError
from qcc.jit.options import KNOWN, JitOptions, read_options
from qcc.recipes.load import load_recipe


def test_defaults() -> None:
    assert read_options(None) == JitOptions(recipe=load_recipe("w8a8"))
    assert read_options({}) == read_options(None)


def test_every_option_is_read(tmp_path: Path) -> None:
    found = read_options(
        {
            "recipe": "w4a8",
            "target": "cpu",
            "cache_dir": str(tmp_path),
            "strict": True,
            "calibration": [],
            "overrides": (),
        }
    )
    assert found == JitOptions(load_recipe("w4a8"), "cpu", [], tmp_path, True)


def test_unknown_keys_are_refused_all_at_once_with_the_nearest() -> None:
    with pytest.raises(QccError) as caught:
        read_options({"recipy": "w8", "stric": True, "zzz": 1})
    text = str(caught.value)
    assert "option 'recipy': is not known\n      fix: did you mean 'recipe'?" in text
    assert "did you mean 'strict'?" in text
    assert f"option 'zzz': is not known\n      fix: known: {', '.join(KNOWN)}" in text


@pytest.mark.parametrize(
    "options",
    [
        {"strict": "yes"},
        {"recipe": 4},
        {"recipe": None},
        {"target": 1},
        {"cache_dir": 3},
        {"calibration": 1},
        {"overrides": 1},
    ],
)
def test_wrong_values_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(QccError, match=f"option '{next(iter(options))}': is "):
        read_options(options)


def test_a_mode_is_refused() -> None:
    with pytest.raises(QccError, match="no mode 'max-autotune'"):
        read_options(None, "max-autotune")


@pytest.mark.parametrize(
    "overrides", [{"head": {"weights": {"format": "f32"}}}, [{"match": "head", "weights": {"format": "f32"}}]]
)
def test_overrides_follow_the_recipes_own(overrides: Any) -> None:
    recipe = {"weights": {"format": "int8"}, "overrides": [{"match": "*", "weights": {"format": "int4"}}]}
    found = read_options({"recipe": recipe, "overrides": overrides}).recipe
    assert [(one.match, one.weights.format if one.weights else "") for one in found.overrides] == [
        ("*", "int4"),
        ("head", "f32"),
    ]
    with pytest.raises(RecipeError, match=r"overrides\['head'\]: is no mapping"):
        read_options({"overrides": {"head": "f32"}})
    with pytest.raises(RecipeError, match="unknown key"):
        read_options({"overrides": {"head": {"weihgts": {}}}})


def test_the_target_goes_by_the_device() -> None:
    on_cpu = torch.ones(2)
    with FakeTensorMode(allow_non_fake_inputs=True):
        on_cuda = torch.empty(2, device="cuda")
    assert target_of([on_cpu, 3]) == "cpu"
    assert target_of([]) == "cpu"
    assert target_of([on_cuda]) == target_of([on_cuda], "triton") == "triton"
    assert target_of([torch.ones(()), on_cuda]) == "triton"
    assert target_of([torch.ones(())]) == "cpu"
    with pytest.raises(QccError, match="lie on cpu and cuda"):
        target_of([on_cpu, on_cuda])
    with pytest.raises(QccError, match="target cpu cannot take tensors on cuda"):
        target_of([on_cuda], "cpu")
    with pytest.raises(QccError, match="no target of qcc computes on meta"):
        target_of([torch.empty(1, device="meta")])


def test_the_architecture_is_that_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        tensors = [torch.empty(2, device="cuda:1"), torch.empty(2, device="cuda:0"), torch.empty(2, device="cuda:1")]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: {0: (8, 0), 1: (9, 0)}[device.index])
    assert architectures_of([*tensors, 3]) == ("sm_80", "sm_90")
    assert architectures_of(tensors[:1]) == ("sm_90",)
    assert architectures_of([torch.ones(2)]) == ()

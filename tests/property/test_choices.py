"""What transforms chose, given again without samples, makes the same program and weights bit for bit."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from qcc.calibrate.run import SampleRun
from qcc.choices import CHOICES, Recording, Replay
from qcc.errors import CheckpointError, QccError
from qcc.frontend.export import Imported, import_program
from qcc.ir.context import QccContext
from qcc.passes.pipeline import planning, run_passes
from qcc.recipes.load import load_recipe
from tests import zoo

INT4 = {"format": "int4", "group": 32}
LAYERS = {"weights": {"format": "int4", "group": "row"}, "activations": {"format": "int8", "granularity": "token"}}
RECIPES: dict[str, dict[str, Any]] = {
    "smooth": {"transforms": ["smooth"]},
    "smooth, searched": {"transforms": ["smooth"], "smooth": {"alpha": "search"}},
    "smooth_attention": {"transforms": ["smooth_attention"]},
    "awq": {"transforms": ["awq"]},
    "diagonal": {"transforms": ["rotate", "diagonal"]},
    "permute": {"transforms": ["permute"]},
    "permute, by weights": {"transforms": ["permute"], "permute": {"by": "weights"}},
    "qsm": {"transforms": ["qsm"]},
    "qsm, adaptive": {"transforms": ["qsm"], "qsm": {"clip": "adaptive"}},
    "expand_k": {"transforms": ["expand_k"]},
    "expand_k, dropping": {"transforms": ["expand_k"], "expand_k": {"drop": True}},
    "residual_channels": {"transforms": ["residual_channels"], "activations": INT4},
    "many": {"transforms": ["fold_norm", "rotate", "permute", "smooth", "awq", "smooth_attention", "expand_k"]},
}


@cache
def exported() -> tuple[torch.export.ExportedProgram, dict[str, Any]]:
    model, args, kwargs, shapes = zoo.llama(intermediate_size=128)
    with torch.no_grad():
        return torch.export.export(model, args, kwargs, dynamic_shapes=shapes), kwargs


def imported() -> tuple[Imported, SampleRun]:
    generator = torch.Generator().manual_seed(3)
    program, kwargs = exported()
    found = import_program(program)
    for key in found.store:
        if "norm" in key:
            noise = torch.randn(found.store.tensor(key).shape, generator=generator)
            found.store[key] = found.store.tensor(key) * noise.exp()
    return found, SampleRun([dict(kwargs)])


def planned(recipe: dict[str, Any], choices: Recording | Replay, *, samples: bool) -> Imported:
    found, run = imported()
    context = QccContext(found.store, run if samples else None, choices=choices)
    run_passes(planning(load_recipe({**LAYERS, **recipe})), context, found.module)
    return found


@pytest.mark.parametrize("name", RECIPES)
def test_transforms_do_again_what_they_chose(name: str, tmp_path: Path) -> None:
    recording = Recording()
    first = planned(RECIPES[name], recording, samples=True)
    assert recording
    recording.save(tmp_path, "a model")
    replay = Replay.load(tmp_path)
    assert replay is not None
    assert replay.model == "a model"
    again = planned(RECIPES[name], replay, samples=False)
    assert str(first.module) == str(again.module)
    assert set(first.store) == set(again.store)
    for key in first.store:
        assert torch.equal(first.store.tensor(key), again.store.tensor(key)), key
    raw, _ = imported()
    changed = any(key not in raw.store or not torch.equal(raw.store.tensor(key), first.store.tensor(key))
                  for key in first.store)  # fmt: skip
    assert changed, "a transform that does nothing is none to repeat"


def test_the_file_is_small_and_the_same_each_time(tmp_path: Path) -> None:
    sizes = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
        recording = Recording()
        planned(RECIPES["many"], recording, samples=True)
        recording.save(folder, "")
        sizes.append((folder / CHOICES).read_bytes())
    assert sizes[0] == sizes[1]
    found = load_file(str(tmp_path / "first" / CHOICES))
    assert all(one.dim() == 1 for one in found.values())
    weights, _ = imported()
    assert sum(map(torch.numel, found.values())) < 0.1 * sum(weights.store.tensor(key).numel() for key in weights.store)


def test_rotations_choose_nothing() -> None:
    recording = Recording()
    planned({"transforms": ["rotate"]}, recording, samples=False)
    assert not recording


def test_choices_of_another_number_of_places_are_refused(tmp_path: Path) -> None:
    recording = Recording()
    planned(RECIPES["smooth"], recording, samples=True)
    recording.save(tmp_path, "")
    replay = Replay.load(tmp_path)
    assert replay is not None
    with pytest.raises(QccError, match="'awq' chooses for"):
        planned(RECIPES["awq"], replay, samples=False)


@pytest.mark.parametrize("keep", [0, 5, 40])
def test_a_damaged_file_is_named(tmp_path: Path, keep: int) -> None:
    recording = Recording()
    planned(RECIPES["smooth"], recording, samples=True)
    recording.save(tmp_path, "")
    (tmp_path / CHOICES).write_bytes((tmp_path / CHOICES).read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=CHOICES):
        Replay.load(tmp_path)


def test_no_file_is_none(tmp_path: Path) -> None:
    assert Replay.load(tmp_path) is None

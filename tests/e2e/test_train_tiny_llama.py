"""The script that trains the small Llama: its split of files, and that a stopped run goes on as if it had not been."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytest.importorskip("transformers")
SCRIPT = Path(__file__).parents[2] / "examples" / "train_tiny_llama.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_tiny_llama", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_tiny_llama"] = module
    spec.loader.exec_module(module)
    return module


def test_files_are_split_by_name(script: ModuleType) -> None:
    files = script.source_files()
    unseen = [path for path in files if script.is_held_out(path)]
    assert len(files) > 300
    assert 0.03 < len(unseen) / len(files) < 0.1
    assert not any("test" in path.parts for path in files)


def test_a_run_that_was_stopped_goes_on_as_an_unbroken_one(script: ModuleType, tmp_path: Path) -> None:
    schedule = script.Schedule(length=16, rows=2, warm_up=2, steps=4)
    tokens = torch.randint(256, (4096,), generator=torch.Generator().manual_seed(0))
    whole, first = (script.Trainer(tmp_path / name, schedule) for name in ("whole", "parts"))
    (tmp_path / "parts").mkdir()
    losses = [whole.advance(tokens) for _ in range(4)]
    found = [first.advance(tokens) for _ in range(2)]
    first.keep()
    second = script.Trainer(tmp_path / "parts", schedule)
    assert second.step == 2
    found += [second.advance(tokens) for _ in range(2)]
    assert found == losses
    for name, one in whole.model.state_dict().items():
        assert torch.equal(one, second.model.state_dict()[name]), name


def test_the_rate_rises_and_falls(script: ModuleType) -> None:
    schedule = script.Schedule(warm_up=10, steps=100)
    rates = [script.rate_at(step, schedule) for step in range(100)]
    assert rates[9] == pytest.approx(schedule.rate)
    assert sorted(rates[:10]) == rates[:10]
    assert sorted(rates[10:], reverse=True) == rates[10:]
    assert rates[-1] == pytest.approx(schedule.rate / 10, rel=0.05)

"""A program that is compiled again under its old name is the new one, also in the process that ran the old one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import qcc


def scaled(factor: float) -> torch.nn.Module:
    layer = torch.nn.Linear(8, 8, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(8) * factor)
    return layer.eval()


def test_compiling_again_to_the_same_place(tmp_path: Path) -> None:
    x, out = torch.ones(2, 8), tmp_path / "m.qcc"
    first = qcc.compile(scaled(2.0), (x,), recipe="float", output=out, threads=1)
    assert torch.equal(first(x), 2 * x)
    second = qcc.compile(scaled(3.0), (x,), recipe="w8", output=out, threads=1)
    assert torch.allclose(second(x), 3 * x, rtol=1e-3)
    assert torch.equal(first(x), 2 * x)


def test_one_relative_path_in_two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.ones(2, 8)
    for name, recipe, factor in (("a", "float", 2.0), ("b", "w8", 3.0)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        compiled = qcc.compile(scaled(factor), (x,), recipe=recipe, output="m.qcc", threads=1)
        assert torch.allclose(compiled(x), factor * x, rtol=1e-3)

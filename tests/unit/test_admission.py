"""What a target cannot take is named, all of it, before weights are solved or anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import qcc
from qcc.errors import UnsupportedOp


def test_every_contraction_outside_the_target_is_named(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    recipe = {"weights": {"format": "int8"}, "activations": {"format": "int1"}}
    with pytest.raises(UnsupportedOp) as caught:
        qcc.compile(model, (torch.randn(3, 32),), recipe=recipe, output=tmp_path / "out")
    assert len(caught.value.problems) == 2
    assert "activations of 1 bits" in str(caught.value)
    assert "2 to 8 bits" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_formats_without_kernels_are_named_before_anything_is_solved(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    recipe = {
        "weights": {"format": "mxfp4"},
        "activations": {"format": "mxfp8_e4m3"},
        "overrides": [{"match": "2", "weights": {"format": "planes(2, -101, free) | (1,32) f16"}}],
    }
    with pytest.raises(UnsupportedOp) as caught:
        qcc.compile(model, (torch.randn(3, 64),), recipe=recipe, output=tmp_path / "out")
    text = str(caught.value)
    assert len(caught.value.problems) == 4
    assert "weights in 'fp2_1 | (1,32) e8m0 floor', whose codes are floats" in text
    assert "weights in 'planes(2, -101, free) | (1,32) f16', whose codes are digit planes" in text
    assert "activations in 'fp4_3 | (1,32) e8m0 floor | dynamic'" in text
    assert list(tmp_path.iterdir()) == []


def test_an_embedding_without_kernels_is_named(tmp_path: Path) -> None:
    model = nn.Embedding(10, 64).eval()
    recipe = {"embeddings": {"format": "nvfp4"}}
    with pytest.raises(UnsupportedOp, match=r"its table in 'fp2_1 .*', whose codes are floats"):
        qcc.compile(model, (torch.tensor([1, 2]),), recipe=recipe, output=tmp_path / "out")

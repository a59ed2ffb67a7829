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

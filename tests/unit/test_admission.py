"""What a target cannot take is named, all of it, before weights are solved or anything is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from xdsl.dialects.builtin import ModuleOp

import qcc
from qcc.admission import admit
from qcc.backends.targets import backend_of
from qcc.errors import UnsupportedOp
from qcc.frontend.export import import_program
from qcc.ir.context import QccContext
from qcc.numerics.qtype_parts import IntDecode
from qcc.passes.pipeline import planning, run_passes
from qcc.recipes.load import load_recipe


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
        "activations": {"format": "bipolar<2>"},
        "overrides": [{"match": "2", "weights": {"format": "planes(2, -101, free) | (1,32) f16"}}],
    }
    with pytest.raises(UnsupportedOp) as caught:
        qcc.compile(model, (torch.randn(3, 64),), recipe=recipe, output=tmp_path / "out")
    assert len(caught.value.problems) == 2  # weights of every kind of codes are taken
    assert list(tmp_path.iterdir()) == []
    target = replace(backend_of("cpu").capabilities, decodes=(IntDecode,), weight_decodes=())
    with pytest.raises(UnsupportedOp) as caught:
        admit(planned(model, torch.randn(3, 64), recipe), target)
    text = str(caught.value)
    assert len(caught.value.problems) == 4
    assert "weights in 'fp2_1 | (1,32) e8m0 floor', whose codes are floats" in text
    assert "weights in 'planes(2, -101, free) | (1,32) f16', whose codes are digit planes" in text
    assert "activations in 'planes(2, pm1, pow2) mid_rise | (1,-1) f16 mse | dynamic'" in text


def test_what_the_quantizing_kernel_cannot_make_is_named_as_early(tmp_path: Path) -> None:
    recipe = {"weights": {"format": "int8"}, "activations": {"format": "nvint4"}}
    with pytest.raises(UnsupportedOp, match="target cpu cannot take 1 of the formats") as caught:
        qcc.compile(nn.Linear(64, 32).eval(), (torch.randn(3, 64),), recipe=recipe, output=tmp_path / "out")
    assert "one level of scales is taken" in str(caught.value)


def test_an_embedding_without_kernels_is_named() -> None:
    module = planned(nn.Embedding(10, 64).eval(), torch.tensor([1, 2]), {"embeddings": {"format": "nvfp4"}})
    target = replace(backend_of("cpu").capabilities, decodes=(IntDecode,), weight_decodes=())
    with pytest.raises(UnsupportedOp, match=r"its table in 'fp2_1 .*', whose codes are floats"):
        admit(module, target)


def planned(model: nn.Module, x: torch.Tensor, recipe: dict[str, Any]) -> ModuleOp:
    imported = import_program(torch.export.export(model, (x,)))
    run_passes(planning(load_recipe(recipe)), QccContext(imported.store), imported.module)
    return imported.module

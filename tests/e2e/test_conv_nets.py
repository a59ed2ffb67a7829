"""Exported convolutional networks: every convolution with one group becomes a quantized contraction."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import qcc
from qcc.coverage import coverage_of
from qcc.frontend.export import Imported, import_program
from qcc.interpreter import Interpreter
from qcc.ir.context import QccContext
from qcc.passes.lower_conv import LowerConv
from qcc.passes.pipeline import pipeline, raising, run_passes
from qcc.recipes.load import load_recipe
from tests import zoo

DEPTHWISE = {"resnet": [], "mobilenet": ["3.body.3", "4.body.3"]}


def imported(name: str, decomposed: bool) -> Imported:
    module, args, kwargs, dynamic = zoo.MODELS[name]()
    program = torch.export.export(module, args, kwargs, dynamic_shapes=dynamic)
    return import_program(program.run_decompositions() if decomposed else program)


def run(program: Imported, x: torch.Tensor, dtype: str | None = None) -> torch.Tensor:
    interpreter = Interpreter(program.module, program.store, dtype)
    (name,) = [one.name for one in program.inputs if one.name]
    (result,) = interpreter.run({name: x}).values()
    return result


def sizes(name: str) -> list[torch.Tensor]:
    if name == "mobilenet":
        return [zoo.images(1, 30), zoo.images(3, 30)]
    return [zoo.images(1, 33, 57), zoo.images(3, 40, 35)]


@pytest.mark.parametrize("name", list(DEPTHWISE))
def test_lowering_changes_no_value(name: str) -> None:
    program = imported(name, decomposed=False)
    run_passes(raising(), QccContext(program.store), program.module)
    before = [run(program, x, "f64") for x in sizes(name)]
    run_passes([LowerConv("w8a8")], QccContext(program.store), program.module)
    for x, wanted in zip(sizes(name), before, strict=True):
        torch.testing.assert_close(run(program, x, "f64"), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize("recipe", ["w8a8", "w8"])
@pytest.mark.parametrize("name", list(DEPTHWISE))
def test_networks_are_quantized(name: str, recipe: str, decomposed: bool) -> None:
    program = imported(name, decomposed)
    exact = [run(program, x) for x in sizes(name)]
    run_passes(pipeline(load_recipe(recipe)), QccContext(program.store), program.module)
    layers = coverage_of(program.module, program.store, {}, 0).layers
    left = {one.name: one.left_in_float for one in layers if one.left_in_float}
    assert list(left) == DEPTHWISE[name]
    assert all(reason.startswith("grouped convolution") for reason in left.values())
    assert len(layers) - len(left) >= 6
    for x, wanted in zip(sizes(name), exact, strict=True):
        found = run(program, x)
        noise = 10 * torch.log10(wanted.square().sum() / (found - wanted).square().sum())
        assert 30.0 < float(noise) < 90.0


def test_the_compiled_network_follows_the_interpreter(tmp_path: Path) -> None:
    module, args, kwargs, dynamic = zoo.resnet()
    program = imported("resnet", decomposed=False)
    run_passes(pipeline(load_recipe("w8a8")), QccContext(program.store), program.module)
    exported = torch.export.export(module, args, kwargs, dynamic_shapes=dynamic)
    compiled = qcc.compile(exported, recipe="w8a8", target="cpu")
    compiled.save(tmp_path / "resnet.qcc")
    text = (tmp_path / "resnet.qcc" / "c" / "model.c").read_text("utf-8")
    # the stem, two filters in each of two blocks, and a pointwise shortcut of stride 2
    assert text.count("qcc.unfold ->") == 6
    for x in sizes("resnet"):
        wanted = run(program, x)
        found = compiled(x)
        # a sum that rounds the other way moves single codes by one step, far below the noise of 8 bits
        noise = 10 * torch.log10(wanted.square().sum() / (found - wanted).square().sum())
        assert float(noise) > 60.0

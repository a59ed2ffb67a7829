"""One integer-only module through the interpreter, C and the simulation of HLS C++: every output, bit for bit."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from qcc.errors import UnsupportedOp
from tests.hls_batches import build_batch, run_batch
from tests.integer_backends import IntegerModule, c_differences, hls_project, integer_module
from tests.small_nets import Source, attention_layer, conv_net, depthwise, mlp

RECIPES = ["fixed8", "fixed6", "w4a8-fixed", "ternary-fixed", "pow2-w4a8"]


def recipe(weights: str, activations: int) -> dict[str, Any]:
    """Give all layers one format of weights, and activations of some bits under one scale for the tensor."""
    return {
        "weights": {"format": weights},
        "activations": {"format": f"int{activations}n | tensor f32", "when": "static"},
    }


Case = tuple[Source, str | dict[str, Any]]


def lowered(case: Case, *, sums: bool = False) -> IntegerModule | None:
    """Lower a case; None where few bits are too coarse for what they are added to, which is refused by name."""
    (model, example), formats = case
    try:
        return integer_module(model, example, formats, sums=sums)
    except UnsupportedOp as error:
        if any("its result is too coarse" not in one.what for one in error.problems):
            raise
        return None


def agree(cases: Sequence[Case], folder: Path) -> None:
    """Hold C, which gives out the sums of every product as well, and the simulation to the interpreter."""
    projects: list[Path] = []
    for number, case in enumerate(cases):
        with_sums, plain = lowered(case, sums=True), lowered(case)
        if with_sums is None or plain is None:
            continue
        assert any(name.startswith("sums") for name in with_sums.wanted[0])
        assert c_differences(with_sums, folder / f"cpu{number}") == [], f"case {number}"
        projects.append(hls_project(plain, folder / f"hls{number}"))
    assert 2 * len(projects) > len(cases), "most cases are taken"
    assert run_batch(build_batch(projects, "model", folder / "batch"), projects) == []


CASES: dict[str, Case] = {
    "mlp": (mlp(3, 17, 9, 5), "fixed8"),
    "one row, two bits": (mlp(1, 33, 6, 3), recipe("int2 | row f32 mse", 3)),
    "depthwise": (depthwise(1, 6, 3, 4), "w4a8-fixed"),
    "residual": (conv_net(1, 5, 2, 6), "ternary-fixed"),
    "attention": (attention_layer(4, 8, 2, 12), "pow2-w4a8"),
}


def test_c_and_hls_give_the_interpreters_integers(tmp_path: Path) -> None:
    agree(list(CASES.values()), tmp_path)


def test_a_wrong_bit_is_found(tmp_path: Path) -> None:
    one = integer_module(*CASES["mlp"][0], "fixed8", sums=True)
    name = next(name for name in one.wanted[1] if name.startswith("sums"))
    wrong = one.wanted[1][name].clone()
    wrong[(0,) * wrong.dim()] += 1
    changed = replace(one, wanted=(one.wanted[0], {**one.wanted[1], name: wrong}, *one.wanted[2:]))
    assert c_differences(changed, tmp_path) == [f"frame 1: {name} of {list(wrong.shape)}"]
    assert not torch.equal(wrong, one.wanted[1][name])


def test_a_wrong_bit_of_one_project_is_found(tmp_path: Path) -> None:
    one = integer_module(*CASES["mlp"][0], "fixed8")
    projects = [hls_project(one, tmp_path / str(number)) for number in range(3)]
    gold = projects[1] / "tb" / "tb_gold.dat"
    data = bytearray(gold.read_bytes())
    data[-4] ^= 1
    gold.write_bytes(bytes(data))
    (found,) = run_batch(build_batch(projects, "model", tmp_path / "batch"), projects)
    assert found.startswith("project 1: ")
    assert "mismatches 1" in found


@st.composite
def formats(draw: st.DrawFn) -> str | dict[str, Any]:
    """One of the recipes, or weights of 1 to 8 bits and activations of 2 to 8."""
    if draw(st.booleans()):
        return draw(st.sampled_from(RECIPES))
    bits = draw(st.integers(1, 8))
    grid = " mid_rise" if bits == 1 else ""
    return recipe(f"int{bits}{grid} | row f32{'' if bits == 1 else ' mse'}", draw(st.integers(2, 8)))


@st.composite
def sources(draw: st.DrawFn) -> Source:
    """A network of one of four kinds, with odd sizes."""

    def sizes(*limits: tuple[int, int]) -> list[int]:
        return [draw(st.integers(low, high)) for low, high in limits]

    match draw(st.sampled_from(["mlp", "depthwise", "residual", "attention"])):
        case "mlp":
            return mlp(*sizes((1, 4), (1, 40), (1, 24), (1, 9)))
        case "depthwise":
            return depthwise(*sizes((1, 2), (3, 6), (1, 3), (1, 5)))
        case "residual":
            return conv_net(*sizes((1, 2), (2, 6), (1, 3), (1, 6)))
        case _:
            heads = draw(st.integers(1, 3))
            return attention_layer(draw(st.integers(1, 6)), heads * draw(st.integers(1, 5)), heads, 7)


def batches(size: int) -> st.SearchStrategy[list[Case]]:
    """Networks with formats, no two alike, of which one program is made."""
    cases = st.tuples(sources(), formats())
    return st.lists(cases, min_size=size, max_size=size, unique_by=described)


def described(case: Case) -> str:
    (model, example), chosen = case
    return f"{model} {[list(one.shape) for one in example.values()]} {chosen}"


ONCE = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.large_base_example],
    # every try to make a case smaller compiles a batch
    phases=[Phase.explicit, Phase.generate],
)


@settings(ONCE, max_examples=2)
@given(cases=batches(4))
def test_c_and_hls_on_some_shapes_and_widths(cases: list[Case], tmp_path: Path) -> None:
    agree(cases, Path(tempfile.mkdtemp(dir=tmp_path)))


@pytest.mark.slow
@settings(ONCE, max_examples=4)
@given(cases=batches(10))
def test_c_and_hls_on_many_shapes_and_widths(cases: list[Case], tmp_path: Path) -> None:
    agree(cases, Path(tempfile.mkdtemp(dir=tmp_path)))

"""One quantized module through the interpreter, C in both plans, and Triton: the same integers, the same outputs."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton")

from qcc.backends.base import Tolerance
from qcc.backends.triton.emulate import EmulatedDevice
from tests.every_backend import C_PLANS, c_differences, quantized, triton_differences
from tests.small_nets import Source, attention, conv_net, mlp

CLOSE = Tolerance(relative=1e-2, absolute=1e-6)
"""What a few codes may change that the last bit of a float moved by one, whatever quantization itself changed."""


def recipe(weights: str, group: int | str, activations: str = "int8", columns: int | None = None) -> dict[str, Any]:
    """Formats of all layers; `columns` of the input share a scale, all of a token where it is None."""
    scale: dict[str, Any] = {"granularity": "token"} if columns is None else {"group": columns}
    return {"weights": {"format": weights, "group": group}, "activations": {"format": activations, **scale}}


def agree(
    source: Source, formats: dict[str, Any], device: EmulatedDevice, folder: Path, tolerance: Tolerance | None = None
) -> None:
    """Hold Triton and both plans of C to the interpreter; the tolerance is the golden vectors' unless one is given."""
    model, example = source
    one = quantized(model, example, formats)
    one = one if tolerance is None else one.within(tolerance)
    assert one.golden.contracts
    assert triton_differences(one, device) == []
    for plan in C_PLANS:
        assert c_differences(one, plan, folder / plan) == "", plan


CASES = {
    "mlp w4a8 in groups": (mlp(5, 64, 96, 10), recipe("uint4", 32, columns=32)),
    "mlp w2a8 of one token": (mlp(1, 160, 33, 1), recipe("int2", "row")),
    "mlp w8a6": (mlp(3, 128, 64, 17), recipe("int8", 64, "int6")),
    "convolutions w3a8": (conv_net(2, 5, 3, 8), recipe("int3", "row")),
    "attention w4a8 in groups": (attention(2, 5, 64, 4, 96), recipe("uint4", 32, columns=32)),
    "attention w1a8": (attention(1, 4, 96, 3, 64), recipe("int1", 32)),
}


@pytest.mark.parametrize("name", CASES)
def test_backends_agree(emulated_device: EmulatedDevice, name: str, tmp_path: Path) -> None:
    agree(*CASES[name], emulated_device, tmp_path, CLOSE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_backends_agree_on_weights_under_narrow_floats(
    emulated_device: EmulatedDevice, dtype: torch.dtype, tmp_path: Path
) -> None:
    """Nothing is an integer sum here: outputs are within the class of their dtype."""
    model, example = mlp(4, 96, 64, 20)
    narrow = {name: value.to(dtype) for name, value in example.items()}
    one = quantized(model.to(dtype), narrow, {"weights": {"format": "uint4", "group": 32}})
    assert triton_differences(one, emulated_device) == []
    assert c_differences(one, "dequant_first", tmp_path) == ""


def test_a_difference_of_one_would_be_seen(emulated_device: EmulatedDevice, tmp_path: Path) -> None:
    one = quantized(*CASES["mlp w8a6"][0], CASES["mlp w8a6"][1])
    case, call = one.golden.contracts[0], one.golden.models[0].calls[0]
    ((name, output),) = call.outputs.items()
    faults = {
        "codes": ({"codes": case.codes + one_at(case.codes)}, "other codes"),
        "scales": ({"scales": case.scales.nextafter(torch.tensor(torch.inf))}, "other scales"),
        "integer sums": ({"sums": case.sums + one_at(case.sums)}, "other integer sums"),
    }
    for complaint, (change, said) in faults.items():
        golden = replace(one.golden, contracts=(replace(case, **change), *one.golden.contracts[1:]))
        wrong = replace(one, golden=golden)
        assert f"contraction 0: {said}" in triton_differences(wrong, emulated_device)
        assert complaint in c_differences(wrong, "group_after", tmp_path / complaint.replace(" ", "_"))
    away = replace(call, outputs={name: output + output.abs().max() * one_at(output)})
    golden = replace(one.golden, models=(replace(one.golden.models[0], calls=(away,)),))
    assert len(triton_differences(replace(one, golden=golden), emulated_device)) == 1
    assert name in c_differences(replace(one, golden=golden), "lookup", tmp_path / "outputs")


def one_at(like: Tensor) -> Tensor:
    """Zeros with a single one."""
    found = torch.zeros_like(like)
    found[tuple(size // 2 for size in like.shape)] = 1
    return found


@st.composite
def formats(draw: st.DrawFn, columns: int | None) -> dict[str, Any]:
    """Weights of 1 to 8 bits under scales of rows, or of groups that divide `columns` (None: of rows)."""
    bits = draw(st.integers(1, 8))
    kind = draw(st.sampled_from(["int", "uint"]))
    fit = [one for one in (32, 64, 128) if columns is not None and columns % one == 0]
    group = draw(st.sampled_from([*fit, "row"]))
    inputs = f"int{draw(st.integers(2, 8))}"
    return recipe(
        f"{kind}{bits}", group, inputs, None if isinstance(group, str) else draw(st.sampled_from([None, group]))
    )


@st.composite
def mlps(draw: st.DrawFn) -> tuple[Source, dict[str, Any]]:
    whole = draw(st.sampled_from([None, 32, 64, 128]))
    columns, hidden = (
        draw(st.integers(1, 200)) if whole is None else whole * draw(st.integers(1, 3)) for _ in range(2)
    )
    source = mlp(draw(st.integers(1, 20)), columns, hidden, draw(st.integers(1, 140)))
    return source, draw(formats(whole))


@st.composite
def conv_nets(draw: st.DrawFn) -> tuple[Source, dict[str, Any]]:
    source = conv_net(*(draw(st.integers(low, high)) for low, high in ((1, 2), (2, 6), (1, 5), (1, 24))))
    return source, draw(formats(None))


@st.composite
def attentions(draw: st.DrawFn) -> tuple[Source, dict[str, Any]]:
    width = 32 * draw(st.integers(1, 4))
    source = attention(draw(st.integers(1, 2)), draw(st.integers(1, 9)), width, draw(st.sampled_from([1, 2, 4])), 96)
    return source, draw(formats(32))


@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn_case=st.one_of(mlps(), conv_nets(), attentions()))
def test_backends_agree_on_any_shape_and_width(
    emulated_device: EmulatedDevice, drawn_case: tuple[Source, dict[str, Any]], tmp_path: Path
) -> None:
    agree(*drawn_case, emulated_device, Path(tempfile.mkdtemp(dir=tmp_path)))


@pytest.mark.slow
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn_case=st.one_of(mlps(), conv_nets(), attentions()))
def test_backends_agree_on_many_shapes_and_widths(
    emulated_device: EmulatedDevice, drawn_case: tuple[Source, dict[str, Any]], tmp_path: Path
) -> None:
    agree(*drawn_case, emulated_device, Path(tempfile.mkdtemp(dir=tmp_path)))

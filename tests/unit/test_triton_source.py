"""The text of the printed kernels: for people, and one name for one text."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.backends.triton.render import kernel_name, kernel_source
from qcc.backends.triton.signature import signature
from qcc.backends.triton.spec import GROUPS, Activation, Combine, GemmSpec, KernelSpec, Requantize, RowSpec, Unary
from qcc.backends.triton.spec_text import parse_spec, spec_text
from qcc.errors import UnsupportedOp

ORIGIN = """qcc.kernel "up" (%x, %w) {
  %0 = qcc.contract %x, %w
  %1 = qcc.unary silu %0
}"""

SHOWN = {
    "triton_w4a8.txt": GemmSpec(4, 128, "i8", bias="f16", steps=(Unary("silu"), Combine("mul", "f16")), step=256),
    "triton_w4a16.txt": GemmSpec(4, 32, "bf16", "integer", input_scale="none", output="bf16", ragged=True),
    "triton_rows.txt": RowSpec("bf16", "rms", True, scale="group", group=128, sums=128, values=True),
}


@pytest.mark.parametrize("name", SHOWN)
def test_golden_sources(golden: Callable[[str, str], None], name: str) -> None:
    golden(name, kernel_source(SHOWN[name], ORIGIN))


@st.composite
def gemm_specs(draw: st.DrawFn) -> GemmSpec:
    floats = st.sampled_from(["f16", "bf16", "f32"])
    group = draw(st.sampled_from([None, *GROUPS]))
    source = draw(st.sampled_from(["i8", "i8", "f16", "bf16"]))
    scale = draw(st.sampled_from(["token", "tensor", "group"])) if source == "i8" and group else "token"
    steps = draw(
        st.lists(
            st.sampled_from([*map(Unary, get_args(Activation)), *map(Combine, ["add", "mul"], ["f16"] * 2)]), max_size=3
        )
    )
    output = draw(st.sampled_from(["f16", "bf16", "f32", "i8"]))
    try:
        return GemmSpec(
            draw(st.sampled_from([2, 4, 8])),
            group,
            source,
            draw(st.sampled_from(["none", "integer", "half"])),
            draw(floats),
            scale if source == "i8" else "none",
            group if scale == "group" else None,
            draw(st.none() | floats),
            tuple([*steps, Requantize(-128, 127)] if output == "i8" else steps),
            output,
            draw(st.sampled_from([64, 128, 256])),
            draw(st.booleans()),
        )
    except UnsupportedOp:
        return GemmSpec(4, 128, "i8")


@st.composite
def row_specs(draw: st.DrawFn) -> RowSpec:
    norm, scale = (
        draw(st.sampled_from(["none", "rms", "rms_plus1", "layer"])),
        draw(st.sampled_from(["none", "tensor", "token", "group"])),
    )
    scale = "token" if (norm, scale) == ("none", "none") else scale
    group = draw(st.sampled_from(GROUPS)) if scale == "group" else None
    return RowSpec(
        draw(st.sampled_from(["f16", "bf16", "f32"])),
        norm,
        norm == "rms_plus1" or (norm != "none" and draw(st.booleans())),
        norm == "layer" and draw(st.booleans()),
        draw(st.sampled_from([None, 2, 64])),
        scale,
        group,
        values=scale == "none" or draw(st.booleans()),
        sums=None if scale == "none" else draw(st.sampled_from([None, group or 0])),
        ragged=draw(st.booleans()),
    )


@settings(max_examples=60)
@given(st.lists(gemm_specs() | row_specs(), min_size=2, max_size=12))
def test_kernels_of_one_name_are_one_text(specs: list[KernelSpec]) -> None:
    texts: dict[str, str] = {}
    for spec in specs:
        text = kernel_source(spec)
        assert texts.setdefault(kernel_name(spec), text) == text
        assert parse_spec(spec_text(spec)) == spec
        (function,) = (one for one in ast.parse(text).body if isinstance(one, ast.FunctionDef))
        assert function.name == kernel_name(spec)
        names = [one.arg for one in function.args.args]
        wanted = [one.name for one in signature(spec)]
        assert names[: len(wanted)] == wanted
        assert all(name.isupper() for name in names[len(wanted) :])
        # Everything that is passed is read.
        assert set(wanted) <= {one.id for one in ast.walk(function) if isinstance(one, ast.Name)}
        assert max(map(len, text.splitlines())) <= 120

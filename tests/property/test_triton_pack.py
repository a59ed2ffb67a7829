"""Weights in the layout of the Triton kernels: nothing is lost, and the layout is what its description says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.backends.triton.formats import WeightFormat, weight_format
from qcc.backends.triton.geometry import TILE_ROWS, geometry_of, step_of
from qcc.backends.triton.pack import pack_weight, unpack_weight
from qcc.backends.triton.spec import GemmSpec
from qcc.errors import ShapeError
from qcc.numerics.qtype import QType, int_qtype
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import dequantize, quantize


def spec_for(qtype: QType, columns: int, source: str = "i8") -> GemmSpec:
    found = weight_format(qtype, columns)
    assert isinstance(found, WeightFormat), found
    scale = "token" if source == "i8" else "none"
    step = step_of(found.bits, found.group, columns)
    return GemmSpec(
        found.bits,
        found.group,
        source,
        found.zero,
        found.scale,
        scale,
        step=step,
        ragged=True,  # type: ignore[arg-type]
    )


@st.composite
def formats(draw: st.DrawFn) -> QType:
    bits = draw(st.integers(1, 8))
    symmetric = draw(st.booleans())
    group = draw(st.sampled_from([32, 64, 128, 256, "row", "tensor"]))
    scale = draw(st.sampled_from(["f16", "bf16", "f32"]))
    return int_qtype(bits, symmetric=symmetric, group=group, scale=scale)


@settings(max_examples=80)
@given(formats(), st.integers(1, 140), st.integers(1, 300), st.sampled_from(["i8", "f16", "bf16"]), st.integers(0, 99))
def test_unpacking_gives_the_weight_back(qtype: QType, rows: int, columns: int, source: str, seed: int) -> None:
    if source != "i8" and (qtype.decode.bits not in (3, 4) or qtype.grid == "mid_rise"):
        source = "i8"
    weight = quantize(torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)), qtype)
    spec = spec_for(qtype, columns, source)
    packed = pack_weight(weight, spec)
    plain = unpack_weight(packed, spec)
    group = columns if spec.group is None else spec.group
    spread = [
        None if one is None else one.repeat_interleave(group, 1)[:, :columns] for one in (plain.scales, plain.zeros)
    ]
    zeros = 0.0 if spread[1] is None else spread[1].float()
    values = (plain.codes.float() + (0.5 if spec.zero == "half" else 0.0) - zeros) * spread[0].float()
    assert torch.equal(values, dequantize(weight))
    geometry = geometry_of(spec)
    tiles, blocks = geometry.padded_rows(rows) // TILE_ROWS, geometry.steps(columns) * geometry.parts
    assert packed.words.shape == (tiles, blocks, TILE_ROWS, geometry.width)
    assert packed.words.is_contiguous()


def test_the_layout_is_the_one_described() -> None:
    weight = quantize(torch.randn(130, 128, generator=torch.Generator().manual_seed(0)), int_qtype(4, group=128))
    words = pack_weight(weight, GemmSpec(4, 128, "i8")).words
    for row, column in ((0, 0), (3, 63), (129, 7)):
        octet = int(words[row // TILE_ROWS, 0, row % TILE_ROWS, column]) & 0xFF
        low, high = int(weight.codes[row, column]) & 15, int(weight.codes[row, 64 + column]) & 15
        assert octet == low | high << 4
    halves = pack_weight(weight, GemmSpec(4, 128, "f16", input_scale="none")).words
    word = int(halves[0, 0, 5, 9]) & 0xFFFF
    assert word == sum((int(weight.codes[5, 32 * plane + 9]) + 8) << (4 * plane) for plane in range(4))


def test_scales_of_two_levels_are_multiplied_once() -> None:
    qtype = parse_qtype("int4 | (1,64) u4, (1,-1) f16")
    weight = quantize(torch.randn(20, 200, generator=torch.Generator().manual_seed(0)), qtype)
    spec = spec_for(qtype, 200)
    assert (spec.scale, spec.group) == ("f32", 64)
    plain = unpack_weight(pack_weight(weight, spec), spec)
    values = plain.codes * plain.scales.repeat_interleave(64, 1)[:, :200]
    assert torch.equal(values, dequantize(weight))


def test_a_weight_that_is_not_the_specs_is_refused() -> None:
    weight = quantize(torch.randn(4, 64), int_qtype(8, group=32))
    with pytest.raises(ShapeError, match="no integers of 4 bits"):
        pack_weight(weight, GemmSpec(4, 32, "i8"), "layer.0")
    with pytest.raises(ShapeError, match=r"layer\.0: groups of 64 columns cut blocks of 32"):
        pack_weight(weight, GemmSpec(8, 64, "i8"), "layer.0")
    with pytest.raises(ShapeError, match="no matrix"):
        pack_weight(quantize(torch.randn(4, 4, 4), int_qtype(4)), GemmSpec(4, None, "i8"))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("fp4_3 | (1,-1) f32", "integers of 1 to 8 bits"),
        ("int4 | (1,48) f16", "groups of 48"),
        ("uint4 | (1,32) f16 | post f16", "integers taken off the codes"),
        ("int4 | (1,32) f16 | sparse(columns, f16, 0.01)", "side tensors"),
    ],
)
def test_formats_that_no_kernel_takes_are_named(text: str, what: str) -> None:
    found = weight_format(parse_qtype(text), 256)
    assert isinstance(found, list)
    assert any(what in one for one in found), found

"""Encoding and decoding need at most twice the matrix's bytes on top of it, counted tensor by tensor."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from qcc.numerics import parts, plane_fit, planes, search
from qcc.numerics.presets import PRESETS, format_of
from qcc.numerics.quantize import dequantize, quantize
from qcc.numerics.tensor import QuantizedTensor
from qcc.numerics.tiling import tiles
from tests.counting import LiveBytes

FORMATS = (
    *PRESETS,
    "fixed<8,3>",
    "fp<4,3>",
    "bipolar<2>",
    "int4 | (1,128) f16 mse",
    "fp2_1 | (1,16) e4m3 mse, tensor f32",
    "int6 | tensor f32 percentile(99.9)",
    "uint6 | (-1,8) f16 percentile(99) | post f16",
    "int3 mid_rise | tensor f16 rms(2)",
    "select(int4n 0.875, int8n 0.125) by u1 (1,128) | (1,128) f16",
    "table(-4, -1, 0, 1, 2; -2, -1, 0, 1, 4) by u1 (1,128) | (1,128) f16 mse",
)
PART = 1 << 16


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make parts as small beside the matrices of these tests as they are beside large ones; search little."""
    monkeypatch.setattr(parts, "PART_ELEMENTS", PART)
    monkeypatch.setattr(planes, "tiles", partial(tiles, budget=PART))
    monkeypatch.setattr(plane_fit, "TILE_ELEMENTS", PART)
    monkeypatch.setattr(search, "FACTORS", (1.0, 0.7))
    monkeypatch.setattr(search, "_PAIR_FACTORS", (1.0, 0.1))


def bytes_of(x: Tensor) -> int:
    return x.numel() * x.element_size()


def all_of(quantized: QuantizedTensor) -> list[Tensor]:
    return [quantized.codes, *quantized.scales, *([] if quantized.zero is None else [quantized.zero])]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, torch.bfloat16) for name in FORMATS]
    + [(name, torch.float32) for name in ("uint4-g32", "spqr3-g16", "nvfp4", "bitmod4-g128", "olive4", "q2_K")],
)
def test_twice_the_matrix_is_enough(name: str, dtype: torch.dtype) -> None:
    x = torch.randn(512, 4096, generator=torch.Generator().manual_seed(0)).to(dtype)
    qtype = format_of(name)
    quantize(x[:16], qtype)  # fills the tables that are kept
    with LiveBytes(x) as encoding:
        quantized = quantize(x, qtype)
    assert bytes_of(quantized.codes) <= encoding.live <= encoding.peak <= 2 * bytes_of(x)
    with LiveBytes(x, *all_of(quantized)) as decoding:
        values = dequantize(quantized, dtype)
    assert bytes_of(values) <= decoding.live <= decoding.peak <= 2 * bytes_of(x)


def test_counting_sees_what_is_alive() -> None:
    x = torch.zeros(1000)
    with LiveBytes(x) as count:
        doubled = x + x
        view = doubled[5:]
        del doubled
        halves = x.half()
        del halves
        assert count.live == 4000
        del view
        assert count.live == 0
    assert count.peak == 6000

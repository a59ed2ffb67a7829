"""The blocks of ggml against its Python package, and what is refused."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray
from torch import Tensor

from qcc.errors import CheckpointError, ShapeError
from qcc.numerics.ggml import GGML_FORMATS, from_ggml, ggml_kind, ggml_row_bytes, to_ggml
from qcc.numerics.ggml_layouts import LAYOUTS, REFUSED
from qcc.numerics.presets import format_of
from qcc.numerics.qtype_bits import bits_per_weight
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import dequantize, quantize

SHAPES = [(1, 256), (3, 512), (2, 5, 256), (768,)]


def kind_of(name: str) -> GGMLQuantizationType:
    return GGMLQuantizationType[name]


def heavy_tailed(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Draw Student's t of 3 degrees of freedom, with a block of zeros and an outlier."""
    values = torch.from_numpy(np.random.default_rng(seed).standard_t(3, shape).astype(np.float32)) * 0.02
    values.view(-1)[:40] = 0
    values.view(-1)[-3] = 3.0
    return values


def random_blocks(kind: str, count: int) -> NDArray[np.uint8]:
    """Draw blocks of any bits whatever, with roots that are ordinary numbers and codes that stand for something."""
    layout, generator = LAYOUTS[kind], np.random.default_rng(len(kind))
    blocks = generator.integers(0, 256, (count, layout.size), np.uint8)
    start = 0
    for name, size in layout.parts:
        part = blocks[:, start : start + size]
        if name in ("scale", "zero") and size == 2:
            part[:] = generator.standard_normal((count, 1)).astype(np.float16).view(np.uint8)
        elif name == "scale":
            part[:] = generator.integers(1, 0x7F, (count, size), np.uint8)
        elif kind == "TQ2_0":
            digits = generator.integers(0, 3, (count, size, 4), np.uint8)
            part[:] = (digits << np.array([0, 2, 4, 6], np.uint8)).sum(-1, dtype=np.uint8)
        start += size
    return blocks


def equal_bits(found: Tensor, wanted: NDArray[np.float32]) -> bool:
    """Compare bit for bit, but for the sign of zeros: ggml decodes a negative zero of E2M1 as a positive one."""
    return np.array_equal((found + 0.0).numpy().view(np.int32), (wanted + np.float32(0)).view(np.int32))


@pytest.mark.parametrize("kind", GGML_FORMATS)
def test_sizes_are_those_of_ggml_and_of_the_format(kind: str) -> None:
    elements, size = GGML_QUANT_SIZES[kind_of(kind)]
    assert ggml_row_bytes(kind, 3 * elements) == 3 * size
    assert bits_per_weight(parse_qtype(GGML_FORMATS[kind])) == 8 * size / elements


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", GGML_FORMATS)
def test_written_blocks_decode_as_in_ggml(kind: str, shape: tuple[int, ...]) -> None:
    quantized = quantize(heavy_tailed(shape), format_of(GGML_FORMATS[kind]))
    blocks = to_ggml(quantized)
    assert blocks.dtype == torch.uint8
    assert blocks.shape[:-1] == shape[:-1]
    assert equal_bits(dequantize(quantized), gguf.dequantize(blocks.numpy(), kind_of(kind)))


@pytest.mark.parametrize("kind", GGML_FORMATS)
def test_blocks_of_any_bits_decode_as_in_ggml_and_are_written_back(kind: str) -> None:
    blocks = random_blocks(kind, 40)
    shape = (4, 10 * LAYOUTS[kind].elements)
    wanted = gguf.dequantize(blocks, kind_of(kind)).reshape(shape)
    quantized = from_ggml(torch.from_numpy(blocks), kind, shape)
    assert equal_bits(dequantize(quantized), wanted)
    again = to_ggml(quantized)
    if kind == "TQ1_0":  # five digits leave 13 bytes of 256 over, which decode but are never written
        assert equal_bits(dequantize(from_ggml(again, kind, shape)), wanted)
    else:
        assert np.array_equal(again.numpy().reshape(blocks.shape), blocks)


@pytest.mark.parametrize("kind", GGML_FORMATS)
def test_every_code_is_written_and_read_back_at_every_place(kind: str) -> None:
    layout = LAYOUTS[kind]
    codes = layout.codes.minimum + torch.arange(layout.elements) % layout.codes.states
    stack = torch.stack([codes.roll(shift) for shift in range(layout.codes.states)]).to(torch.int16)
    parts = layout.codes.write(stack)
    assert torch.equal(layout.codes.read(parts).to(torch.int16), stack)


WITH_QUANTIZER = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4")


@pytest.mark.parametrize("kind", WITH_QUANTIZER)
def test_what_ggml_quantizes_is_read_bit_for_bit(kind: str) -> None:
    x = heavy_tailed((6, 512), seed=1).numpy()
    blocks = gguf.quantize(x, kind_of(kind))
    quantized = from_ggml(torch.from_numpy(blocks), kind, x.shape)
    assert equal_bits(dequantize(quantized), gguf.dequantize(blocks, kind_of(kind)))
    assert np.array_equal(to_ggml(quantized).numpy(), blocks)


# The largest share of codes that may differ. ggml divides by the scale before it is rounded to f16, and multiplies by
# 1/d; qcc divides by the scale as stored. The difference moves values near a boundary: more of them the finer the grid.
DIFFERING = {
    "Q4_0": 0.001,
    "Q4_1": 0.003,
    "Q5_0": 0.002,
    "Q5_1": 0.006,
    "Q8_0": 0.012,
    "TQ1_0": 0.0002,
    "TQ2_0": 0.0002,
    "MXFP4": 0,
}


@pytest.mark.parametrize("source", ["normal", "heavy-tailed"])
@pytest.mark.parametrize("kind", WITH_QUANTIZER)
def test_the_same_codes_as_the_quantizers_of_ggml(kind: str, source: str) -> None:
    shape = (64, 1024)
    x = heavy_tailed(shape, seed=2) if source == "heavy-tailed" else torch.randn(shape, generator=seeded(3))
    theirs = from_ggml(torch.from_numpy(gguf.quantize(x.numpy(), kind_of(kind))), kind, shape)
    ours = quantize(x, parse_qtype(GGML_FORMATS[kind]))
    for one, other in zip(ours.scales, theirs.scales, strict=True):
        assert torch.equal(one.float(), other.float())
    apart = (ours.codes.int() - theirs.codes.int()).abs()
    assert int(apart.max()) <= 1
    assert float((apart > 0).float().mean()) <= DIFFERING[kind]
    errors = [float((dequantize(one, torch.float64) - x.double()).square().sum()) for one in (ours, theirs)]
    assert errors[0] <= errors[1]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("q4_0", "Q4_0"),
        ("q8_0", "Q8_0"),
        ("q2_K", "Q2_K"),
        ("q4_K", "Q4_K"),
        ("q6_K", "Q6_K"),
        ("mxfp4", "MXFP4"),
        ("int4-g32", "Q4_0"),
        ("int4n | (1,32) f16 mse | dynamic half_down", "Q4_0"),
        ("uint4 | (1,32) f16 percentile(99) | post f16 | fuse_group(qkv)", "Q4_1"),
        ("table(-1, 0, 1) | (1,256) f16 mean_abs", "TQ2_0"),
        ("table(-1, 0, 1) radix | (1,256) f16", "TQ1_0"),
        ("fp2_1 | (1,32) e8m0 ceil", "MXFP4"),
        ("int4 | (1,64) f16", None),
        ("int4 | (1,32) bf16", None),
        ("int4 mid_rise | (1,32) f16", None),
        ("uint4 | (1,32) f16 | pre u4", None),
        ("int4 | (1,32) f16 | lowrank(8, f16)", None),
        ("fp2_1 | (1,16) e4m3, tensor f32", None),
        ("table(-1, 0, 2) | (1,256) f16", None),
    ],
)
def test_kinds_follow_from_what_decoding_depends_on(text: str, kind: str | None) -> None:
    assert ggml_kind(format_of(text)) == kind


def test_every_kind_that_ggml_has_is_known_or_refused_by_name() -> None:
    assert set(GGML_FORMATS) | set(REFUSED) == set(GGMLQuantizationType.__members__)
    assert not set(GGML_FORMATS) & set(REFUSED)
    for kind in REFUSED:
        with pytest.raises(CheckpointError, match=f"{kind}: it"):
            from_ggml(torch.zeros(0, dtype=torch.uint8), kind, (1, 256))
    with pytest.raises(CheckpointError, match="did you mean Q4_K"):
        from_ggml(torch.zeros(0, dtype=torch.uint8), "Q4_KM", (1, 256))


def test_rows_that_do_not_fill_blocks_are_refused() -> None:
    quantized = quantize(torch.randn(2, 48), format_of("q4_0"))
    with pytest.raises(ShapeError, match="48 elements do not fill blocks of 32"):
        to_ggml(quantized)
    with pytest.raises(ShapeError, match="blocks of 256"):
        from_ggml(torch.zeros(144, dtype=torch.uint8), "Q4_K", (2, 128))
    with pytest.raises(ShapeError, match="rows of 0"):
        from_ggml(torch.zeros(0, dtype=torch.uint8), "Q4_K", ())


@pytest.mark.parametrize("missing", [-1, 1, 18])
def test_truncated_bytes_are_refused(missing: int) -> None:
    blocks = torch.zeros(4 * 18 - missing, dtype=torch.uint8)
    with pytest.raises(CheckpointError, match=r"shape \(2, 64\) takes 72"):
        from_ggml(blocks, "Q4_0", (2, 64))


def test_a_type_without_a_kind_is_refused_with_those_there_are() -> None:
    with pytest.raises(ShapeError, match=r"no kind of ggml blocks holds int4 \| \(1,64\) f16(.|\n)*Q4_K"):
        to_ggml(quantize(torch.randn(2, 64), parse_qtype("int4 | (1,64) f16")))


def test_blocks_that_are_not_bytes_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"uint8, not torch\.int8"):
        from_ggml(torch.zeros(18, dtype=torch.int8), "Q4_0", (1, 32))


@pytest.mark.parametrize(("kind", "place"), [("Q4_0", 1), ("Q6_K", 209), ("MXFP4", 0), ("NVFP4", 2)])
def test_scales_that_are_not_finite_are_refused(kind: str, place: int) -> None:
    blocks = torch.zeros(1, LAYOUTS[kind].size, dtype=torch.uint8)
    blocks[0, place] = 0xFF if kind in ("MXFP4", "NVFP4") else 0x7C
    with pytest.raises(CheckpointError, match=rf"damaged {kind} blocks\n.*1 of \d+ are not finite"):
        from_ggml(blocks, kind, (1, LAYOUTS[kind].elements))


def test_a_zero_point_that_is_not_finite_is_refused() -> None:
    blocks = torch.zeros(1, 20, dtype=torch.uint8)
    blocks[0, 3] = 0x7E
    with pytest.raises(CheckpointError, match="zero points: 1 of 1"):
        from_ggml(blocks, "Q4_1", (1, 32))


def test_a_code_without_a_value_is_refused() -> None:
    blocks = torch.zeros(1, 66, dtype=torch.uint8)
    blocks[0, 5] = 0b1100
    with pytest.raises(CheckpointError, match="3 stands for nothing in table ternary"):
        from_ggml(blocks, "TQ2_0", (1, 256))


def test_codes_that_spill_into_their_neighbours_are_refused() -> None:
    quantized = quantize(torch.randn(1, 256), format_of("q4_K"))
    quantized.codes[0, 0] = 16
    quantized.scales[0][0, 0] = 64
    with pytest.raises(ShapeError, match=r"codes: go from 0 to 16(.|\n)*scales: go from .* to 64"):
        to_ggml(quantized)


def test_scales_that_nvfp4_cannot_store_are_refused() -> None:
    quantized = quantize(torch.randn(1, 64), parse_qtype("fp2_1 | (1,16) e4m3"))
    quantized.scales[0].view(torch.uint8)[0, 0] |= 0x80
    with pytest.raises(ShapeError, match="negative or NaN"):
        to_ggml(quantized)

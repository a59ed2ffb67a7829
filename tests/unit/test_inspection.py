"""`inspect` counts every stored weight: its format, exact bits per weight at its shape, and the totals."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from qcc.coverage import bits_text, stored_weights
from qcc.inspection import inspect_path
from qcc.ir.program import WeightOp
from qcc.ir.quant import ContractOp, QuantizeOp
from qcc.ir.store import WeightStore
from qcc.ir.types import tensor
from qcc.numerics.presets import PRESETS, format_of
from qcc.numerics.qtype_bits import storage_bits
from qcc.numerics.qtype_text import parse_qtype
from qcc.numerics.quantize import quantize
from tests.modules import Made, make

SHAPE = (40, 300)  # neither a multiple of most blocks


def test_every_weight_is_listed_with_exact_bits(tmp_path: Path) -> None:
    names = [name for name in PRESETS if format_of(name).when == "static"]

    def build(x: Made) -> list[Made]:
        weights = [WeightOp(f"{name}:{format_of(name)}", tensor(SHAPE, format_of(name))) for name in names]
        return [ContractOp(x, weight) for weight in (*weights, weights[0])]

    (tmp_path / "m.mlir").write_text(str(make({"x": tensor((2, 300), "f32")}, build)))
    found = inspect_path(tmp_path / "m.mlir")
    assert [one["name"] for one in found.data["weights"]] == names
    total = 0.0
    for name, one in zip(names, found.data["weights"], strict=True):
        counted = one["bits_per_weight"] * math.prod(SHAPE)
        assert counted == pytest.approx(storage_bits(format_of(name), SHAPE), abs=1e-6)
        assert one["bytes"] == math.ceil(storage_bits(format_of(name), SHAPE) / 8)
        assert one["format"] == PRESETS[name] or format_of(one["format"]) == format_of(name)
        total += counted
        line = f"weight {name} [40, 300] {one['format']}: {bits_text(one['bits_per_weight'])} bits per weight"
        assert any(text.startswith(line) for text in found.lines)
    mean = bits_text(total / (len(names) * math.prod(SHAPE)))
    assert any(text.startswith(f"quantized weights: {mean} bits per weight") for text in found.lines)


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        # written out: codes, then scales (3 groups of 128 in a row of 300, the last one short), zero points, root
        ("int4 | (1,128) f16", 40 * 300 * 4 + 40 * 3 * 16),
        ("uint4 | (1,128) f16 | pre u4", 40 * 300 * 4 + 40 * 3 * 20),
        ("fp2_1 | (1,16) e4m3, tensor f32", 40 * 300 * 4 + 40 * 19 * 8 + 32),
        ("uint4 | (1,32) u6, (1,256) f16 | min (1,32) u6, (1,256) f16", 40 * 300 * 4 + 2 * (40 * 10 * 6 + 40 * 2 * 16)),
        ("planes(2, 01, free) | (1,128) f16 | post f16", 40 * 300 * 2 + 40 * 3 * (2 * 16 + 16)),
        ("table(-1, 0, 1; -2, 0, 2) by u1 (1,100) | (1,50) f16", 40 * 300 * 2 + 40 * 3 + 40 * 6 * 16),
        ("int18 | tensor pow2 constant(0.00390625)", 40 * 300 * 18),
    ],
)
def test_bits_are_those_counted_by_hand(text: str, bits: int) -> None:
    module = make({}, lambda: WeightOp("w", tensor(SHAPE, parse_qtype(text))))
    (found,) = stored_weights(module)
    assert found.bits_per_weight * math.prod(SHAPE) == pytest.approx(bits, abs=1e-6)
    assert found.bytes == math.ceil(bits / 8)


def test_weights_that_are_not_solved_yet_count_as_they_will_be() -> None:
    four, eight = parse_qtype("int4 | (1,100) f16"), parse_qtype("fp4_3 | row f32")

    def build(x: Made) -> list[Made]:
        first, both, scale = (WeightOp(name, tensor(SHAPE, "f32")) for name in ("first", "both", "unused"))
        static = QuantizeOp(x, eight, [WeightOp("scale", tensor([2, 1], "f32"))])
        one = ContractOp(x, QuantizeOp(first, four))
        return [one, ContractOp(static, QuantizeOp(both, eight)), ContractOp(x, QuantizeOp(both, four)), scale]

    found = [
        (one.name, one.format, one.quantized) for one in stored_weights(make({"x": tensor((2, 300), "f32")}, build))
    ]
    assert sorted(found) == [
        ("both", str(eight), True),
        ("both", str(four), True),
        ("first", str(four), True),
        ("scale", "f32", False),
        ("unused", "f32", False),
    ]


def test_the_file_is_no_larger_than_counted_but_for_narrow_parameters(tmp_path: Path) -> None:
    """Codes and scales of whole bytes take in the file what is counted; the rest is its header."""
    coded = quantize(torch.randn(64, 512), format_of("nvfp4"))
    WeightStore({"w": coded}).save(tmp_path / "w.safetensors")
    (found,) = stored_weights(make({}, lambda: WeightOp("w", tensor((64, 512), coded.qtype))))
    header = int.from_bytes((tmp_path / "w.safetensors").read_bytes()[:8], "little") + 8
    assert (tmp_path / "w.safetensors").stat().st_size == header + found.bytes

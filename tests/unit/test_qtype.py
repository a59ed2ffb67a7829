"""The quantization type: its text, its checks and its bits."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from qcc.errors import RecipeError, ShapeError
from qcc.numerics.presets import PRESETS, format_of
from qcc.numerics.qtype import QType, fixed_qtype, int_qtype
from qcc.numerics.qtype_bits import bits_per_weight, storage_bits
from qcc.numerics.qtype_parts import IntDecode, Level, Zero
from qcc.numerics.qtype_text import parse_qtype
from tests.unit.format_rows import ROWS, Row


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_surveyed_formats_round_trip(row: Row) -> None:
    qtype = parse_qtype(row.text)
    assert str(qtype) == row.text
    assert parse_qtype(str(qtype)) == qtype
    assert hash(parse_qtype(str(qtype))) == hash(qtype)
    assert not set(str(qtype)) & set('"\\\n')


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_surveyed_formats_have_the_published_bits(row: Row) -> None:
    qtype = parse_qtype(row.text)
    assert bits_per_weight(qtype) == pytest.approx(row.bits, abs=1e-9)
    assert storage_bits(qtype, (256, 1024)) >= row.bits * 256 * 1024 - 1


def test_texts_name_different_types() -> None:
    assert len({parse_qtype(row.text) for row in ROWS}) == len({row.text for row in ROWS})


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("int8|row f32|dynamic", "int8 | (1,-1) f32 | dynamic"),
        ("int8 | token f32 | none | dynamic", "int8 | (1,-1) f32 | dynamic"),
        ("  e2m1 | (1,16)   e4m3 , (-1,-1) f32 ", "fp2_1 | (1,16) e4m3, tensor f32"),
        ("table(-1,0,.5e0)", "table(-1, 0, 0.5)"),
        ("int8 | tensor f32 amax rne | static rne saturate", "int8 | tensor f32"),
        ("table(-1, -0, 1) | (-1,-1,-1) f32", "table(-1, 0, 1) | tensor f32"),
    ],
)
def test_other_spellings_are_read(text: str, canonical: str) -> None:
    assert str(parse_qtype(text)) == canonical


@pytest.mark.parametrize(
    ("text", "column", "found", "expected"),
    [
        ("", 1, "the text ends", "intN"),
        ("quux | row f32", 1, "'quux'", "intN"),
        ("int8 | (1,128) f17", 16, "'f17'", "a dtype"),
        ("int8 | (1,128", 14, "the text ends", "')'"),
        ("int8 | (1,x) f32", 11, "'x'", "a whole number"),
        ("int8 | (1,1.5) f32", 11, "'1.5'", "a whole number"),
        ("int8 | (1,128) f16 pre u4", 20, "'pre'", "'|' or the end"),
        ("int8 | pre u4 | (1,128) f16", 17, "'('", "order"),
        ("int8 | row f32 | sparse(csr, f16, 0.1) | dynamic", 42, "'dynamic'", "order"),
        ("int8 | row f32 | frobnicate", 18, "'frobnicate'", "a side"),
        ("int8 $ row", 6, "'$'", "punctuation"),
        ('int8 | row f32 | fuse_group("x")', 29, "'\"'", "punctuation"),
        ("int8 wide | row f32", 6, "'wide'", "mid_rise"),
        ("planes(2, 10, pow2) | row f32", 11, "'10'", "one of 01, pm1, -101"),
        ("table() | row f32", 7, "')'", "a number"),
        ("select(int4 0.5, int8) by u1 (1,8) | row f32", 22, "')'", "a share"),
        ("table(1,2; 3,4) by q2 (1,8)", 20, "'q2'", "the width of the selector"),
        ("int8 | row f32 |", 17, "the text ends", "levels"),
    ],
)
def test_malformed_texts_are_located(text: str, column: int, found: str, expected: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_qtype(text)
    message = str(caught.value)
    assert f"column {column}:" in message
    assert found in message
    assert expected in message
    assert caught.value.fix


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("int9 | row f32", "9 bits"),
        ("uint0 | row f32", "0 bits"),
        ("int18 | row f32", "18 bits"),
        ("int33 | tensor pow2 constant(1)", "33 bits"),
        ("int1 | row f32", "mid_rise"),
        ("uint4n | row f32", "narrow"),
        ("int4n mid_rise | row f32", "not symmetric"),
        ("int3[-5,2] | row f32", "range"),
        ("int3[2,-2] | row f32", "range"),
        ("int4", "at least one scale level"),
        ("planes(2, 01, pow2)", "at least one scale level"),
        ("planes(9, 01, pow2) | row f32", "9 planes"),
        ("fp0_3 | row f32", "exponent"),
        ("fp5_3 | row f32", "8 bits"),
        ("table(1, 1) | row f32", "ascend"),
        ("table(1) | row f32", "two values"),
        ("table(1, 2; 3, 4)", "need a selector"),
        ("table(1, 2) by u1 (1,8)", "at least two tables"),
        ("table(1, 2; 3, 4; 5, 6) by u1 (1,8)", "cannot choose"),
        ("table(1, 2) ovp | row f32", "two tables"),
        ("table(-1, 0, 1, 2; -9, 9) ovp | row f32", "keeps the code after the last normal value for victims"),
        ("table(-1, 0, 1; -9, -8, 8, 9) ovp | row f32", "3 normal values and 4 outliers take it"),
        ("fp2_1 mid_rise | row f32", "mid_rise"),
        ("int4 | (1,128) f16, (1,64) f16", "does not tile"),
        ("int4 | (1,128) f16, (1,192) f16", "does not tile"),
        ("int4 | (1,-1) f16, (1,128) f16", "does not tile"),
        ("int4 | (1,0) f16", "positive extents"),
        ("int4 | (1,-2) f16", "positive extents"),
        ("int4 | (1,128) f16 percentile", "needs a number"),
        ("int4 | (1,128) f16 amax(2)", "takes no number"),
        ("int4 | (1,128) f16 rms(0)", "positive"),
        ("int8 | tensor pow2 constant(0.3)", "power of two"),
        ("int4 | (1,16) f16 offset(tensor), row f16", "offset"),
        ("int4 | (1,16) u4 offset(parent)", "root"),
        ("int4 | row f16 protect(128)", "protective"),
        ("int4 | row f16 | dynamic_local", "at least two levels"),
        ("table(-1, 0, 1) | row f32 | pre u2", "zero point"),
        ("fp2_1 | row f32 | post f16", "zero point"),
        ("int4n | row f32 | pre i4", "narrow"),
        ("int4 mid_rise | row f32 | pre i4", "mid_rise"),
        ("uint4 | row f32 | pre u2", "cannot hold"),
        ("uint4 | row f32 | pre i4", "cannot hold"),
        ("uint4 | row f32 | scaled i8", "parent"),
        ("uint4 | row f32 | min f16", "levels of its own"),
        ("int4 | row f32 | sparse(csr, f16, 1.5)", "fraction"),
        ("int4 | row f32 | lowrank(0, f16)", "positive rank"),
        ("int4 | row f32 | mask(4:4)", "fewer"),
        ("int4 | row f32 | mask(bsr(1,16), -1)", "density"),
        ("int4 | row f32 | slice(8, 4)", "8 bits"),
        ("int4 | row f32 | kaxis()", "perm"),
        ("int4 | row f32 | rotate(0)", "positive block"),
        ("int4 | row f32 | rotate(8) | rotate(8)", "more than one"),
        ("select(int4, int8) by u1 (1,8) | row f32 | mask(2:4) | slice(4, 2)", "integer codes"),
        ("select(int4 0.5, int8 0.6) by u1 (1,8) | row f32", "sum to 1"),
    ],
)
def test_nonsense_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(RecipeError, match="makes no sense") as caught:
        parse_qtype(text)
    assert reason in str(caught.value)


def test_all_contradictions_are_told_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        QType(IntDecode(9), (Level((1, 0), "f99"),), Zero("scaled", "i8"), "dynamic_local")
    assert len(caught.value.problems) >= 5


def test_a_type_made_by_hand_has_one_spelling() -> None:
    with pytest.raises(RecipeError, match="written"):
        QType(IntDecode(8), (Level((-1,), "f32"),))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_are_types_in_canonical_text(name: str) -> None:
    assert parse_qtype(str(format_of(name))) == format_of(name)


def test_an_unknown_preset_is_answered_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean nvfp4"):
        format_of("nvpf4")


@pytest.mark.parametrize(
    ("qtype", "text"),
    [
        (int_qtype(8, scale="f32", group="token", when="dynamic"), "int8 | (1,-1) f32 | dynamic"),
        (int_qtype(4, symmetric=False, group=32), "uint4 | (1,32) f16 | pre u4"),
        (int_qtype(2, symmetric=False, group=64, zero="post"), "uint2 | (1,64) f16 | post f16"),
        (int_qtype(8, group="tensor", narrow=True, scale="f32"), "int8n | tensor f32"),
        (int_qtype(1, group=128), "int1 mid_rise | (1,128) f16"),
        (fixed_qtype(8, 4), "int8 | tensor pow2 constant(0.0625)"),
        (fixed_qtype(16, 20, signed=False, overflow="wrap"), "uint16 | tensor pow2 constant(16) | wrap"),
    ],
)
def test_constructors(qtype: QType, text: str) -> None:
    assert str(qtype) == text


@pytest.mark.parametrize("group", [0, -1])
def test_constructors_refuse_a_bad_group(group: int) -> None:
    with pytest.raises(RecipeError, match="group size"):
        int_qtype(4, group=group)


@pytest.mark.parametrize(
    ("decode", "low", "high"),
    [
        (IntDecode(8), -128, 127),
        (IntDecode(8, narrow=True), -127, 127),
        (IntDecode(8, signed=False), 0, 255),
        (IntDecode(1, signed=False), 0, 1),
        (IntDecode(1), -1, 0),
        (IntDecode(3, low=-2, high=2), -2, 2),
    ],
)
def test_integer_ranges(decode: IntDecode, low: int, high: int) -> None:
    assert (decode.minimum, decode.maximum) == (low, high)


@pytest.mark.parametrize(
    ("text", "shape", "bits"),
    [
        # one short group a row costs a whole scale and zero
        ("uint4 | (1,128) f16 | pre u4", (3, 130), 3 * (130 * 4 + 2 * 20)),
        ("int8 | row f32", (5, 7), 5 * 7 * 8 + 5 * 32),
        ("int8 | tensor f32", (5, 7, 3), 105 * 8 + 32),
        ("int8 | (-1,1) f32", (2, 5, 7), 70 * 8 + 7 * 32),
        ("int8 | row f32", (2, 5, 7), 70 * 8 + 10 * 32),
        ("int8 | row f32", (7,), 7 * 8 + 32),
        ("int8 | tensor pow2 constant(0.5)", (4, 4), 128),
        # conv weights, one scale an output channel
        ("int8 | (1,-1,-1,-1) f32", (8, 3, 3, 3), 216 * 8 + 8 * 32),
        ("uint4 | (1,128) i8, row f16 protect(119) | scaled i8", (2, 256), 2 * (1024 + 2 * 16 + 16)),
        ("uint3 | (1,16) u3 offset(parent), (16,16) f16 | post f16", (20, 40), 2400 + 60 * 19 + 6 * 32),
        ("planes(2, 01, free) | (1,128) f16 | post f16", (2, 128), 2 * (256 + 48)),
        ("table(-1, 0, 1) radix | (1,256) f16", (2, 512), 4 * (52 * 8 + 16)),
        ("int4 | row f16 | sparse(csr, f16, 0.01)", (10, 100), 4000 + 160 + 10 * 32 + 11 * 32),
        ("int4 | row f16 | sparse(coo, f16, 0.01)", (10, 100), 4000 + 160 + 10 * 48),
        ("int4 | row f16 | sparse(columns, f16, 0.01)", (10, 100), 4000 + 160 + 10 * 16 + 16),
        ("int4 | row f16 | sparse(csr, f16, 0.0001)", (1, 100000), 400000 + 16 + 10 * 48 + 64),
        ("int4 | row f16 | lowrank(2, f16)", (10, 100), 4000 + 160 + 2 * 110 * 16),
        ("int4 | row f16 | kaxis(perm, g_idx)", (10, 100), 4000 + 160 + 2 * 1600),
        ("int4 | row f16 | kaxis(perm, residual(28))", (10, 100), 10 * 128 * 4 + 160 + 1600),
        ("int4 | row f16 | mask(2:4)", (2, 10), 12 * 4 + 32 + 12 * 2),
        ("int4 | (1,16) f16 | mask(bsr(1,16), 0.5)", (4, 64), 8 * (16 * 4 + 16 + 16) + 5 * 32),
        ("select(int4 0.75, int8 0.25) by u1 (-1,128) | (1,128) f16", (2, 512), 5120 + 4 + 128),
        ("select(int4, int8) by u1 (-1,128) | (1,128) f16", (2, 512), 8192 + 4 + 128),
    ],
)
def test_storage_counts_everything(text: str, shape: tuple[int, ...], bits: int) -> None:
    qtype = parse_qtype(text)
    assert storage_bits(qtype, shape) == bits
    assert bits_per_weight(qtype, shape) == pytest.approx(bits / math.prod(shape))


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("planes(2, -101, free) | (1,128) f16", 3.42),
        ("int3[-2,2] | (1,128) f16", 2.45),
        ("table(-1, 0, 1) | tensor f32", 1.585),
    ],
)
def test_entropy_counts_states(text: str, bits: float) -> None:
    assert bits_per_weight(parse_qtype(text), entropy=True) == pytest.approx(bits, abs=5e-3)


@pytest.mark.parametrize("shape", [(), (0,), (4, 0), (0, 4)])
def test_a_tensor_without_elements_has_no_bits(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError):
        storage_bits(int_qtype(8), shape)


def test_describing_formats_does_not_import_torch() -> None:
    code = (
        "import sys; from qcc.numerics import QType, parse_qtype, bits_per_weight, format_of; "
        "bits_per_weight(format_of('nvfp4')); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""The published formats as texts of the quantization type, with their nominal bits per weight.

Each also has a floor for its signal to quantization noise ratio on N(0, 1), in dB: what it reached less half a
decibel or so. Masks and slices lose what they leave out.
"""

from __future__ import annotations

from typing import NamedTuple

NF4 = (
    "-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, "
    "-0.18477343022823334, -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, "
    "0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, "
    "0.7229568362236023, 1"
)
BITMOD3 = "-4, -2, -1, 0, 1, 2, 3, 4; -4, -3, -2, -1, 0, 1, 2, 4; -4, -2, -1, 0, 1, 2, 4, 6; -6, -4, -2, -1, 0, 1, 2, 4"
OLIVE4 = (
    "-7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7; -96, -64, -48, -32, -24, -16, -12, 12, 16, 24, 32, 48, 64, 96"
)


class Row(NamedTuple):
    name: str
    text: str
    bits: float  # nominal, dense
    decibels: float  # at least, on N(0, 1)


ROWS = [
    # Krishnamoorthi 2018
    Row("integer only: weights", "int8n | (1,-1) f32", 8, 42),
    Row("integer only: activations", "uint8 | tensor f32 | pre u8", 8, 40),
    # GPTQ, AWQ, EfficientQAT
    Row("gptq", "uint4 | (1,128) f16 | pre u4", 4 + 20 / 128, 19.5),
    Row("gptq act-order", "uint4 | (1,128) f16 | pre u4 | kaxis(perm, g_idx)", 4 + 20 / 128, 19.5),
    Row("decoupleq", "uint2 | (1,64) f16 | post f16", 2.5, 6.5),
    Row(
        "spqr w3",
        "uint3 | (1,16) u3 offset(parent), (16,16) f16 | pre (1,16) u3 offset(parent), (16,16) f16",
        3.625,
        16.5,
    ),
    Row(
        "spqr w3 with 1 % outliers",
        "uint3 | (1,16) u3 offset(parent), (16,16) f16 | pre (1,16) u3 offset(parent), (16,16) f16 "
        "| sparse(csr, f16, 0.01)",
        3.945,
        16.5,
    ),
    Row(
        "spqr w4",
        "uint4 | (1,16) u3 offset(parent), (16,16) f16 | pre (1,16) u3 offset(parent), (16,16) f16",
        4.625,
        22.5,
    ),
    Row("qoq g128", "uint4 | (1,128) i8, (1,-1) f16 protect(119) | scaled i8", 4 + 16 / 128, 19.5),
    Row("qoq activations", "int8 | (1,-1) f16 | dynamic", 8, 42),
    Row("qoq kv", "uint4 | (1,128) f16 | pre f16 | dynamic", 4.25, 19.5),
    Row("mergequant weights", "int4n | (1,-1) f16", 4, 16.5),
    Row("mergequant activations", "int4 | (-1,1) f32 | kaxis(split(64))", 4, 18),
    Row("flexq", "int6n | (1,128) f16", 6.125, 31),
    Row("flexq activations", "int6n | (1,128) f16 | dynamic", 6.125, 31),
    Row("abq five levels", "int3[-2,2] | (1,128) f16", 3.125, 7),
    Row("bipolar", "planes(2, pm1, pow2) mid_rise | (1,-1) f16", 2, 3),
    Row("ptqtp", "planes(2, -101, free) | (1,128) f16", 4.25, 15.5),
    Row("hlq2", "planes(2, 01, free) | (1,128) f16 | post f16", 2.375, 9),
    Row("hlq3", "planes(3, 01, free) | (1,128) f16 | post f16", 3.5, 15),
    Row("hlq4", "planes(4, 01, free) | (1,128) f16 | post f16", 4.625, 21),
    Row("bitnet", "table ternary(-1, 0, 1) | tensor f32 mean_abs", 2, 5.5),
    Row("bitmod3", f"table bitmod3({BITMOD3}) by u2 (1,128) | (1,128) i8, (1,-1) f16", 3 + 10 / 128, 13.5),
    Row("bitmod3 as coded", f"table bitmod3({BITMOD3}) by u2 (1,128) | (1,128) f16", 3 + 18 / 128, 13.5),
    Row("nf4", f"table nf4({NF4}) | (1,64) f16", 4.25, 20.5),
    Row("qlora", f"table nf4({NF4}) | (1,64) u8 offset(tensor), (1,16384) f32", 4 + 8 / 64 + 32 / 16384, 20.5),
    Row(
        "lq-lora",
        f"table nf4({NF4}) | (1,64) u8 offset(tensor), (256,64) f32 | lowrank(64, f16)",
        4 + 8 / 64 + 32 / 16384,
        22.5,
    ),
    Row("olive", f"table olive4({OLIVE4}) ovp | tensor f32 mse", 4, 18.5),
    Row("llm-fp4 weights", "fp2_1 | (1,-1) f32", 4, 18.5),
    Row("llm-fp4 real bias", "fp2_1(bias=1.375) | (1,-1) f32", 4, 18.5),
    Row("llm-fp4 activations", "fp2_1 | (-1,1) pow2, tensor f32", 4, 18),
    Row("zeroquant-fp m2", "fp2_1 | (1,128) pow2, (1,-1) f16 | lowrank(8, i8)", 4 + 8 / 128, 18.5),
    Row("zeroquant-fp activations", "fp4_3 | (1,-1) f32 | dynamic", 8, 31),
    Row("mxint8", "int8 | (1,32) e8m0 floor", 8.25, 41),
    Row("mxfp8 e4m3", "fp4_3 | (1,32) e8m0 floor", 8.25, 30),
    Row("mxfp8 e5m2", "fp5_2(ieee) | (1,32) e8m0 floor", 8.25, 25),
    Row("mxfp6 e2m3", "fp2_3 | (1,32) e8m0 floor", 6.25, 30.5),
    Row("mxfp6 e3m2", "fp3_2 | (1,32) e8m0 floor", 6.25, 25),
    Row("mxfp4", "fp2_1 | (1,32) e8m0 floor", 4.25, 18.5),
    Row("mxfp4 ceil", "fp2_1 | (1,32) e8m0 ceil", 4.25, 18.5),
    Row("mr-gptq mxfp4", "fp2_1 | (1,32) e8m0 floor, tensor f32 constant(1.3333333333333333)", 4.25, 18),
    Row("bfp12", "int4n | (1,64) e8m0 floor", 4.125, 16.5),
    Row("nvfp4", "fp2_1 | (1,16) e4m3, tensor f32 | fuse_group(qkv)", 4.5, 20),
    Row("nvint4", "int4n | (1,16) e4m3, tensor f32 | fuse_group(qkv)", 4.5, 21),
    Row("nvfp4 activations", "fp2_1 | (1,16) e4m3, tensor f32 | dynamic_local", 4.5, 20),
    Row("arcquant", "fp2_1 | (1,16) e4m3, tensor f32 | kaxis(perm, residual(128))", 4.5, 21.5),
    Row("comet", "select(int4n 0.875, int8n 0.125) by u1 (-1,128) | (1,128) f16 | kaxis(perm)", 4.625, 18.5),
    Row(
        "2-bit with 4-bit minority",
        "select(uint2 0.9, uint4 0.1) by u1 (128,16) | (1,16) f16 | pre u4",
        2.2 + 1 / 2048 + 20 / 16,
        9,
    ),
    Row("gqsa", "uint4 | (1,16) f16 | pre u4 | mask(bsr(1,16), 0.5)", 0.5 * (4 + 20 / 16 + 1), 4),
    Row("2:4 sparse", "int4 | (1,128) f16 | mask(2:4)", 2 + 1 + 16 / 128, 8),
    Row("matgptq", "uint8 | (1,128) f16 | pre u8 | slice(8, 4)", 8 + 24 / 128, 19.5),
    Row("kvtuner key", "uint4 | (32,1) f16 | pre f16 | dynamic", 5, 21.5),
    Row("kvtuner value", "uint2 | (1,32) f16 | pre f16 | dynamic", 3, 7.5),
    Row("xquant", "uint8 | (1,128) f16 | pre f16 | dynamic", 8.25, 44),
    Row("qfx fixed", "int8 | tensor pow2 constant(0.0625) | half_up", 8, 34.5),
    Row("qfx wide fixed wrapping", "int18 | tensor pow2 constant(0.00390625) | floor wrap", 18, 52.5),
    Row("qfx k-hot", "planes(3, pm1, free) | tensor pow2", 3, 10),
    Row("shiftquant", "int6 | (1,-1) pow2, tensor f32", 6, 24.5),
    Row("q8_0", "int8n | (1,32) f16", 8.5, 45),
    Row("q4_0", "int4 | (1,32) f16", 4.5, 20),
    Row("q4_k", "uint4 | (1,32) u6, (1,256) f16 | min (1,32) u6, (1,256) f16", 4.5, 21.5),
    Row("q5_k", "uint5 | (1,32) u6, (1,256) f16 | min (1,32) u6, (1,256) f16", 5.5, 28),
    Row("q6_k", "int6 | (1,16) i8, (1,256) f16", 6.5625, 34),
    Row("q2_k", "uint2 | (1,16) u4, (1,256) f16 | min (1,16) u4, (1,256) f16", 2.625, 9),
    Row("q3_k", "int3 | (1,16) i6, (1,256) f16", 3.4375, 13.5),
    Row("tq1_0", "table ternary(-1, 0, 1) radix | (1,256) f16", 1.6875, 1.5),
    Row("tq2_0", "table ternary(-1, 0, 1) | (1,256) f16", 2.0625, 1.5),
    Row("quest", "int2 mid_rise | (1,-1) f16 rms(1.494) | rotate(128)", 2, 9),
    Row("quartet", "fp2_1 | (1,32) e8m0 | dynamic stochastic | rotate(32)", 4.25, 15),
]

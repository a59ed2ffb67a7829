"""SystemVerilog of two HLS units, written from the same sizes, foldings and tables as their C++ templates.

Both take a token a cycle where they can, stall on either side, and read their tables a cycle ahead from memory blocks.
`matvec` is the matrix-vector unit without steps, `requantize` the elementwise unit with one requantization by channel.
Partial sums of `matvec` leave at a port of their own: yosys would merge additions that nobody else sees into one
compressor of generic full adders, where synthesizers for these devices take a carry chain for each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qcc.backends.hls.codes import fold_words
from qcc.backends.hls.steps import Requant
from qcc.backends.hls.units import Fold
from qcc.backends.hls.units_matvec import MatvecUnit
from qcc.backends.hls.units_rows import MapUnit

PORTS = """
(input wire clk, input wire rst,
  input wire [{in_bits}-1:0] in_tdata, input wire in_tvalid, output wire in_tready,
  output reg [{out_bits}-1:0] out_tdata, output reg out_tvalid, input wire out_tready{more});
  wire room = !out_tvalid || out_tready;
"""

MATVEC = """
  (* rom_style = "block" *) reg [{word}-1:0] rom [0:{depth}-1]; initial $readmemh("w.mem", rom);
  (* rom_style = "block" *) reg [{out_bits}-1:0] biases [0:{nf}-1]; initial $readmemh("b.mem", biases);
  reg [{in_bits}-1:0] row [0:{sf}-1];
  reg [{sf_bits}-1:0] sf; reg [{nf_bits}-1:0] nf; reg [{at_bits}-1:0] at;
  reg [{word}-1:0] w; reg [{out_bits}-1:0] bias;
  wire first = nf == 0;
  wire go = room && (!first || in_tvalid);
  assign in_tready = first && room;
  wire last = sf == {sf} - 1;
  wire [{at_bits}-1:0] at_next = rst ? 0 : (go ? (at == {depth} - 1 ? 0 : at + 1) : at);
  wire [{nf_bits}-1:0] nf_next = rst ? 0 : (go && last ? (nf == {nf} - 1 ? 0 : nf + 1) : nf);
  wire [{in_bits}-1:0] x = first ? in_tdata : row[sf];
  reg signed [{sum}-1:0] sums [0:{pe}-1];
  wire signed [{sum}-1:0] part [0:{pe}-1];
  integer p;
  genvar i, s, j;
  generate for (i = 0; i < {pe}; i = i + 1) begin : output_of
    wire signed [{sum}-1:0] begun = sf == 0 ? $signed(bias[{sum}*i +: {sum}]) : sums[i];
    for (s = 0; s < {simd}; s = s + 1) begin : input_of
      wire signed [8+{bits}-1:0] product;
      wire signed [{sum}-1:0] so_far, after;
      if (s == 0) assign so_far = begun; else assign so_far = input_of[s - 1].after;
{product}
      assign after = so_far + product;
      assign inner[{inner}*(i*{simd}+s) +: {sum}] = after;
    end
    assign part[i] = input_of[{simd} - 1].after;
  end endgenerate
  always @(posedge clk) begin
    at <= at_next; nf <= nf_next; w <= rom[at_next]; bias <= biases[nf_next];
    if (rst) begin sf <= 0; out_tvalid <= 0; end
    else begin
      if (out_tready) out_tvalid <= 0;
      if (go) begin
        if (first) row[sf] <= in_tdata;
        for (p = 0; p < {pe}; p = p + 1) sums[p] <= part[p];
        sf <= last ? 0 : sf + 1;
        if (last) begin
          out_tvalid <= 1;
          for (p = 0; p < {pe}; p = p + 1) out_tdata[{sum}*p +: {sum}] <= part[p];
        end
      end
    end
  end
endmodule
"""

IN_DSP = """      assign product = $signed(x[8*s +: 8]) * $signed(w[{bits}*(i*{simd}+s) +: {bits}]);"""
IN_LUT = """      wire [{bits}-1:0] weight = w[{bits}*(i*{simd}+s) +: {bits}];
      wire signed [8+{bits}-1:0] wide = $signed(x[8*s +: 8]);
      for (j = 0; j < {bits}; j = j + 1) begin : bit_of
        wire signed [8+{bits}-1:0] shifted = weight[j] ? wide <<< j : 0;
        wire signed [8+{bits}-1:0] below, total;
        if (j == 0) assign below = 0; else assign below = bit_of[j - 1].total;
        assign total = j == {bits} - 1 ? below - shifted : below + shifted;
        assign inner[{inner}*(i*{simd}+s) + {sum} + (8+{bits})*j +: 8+{bits}] = total;
      end
      assign product = bit_of[{bits} - 1].total;"""

REQUANTIZE = """
  (* rom_style = "block" *) reg [{word}-1:0] rom [0:{depth}-1]; initial $readmemh("w.mem", rom);
  reg [{at_bits}-1:0] at;
  reg [{word}-1:0] w;
  wire go = room && in_tvalid;
  assign in_tready = room;
  wire [{at_bits}-1:0] at_next = rst ? 0 : (go ? (at == {depth} - 1 ? 0 : at + 1) : at);
  reg signed [{wide}-1:0] value [0:{pe}-1];
  reg [5:0] by [0:{pe}-1];
  integer p;
  always @* begin
    for (p = 0; p < {pe}; p = p + 1) begin
      by[p] = {shift};
      value[p] = $signed(in_tdata[{bits}*p +: {bits}]) * $signed({{1'b0, w[{lane}*p +: {factor}]}});
      value[p] = (value[p] + (by[p] == 0 ? {wide}'sd0 : {wide}'sd1 <<< (by[p] - 1))) >>> by[p];
    end
  end
  always @(posedge clk) begin
    at <= at_next; w <= rom[at_next];
    if (rst) out_tvalid <= 0;
    else begin
      if (out_tready) out_tvalid <= 0;
      if (go) begin
        out_tvalid <= 1;
        for (p = 0; p < {pe}; p = p + 1)
          out_tdata[8*p +: 8] <= value[p] < {low} ? {low} : value[p] > {high} ? {high} : value[p][7:0];
      end
    end
  end
endmodule
"""


@dataclass(frozen=True)
class Rtl:
    """A module, its memories as hexadecimal words, and packed tokens that enter it and that must leave it."""

    name: str
    text: str
    memories: dict[str, list[int]]
    in_bits: int
    out_bits: int
    tokens: list[int]
    wanted: list[int]


def packed(values: np.ndarray, bits: int) -> int:
    """Return numbers side by side, the first one lowest."""
    return sum((int(one) & ((1 << bits) - 1)) << (bits * index) for index, one in enumerate(values))


def _bits(count: int) -> int:
    return max(1, (count - 1).bit_length())


def _tokens(values: np.ndarray, lanes: int, bits: int) -> list[int]:
    return [packed(one, bits) for one in values.reshape(-1, lanes)]


def matvec(unit: MatvecUnit, fold: Fold) -> Rtl:
    """Write a matrix-vector unit, with random rows of 8 bits."""
    pe, simd, bits, width = fold.pe, fold.simd, unit.codes.bits, unit.steps.first.bits
    product, inner = (IN_LUT, width + bits * (8 + bits)) if bits <= 4 else (IN_DSP, width)
    words, nf, sf = fold_words(unit.weights, pe, simd), unit.n // pe, unit.k // simd
    text = ("module matvec" + PORTS + MATVEC).format(
        more=f", output wire [{inner * pe * simd}-1:0] inner", inner=inner,
        product=product.format(bits=bits, simd=simd, inner=inner, sum=width),
        in_bits=8 * simd, out_bits=width * pe, word=bits * pe * simd, depth=len(words), nf=nf, sf=sf, sum=width, pe=pe,
        simd=simd, bits=bits, sf_bits=_bits(sf), nf_bits=_bits(nf), at_bits=_bits(len(words)),
    )  # fmt: skip
    memories = {"w.mem": [packed(one, bits) for one in words], "b.mem": _tokens(unit.bias, pe, width)}
    x = np.random.default_rng(1).integers(-128, 128, (unit.rows, unit.k))
    sums = x @ unit.weights.T + unit.bias
    return Rtl("matvec", text, memories, 8 * simd, width * pe, _tokens(x, simd, 8), _tokens(sums, pe, width))


def requantize(unit: MapUnit, fold: Fold) -> Rtl:
    """Write an elementwise unit whose one step requantizes by channel to 8 bits, with random numbers of its range."""
    (step,) = unit.steps.chain
    assert isinstance(step, Requant)
    pe, bits, factor = fold.pe, unit.x.bits, int(step.multiplier.max()).bit_length()
    by_channel = len(step.shift) > 1
    lane = factor + (6 if by_channel else 0)
    entries = step.multiplier | (step.shift << factor if by_channel else 0)
    text = ("module requantize" + PORTS + REQUANTIZE).format(
        more="",
        in_bits=bits * pe, out_bits=8 * pe, word=lane * pe, depth=unit.channels // pe,
        at_bits=_bits(unit.channels // pe), wide=step.wide(unit.x), pe=pe, bits=bits, lane=lane, factor=factor,
        shift=f"w[{lane}*p+{factor} +: 6]" if by_channel else int(step.shift[0]), low=step.low, high=step.high,
    )  # fmt: skip
    x = np.random.default_rng(1).integers(unit.x.low, unit.x.high + 1, (unit.rows, unit.channels))
    scaled = (x.astype(object) * step.multiplier.astype(object) + ((1 << step.shift.astype(object)) >> 1)) >> (
        step.shift.astype(object)
    )
    codes = np.clip(scaled, step.low, step.high)
    tables = {"w.mem": _tokens(entries.astype(object), pe, lane)}
    return Rtl("requantize", text, tables, bits * pe, 8 * pe, _tokens(x, pe, bits), _tokens(codes, pe, 8))

"""The resource model of the matrix-vector unit beside the counts of yosys, an open synthesizer.

    python tests/benchmarks/hls_rtl.py [--json FILE]

SystemVerilog of the unit is written here from the same weights, folding and widths as the C++ template: PE x SIMD
products a cycle, a row that is kept, sums that leave with their bias, stalls on both sides. Verilator runs it on random
rows, at full rate and with random stalls, and every sum is compared with numpy's; then
`synth_xilinx -family xcup` counts. The
counts are yosys's, not Vivado's, and say nothing of a clock. Steps behind the sums are not part of it.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from qcc.backends.hls.codes import choose_codes, fold_words
from qcc.backends.hls.elements import Element
from qcc.backends.hls.steps import Steps
from qcc.backends.hls.units import Fold
from qcc.backends.hls.units_matvec import MatvecUnit, sum_range

SHAPES = (
    (16, 32, 4, 2, 4),
    (16, 32, 4, 4, 8),
    (32, 64, 4, 4, 4),
    (16, 32, 8, 2, 4),
    (16, 32, 8, 4, 8),
    (32, 64, 2, 4, 8),
)
"""N, K, bits of weights, PE, SIMD."""

ROWS = 64
EIGHT = Element(-128, 127)

MODULE = """
module matvec(input wire clk, input wire rst,
  input wire [{in_bits}-1:0] in_tdata, input wire in_tvalid, output wire in_tready,
  output reg [{out_bits}-1:0] out_tdata, output reg out_tvalid, input wire out_tready);
  (* rom_style = "auto" *) reg [{word}-1:0] rom [0:{depth}-1]; initial $readmemh("{folder}/w.mem", rom);
  reg [{bias_bits}-1:0] biases [0:{nf}-1]; initial $readmemh("{folder}/b.mem", biases);
  reg [{in_bits}-1:0] row [0:{sf}-1];
  reg [15:0] sf, nf, at;
  wire first = nf == 0;
  wire room = !out_tvalid || out_tready;
  wire go = room && (!first || in_tvalid);
  assign in_tready = first && room;
  wire [{in_bits}-1:0] x = first ? in_tdata : row[sf];
  wire [{word}-1:0] w = rom[at];
  wire [{bias_bits}-1:0] bias = biases[nf];
  reg signed [{sum}-1:0] sums [0:{pe}-1];
  reg signed [{sum}-1:0] part [0:{pe}-1];
  integer p, s;
  always @* begin
    for (p = 0; p < {pe}; p = p + 1) begin
      part[p] = sf == 0 ? $signed(bias[{sum}*p +: {sum}]) : sums[p];
      for (s = 0; s < {simd}; s = s + 1)
        part[p] = part[p] + $signed(x[8*s +: 8]) * $signed(w[{bits}*(p*{simd}+s) +: {bits}]);
    end
  end
  always @(posedge clk) begin
    if (rst) begin sf <= 0; nf <= 0; at <= 0; out_tvalid <= 0; end
    else begin
      if (out_tready) out_tvalid <= 0;
      if (go) begin
        if (first) row[sf] <= in_tdata;
        for (p = 0; p < {pe}; p = p + 1) sums[p] <= part[p];
        at <= at == {depth} - 1 ? 0 : at + 1;
        if (sf == {sf} - 1) begin
          sf <= 0; nf <= nf == {nf} - 1 ? 0 : nf + 1; out_tvalid <= 1;
          for (p = 0; p < {pe}; p = p + 1) out_tdata[{sum}*p +: {sum}] <= part[p];
        end else sf <= sf + 1;
      end
    end
  end
endmodule
"""

BENCH = """
#include "Vmatvec.h"
#include <cstdio>
#include <cstdlib>
#include <cstring>
static unsigned char in[{in_bytes}], gold[{gold_bytes}];
int main(int argc, char **argv) {{
  bool stalls = argc > 1;
  FILE *file = fopen("x.bin", "rb"); if (fread(in, 1, sizeof in, file) != sizeof in) return 2; fclose(file);
  file = fopen("gold.bin", "rb"); if (fread(gold, 1, sizeof gold, file) != sizeof gold) return 2; fclose(file);
  Vmatvec dut; dut.clk = 0; dut.rst = 1; dut.in_tvalid = 0; dut.out_tready = 0;
  auto tick = [&] {{ dut.clk = 1; dut.eval(); dut.clk = 0; dut.eval(); }};
  tick(); tick(); dut.rst = 0;
  long sent = 0, got = 0, wrong = 0, cycles = 0; srand(1);
  for (; got < {results} && cycles < 10000000; cycles++) {{
    dut.in_tvalid = sent < {tokens} && !(stalls && rand() % 3 == 0);
    dut.out_tready = !(stalls && rand() % 3 == 0);
    if (dut.in_tvalid) {{ {feed} }}
    dut.eval();
    bool takes = dut.in_tvalid && dut.in_tready, gives = dut.out_tvalid && dut.out_tready;
    if (gives) {{ unsigned char y[{out_bytes}] = {{0}}; {read}
      wrong += memcmp(y, gold + got * {out_bytes}, {out_bytes}) != 0; got++; }}
    tick(); sent += takes;
  }}
  printf("%ld %ld %ld\\n", got, wrong, cycles);
}}
"""


def unit_of(n: int, k: int, bits: int) -> MatvecUnit:
    """Return a unit with random weights."""
    rng = np.random.default_rng(n * k + bits)
    weights, bias = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (n, k)), rng.integers(-500, 500, n)
    weights[0, 0] = -(2 ** (bits - 1))
    if bits == 2:
        weights[0, 1] = -2
    steps = Steps(sum_range(weights, bias, EIGHT))
    return MatvecUnit(ROWS, weights, bias, EIGHT, choose_codes(weights), steps=steps)


def _packed(values: np.ndarray, bits: int) -> int:
    return sum((int(one) & ((1 << bits) - 1)) << (bits * index) for index, one in enumerate(values))


def write(unit: MatvecUnit, fold: Fold, folder: Path) -> None:
    """Write the module, its memories, rows and the sums wanted, and a testbench."""
    n, k, pe, simd, bits, width = unit.n, unit.k, fold.pe, fold.simd, unit.codes.bits, unit.steps.first.bits
    words = fold_words(unit.weights, pe, simd)
    (folder / "w.mem").write_text("".join(f"{_packed(word, bits):x}\n" for word in words))
    (folder / "b.mem").write_text("".join(f"{_packed(one, width):x}\n" for one in unit.bias.reshape(-1, pe)))
    in_bits, out_bits = 8 * simd, width * pe
    (folder / "matvec.sv").write_text(
        MODULE.format(
            in_bits=in_bits, out_bits=out_bits, word=bits * pe * simd, depth=len(words), bias_bits=out_bits,
            nf=n // pe, sf=k // simd, sum=width, pe=pe, simd=simd, bits=bits, folder=folder,
        )
    )  # fmt: skip
    x = np.random.default_rng(1).integers(-128, 128, (ROWS, k))
    sums = x @ unit.weights.T + unit.bias
    out_bytes = -(-out_bits // 8)
    gold = b"".join(_packed(one, width).to_bytes(out_bytes, "little") for one in sums.reshape(-1, pe))
    (folder / "x.bin").write_bytes(x.astype(np.int8).tobytes())
    (folder / "gold.bin").write_bytes(gold)
    (folder / "tb.cpp").write_text(
        BENCH.format(
            in_bytes=x.size, gold_bytes=len(gold), results=sums.size // pe, tokens=x.size // simd, out_bytes=out_bytes,
            feed=_copy("in_tdata", in_bits, f"in + sent * {simd}", simd, into=True),
            read=_copy("out_tdata", out_bits, "y", out_bytes, into=False),
        )
    )  # fmt: skip


def _copy(port: str, bits: int, data: str, size: int, *, into: bool) -> str:
    """Write a copy between a port of Verilator's and bytes; ports beyond 64 bits are arrays of words."""
    place = f"dut.{port}" if bits <= 64 else f"dut.{port}.data()"
    if bits > 64:
        return f"memcpy({place}, {data}, {size});" if into else f"memcpy({data}, {place}, {size});"
    get = f"unsigned long long v = 0; memcpy(&v, {data}, {size}); {place} = v;"
    return get if into else f"unsigned long long v = {place}; memcpy({data}, &v, {size});"


def simulate(folder: Path) -> tuple[int, int, int, int]:
    """Run the module at full rate and with stalls; returns sums compared, wrong ones, and the cycles of both."""
    line = ["verilator", "--cc", "--exe", "--build", "-O2", "-Wno-fatal", "-Wno-WIDTH", "matvec.sv", "tb.cpp"]
    subprocess.run([*line, "--top-module", "matvec"], cwd=folder, check=True, capture_output=True)
    runs: list[list[int]] = []
    for more in ((), ("stalls",)):
        done = subprocess.run(["obj_dir/Vmatvec", *more], cwd=folder, check=True, capture_output=True)
        runs.append([int(one) for one in done.stdout.split()])
    return sum(one[0] for one in runs), sum(one[1] for one in runs), runs[0][2], runs[1][2]


def synthesize(folder: Path) -> dict[str, int]:
    """Count what yosys makes of the module."""
    script = "read_verilog -sv matvec.sv; synth_xilinx -family xcup -top matvec -flatten -noiopad; stat"
    done = subprocess.run(["yosys", "-p", script], cwd=folder, check=True, capture_output=True, text=True)
    cells: dict[str, int] = {}
    for name, count in re.findall(
        r"^\s+([A-Z]\w+)\s+(\d+)$", done.stdout.rpartition("Printing statistics")[2], re.MULTILINE
    ):
        cells[name] = int(count)
    memory = {"RAM32M": 4, "RAM32M16": 8, "RAM64M": 4, "RAM64M8": 8, "RAM32X1D": 2, "RAM64X1D": 2}
    lut = sum(count for name, count in cells.items() if re.fullmatch(r"LUT\d|INV", name))
    return {
        "lut": lut + sum(cells.get(name, 0) * luts for name, luts in memory.items()),
        "ff": sum(count for name, count in cells.items() if name.startswith("FD")),
        "dsp": cells.get("DSP48E2", 0),
        "bram18": cells.get("RAMB18E2", 0) + 2 * cells.get("RAMB36E2", 0),
    }


def measure(n: int, k: int, bits: int, pe: int, simd: int) -> dict[str, Any]:
    """Simulate and synthesize one unit; returns its row."""
    unit, fold = unit_of(n, k, bits), Fold(pe, simd)
    cost = unit.cost(fold)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(unit, fold, folder)
        compared, wrong, cycles, _ = simulate(folder)
        found = synthesize(folder)
    return {
        "unit": f"{n}x{k} int{bits}, {fold}", "compared": compared, "rtl_mismatches": wrong, "rtl_cycles": cycles,
        "predicted_cycles": unit.cycles(fold), **found,
        "estimate": {name: round(getattr(cost, name)) for name in ("lut", "ff", "dsp", "bram18")},
    }  # fmt: skip


def main() -> int:
    """Measure all units and print them; fails if any sum is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    rows = [measure(*shape) for shape in SHAPES]
    for row in rows:
        pairs = ", ".join(f"{name} {row[name]} (model {row['estimate'][name]})" for name in row["estimate"])
        print(f"{row['unit']}: {row['compared']} sums, {row['rtl_mismatches']} wrong, {row['rtl_cycles']} cycles "
              f"(model {row['predicted_cycles']}), {pairs}")  # fmt: skip
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    return int(any(row["rtl_mismatches"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())

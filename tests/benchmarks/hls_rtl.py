"""The resource models of two HLS units beside the counts of yosys, an open synthesizer.

    python tests/benchmarks/hls_rtl.py [--quick] [--json FILE]

SystemVerilog of the matrix-vector unit and of a requantization by channel is written from the same sizes, foldings and
tables as the C++ templates (`hls_rtl_modules.py`). Verilator runs it on random numbers, at full rate and with random
stalls, and every token is compared with numpy's; then `synth_xilinx -family xcup` counts. The counts are yosys's, not
Vivado's, and say nothing of a clock. Units marked as held out had no part in fitting the model. `--quick` takes a few.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from qcc.backends.hls.codes import choose_codes
from qcc.backends.hls.elements import Element
from qcc.backends.hls.steps import Requant, Steps
from qcc.backends.hls.units import Fold
from qcc.backends.hls.units_matvec import MatvecUnit, sum_range
from qcc.backends.hls.units_rows import MapUnit
from tests.benchmarks.hls_rtl_modules import Rtl, matvec, requantize

FITTED = ((16, 32, 4, 2, 4), (16, 32, 8, 2, 4), (32, 64, 4, 4, 4), (32, 64, 8, 4, 4), (16, 32, 4, 4, 8))
HELD_OUT = ((48, 96, 3, 3, 4), (16, 32, 8, 4, 8), (64, 64, 8, 2, 8), (32, 64, 2, 4, 4))
"""N, K, bits of weights, PE, SIMD."""

REQUANTIZED = (
    (20, 31, 64, 1, True), (24, 16, 64, 2, True), (16, 8, 32, 4, False), (20, 16, 256, 1, False),
    (24, 31, 128, 2, True), (18, 12, 64, 4, True), (20, 8, 128, 2, False),
)  # fmt: skip
"""Bits of the numbers, bits of the multipliers, channels, PE, and whether shifts differ by channel."""

ROWS = 64
EIGHT = Element(-128, 127)

BENCH = """
#include "V{name}.h"
#include <cstdio>
#include <cstdlib>
#include <cstring>
static unsigned char in[{in_bytes}], gold[{gold_bytes}];
int main(int argc, char **argv) {{
  bool stalls = argc > 1;
  FILE *file = fopen("x.bin", "rb"); if (fread(in, 1, sizeof in, file) != sizeof in) return 2; fclose(file);
  file = fopen("gold.bin", "rb"); if (fread(gold, 1, sizeof gold, file) != sizeof gold) return 2; fclose(file);
  V{name} dut; dut.clk = 0; dut.rst = 1; dut.in_tvalid = 0; dut.out_tready = 0;
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


def matvec_of(n: int, k: int, bits: int) -> MatvecUnit:
    """Return a unit with random weights."""
    rng = np.random.default_rng(n * k + bits)
    weights, bias = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (n, k)), rng.integers(-500, 500, n)
    weights[0, 0] = -(2 ** (bits - 1))
    if bits == 2:
        weights[0, 1] = -2
    steps = Steps(sum_range(weights, bias, EIGHT))
    return MatvecUnit(ROWS, weights, bias, EIGHT, choose_codes(weights), steps=steps)


def requant_of(bits: int, factor: int, channels: int, *, by_channel: bool) -> MapUnit:
    """Return a unit with random multipliers, and shifts that bring its numbers to about 8 bits."""
    rng = np.random.default_rng(bits * factor + channels)
    x = Element(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    multiplier = rng.integers(2 ** (factor - 1), 2**factor, channels)
    shift = rng.integers(bits + factor - 10, bits + factor - 7, channels if by_channel else 1)
    return MapUnit(ROWS, channels, x, steps=Steps(x, (Requant(multiplier, shift, -128, 127),)))


def write(rtl: Rtl, folder: Path) -> None:
    """Write the module, its memories, tokens and those wanted, and a testbench."""
    for name, words in rtl.memories.items():
        (folder / name).write_text("".join(f"{one:x}\n" for one in words))
    (folder / "unit.sv").write_text(rtl.text)
    in_bytes, out_bytes = -(-rtl.in_bits // 8), -(-rtl.out_bits // 8)
    (folder / "x.bin").write_bytes(b"".join(one.to_bytes(in_bytes, "little") for one in rtl.tokens))
    (folder / "gold.bin").write_bytes(b"".join(one.to_bytes(out_bytes, "little") for one in rtl.wanted))
    (folder / "tb.cpp").write_text(
        BENCH.format(
            name=rtl.name, in_bytes=in_bytes * len(rtl.tokens), gold_bytes=out_bytes * len(rtl.wanted),
            results=len(rtl.wanted), tokens=len(rtl.tokens), out_bytes=out_bytes,
            feed=_copy("in_tdata", rtl.in_bits, f"in + sent * {in_bytes}", in_bytes, into=True),
            read=_copy("out_tdata", rtl.out_bits, "y", out_bytes, into=False),
        )
    )  # fmt: skip


def _copy(port: str, bits: int, data: str, size: int, *, into: bool) -> str:
    """Write a copy between a port of Verilator's and bytes; ports beyond 64 bits are arrays of words."""
    place = f"dut.{port}" if bits <= 64 else f"dut.{port}.data()"
    if bits > 64:
        return f"memcpy({place}, {data}, {size});" if into else f"memcpy({data}, {place}, {size});"
    get = f"unsigned long long v = 0; memcpy(&v, {data}, {size}); {place} = v;"
    return get if into else f"unsigned long long v = {place}; memcpy({data}, &v, {size});"


def simulate(rtl: Rtl, folder: Path) -> tuple[int, int, int]:
    """Run the module at full rate and with stalls; returns tokens compared, wrong ones, and the cycles at full rate."""
    line = ["verilator", "--cc", "--exe", "--build", "-O2", "-Wno-fatal", "-Wno-WIDTH", "unit.sv", "tb.cpp"]
    subprocess.run([*line, "--top-module", rtl.name], cwd=folder, check=True, capture_output=True)
    runs: list[list[int]] = []
    for more in ((), ("stalls",)):
        done = subprocess.run([f"obj_dir/V{rtl.name}", *more], cwd=folder, check=True, capture_output=True)
        runs.append([int(one) for one in done.stdout.split()])
    return sum(one[0] for one in runs), sum(one[1] for one in runs), runs[0][2]


def synthesize(rtl: Rtl, folder: Path, *options: str) -> dict[str, int]:
    """Count what yosys makes of the module."""
    line = " ".join(["synth_xilinx -family xcup -flatten -noiopad -top", rtl.name, *options])
    script = f"read_verilog -sv unit.sv; {line}; stat"
    done = subprocess.run(["yosys", "-p", script], cwd=folder, check=True, capture_output=True, text=True)
    cells: dict[str, int] = {}
    for name, count in re.findall(
        r"^\s+([A-Z]\w+)\s+(\d+)$", done.stdout.rpartition("Printing statistics")[2], re.MULTILINE
    ):
        cells[name] = int(count)
    memory = {"RAM32M": 4, "RAM32M16": 8, "RAM64M": 4, "RAM64M8": 8, "RAM32X1D": 2, "RAM64X1D": 2}
    lut = sum(count for name, count in cells.items() if re.fullmatch(r"LUT\d|INV|SRL\w+", name))
    return {
        "lut": lut + sum(cells.get(name, 0) * luts for name, luts in memory.items()),
        "ff": sum(count for name, count in cells.items() if name.startswith("FD")),
        "dsp": cells.get("DSP48E2", 0),
        "bram18": cells.get("RAMB18E2", 0) + 2 * cells.get("RAMB36E2", 0),
    }


def measure(rtl: Rtl, unit: MatvecUnit | MapUnit, fold: Fold, label: str, *options: str) -> dict[str, Any]:
    """Simulate and synthesize one unit; returns its row."""
    cost = unit.cost(fold)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(rtl, folder)
        compared, wrong, cycles = simulate(rtl, folder)
        found = synthesize(rtl, folder, *options)
    return {
        "unit": label, "compared": compared, "rtl_mismatches": wrong, "rtl_cycles": cycles,
        "predicted_cycles": unit.cycles(fold), **found,
        "estimate": {name: round(getattr(cost, name)) for name in ("lut", "ff", "dsp", "bram18")},
    }  # fmt: skip


def rows_of(quick: bool) -> Iterator[dict[str, Any]]:
    """Measure all units."""
    most = 1 if quick else None
    for shapes, held_out in ((FITTED[:most], False), (HELD_OUT[:most], True)):
        for n, k, bits, pe, simd in shapes:
            unit, fold = matvec_of(n, k, bits), Fold(pe, simd)
            # the model has products of up to four bits in look-up tables, where yosys takes DSP blocks if it may
            options = ["-nodsp"] if bits <= 4 else []
            label = f"matvec {n}x{k} int{bits}, {fold}"
            yield {**measure(matvec(unit, fold), unit, fold, label, *options), "held_out": held_out}
    for bits, factor, channels, pe, by_channel in REQUANTIZED[:most]:
        unit, fold = requant_of(bits, factor, channels, by_channel=by_channel), Fold(pe, pe)
        label = f"requantize {bits} x {factor} bits, {channels} channels, {pe} lanes"
        label += ", shifts by channel" if by_channel else ""
        yield {**measure(requantize(unit, fold), unit, fold, label), "held_out": False}


def main() -> int:
    """Measure all units and print them; fails if any token is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for row in rows_of(chosen.quick):
        rows.append(row)
        pairs = ", ".join(f"{name} {row[name]} (model {row['estimate'][name]})" for name in row["estimate"])
        print(f"{row['unit']}{', held out' if row['held_out'] else ''}: {row['compared']} tokens, "
              f"{row['rtl_mismatches']} wrong, {row['rtl_cycles']} cycles (model {row['predicted_cycles']}), "
              f"{pairs}", flush=True)  # fmt: skip
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    return int(any(row["rtl_mismatches"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())

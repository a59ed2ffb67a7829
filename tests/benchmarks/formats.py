"""Time encoding and decoding of every preset, and measure what memory they need beside the matrix.

    python -m tests.benchmarks.formats [--quick] [--dtype bfloat16] [--only NAME]... [--json FILE]

A normal matrix of 4096 x 11008 (`--quick`: 1024 x 2752), a process a format. Seconds are wall time on all cores, the
best of `--repeat` runs; threads wait without spinning, which disturbs less where other work shares the cores.

Memory is what the peak resident set (`ru_maxrss`) grew by while encoding, and while encoding and decoding, from when
the matrix was there and a few rows had been encoded, as a multiple of the matrix's bytes: codes, scales and decoded
values count, and so does what the allocator kept. Temporaries of a few MiB weigh much beside the small matrix of
`--quick`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qcc.numerics.presets import PRESETS, format_of
from qcc.numerics.quantize import dequantize, quantize, signal_to_quantization_noise_db

ROOT = Path(__file__).parents[2]
NAMES = (*PRESETS, "fixed<8,3>", "fp<4,3>", "bipolar<2>")
SHAPE, QUICK_SHAPE = (4096, 11008), (1024, 2752)


def matrix(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Make a normal matrix row by row, so that nothing larger was ever resident."""
    x = torch.empty(shape, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    for row in x:
        row.copy_(torch.randn(row.shape, generator=generator))
    return x


def peak_bytes() -> int:
    """Give the largest resident set so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name: str, shape: tuple[int, int], dtype: torch.dtype, repeat: int) -> dict[str, Any]:
    """Encode and decode in this process."""
    qtype, x = format_of(name), matrix(shape, dtype)
    dequantize(quantize(x[:16], qtype))
    size, before = x.numel() * x.element_size(), peak_bytes()
    row: dict[str, Any] = {"format": name, "dtype": str(dtype).removeprefix("torch."), "shape": list(shape)}
    for run in range(repeat):
        start = time.perf_counter()
        quantized = quantize(x, qtype)
        encoded = time.perf_counter()
        encoding = peak_bytes()
        values = dequantize(quantized, dtype)
        decoded = time.perf_counter()
        if run == 0:
            row["quantize_peak"] = (encoding - before) / size
            row["both_peak"] = (peak_bytes() - before) / size
            row["qsnr_db"] = signal_to_quantization_noise_db(x, values)
        row["quantize_s"] = min(encoded - start, row.get("quantize_s", encoded - start))
        row["dequantize_s"] = min(decoded - encoded, row.get("dequantize_s", decoded - encoded))
        del quantized, values
    return row


def measure_apart(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure a format in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.formats", "--one", name, "--dtype", options.dtype]
    command += ["--repeat", str(options.repeat)] + ["--quick"] * options.quick
    env = {"OMP_WAIT_POLICY": "passive"} | os.environ
    done = subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the matrix")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16", "float64"), default="float32")
    parser.add_argument("--repeat", type=int, default=1, help="runs, of which the fastest counts")
    parser.add_argument("--only", action="append", metavar="NAME", help="a preset or the text of a type; may repeat")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        shape = QUICK_SHAPE if options.quick else SHAPE
        print(json.dumps(measure(options.one, shape, getattr(torch, options.dtype), options.repeat)))
        return
    print(
        f"{'format':36} {'quantize s':>11} {'dequantize s':>13} {'peak':>6} {'peak with decoding':>19} {'QSNR dB':>8}"
    )
    rows: list[dict[str, Any]] = []
    for name in options.only or NAMES:
        row = measure_apart(name, options)
        rows.append(row)
        print(
            f"{name:36} {row['quantize_s']:11.2f} {row['dequantize_s']:13.2f} {row['quantize_peak']:6.2f} "
            f"{row['both_peak']:19.2f} {row['qsnr_db']:8.2f}",
            flush=True,
        )
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

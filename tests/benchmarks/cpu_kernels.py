"""Time the linear kernels of the CPU backend beside this run's own limits: VNNI peak and memory bandwidth.

    python -m tests.benchmarks.cpu_kernels [--quick] [--isa NAME] [--json FILE]

One core; times of the quantized linear include quantizing the activations. Products with one row
rotate over 192 MB of weights, so that they read from memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TEMPLATES = HERE.parent.parent / "backends" / "cpu" / "templates"


def measure(isa: str, quick: bool) -> list[dict[str, Any]]:
    """Build the benchmark, run it, and return its rows."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "bench"
        compiler = os.environ.get("CC", "cc")
        command = [compiler, "-std=gnu11", "-O3", "-ffp-contract=off", f"-I{TEMPLATES}"]
        subprocess.run([*command, str(HERE / "cpu_kernels.c"), "-o", str(program), "-lm"], check=True)
        env = os.environ | {"QCC_ISA": isa}
        lines = subprocess.run(
            [str(program), "1" if quick else "0"], env=env, check=True, capture_output=True, text=True
        ).stdout.splitlines()
    return [json.loads(line) for line in lines]


def table(rows: list[dict[str, Any]]) -> str:
    """Lay the rows out for reading; `peak` is the share of the VNNI peak, `read` of the bandwidth."""
    head = ("kernel", "bits", "group", "m x n x k", "ms", "Gop/s", "peak", "GB/s", "read")
    out = ["{:8} {:>4} {:>5} {:>16} {:>9} {:>7} {:>5} {:>6} {:>5}".format(*head)]
    for row in rows:
        size = f"{row['m']}x{row['n']}x{row['k']}"
        peak = f"{row['gops'] / row['vnni_gops']:.0%}" if row["vnni_gops"] else "-"
        read = f"{row['weight_gbps'] / row['read_gbps']:.0%}" if row["m"] == 1 else "-"
        out.append(
            f"{row['kernel']:8} {row['bits']:>4} {row['group']:>5} {size:>16} {row['ms']:>9.4f} "
            f"{row['gops']:>7.0f} {peak:>5} {row['weight_gbps']:>6.1f} {read:>5}"
        )
    return "\n".join(out)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a telling subset")
    parser.add_argument("--isa", default="", help="portable, avx2 or avx512vnni (default: the best here)")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    rows = measure(options.isa, options.quick)
    first = rows[0]
    print(f"{first['plan']}: VNNI peak {first['vnni_gops']} Gop/s, read {first['read_gbps']} GB/s, one core")
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

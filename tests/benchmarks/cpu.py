"""Time the linear kernels of the CPU backend beside the machine's limits of that moment, torch and onnxruntime.

    python tests/benchmarks/cpu.py [--quick] [--isa NAME] [--json FILE] [--no-peers]

Both plans of integer contractions, lookup with exact and with 8-bit tables, weights decoded to floats, and floats.
Quantizing activations and building tables is part of the time. Products with one row rotate over 256 MB of weights, so
that they read from memory. `read` is the share of the bandwidth that reading memory had in the same seconds, `peak`
that of vpdpbusd. On one thread times are the process's own, which other load does not prolong; on two they are the
clock's. Both processes get pages of 2 MB (the peers by glibc's tunable), so that no one wins by pages.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TEMPLATES = HERE.parent.parent / "backends" / "cpu" / "templates"
PLANS = {
    "qlinear": ("qlinear", "group_after"),
    "tlinear": ("tlinear", "lookup"),
    "tlinear_int8": ("tlinear", "lookup_int8"),
    "wlinear": ("wlinear", "dequant_first"),
    "linear": ("linear", "float"),
}
"""What the program calls a kernel: its name in the interface, and its plan."""
INTEGER = ("qlinear", "tlinear", "tlinear_int8")
ENCODER = ((384, 384), (1536, 384), (384, 1536))
"""N and K of the layers of a small sentence encoder."""


@dataclass(frozen=True)
class Product:
    """One product [M, K] x [N, K]; group 0 is one scale a row."""

    m: int
    n: int
    k: int
    bits: int
    group: int
    threads: int

    def weight_bytes(self) -> float:
        """Bytes of codes and float16 scales."""
        scales = 0 if self.bits == 32 else self.n * (self.k // (self.group or self.k)) * 2
        return self.n * self.k * self.bits / 8 + scales


def products(quick: bool) -> Iterator[tuple[Product, tuple[str, ...]]]:
    """List the products with the kernels that compute them."""
    for threads in (1, 2):
        for m in (1, 8, 128):
            for bits in (1, 2, 4) if quick else (1, 2, 3, 4, 8):
                for group in (128,) if quick else (32, 128, 0):
                    if not quick or threads == 1 or (m, bits) == (1, 4):
                        yield Product(m, 4096, 4096, bits, group, threads), INTEGER
            if quick:
                continue
            yield Product(m, 4096, 4096, 4, 32, threads), ("wlinear",)
            yield Product(m, 4096, 4096, 8, 0, threads), ("wlinear",)
            yield Product(m, 4096, 4096, 32, 0, threads), ("linear",)
        for n, k in () if quick else ENCODER:
            for bits, group in ((1, 0), (2, 32), (2, 0), (4, 32), (4, 128), (8, 0)):
                yield Product(128, n, k, bits, group, threads), INTEGER


class Program:
    """A process that answers one line with one JSON object."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, env=os.environ | env, stdin=pipe, stdout=pipe, text=True)

    def ask(self, line: str) -> dict[str, Any]:
        """Send a line and read the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self._process.args} ended: {self._process.wait()}")
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def build(folder: Path) -> Path:
    """Compile the kernels with the program that times them."""
    program = folder / "products"
    sources = [str(HERE / "cpu_products.c"), str(TEMPLATES / "qcc_kernels.c")]
    flags = ["-std=gnu11", "-O3", "-ffp-contract=off", "-fopenmp", f"-I{TEMPLATES}"]
    subprocess.run([os.environ.get("CC", "cc"), *flags, *sources, "-o", str(program), "-lm"], check=True)
    return program


def row_of(product: Product, kernel: str, found: dict[str, Any], peers: dict[str, float]) -> dict[str, Any]:
    """One row of the table."""
    name, plan = PLANS[kernel]
    macs = product.m * product.n * product.k
    return {
        "kernel": name,
        "plan": plan,
        "bits": product.bits,
        "m": product.m,
        "n": product.n,
        "k": product.k,
        "group": product.group or product.k,
        "threads": product.threads,
        "ms": found["ms"],
        "weight_gbps": round(product.weight_bytes() / found["ms"] * 1e-6, 2),
        "gops": round(2e-6 * macs / found["ms"], 1),
        "read_gbps": found["read_gbps"],
        "vnni_gops": found["vnni_gops"],
        "peers": peers,
        "isa": found["isa"],
    }


def measure(isa: str, quick: bool, with_peers: bool) -> Iterator[dict[str, Any]]:
    """Build, run and yield row after row; kernels and peers of one product follow one another."""
    seconds = 0.2 if quick else 0.4
    with tempfile.TemporaryDirectory() as folder:
        kernels = Program([str(build(Path(folder)))], {"QCC_ISA": isa, "GOMP_SPINCOUNT": "4000"})
        tunables = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
        peers = Program([sys.executable, str(HERE / "cpu_peers.py")], tunables) if with_peers else None
        for product, names in products(quick):
            p = product
            shown: dict[str, float] = {}
            if peers is not None:
                job = {"m": p.m, "n": p.n, "k": p.k, "bits": p.bits, "group": p.group}
                shown = peers.ask(json.dumps({**job, "threads": p.threads, "seconds": seconds}))
            for kernel in names:
                line = f"{kernel} {p.m} {p.n} {p.k} {p.bits} {p.group} {p.threads} {seconds}"
                yield row_of(product, kernel, kernels.ask(line), shown)
        for program in (kernels, peers):
            if program is not None:
                program.close()


HEAD = f"{'plan':13} {'bits':>4} {'group':>5} {'threads':>7} {'m x n x k':>15} {'ms':>9} {'Gop/s':>6} {'peak':>5} " + (
    f"{'GB/s':>6} {'read':>5}  peers, ms"
)


def shown(row: dict[str, Any]) -> str:
    """Lay a row out for reading."""
    size = f"{row['m']}x{row['n']}x{row['k']}"
    peak = f"{row['gops'] / row['vnni_gops']:.0%}" if row["vnni_gops"] else "-"
    read = f"{row['weight_gbps'] / row['read_gbps']:.0%}" if row["m"] == 1 else "-"
    peers = ", ".join(f"{name} {ms:.3g} ({ms / row['ms']:.1f}x)" for name, ms in row["peers"].items())
    return (
        f"{row['plan']:13} {row['bits']:>4} {row['group']:>5} {row['threads']:>7} {size:>15} {row['ms']:>9.4f} "
        f"{row['gops']:>6.0f} {peak:>5} {row['weight_gbps']:>6.1f} {read:>5}  {peers}"
    )


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a telling subset, in less than a minute")
    parser.add_argument("--isa", default="", help="portable, avx2 or avx512vnni (default: the best here)")
    parser.add_argument("--no-peers", action="store_true", help="leave torch and onnxruntime out")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    print(HEAD, flush=True)
    for row in measure(options.isa, options.quick, not options.no_peers):
        rows.append(row)
        print(shown(row), flush=True)
    limits = f"reading {rows[0]['read_gbps']} GB/s, vpdpbusd {rows[0]['vnni_gops']} Gop/s on one core"
    print(f"{rows[0]['isa']} kernels; {limits}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

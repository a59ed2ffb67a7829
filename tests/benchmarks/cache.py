"""Time the attention of decoding one token over quantized KV caches, beside float32 caches and torch in the same run.

    python tests/benchmarks/cache.py [--quick] [--isa NAME] [--json FILE] [--no-peers]

A Llama's shape: 32 query heads of 128 on 8 heads of keys and values, 2048 tokens, 32 layers, so that each layer's cache
comes from memory. What is timed is what a layer does with its cache: the token's rows are encoded and written, and
attention reads it; per layer, on one thread, in the process's own time, which other load does not prolong. `read` is
the share of the bandwidth that reading memory had in the same seconds; torch's scaled_dot_product_attention reads
caches of the same tokens in float32 and bfloat16. Both processes get pages of 2 MB.
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

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks.cpu import TEMPLATES, Program

HERE = Path(__file__).parent
LAYERS, HEADS, KV_HEADS, DIM, TOKENS = 32, 32, 8, 128, 2048


@dataclass(frozen=True)
class Side:
    """How keys or values are kept: bits, tokens and channels that share a scale, and whether codes have zeros."""

    bits: int
    tokens: int
    channels: int
    zero: bool

    def words(self) -> str:
        """Write it as the program reads it."""
        return f"{self.bits} {self.tokens} {self.channels} {int(self.zero)}"


@dataclass(frozen=True)
class Cache:
    """A kind of cache, and which of the latest tokens stay floats."""

    name: str
    keys: Side
    values: Side
    window: int = 0


def by_token(bits: int, channels: int = DIM, *, zero: bool = True) -> Side:
    return Side(bits, 1, channels, zero)


def by_channel(bits: int, tokens: int = 32) -> Side:
    return Side(bits, tokens, 1, True)


CACHES = (
    Cache("int8", by_token(8, zero=False), by_token(8, zero=False)),
    Cache("uint4", by_token(4), by_token(4)),
    Cache("uint4, groups of 32", by_token(4, 32), by_token(4, 32)),
    Cache("keys uint4 by channel, values uint4, window 128", by_channel(4), by_token(4), 128),
    Cache("keys uint2 by channel, values uint2 in groups of 32, window 128", by_channel(2), by_token(2, 32), 128),
)
QUICK = ("int8", "uint4")


def build(folder: Path) -> Path:
    """Compile the kernels with the program that times them."""
    program = folder / "cache_decoding"
    sources = [str(HERE / "cache_decoding.c"), str(TEMPLATES / "qcc_kernels.c")]
    flags = ["-std=gnu11", "-O3", "-ffp-contract=off", "-fopenmp", f"-I{TEMPLATES}"]
    subprocess.run([os.environ.get("CC", "cc"), *flags, *sources, "-o", str(program), "-lm"], check=True)
    return program


def line_of(kernel: str, cache: Cache, seconds: float, layers: int = LAYERS, tokens: int = TOKENS) -> str:
    """One line of the program's input."""
    sizes = f"{layers} {HEADS} {KV_HEADS} {DIM} {tokens} {seconds}"
    return f"{kernel} {sizes} {cache.keys.words()} {cache.values.words()} {cache.window}"


def measure(isa: str, quick: bool, with_peers: bool) -> Iterator[dict[str, Any]]:
    """Yield a row for each cache; the float32 cache and torch are timed anew beside each."""
    seconds = 1.0 if quick else 3.0
    with tempfile.TemporaryDirectory() as folder:
        kernels = Program([str(build(Path(folder)))], {"QCC_ISA": isa})
        tunables = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
        peers = Program([sys.executable, str(HERE / "cache_peers.py")], tunables) if with_peers else None
        for cache in CACHES:
            if quick and cache.name not in QUICK:
                continue
            shape = {"layers": LAYERS, "heads": HEADS, "kv_heads": KV_HEADS, "dim": DIM, "tokens": TOKENS}
            floats = kernels.ask(line_of("float", cache, seconds))
            found = kernels.ask(line_of("cached", cache, seconds))
            shown = peers.ask(json.dumps({**shape, "seconds": seconds})) if peers else {}
            assert not found["status"], "positions are consecutive"
            yield {
                "cache": cache.name,
                **shape,
                "threads": 1,
                "ms": found["ms"],
                "mb": found["mb"],
                "gbps": found["gbps"],
                "read_gbps": found["read_gbps"],
                "float32_ms": floats["ms"],
                "float32_mb": floats["mb"],
                "peers": shown,
                "isa": found["isa"],
                "load": round(os.getloadavg()[0], 2),
            }
        for program in (kernels, peers):
            if program is not None:
                program.close()


def shown(row: dict[str, Any]) -> str:
    """Lay a row out for reading."""
    peers = ", ".join(f"{name} {ms:.3f} ({ms / row['ms']:.1f}x)" for name, ms in row["peers"].items())
    return (
        f"{row['cache']:64} {row['mb']:6.2f} {row['ms']:8.4f} {row['gbps'] / row['read_gbps']:5.0%} "
        f"{row['float32_ms']:8.4f} {row['float32_ms'] / row['ms']:5.2f}x  {peers}"
    )


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two caches, in less than a minute")
    parser.add_argument("--isa", default="", help="portable, avx2 or avx512vnni (default: the best here)")
    parser.add_argument("--no-peers", action="store_true", help="leave torch out")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    print(f"{'cache':64} {'MB':>6} {'ms':>8} {'read':>5} {'float32':>8} {'':6}  peers, ms per layer", flush=True)
    for row in measure(options.isa, options.quick, not options.no_peers):
        rows.append(row)
        print(shown(row), flush=True)
    print(
        f"{rows[0]['isa']} kernels; reading {rows[0]['read_gbps']} GB/s; load {rows[0]['load']} to {rows[-1]['load']}"
    )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()

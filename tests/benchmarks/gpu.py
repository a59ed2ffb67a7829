"""Kernels for GPUs: what their machine code costs, counted anywhere, and how fast they run where there is a GPU.

Without a GPU every shipped kernel is compiled for sm_80, sm_90 and sm_100: registers, spills, instructions of the main
loop for each weight, matrix instruction. With one, the same kernels run at several sizes beside `torch.mm` in bfloat16:
CUDA graphs of launches over more than 200 MB of weights, so that none is in the cache; the median of several replays.
`--quick` compiles one configuration of each plan for sm_90 and times nothing; `--json FILE` keeps the rows.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[2]))

from qcc.backends.triton.aot import SCRATCH
from qcc.backends.triton.architectures import ARCHITECTURES, Architecture, parse_architectures
from qcc.backends.triton.build import Builder, Wanted
from qcc.backends.triton.driver import Device, Function
from qcc.backends.triton.gates import Inspected
from qcc.backends.triton.geometry import geometry_of
from qcc.backends.triton.jobs import KernelBuild
from qcc.backends.triton.launch import Codes, Launch, Scratch, code_stride, gemm_launch, scratch_sizes
from qcc.backends.triton.pack import DTYPES, PackedWeight, pack_weight
from qcc.backends.triton.render import kernel_name
from qcc.backends.triton.spec import GemmSpec, Unary
from qcc.backends.triton.tiling import Sizes, buckets
from qcc.numerics.qtype import int_qtype
from qcc.numerics.quantize import quantize
from tests.shipped_kernels import KERNELS, SIZE, builds_of

TOKENS = (1, 16, 64, 128, 256, 1024)
SHAPES = ((4096, 4096), (8192, 8192), (28672, 8192))
COLD = 200 * 2**20
"""Bytes of weights that are read before one is read again: several times the cache of any GPU."""
REPLAYS = 15


def row_of(made: Inspected, tokens: int, channels: int, columns: int) -> dict[str, Any]:
    """What the machine code of a kernel tells; nothing is timed."""
    assert isinstance(made.build.spec, GemmSpec)
    return {
        "kernel": made.build.name,
        "plan": made.build.spec.plan,
        "arch": made.cubin.arch.name,
        "m": tokens,
        "n": channels,
        "k": columns,
        "registers": made.figures.registers,
        "spills": made.figures.spills,
        "instructions_per_weight": round(made.figures.instructions_per_weight, 3),
        "mma": made.figures.mma,
        "us": None,
        "ratio_bf16": None,
        "peers": {},
    }


def count(quick: bool, names: list[str]) -> list[dict[str, Any]]:
    """Compile the shipped kernels and count."""
    rows: list[dict[str, Any]] = []
    tokens = (16,) if quick else (16, 32, 64, 128)
    archs = parse_architectures(names or (["sm_90"] if quick else []))
    for shipped in KERNELS:
        if quick and not shipped.quick:
            continue
        every = [(arch, *one) for arch in archs for one in builds_of(shipped.spec, arch, tokens)]
        works = [(most, Wanted(arch, builds)) for arch, most, builds in every]
        made = Builder().build([work for _, work in works])
        rows += [row_of(one, most, SIZE, SIZE) for (most, _), one in zip(works, made, strict=True)]
    return rows


def microseconds(calls: list[Callable[[], object]]) -> float:
    """Return the median time of one of several calls, in microseconds, from replays of one CUDA graph of them all."""
    for call in calls[:2]:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    times: list[float] = []
    for _ in range(REPLAYS):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) * 1e3 / len(calls))
    return statistics.median(times)


def copies(size: int) -> int:
    """Return how many weights of so many bytes are needed to read each from memory."""
    return max(2, -(-COLD // size))


class Timer:
    """Times shipped kernels on the GPU that torch uses."""

    def __init__(self) -> None:
        self.home = torch.device("cuda", torch.cuda.current_device())
        self.gpu = Device(torch.cuda.current_device())
        fit = [one for one in ARCHITECTURES.values() if one.runs_on(self.gpu.capability)]
        if not fit:
            raise SystemExit(f"no kernels for {self.gpu.name}, compute capability {self.gpu.capability / 10}")
        self.arch: Architecture = fit[-1]
        self.builder = Builder(workers=8)
        self.functions: dict[KernelBuild, Function] = {}
        self.dense: dict[tuple[int, int, int], float] = {}

    def rows(self, spec: GemmSpec, channels: int, columns: int) -> list[dict[str, Any]]:
        """Time one kernel at one size for several numbers of tokens."""
        found = buckets(spec, Sizes(channels, columns), self.arch)
        works = [
            Wanted(self.arch, tuple(KernelBuild(one.spec, one.config) for one in bucket.candidates)) for bucket in found
        ]
        made = self.builder.build(works)
        weights = self.weights(spec, channels, columns)
        rows: list[dict[str, Any]] = []
        for tokens in TOKENS:
            rank = next(i for i, one in enumerate(found) if one.most_tokens is None or tokens <= one.most_tokens)
            row = row_of(made[rank], tokens, channels, columns)
            row["us"] = round(self.time(made[rank], weights, tokens, channels), 2)
            dense = self.bf16(tokens, channels, columns)
            row["ratio_bf16"], row["peers"] = round(dense / row["us"], 3), {"torch.mm bf16": round(dense, 2)}
            if spec.plan == "w8a8" and tokens > 16:
                row["peers"]["torch._int_mm"] = round(self.int_mm(tokens, channels, columns), 2)
            rows.append(row)
        return rows

    def weights(self, spec: GemmSpec, channels: int, columns: int) -> list[PackedWeight]:
        """Make packed weights that the cache cannot hold together."""
        symmetric = spec.zero == "none"
        qtype = int_qtype(spec.weight_bits, symmetric=symmetric, group=spec.group or "row", scale=spec.scale)
        packed = pack_weight(quantize(torch.randn(channels, columns, device=self.home), qtype), spec)
        number = copies(packed.words.nbytes)
        return [packed, *(_clone(packed) for _ in range(number - 1))]

    def time(self, made: Inspected, weights: list[PackedWeight], tokens: int, channels: int) -> float:
        """Time a kernel, in microseconds a launch."""
        spec, config, columns = made.build.spec, made.build.config, weights[0].columns
        assert isinstance(spec, GemmSpec)
        space, counters = scratch_sizes(config, tokens, channels)  # type: ignore[arg-type]
        exact = spec.integer and spec.group is None
        workspace = torch.empty(max(space, 1), dtype=torch.int32 if exact else torch.float32, device=self.home)
        scratch = Scratch(workspace, torch.zeros(max(counters, 1), dtype=torch.int32, device=self.home))
        out = torch.empty(tokens, channels, dtype=DTYPES[spec.output], device=self.home)
        source = self.source(spec, tokens, columns)
        bias = None if spec.bias is None else torch.randn(channels, device=self.home, dtype=DTYPES[spec.bias])
        operands = [torch.randn_like(out) for one in spec.steps if not isinstance(one, Unary)]
        launches = [
            gemm_launch(spec, config, source, one, out, scratch, bias=bias, operands=operands)  # type: ignore[arg-type]
            for one in weights
        ]
        return microseconds([lambda one=one: self.launch(made, one) for one in launches])

    def source(self, spec: GemmSpec, tokens: int, columns: int) -> torch.Tensor | Codes:
        """Make the input of a kernel."""
        if not spec.integer:
            return torch.randn(tokens, columns, device=self.home, dtype=DTYPES[spec.input])
        codes = torch.randint(-128, 128, (tokens, code_stride(columns)), dtype=torch.int8, device=self.home)
        sums = codes.int().reshape(tokens, -1, spec.group or codes.shape[1]).sum(-1, dtype=torch.int32)
        return Codes(codes, torch.rand(tokens, device=self.home), sums, columns)

    def launch(self, made: Inspected, launch: Launch) -> None:
        """Launch a kernel on torch's current stream."""
        if made.build not in self.functions:
            cubin = made.cubin
            self.functions[made.build] = self.gpu.load(cubin.code, cubin.symbol, cubin.warps * 32, cubin.shared)
        values = [
            ctypes.c_void_p(one.data_ptr()) if isinstance(one, torch.Tensor) else ctypes.c_int32(int(one))
            for one in launch.arguments.values()
        ]
        stream = torch.cuda.current_stream(self.home).cuda_stream
        function, scratch = self.functions[made.build], [ctypes.c_void_p()] * SCRATCH
        self.gpu.launch(function, launch.grid, stream, [*values, *scratch])

    def bf16(self, tokens: int, channels: int, columns: int) -> float:
        """Time torch.mm in bfloat16 in this process, with weights that the cache cannot hold."""
        key = (tokens, channels, columns)
        if key not in self.dense:
            x = torch.randn(tokens, columns, device=self.home, dtype=torch.bfloat16)
            weights = [
                torch.randn(channels, columns, device=self.home, dtype=torch.bfloat16).T
                for _ in range(copies(2 * channels * columns))
            ]
            self.dense[key] = microseconds([lambda one=one: torch.mm(x, one) for one in weights])
        return self.dense[key]

    def int_mm(self, tokens: int, channels: int, columns: int) -> float:
        """Time torch's product of int8 matrices, without scales."""
        x = torch.randint(-128, 128, (tokens, columns), dtype=torch.int8, device=self.home)
        weights = [
            torch.randint(-128, 128, (channels, columns), dtype=torch.int8, device=self.home).T
            for _ in range(copies(channels * columns))
        ]
        return microseconds([lambda one=one: torch._int_mm(x, one) for one in weights])


def _clone(weight: PackedWeight) -> PackedWeight:
    zeros = None if weight.zeros is None else weight.zeros.clone()
    return PackedWeight(weight.words.clone(), weight.scales.clone(), zeros, weight.rows, weight.columns)


def time_all() -> list[dict[str, Any]]:
    """Time the shipped kernels at all sizes."""
    timer = Timer()
    print(f"{timer.gpu.name}, kernels for {timer.arch.name}", file=sys.stderr)
    rows: list[dict[str, Any]] = []
    for channels, columns in SHAPES:
        for shipped in KERNELS:
            if geometry_of(shipped.spec).steps(columns) * geometry_of(shipped.spec).step == columns:
                print(f"{kernel_name(shipped.spec)} {channels} x {columns}", file=sys.stderr)
                rows += timer.rows(shipped.spec, channels, columns)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    headings = ("kernel", "arch", "m", "n", "k", "registers", "spills", "instr/weight", "mma", "us", "x bf16")
    table = Table(*headings, box=None)
    for row in rows:
        cells = [row[key] for key in ("kernel", "arch", "m", "n", "k", "registers", "spills")]
        cells += [f"{row['instructions_per_weight']:.2f}", row["mma"], row["us"] or "", row["ratio_bf16"] or ""]
        table.add_row(*map(str, cells))
    Console(width=160).print(table)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--arch", default="", help="architectures to compile for, as sm_80,sm_90")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    timed = torch.cuda.is_available() and not arguments.quick and not arguments.arch
    rows = time_all() if timed else count(arguments.quick, [one for one in arguments.arch.split(",") if one])
    show(rows)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()

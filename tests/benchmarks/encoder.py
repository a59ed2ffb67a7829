"""A sentence encoder with 2-, 3- and 4-bit weights through both integer plans, beside eager torch and Inductor.

    python tests/benchmarks/encoder.py [--quick] [--batch N] [--seq N] [--threads N] [--json FILE]

all-MiniLM-L6-v2 with its real weights. Both plans must give the same output, bit for bit, or the run fails; latencies
are medians of runs in turns in one process. `--quick` takes 4 bits only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

import minilm

import qcc
from qcc.bench import in_turns

PLANS = {"integer dot": "group_after", "lookup": "lookup"}


def recipe(bits: int) -> dict[str, Any]:
    """Return a recipe of weights in groups of 32 with zero points, and activations in groups of 32."""
    return {
        "version": 1,
        "weights": {"format": f"uint{bits}", "group": 32},
        "activations": {"format": "int8", "group": 32, "when": "dynamic"},
        "embeddings": {"format": "int8", "group": "row"},
    }


def compiled_programs(bits: tuple[int, ...], threads: int) -> dict[str, qcc.Compiled]:
    """Compile the encoder for each width and plan."""
    found: dict[str, qcc.Compiled] = {}
    for width in bits:
        for name, plan in PLANS.items():
            found[f"{width} bits, {name}"] = qcc.compile(
                minilm.exported(), recipe=recipe(width), settings={"plan": plan}, threads=threads
            )
    return found


def check_equal(programs: Mapping[str, qcc.Compiled], inputs: Mapping[str, torch.Tensor]) -> None:
    """Stop unless the plans of one width give the same bits."""
    widths = dict.fromkeys(name.split(",")[0] for name in programs)
    for width in widths:
        first, *rest = (program.run(inputs) for name, program in programs.items() if name.startswith(width))
        for other in rest:
            if not all(torch.equal(first[name], other[name]) for name in first):
                raise SystemExit(f"the plans of {width} differ")


def peers(inputs: Mapping[str, torch.Tensor]) -> dict[str, Callable[[], object]]:
    """Return calls of the float model, eager and through Inductor."""
    model = minilm.model_and_tokenizer()[0]
    fast = torch.compile(model)

    def call(module: Callable[..., object]) -> Callable[[], object]:
        def run() -> object:
            with torch.no_grad():
                return module(**inputs)

        return run

    return {"eager float32": call(model), "Inductor float32": call(fast)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seq", type=int, default=128)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    size = (arguments.batch, arguments.seq)
    ids = torch.randint(1000, 20000, size, generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    programs = compiled_programs((4,) if arguments.quick else (2, 3, 4), arguments.threads)
    check_equal(programs, inputs)
    calls: dict[str, Callable[[], object]] = {
        name: lambda program=program: program.run(inputs) for name, program in programs.items()
    }
    times = {name: statistics.median(one) for name, one in in_turns(calls | peers(inputs)).items()}
    table = Table("program", "ms", "eager / this", "Inductor / this", box=None)
    rows: list[dict[str, Any]] = []
    for name, ms in times.items():
        ratios = {peer: round(times[peer] / ms, 3) for peer in ("eager float32", "Inductor float32")}
        table.add_row(name, f"{ms:.2f}", *(f"{one:.2f}" for one in ratios.values()))
        rows.append({"program": name, "batch": size[0], "sequence": size[1], "threads": arguments.threads, "ms": ms})
        rows[-1] |= {"ratios": ratios, "equal_across_plans": "bits" in name}
    Console().print(table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

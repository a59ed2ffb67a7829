"""Time a compiled program, and the model it was compiled from, in one process and in turns."""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from qcc.driver import Compiled, load, reload_source
from qcc.errors import QccError
from qcc.memory import estimate_run, refuse_beyond
from qcc.sample import resized_inputs, sizes_of

PEERS = ("eager", "inductor")
LESS = "a smaller --batch or --seq, fewer peers"
SECONDS_EACH = 2.0
MINIMUM_RUNS = 10
WARM_UP = 3
IN_A_ROW = 5
"""Runs of one program before the next has its turn; the first, in which threads wake up, is not counted."""


def measure(
    artifact: Path,
    against: tuple[str, ...],
    batch: int,
    sequence: int,
    threads: int,
    say: Callable[[str], None],
    memory_limit: int | None = None,
) -> dict[str, Any]:
    """Return median, 10th and 90th percentile latency in ms, and each peer's median with its ratio (peer / qcc).

    qcc and its peers run in turns, so that what else the machine does meets all of them alike.

    Raises:
        QccError: for an unknown peer, if the source of the artifact is gone, or if that takes more memory than there
            is (`memory_limit` bytes, where given).
    """
    if unknown := [name for name in against if name not in PEERS]:
        raise QccError(f"unknown peer {', '.join(unknown)}", fix=f"--against takes {', '.join(PEERS)}")
    threads = threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    compiled = load(artifact, threads=threads)
    symbols = sizes_of(compiled.program, batch, sequence)
    coverage = compiled.manifest.coverage
    weights = coverage.bytes_after + len(against) * coverage.bytes_before
    refuse_beyond(estimate_run(compiled.program, symbols, weights), memory_limit, "this benchmark", LESS)
    inputs = resized_inputs(compiled.program, compiled.example(), symbols)
    calls: dict[str, Callable[[], object]] = {"qcc": lambda: compiled.run(inputs)}
    for name in against:
        say(f"preparing {name}")
        calls[name] = _peer(name, compiled, inputs)
    say("timing")
    times = in_turns(calls)
    ours = statistics.median(times["qcc"])
    deciles = statistics.quantiles(times["qcc"], n=10)
    row: dict[str, Any] = {
        "latency_ms": ours,
        "latency_ms_p10": deciles[0],
        "latency_ms_p90": deciles[-1],
        "against": {
            name: {"latency_ms": (other := statistics.median(times[name])), "ratio": other / ours} for name in against
        },
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "threads": threads,
        "sizes": symbols,
    }
    if compiled.is_stateful:
        row["tokens_per_s"] = _tokens_per_second(compiled, batch, sequence, ours)
    return row


def _peer(name: str, compiled: Compiled, inputs: dict[str, torch.Tensor]) -> Callable[[], object]:
    module, flat_call = reload_source(compiled.manifest)
    if name == "inductor":
        module = torch.compile(module)
    args, kwargs = flat_call(inputs)

    def call() -> object:
        with torch.no_grad():
            return module(*args, **kwargs)

    return call


def in_turns(calls: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Time each call in turns until each has run for long enough; milliseconds of every run."""
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    while min(len(one) for one in times.values()) < MINIMUM_RUNS or _shortest(times) < SECONDS_EACH:
        for name, call in calls.items():
            call()
            for _ in range(IN_A_ROW):
                start = time.perf_counter()
                call()
                times[name].append((time.perf_counter() - start) * 1e3)
    return times


def _shortest(times: dict[str, list[float]]) -> float:
    return min(sum(one) for one in times.values()) / 1e3


def _tokens_per_second(compiled: Compiled, batch: int, sequence: int, prefill_ms: float) -> dict[str, float]:
    symbols = sizes_of(compiled.program, batch, 1)
    step = resized_inputs(compiled.program, compiled.example(), symbols)
    decode = statistics.median(in_turns({"decode": lambda: compiled.run(step)})["decode"])
    return {"prefill": batch * sequence / prefill_ms * 1e3, "decode": batch / decode * 1e3}

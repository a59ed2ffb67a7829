"""`qcc report` and `qcc bisect`: from an artifact and data to what is shown."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from qcc.artifact import Manifest
from qcc.calibrate.run import Sample
from qcc.calibrate.samples import samples_from_file
from qcc.driver import Compiled, load, models_of
from qcc.errors import QccError
from qcc.memory import Estimate, Step, estimate_measure, refuse_beyond, resident_bytes
from qcc.report.bisect import Finding, bisect
from qcc.report.build import EXAMPLE_DATA, Subject, constant_note, make_report, read_report
from qcc.report.measure import Models, measure
from qcc.report.model import Report
from qcc.report.times import time_section

Say = Callable[[str], None]

MEASURING = "measuring"
SECONDS = 1.0
LEAST_RUNS, MOST_RUNS = 5, 200


def report_of(
    artifact: Path, data: Path | None, say: Say, *, times: bool = False, memory_limit: int | None = None
) -> Report:
    """Return the report of an artifact: what was measured when it was compiled, or anew on samples from a file.

    The latency of the whole program is measured where it can run in this process; with `times`, that of every layer.

    Raises:
        CheckpointError: if the artifact or the file cannot be read.
        ShapeError: if the samples do not fit the program.
        QccError: if there is data, and the model that the artifact was compiled from is gone, or measuring takes more
            memory than there is (`memory_limit` bytes, where given).
    """
    compiled = load(artifact)
    known = read_report(compiled.folder)
    if data is None and known is not None and (known.samples or not compiled.manifest.source):
        return _timed(known, compiled, compiled.example(), say, times=times)
    samples = _samples(data, compiled)
    models = _models(compiled, samples, say, memory_limit)
    measured = measure(models, samples)
    recipe = known.recipe if known is not None else ""
    subject = Subject(compiled.manifest.target, recipe, compiled.coverage, compiled.folder)
    text = EXAMPLE_DATA if data is None else _data_text(data, samples)
    report = make_report(subject, models.module, measured, text, constant_note(samples))
    return _timed(report, compiled, dict(samples[0]), say, times=times)


def _timed(report: Report, compiled: Compiled, inputs: dict[str, torch.Tensor], say: Say, *, times: bool) -> Report:
    """Add the latency of the program and, if asked for, the table of its layers' times."""
    latency = latency_of(compiled, inputs, say)
    sections = report.sections
    if times:
        say("building the program with clocks, and timing its layers")
        runs = max(LEAST_RUNS, min(MOST_RUNS, int(SECONDS * 1e3 / (latency or 1e3))))
        threads = len(os.sched_getaffinity(0))
        calls = compiled.time_calls(inputs, runs, threads)
        sections = (*sections, time_section(calls, report.layers, threads))
    return report.model_copy(update={"latency_ms": latency, "sections": sections})


def _samples(data: Path | None, compiled: Compiled) -> Sequence[Sample]:
    if data is None:
        return [compiled.example()]
    source = compiled.manifest.source
    return samples_from_file(data, compiled.program, Path(source) if source and Path(source).is_dir() else None)


def _data_text(data: Path, samples: Sequence[object]) -> str:
    return f"{len(samples)} sample{'s' if len(samples) != 1 else ''} of {data.name}"


def latency_of(compiled: Compiled, inputs: dict[str, torch.Tensor], say: Say) -> float | None:
    """Return the median of some runs in ms, None where the target cannot run here."""
    say("timing the program")
    times: list[float] = []
    try:
        started = time.perf_counter()
        while len(times) < LEAST_RUNS or (len(times) < MOST_RUNS and time.perf_counter() - started < SECONDS):
            compiled.reset()
            start = time.perf_counter()
            compiled.run(inputs)
            times.append((time.perf_counter() - start) * 1e3)
    except QccError:
        return None
    return float(f"{statistics.median(times):.4g}")


def _models(compiled: Compiled, samples: Sequence[Sample], say: Say, memory_limit: int | None) -> Models:
    """Load what is measured, and refuse what does not fit in memory before and after."""
    say("loading the float model")
    manifest = compiled.manifest
    refuse_beyond(estimate_load(manifest), memory_limit, MEASURING)
    models = models_of(compiled.folder, manifest)
    say("measuring layers")
    refuse_beyond(estimate_measure(models.module, samples), memory_limit, MEASURING)
    return models


def estimate_load(manifest: Manifest) -> Estimate:
    """Predict the peak of loading an artifact's weights beside the float model's, which a folder's files keep.

    Transforms are done in float64.
    """
    coverage = manifest.coverage
    mapped = Path(manifest.source).is_dir()
    held = coverage.bytes_after + (0 if mapped else coverage.bytes_before)
    elements = sum(math.prod(layer.shape) for layer in coverage.layers)
    return Estimate(
        resident_bytes(), held, Step("transforming weights", 8 * elements if manifest.recipe.transforms else 0)
    )


def bisect_artifact(artifact: Path, data: Path | None, say: Say, memory_limit: int | None = None) -> Finding:
    """Find the layer where the error of an artifact enters, on samples from a file or on the exported inputs.

    Raises:
        CheckpointError: if the artifact or the file cannot be read.
        ShapeError: if the samples do not fit the program.
        QccError: if the model that the artifact was compiled from is gone, or this takes more memory than there is.
    """
    compiled = load(artifact)
    samples = _samples(data, compiled)
    models = _models(compiled, samples, say, memory_limit)
    subject = Subject(compiled.manifest.target, "", compiled.coverage, compiled.folder)
    report = make_report(subject, models.module, measure(models, samples), str(data or EXAMPLE_DATA))
    return bisect(models, report, samples, say)

"""Put a report together: what the coverage says of each layer, what was measured, and what backends add."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from xdsl.dialects.builtin import ModuleOp

from qcc.artifact import Coverage, LayerEntry
from qcc.calibrate.run import Sample, SampleRun
from qcc.errors import CheckpointError
from qcc.report.advice import protecting, worst_layers
from qcc.report.graph import layer_edges
from qcc.report.measure import CHEAP_MACS, LayerMeasure, Measurement, Models, macs_of, measure
from qcc.report.model import REPORT, LayerReport, Report, Section

SECTIONS = "sections.json"
EXAMPLE_DATA = "the inputs that the model was exported with"
FEW = 8
"""Calibration samples that a compilation measures on, at most."""

_SECTIONS = TypeAdapter(tuple[Section, ...])


@dataclass(frozen=True)
class Subject:
    """What a report is about."""

    target: str
    recipe: str
    coverage: Coverage
    folder: Path


def report_where_cheap(subject: Subject, models: Models, example: Sample, calibration: SampleRun | None) -> Report:
    """Measure an artifact on its calibration, else on its example, if that is cheap; else say how to have it done."""
    samples = [example] if calibration is None else list(calibration.samples[:FEW])
    macs = [macs_of(models.module, one) for one in samples]
    samples = [one for one, taken in zip(samples, accumulate(macs), strict=True) if taken <= CHEAP_MACS]
    if not samples:
        what = f"not measured when compiled, since one sample takes {macs[0] / 1e9:.1f} billion multiply-adds"
        return make_report(subject, models.module, None, "", [f"{what}; `qcc report` measures with --data"])
    data = EXAMPLE_DATA if calibration is None else f"the calibration ({len(samples)} of its samples)"
    return make_report(subject, models.module, measure(models, samples), data, constant_note(samples))


def make_report(
    subject: Subject, module: ModuleOp, measured: Measurement | None, data: str, notes: Sequence[str] = ()
) -> Report:
    """Return the report of an artifact; without a measurement, its errors are None."""
    coverage = subject.coverage
    found: defaultdict[str, list[LayerMeasure]] = defaultdict(list)
    for one in measured.layers if measured else ():
        found[one.name].append(one)
    layers = [_layer(entry, found[entry.name].pop(0) if found[entry.name] else None) for entry in coverage.layers]
    edges = layer_edges(module)
    return Report(
        target=subject.target,
        recipe=subject.recipe,
        quantized=coverage.quantized,
        total=coverage.total,
        bytes_before=coverage.bytes_before,
        bytes_after=coverage.bytes_after,
        bits_per_weight=round(coverage.bits_per_weight, 4),
        data=data if measured else "",
        samples=measured.samples if measured else 0,
        notes=(*notes, *_notes(layers, measured)),
        layers=tuple(layers),
        edges=edges if all(max(edge) < len(layers) for edge in edges) else (),
        output_sqnr_db=measured.output_sqnr_db if measured else None,
        outputs=measured.outputs if measured else {},
        perplexity=measured.perplexity if measured else None,
        protect=protecting(layers, worst_layers(layers)),
        sections=tuple(read_sections(subject.folder)),
    )


def _layer(entry: LayerEntry, measured: LayerMeasure | None) -> LayerReport:
    known = measured if measured is not None and measured.is_known else None
    plan, _, predicted = entry.why.split(";")[0].partition(": ")
    return LayerReport(
        name=entry.name,
        where="" if measured is None else measured.where,
        shape=entry.shape,
        scheme=entry.weights if entry.left_in_float else f"{entry.weights} × {entry.activations}",
        weights_format=entry.weights,
        activations_format=entry.activations,
        bits_per_weight=round(entry.bits_per_weight, 6),
        bytes=entry.bytes,
        plan=entry.plan or plan,
        predicted=predicted,
        left_in_float=entry.left_in_float,
        measured=known is not None,
        sqnr_db=None if known is None else known.sqnr_db,
        cumulative_sqnr_db=None if known is None else known.cumulative_sqnr_db,
        mse=None if known is None else known.mse,
        weights=None if measured is None else measured.weights,
        input=None if measured is None else measured.input,
    )


def _notes(layers: Sequence[LayerReport], measured: Measurement | None) -> list[str]:
    missing = [one.name for one in layers if not one.measured]
    if measured is None or not missing:
        return []
    shown = ", ".join(missing[:4]) + (", ..." if len(missing) > 4 else "")
    return [f"not measured, as the float weights are not known in the form that was quantized: {shown}"]


def constant_note(samples: Sequence[Sample]) -> list[str]:
    """Return a note where all samples hold one and the same number: errors on such data say little."""
    flat = {name for one in samples for name, value in one.items() if value.numel() > 1 and _is_constant(value)}
    varied = {name for one in samples for name, value in one.items() if value.numel() > 1 and not _is_constant(value)}
    constant = sorted(name for name in flat - varied if not name.endswith("mask"))
    if not constant:
        return []
    return [f"{', '.join(constant)} holds one number only: give real data with --data for errors that mean something"]


def _is_constant(value: torch.Tensor) -> bool:
    return bool((value == value.reshape(-1)[0]).all())


def read_report(folder: Path) -> Report | None:
    """Return the report in an artifact's folder, None if there is none.

    Raises:
        CheckpointError: if it is damaged.
    """
    path = folder / REPORT
    if not path.is_file():
        return None
    try:
        return Report.model_validate_json(path.read_text("utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not a report of this version ({str(error).splitlines()[0]})") from error


def read_sections(folder: Path) -> list[Section]:
    """Return the tables that backends wrote into their folders of an artifact.

    Raises:
        CheckpointError: naming the file that is no list of tables.
    """
    found: list[Section] = []
    for path in sorted(folder.glob(f"*/{SECTIONS}")):
        try:
            found += _SECTIONS.validate_json(path.read_text("utf-8"))
        except (ValidationError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: not a list of tables ({str(error).splitlines()[0]})") from error
        if wrong := [one.title for one in found if any(len(row) != len(one.columns) for row in one.rows)]:
            raise CheckpointError(f"{path}: rows of '{wrong[0]}' have another length than its columns")
    return found


def report_text(report: Report) -> str:
    """Return the text of `report.json`; the same report gives the same bytes."""
    return json.dumps(report.json_object(), indent=1, ensure_ascii=False) + "\n"

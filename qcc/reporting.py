"""What is known of an artifact: its layers, and what its target says of the project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qcc.artifact import Coverage, LayerEntry, read_manifest
from qcc.backends.base import Reports
from qcc.backends.targets import backend_of


def report_artifact(folder: Path) -> tuple[Coverage, tuple[str, ...], dict[str, Any]]:
    """Return the layers of an artifact, lines of its target, and all of it as data.

    Raises:
        CheckpointError: if it is no artifact, or damaged.
    """
    manifest = read_manifest(folder)
    backend = backend_of(manifest.target)
    data: dict[str, Any] = {"layers": [_layer(one) for one in manifest.coverage.layers], "output_sqnr_db": None}
    if not isinstance(backend, Reports):
        return manifest.coverage, (), data
    found = backend.report(folder)
    return manifest.coverage, found.lines, {**data, manifest.target: dict(found.data)}


def _layer(entry: LayerEntry) -> dict[str, Any]:
    """Return a layer under the names of `--json`; what no run has measured is null."""
    return {
        "name": entry.name,
        "scheme": entry.weights if not entry.left_in_float else f"float: {entry.left_in_float}",
        "bits_per_weight": entry.bits_per_weight,
        "sqnr_db": entry.weight_sqnr_db,
        "cumulative_sqnr_db": None,
        "mse": None,
        "plan": entry.plan,
    }

"""A compiled program in Python: call it as the module it came from, look at it, save it."""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

from qcc.artifact import Coverage, Manifest, read_manifest, unzip, written_aside, zip_folder
from qcc.backends.base import CallTime, HasTimes
from qcc.backends.targets import backend_of
from qcc.cache import Cache
from qcc.calling import flatten_arguments, unflatten_results
from qcc.coverage import bits_text
from qcc.errors import CheckpointError, QccError, ShapeError
from qcc.inspection import read_module
from qcc.ir.binding import bind_symbols
from qcc.ir.program import ProgramOp, StateOp, program_of

ARTIFACT = "model.qcc"
"""Name of an artifact's folder in an entry of the cache."""
EXAMPLE = "golden/example.safetensors"


class Compiled:
    """A compiled program, loaded and ready.

    Threads may share one object: each computes in memory of its own, and calls of a program with state take turns.
    """

    def __init__(self, folder: Path, *, threads: int = 0, keep: object = None, checked: bool = False) -> None:
        """Load a folder. `keep` lives as long as this object; files that were `checked` are not hashed again."""
        self.manifest: Manifest = read_manifest(folder, check=not checked)
        self.folder = folder
        self._keep = keep
        self.module = read_module(folder / "program.mlir")
        self.program: ProgramOp = program_of(self.module)
        self._loaded = backend_of(self.manifest.target).load(folder, threads=threads or None)

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs, in the order of the flattened call."""
        return self.program.input_names

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs."""
        return self.program.output_names

    @property
    def is_stateful(self) -> bool:
        """Whether the program keeps values (such as a KV cache) between calls."""
        return any(isinstance(op, StateOp) for op in self.program.body.walk())

    @property
    def coverage(self) -> Coverage:
        """What became of each layer."""
        return self.manifest.coverage

    def run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Run on inputs by name and return outputs by name.

        Raises:
            ShapeError: if an input is missing or has another dtype, rank or size than the program takes.
        """
        try:
            return self._loaded.run(inputs)
        except ShapeError:
            # the program stops at the first input at fault; say all of them
            bind_symbols(self.program, {name: tuple(value.shape) for name, value in inputs.items()})
            raise

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run with the calling convention of the original module: torch tensors in and out."""
        outputs = self.run(flatten_arguments(self.manifest.signature, args, kwargs))
        return unflatten_results(self.manifest.signature, outputs)

    def time_calls(self, inputs: Mapping[str, torch.Tensor], runs: int, threads: int) -> tuple[CallTime, ...]:
        """Time every step of the program on inputs by name, in order: medians of some runs, in ms.

        Raises:
            QccError: if the target cannot time its steps.
            BuildError: if what times them cannot be built here.
        """
        backend = backend_of(self.manifest.target)
        if not isinstance(backend, HasTimes):
            raise QccError(f"target {self.manifest.target} cannot time single layers", fix="leave --times away")
        return backend.time_calls(self.folder, inputs, threads=threads, runs=runs)

    def reset(self) -> None:
        """Give mutable buffers their first values again."""
        self._loaded.reset()

    def example(self) -> dict[str, torch.Tensor]:
        """Return the inputs the model was exported with."""
        return load_file(str(self.folder / EXAMPLE))

    def summary(self) -> str:
        """Say in a few lines how much was quantized, what was not and why, and the sizes."""
        return coverage_summary(self.coverage)

    def report(self) -> str:
        """Return the table of `qcc report`: each layer's formats, bytes, plan and errors, the worst first."""
        from qcc.report.build import read_report  # what only runs a program needs none of it
        from qcc.report.terminal import layer_rows, summary_lines

        console = Console(width=200, record=True, file=io.StringIO())
        found = read_report(self.folder)
        console.print(layer_table(self.coverage) if found is None else layer_rows(found))
        lines = [] if found is None else summary_lines(found)
        return "\n".join([f"{console.export_text()}{self.summary()}", *lines, ""])

    def save(self, path: str | Path) -> None:
        """Write the artifact to a folder, or to one file if the name ends in `.zip`.

        Raises:
            CheckpointError: if the folder that it was loaded from is gone.
            QccError: if there is something else of that name.
        """
        target = Path(path)
        if not (self.folder / "manifest.json").is_file():
            raise CheckpointError(f"{self.folder}: the artifact is gone", fix="load it again, then save")
        if target.suffix == ".zip":
            partial = target.with_name(f".{target.name}.partial")
            try:
                zip_folder(self.folder, partial)
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)
            return
        if target.resolve() == self.folder.resolve():
            return
        with written_aside(target) as aside:
            shutil.copytree(self.folder, aside, dirs_exist_ok=True)


def coverage_summary(coverage: Coverage) -> str:
    """Say how many layers were quantized, which were not and why, and the sizes."""
    lines = [f"quantized {coverage.quantized} of {coverage.total} layers"]
    lines += [
        f"  left in float: {layer.name} ({layer.left_in_float})" for layer in coverage.layers if layer.left_in_float
    ]
    bits = f", {bits_text(coverage.bits_per_weight)} bits per quantized weight" if coverage.quantized else ""
    return "\n".join([*lines, f"weights {_size(coverage.bytes_before)} -> {_size(coverage.bytes_after)}{bits}"])


def _size(count: int) -> str:
    """Write a number of bytes with its unit (decimal)."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def layer_table(coverage: Coverage) -> Table:
    """Make the table of `report`, `--dry-run` and `inspect`: one row a layer."""
    headings = ("layer", "shape", "weights", "activations", "bits", "bytes", "SQNR dB", "MACs per row", "plan")
    table = Table(box=None)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for layer in coverage.layers:
        macs = 1
        for size in layer.shape:
            macs *= size
        table.add_row(
            layer.name,
            "x".join(map(str, layer.shape)),
            layer.weights,
            layer.activations,
            bits_text(layer.bits_per_weight),
            f"{layer.bytes:,}",
            "" if layer.weight_sqnr_db is None else f"{layer.weight_sqnr_db:.1f}",
            f"{macs:,}",
            f"float: {layer.left_in_float}" if layer.left_in_float else layer.why.split(";")[0] or layer.plan,
        )
    return table


def load(source: str | Path | bytes, *, threads: int = 0) -> Compiled:
    """Load an artifact from a folder, a zip, or the bytes of a zip. `threads` 0 takes every core.

    A zip is unpacked into the compile cache once, by the hash of its bytes; weights are mapped from there.

    Raises:
        CheckpointError: if it is missing, damaged, of another kind, or of a newer version.
    """
    if not isinstance(source, bytes):
        path = Path(source)
        if path.is_dir():
            return Compiled(path, threads=threads)
        if not path.is_file():
            raise CheckpointError(f"{path}: no such artifact", fix="give what `qcc compile -o` wrote")
    blob = source if isinstance(source, bytes) else Path(source)

    def unpack(folder: Path) -> None:
        (folder / ARTIFACT).mkdir()
        unzip(blob, folder / ARTIFACT)
        read_manifest(folder / ARTIFACT)

    return Compiled(Cache().get("artifact", _digest(blob), unpack) / ARTIFACT, threads=threads, checked=True)


def _digest(source: Path | bytes) -> str:
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Say what is in a file: an artifact, a module's text, or an exported program."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser
from xdsl.utils.exceptions import ParseError, VerifyException

from qcc.artifact import PROGRAM, Coverage, read_manifest
from qcc.coverage import StoredWeight, bits_text, stored_weights
from qcc.errors import CheckpointError
from qcc.ir.context import QccContext
from qcc.ir.dims import UNBOUNDED
from qcc.ir.kernel import YieldOp
from qcc.ir.program import program_of
from qcc.ir.types import type_of


@dataclass(frozen=True)
class Found:
    """What was found: lines for a person, data for a program, and the layers of an artifact."""

    lines: list[str]
    data: dict[str, Any]
    coverage: Coverage | None = field(default=None)


def inspect_path(path: Path) -> Found:
    """Inspect an artifact folder, an `.mlir` text or a `.pt2` file.

    Raises:
        CheckpointError: if the file is missing, damaged or of no known kind.
    """
    if path.is_dir():
        return _artifact(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file or folder")
    if path.suffix == ".mlir":
        return _module(read_module(path))
    if path.suffix == ".pt2":
        from qcc.frontend.export import import_program
        from qcc.frontend.source import load_source

        return _module(import_program(load_source(str(path))).module)
    raise CheckpointError(f"{path}: not an artifact, .mlir or .pt2")


def read_module(path: Path) -> ModuleOp:
    """Parse and verify a module's text.

    Raises:
        CheckpointError: with the parser's or verifier's message.
    """
    try:
        module = Parser(QccContext(), path.read_text("utf-8"), str(path)).parse_module()
        module.verify()
    except (ParseError, VerifyException, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not a valid module: {error}") from error
    return module


def _artifact(folder: Path) -> Found:
    manifest = read_manifest(folder)
    found = _module(read_module(folder / PROGRAM))
    coverage = manifest.coverage
    head = [
        f"qcc artifact version {manifest.version}, written by qcc {manifest.qcc} for target {manifest.target}",
        f"quantized {coverage.quantized} of {coverage.total} layers, "
        f"{bits_text(coverage.bits_per_weight)} bits per quantized weight",
        f"weights {coverage.bytes_before:,} -> {coverage.bytes_after:,} bytes; files {_bytes(manifest.files):,} bytes",
    ]
    data = {"manifest": manifest.model_dump(mode="json"), **found.data}
    return Found([*head, *found.lines], data, coverage)


def _bytes(files: dict[str, Any]) -> int:
    return sum(entry.bytes for entry in files.values())


def _module(module: ModuleOp) -> Found:
    program = program_of(module)
    ranges = {
        name: f"{low}..{'' if high == UNBOUNDED else high}" for name, (low, high) in program.symbol_ranges.items()
    }
    inputs = {n: str(type_of(a)) for n, a in zip(program.input_names, program.body.block.args, strict=True)}
    values = program.terminator.values
    outputs = {n: str(type_of(v)) for n, v in zip(program.output_names, values, strict=True)}
    counts = Counter(op.name for op in program.body.walk() if not isinstance(op, YieldOp))
    lines = [f"input  {n}: {_short(k)}" for n, k in inputs.items()]
    lines += [f"output {n}: {_short(k)}" for n, k in outputs.items()]
    lines += [f"symbol {n}: {text}" for n, text in ranges.items()]
    lines.append("operations: " + ", ".join(f"{name} {count}" for name, count in counts.most_common()))
    weights = stored_weights(module)
    lines += _weight_lines(weights)
    data = {"inputs": inputs, "outputs": outputs, "symbols": ranges, "operations": dict(counts)}
    return Found(lines, {**data, "weights": [asdict(one) for one in weights]})


def _weight_lines(weights: list[StoredWeight]) -> list[str]:
    """Say of every quantized weight its format and its bits per weight, and of all weights what they take."""
    quantized = [one for one in weights if one.quantized]
    lines = [
        f"weight {one.name} [{', '.join(map(str, one.shape))}] {one.format}: "
        f"{bits_text(one.bits_per_weight)} bits per weight, {one.bytes:,} bytes"
        for one in quantized
    ]
    if quantized:
        count = sum(math.prod(one.shape) for one in quantized)
        bits = sum(one.bits_per_weight * math.prod(one.shape) for one in quantized) / count
        size = sum(one.bytes for one in quantized)
        lines.append(f"quantized weights: {bits_text(bits)} bits per weight, {count:,} in {size:,} bytes")
    plain = [one for one in weights if not one.quantized]
    if plain:
        count, size = sum(math.prod(one.shape) for one in plain), sum(one.bytes for one in plain)
        lines.append(f"weights in float or integers: {count:,} in {size:,} bytes")
    return lines


def _short(kind: str) -> str:
    return kind.removeprefix("!qcc.tensor<").removesuffix(">")

"""Golden vectors beside a project: inputs of whole calls, and the outputs that the interpreter gives."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from qcc.backends.base import Golden, LoadedProgram, ModelCall, ModelCase, Tolerance
from qcc.errors import CheckpointError, Problem

GOLDEN = "golden.safetensors"
_KEY = "qcc-golden-1"


def write_golden(golden: Golden, folder: Path) -> None:
    """Write whole calls to a safetensors file; single contractions are tested where kernels are."""
    tensors: dict[str, torch.Tensor] = {}
    cases: list[dict[str, object]] = []
    for index, case in enumerate(golden.models):
        cases.append(
            {
                "name": case.name,
                "calls": len(case.calls),
                "relative": case.tolerance.relative,
                "absolute": case.tolerance.absolute,
            }
        )
        for number, call in enumerate(case.calls):
            for role, values in (("input", call.inputs), ("output", call.outputs)):
                for name, value in values.items():
                    tensors[f"{index}/{number}/{role}/{name}"] = value.detach().contiguous().clone()
    save_file(tensors, str(folder / GOLDEN), metadata={_KEY: json.dumps(cases, sort_keys=True)})
    (folder / GOLDEN).chmod(0o644)


def read_golden(folder: Path) -> tuple[ModelCase, ...]:
    """Read what `write_golden` wrote.

    Raises:
        CheckpointError: if the file is missing or damaged.
    """
    path = folder / GOLDEN
    try:
        with safe_open(str(path), framework="pt") as file:
            described = json.loads((file.metadata() or {})[_KEY])
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})", fix="compile the model again") from error
    cases: list[ModelCase] = []
    for index, one in enumerate(described):
        calls = tuple(
            ModelCall(*(_named(tensors, f"{index}/{number}/{role}/") for role in ("input", "output")))
            for number in range(one["calls"])
        )
        cases.append(ModelCase(one["name"], calls, Tolerance(one["relative"], one["absolute"])))
    return tuple(cases)


def _named(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def golden_problems(program: LoadedProgram, cases: tuple[ModelCase, ...]) -> list[Problem]:
    """Run every case from the program's first state and list the outputs that are not what they should be."""
    found: list[Problem] = []
    for case in cases:
        program.reset()
        for number, call in enumerate(case.calls):
            outputs = program.run(call.inputs)
            for name, expected in call.outputs.items():
                apart, allowed = _distance(outputs[name], expected, case.tolerance)
                if not apart <= allowed:
                    where = f"{case.name}, call {number}, output '{name}'"
                    found.append(Problem(where, f"is off by {apart:.3g}, {allowed:.3g} are allowed"))
    return found


def _distance(value: torch.Tensor, expected: torch.Tensor, tolerance: Tolerance) -> tuple[float, float]:
    if not expected.numel():
        return 0.0, 0.0
    given, wanted = value.double().cpu(), expected.double()
    alike = (given == wanted) | (given.isnan() & wanted.isnan())
    apart = torch.where(alike, torch.zeros_like(wanted), (given - wanted).abs())
    finite = wanted[wanted.isfinite()]
    peak = finite.abs().max().item() if finite.numel() else 0.0
    return apart.max().item(), tolerance.absolute + tolerance.relative * peak

"""Run an artifact on files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from qcc.driver import load
from qcc.errors import CheckpointError, Problem, QccError


def run_files(artifact: Path, inputs: Mapping[str, str], output: Path | None, threads: int) -> list[tuple[str, str]]:
    """Run once on `.npy` inputs by name; write `.npy` outputs into a folder, or describe them.

    Returns pairs of output name and text.

    Raises:
        CheckpointError: listing every input file that cannot be read.
        ShapeError: if inputs do not fit the program.
    """
    compiled = load(artifact, threads=threads)
    unknown = [name for name in inputs if name not in compiled.input_names]
    if unknown:
        known = ", ".join(compiled.input_names)
        raise QccError(f"the program has no input {', '.join(unknown)}", fix=f"its inputs are: {known}")
    arrays: dict[str, torch.Tensor] = {}
    problems: list[Problem] = []
    for name, file in inputs.items():
        try:
            arrays[name] = torch.from_numpy(np.load(file, allow_pickle=False))
        except (OSError, ValueError, EOFError, TypeError) as error:
            problems.append(Problem(f"input '{name}'", f"{file} is not a readable .npy file ({error})"))
    if problems:
        raise CheckpointError("some inputs cannot be read", problems)
    results = compiled.run(arrays)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    lines: list[tuple[str, str]] = []
    for name, value in results.items():
        array = value.to(torch.float32).numpy() if value.dtype == torch.bfloat16 else value.numpy()
        if output is None:
            lines.append((name, f"{list(value.shape)} {np.array2string(array, threshold=20, precision=5)}"))
        else:
            np.save(output / f"{name}.npy", array)
            lines.append((name, f"{list(value.shape)} -> {output / f'{name}.npy'}"))
    return lines

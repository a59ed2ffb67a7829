"""Write golden vectors as .npy files and a list that the emitted main.c reads line by line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from qcc.backends.base import ContractCase, Golden, ModelCase
from qcc.errors import Problem, ShapeError
from qcc.ir.program import ProgramOp

LIST = "golden.txt"
HEADER = "qcc-golden 1"


def write_golden(golden: Golden, program: ProgramOp, folder: Path) -> list[Path]:
    """Write all golden vectors to a folder and return the files.

    Raises:
        ShapeError: listing every call whose inputs or outputs are not the program's.
    """
    problems = [found for case in golden.models for found in _check(case, program)]
    if problems:
        raise ShapeError("golden vectors do not fit the program", problems)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [HEADER]
    for number, case in enumerate(golden.contracts):
        lines.append(_write_contract(case, number, folder))
    for number, case in enumerate(golden.models):
        lines += _write_case(case, number, program, folder)
    (folder / LIST).write_text("\n".join(lines) + "\n", "utf-8")
    return sorted(folder.iterdir())


def _check(case: ModelCase, program: ProgramOp) -> list[Problem]:
    problems: list[Problem] = []
    for number, call in enumerate(case.calls):
        pairs = (("input", program.input_names, call.inputs), ("output", program.output_names, call.outputs))
        for role, names, tensors in pairs:
            missing = [name for name in names if name not in tensors]
            if missing:
                problems.append(Problem(f"{case.name}, call {number}", f"{role} {', '.join(missing)} is missing"))
    return problems


def _write_contract(case: ContractCase, number: int, folder: Path) -> str:
    stem = f"contract{number}"
    parts = {
        "x": case.rows.to(torch.float32),
        "codes": case.codes.to(torch.int8),
        "scales": case.scales.to(torch.float32),
        "sums": case.sums.to(torch.int32),
    }
    for name, tensor in parts.items():
        save_npy(folder / f"{stem}_{name}.npy", tensor)
    return f"contract {case.index} {stem}"


def _write_case(case: ModelCase, number: int, program: ProgramOp, folder: Path) -> list[str]:
    title = " ".join(case.name.split())[:200] or f"case {number}"
    lines = [f"case {title}", f"tolerance {case.tolerance.relative!r} {case.tolerance.absolute!r}"]
    for index, call in enumerate(case.calls):
        for role, names, tensors in (
            ("input", program.input_names, call.inputs),
            ("run", [], {}),
            ("output", program.output_names, call.outputs),
        ):
            if role == "run":
                lines.append("run")
            for place, name in enumerate(names):
                file = f"case{number}_call{index}_{role}{place}.npy"
                save_npy(folder / file, tensors[name])
                lines.append(f"{role} {place} {file}")
    return lines


def save_npy(path: Path, tensor: torch.Tensor) -> None:
    """Write a tensor; bfloat16, which .npy does not know, as its 16 bits."""
    tensor = tensor.detach().cpu().contiguous()
    array = tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
    np.save(path, array, allow_pickle=False)


def load_npy(path: Path, dtype: torch.dtype) -> torch.Tensor:
    """Read what `save_npy` wrote as a tensor of a dtype."""
    array = np.load(path, allow_pickle=False)
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if dtype == torch.bfloat16 else tensor

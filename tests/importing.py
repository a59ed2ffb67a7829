"""Export and import small modules, and run what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from qcc.frontend.export import Imported
from qcc.interpreter import Interpreter
from qcc.ir.program import ProgramOp

DYNAMIC = Dim.DYNAMIC


def export(module: nn.Module, *args: Any, shapes: Any = None) -> ExportedProgram:
    with torch.no_grad():
        return torch.export.export(module.eval(), args, dynamic_shapes=shapes)


def both(program: ExportedProgram) -> list[ExportedProgram]:
    return [program, program.run_decompositions()]


def program_of(imported: Imported) -> ProgramOp:
    program = imported.module.body.block.first_op
    assert isinstance(program, ProgramOp)
    return program


def run(imported: Imported, *tensors: torch.Tensor) -> list[torch.Tensor]:
    return run_with(Interpreter(imported.module, imported.store), imported, tensors)


def run_with(runner: Interpreter, imported: Imported, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return list(runner.run(dict(zip(program_of(imported).input_names, tensors, strict=True))).values())

"""Golden vectors: what the interpreter gives, for backends to be held to."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from xdsl.dialects.builtin import ModuleOp

from qcc.interpreter import Interpreter
from qcc.ir.program import ProgramOp, StateOp
from qcc.ir.store import WeightStore

Tensors = dict[str, torch.Tensor]


def program_of(module: ModuleOp) -> ProgramOp:
    """Return the one program of a module.

    Raises:
        ValueError: if there is none, or more than one.
    """
    (program,) = (op for op in module.ops if isinstance(op, ProgramOp))
    return program


def is_stateful(module: ModuleOp) -> bool:
    """Say whether a module keeps values between calls."""
    return any(isinstance(op, StateOp) for op in module.walk())


def run_cases(module: ModuleOp, store: WeightStore, cases: list[Mapping[str, torch.Tensor]]) -> list[Tensors]:
    """Run inputs one after another, state kept between them, and return the outputs of each call."""
    interpreter = Interpreter(module, store)
    return [interpreter.run(inputs) for inputs in cases]

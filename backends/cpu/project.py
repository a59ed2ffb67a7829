"""Write the C project of a program: generated files, kernels, weights and golden vectors."""

from __future__ import annotations

import shutil
from pathlib import Path

from xdsl.dialects.builtin import ModuleOp

from qcc.backends.base import Golden
from qcc.backends.cpu.context import model_context, names_of
from qcc.backends.cpu.emitter import Lowered, lower, render, template_folder
from qcc.backends.cpu.golden import write_golden
from qcc.backends.cpu.weights import WeightsFile, write_weights
from qcc.ir.program import program_of
from qcc.ir.store import WeightStore

WEIGHTS = "weights.bin"
GOLDEN = "golden"
COPIED = (".c", ".h")


def write_project(
    module: ModuleOp, store: WeightStore, golden: Golden | None, name: str, folder: Path
) -> tuple[Lowered, WeightsFile]:
    """Write the project of a legalized module to a folder.

    Raises:
        UnsupportedOp: listing every operation the kernels cannot compute, before anything is written.
    """
    program = program_of(module)
    lowered = lower(program, store)
    folder.mkdir(parents=True, exist_ok=True)
    names = names_of(name)
    written = write_weights(folder / WEIGHTS, lowered.weights, lowered.constants, str(module))
    context = model_context(lowered, name, written)
    prefix = names["p"]
    texts = {
        f"{prefix}.c": "model.c.j2",
        f"{prefix}.h": "model.h.j2",
        "main.c": "main.c.j2",
        "Makefile": "Makefile.j2",
    }
    for file, template in texts.items():
        (folder / file).write_text(render(template, context), "utf-8")
    for source in sorted(template_folder().iterdir()):
        if source.suffix in COPIED:
            shutil.copyfile(source, folder / source.name)
    write_golden(golden or Golden(), program, folder / GOLDEN)
    return lowered, written

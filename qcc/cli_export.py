"""The command that writes an artifact for other programs: `qcc export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qcc.console import ArtifactArgument, DebugOption, errors, print_plain


def export(
    artifact: ArtifactArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder or file to write.")],
    kind: Annotated[str, typer.Option("--format", help="compressed-tensors or gguf.")] = "compressed-tensors",
    debug: DebugOption = False,
) -> None:
    """Write an artifact of a Hugging Face model as a checkpoint that other programs load.

    \b
    qcc export model.qcc --format compressed-tensors -o folder    transformers, vLLM
    qcc export model.qcc --format gguf -o model.gguf              llama.cpp
    """
    with errors(debug):
        from qcc.artifact import PROGRAM, WEIGHTS, read_manifest
        from qcc.checkpoint.export import export as write
        from qcc.inspection import read_module
        from qcc.ir.store import WeightStore

        manifest = read_manifest(artifact)
        store = WeightStore.load(artifact / WEIGHTS)
        messages = write(read_module(artifact / PROGRAM), store, manifest, kind, output)
        print_plain(*messages, f"wrote {output}")

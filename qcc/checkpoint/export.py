"""`qcc export`: an artifact in the checkpoint format of another program."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from xdsl.dialects.builtin import ModuleOp

from qcc.artifact import Manifest, written_aside
from qcc.checkpoint.source import Entry, Source, entries_of
from qcc.errors import QccError
from qcc.ir.store import WeightStore

Writer = Callable[[list[Entry], Source, Path], list[str]]
"""Writes the tensors of a checkpoint to a path and says what is not as in the artifact."""


def _write_compressed_tensors(entries: list[Entry], source: Source, out: Path) -> list[str]:
    from qcc.checkpoint.compressed_tensors import write_compressed_tensors

    with written_aside(out) as folder:
        return write_compressed_tensors(entries, source, folder)


def _write_gguf(entries: list[Entry], source: Source, out: Path) -> list[str]:
    if find_spec("gguf") is None:
        raise QccError("gguf files are written with the package gguf", fix="pip install gguf")
    from qcc.checkpoint.gguf_llama import write_gguf

    if out.is_dir():
        raise QccError(f"{out} is a folder, and gguf is one file", fix="give -o FILE.gguf")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    try:
        messages = write_gguf(entries, source, partial)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return messages


WRITERS: dict[str, Writer] = {"compressed-tensors": _write_compressed_tensors, "gguf": _write_gguf}
"""Name on the command line -> what writes it."""


def export(module: ModuleOp, store: WeightStore, manifest: Manifest, kind: str, out: Path) -> list[str]:
    """Write an artifact's weights in the format of another program; returns lines on what is not as in the artifact.

    Raises:
        CheckpointError: if the artifact was not compiled from a Hugging Face folder.
        UnsupportedOp: listing all layers and tensors that the format cannot say, before anything is written.
        QccError: for an unknown format, or a path that would overwrite something else.
    """
    if kind not in WRITERS:
        raise QccError(f"there is no export format '{kind}'", fix=f"use one of: {', '.join(WRITERS)}")
    source = Source(manifest.source)
    return WRITERS[kind](entries_of(module, store, source), source, out)

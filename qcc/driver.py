"""Compile what a caller or a command line names, plan it without building, find the model of an artifact again."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from qcc.artifact import PROGRAM, WEIGHTS, Manifest
from qcc.backends.base import HasToolchain
from qcc.backends.targets import backend_of
from qcc.building import Options, backend_options, build, folder_of, means_of, work_of
from qcc.cache import Cache
from qcc.calling import nest_arguments
from qcc.choices import Replay
from qcc.compiled import ARTIFACT, Compiled, load
from qcc.errors import QccError
from qcc.frontend.export import import_program
from qcc.frontend.source import load_source
from qcc.inspection import read_module
from qcc.ir.context import QccContext
from qcc.ir.store import Plain, WeightStore
from qcc.keys import program_key, samples_digest, weights_digest
from qcc.memory import parse_bytes
from qcc.passes.pipeline import planning, run_passes
from qcc.progress import Say
from qcc.recipes.load import RecipeSource, load_recipe
from qcc.rehearsal import Plan, rehearse
from qcc.report.measure import Models
from qcc.settings import read_settings

__all__ = ["Compiled", "Options", "Plan", "compile", "compile_source", "load", "plan_source", "reload_source"]


def _silent(text: str) -> None:
    return None


def compile(
    source: torch.export.ExportedProgram | torch.nn.Module | str | Path,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    recipe: RecipeSource = "w8a8",
    target: str = "cpu",
    calibration: Iterable[Any] | None = None,
    output: str | Path | None = None,
    settings: Mapping[str, str] | None = None,
    cc: str = "",
    threads: int = 0,
    arch: Sequence[str] = (),
    strict: bool = False,
    memory_limit: str | int | None = None,
) -> Compiled:
    """Quantize a model by a recipe and compile it for a target.

    `source` is an exported program, a module with the `args` and `kwargs` to export it with, the path of a `.pt2` or a
    Hugging Face folder, or `package.module:callable`. The artifact is written to `output`, else to a temporary folder
    that lives as long as the result. `threads` 0 takes every core when the result runs. `arch` lists GPU architectures
    to compile for, as `["sm_80", "sm_90"]`, where the target has any; none means those it takes by default.
    `calibration` are argument tuples or dicts of keyword arguments that the model is called with, for static scales and
    solvers. `strict` refuses every fallback: a layer left in float that the recipe quantizes, an operation that no
    kernel computes. `memory_limit`, as `"6GB"` or bytes, is what the compilation may hold at its peak, in the place of
    what the system has; one that is predicted to take more is refused before it starts.

    Raises:
        QccError: whatever does not fit: the model, the recipe, the target, the memory, or the C compiler.
    """
    limit = parse_bytes(memory_limit) if isinstance(memory_limit, str) else memory_limit
    options = Options(recipe, target, settings or {}, cc, None, threads, tuple(arch), strict=strict, memory_limit=limit)
    program = load_source(source, args, kwargs, dynamic_shapes)
    if output is not None:
        name = str(source) if isinstance(source, str | Path) else ""
        return build(program, name, options, Path(output), _silent, calibration)
    return compile_program(program, options, calibration)


def compile_program(
    program: torch.export.ExportedProgram,
    options: Options,
    calibration: Iterable[Any] | None = None,
    cache: Cache | None = None,
) -> Compiled:
    """Compile an exported program, or take what an earlier process made of the same one from a cache.

    Without a cache, the artifact lies in a folder that lives as long as the result.
    """
    backend = backend_of(options.target)
    if cache is not None and isinstance(backend, HasToolchain):
        imported, calls = import_program(program), None if calibration is None else list(calibration)
        # threads are chosen when the program is loaded
        keyed = replace(options, recipe="", cc="", threads=0, memory_limit=None)
        chosen = backend_options(replace(options, threads=0), read_settings(options.settings, backend.capabilities))
        used = (str(keyed), str(chosen), backend.toolchain(chosen), samples_digest(calls))
        key = program_key(imported.module, imported.store, load_recipe(options.recipe), options.target, *used)

        def make(folder: Path) -> None:
            build(program, "", options, folder / ARTIFACT, _silent, calls, imported)

        return Compiled(cache.get("program", key, make) / ARTIFACT, threads=options.threads, checked=True)
    scratch = tempfile.TemporaryDirectory(prefix="qcc-")
    folder = Path(scratch.name) / ARTIFACT
    build(program, "", options, folder, _silent, calibration)
    return Compiled(folder, threads=options.threads, keep=scratch)


def compile_source(source: str, options: Options, output: Path, say: Say = _silent) -> tuple[Compiled, float]:
    """Compile what a command line names; returns the compiled program and the seconds it took."""
    start = time.perf_counter()
    say(f"loading {source}")
    compiled = build(load_source(source), source, options, output, say)
    return compiled, time.perf_counter() - start


def plan_source(source: str, options: Options, say: Say = _silent) -> Plan:
    """Say what a compilation would do to each layer, and the memory it would take; see `qcc.rehearsal`.

    Raises:
        QccError: whatever a compilation refuses, but for what only solved weights or a C compiler can tell.
    """
    means = means_of(options)
    say(f"loading {source}")
    return rehearse(work_of(load_source(source), source, options), means, options, say)


def reload_source(
    manifest: Manifest,
) -> tuple[torch.nn.Module, Callable[[Mapping[str, torch.Tensor]], tuple[tuple[Any, ...], dict[str, Any]]]]:
    """Return the float model an artifact was compiled from, and how to call it on named inputs.

    Raises:
        QccError: if the artifact does not say where it came from.
    """
    if not manifest.source:
        raise QccError(
            "the artifact does not say which model it was compiled from, so peers cannot be timed",
            fix="compile it from a .pt2, a folder or package.module:callable",
        )
    program = load_source(manifest.source)
    return program.module(), lambda inputs: nest_arguments(manifest.signature, inputs)


def models_of(folder: Path, manifest: Manifest) -> Models:
    """Return an artifact's program beside the float program and weights that it was made from.

    Transforms that chose by calibration samples do again what they chose then; where an artifact does not hold that,
    their weights are not known, and none are given.

    Raises:
        QccError: if the artifact does not say which model it was compiled from, that cannot be loaded, or is another.
    """
    if not manifest.source:
        raise QccError(
            "the artifact does not say which model it was compiled from, so there is no float model to measure against",
            fix="compile it from a .pt2, a folder or package.module:callable",
        )
    imported = import_program(load_source(manifest.source), folder=folder_of(manifest.source))
    module, store = imported.module, imported.store
    float_module, float_store = module.clone(), store.copy()
    choices = Replay.load(folder)
    if choices is not None and choices.model != weights_digest(store):
        raise QccError(
            f"{manifest.source} has other weights than when the artifact was compiled from it",
            fix="compile it again, or put the model back",
        )
    try:
        run_passes(planning(manifest.recipe), QccContext(store, choices=choices), module)
        floats: Mapping[str, torch.Tensor] = Plain(store)
    except QccError:
        # an artifact of a qcc that did not keep what was chosen; outputs can still be compared
        floats = dict[str, torch.Tensor]()
    return Models(read_module(folder / PROGRAM), WeightStore.load(folder / WEIGHTS), floats, float_module, float_store)

"""From a model to an artifact: front end, passes, golden vectors, a backend.

Knows no single pass and no single backend.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.utils import _pytree as pytree
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from qcc.admission import admit, check_architectures
from qcc.artifact import PROGRAM, RECIPE, WEIGHTS, Coverage, Manifest, write_manifest, written_aside
from qcc.backends.base import BackendOptions, Capabilities, HasToolchain
from qcc.backends.targets import backend_of
from qcc.cache import Cache
from qcc.calibrate.run import SampleRun
from qcc.calibrate.samples import samples_from_arguments, samples_from_file
from qcc.calling import Leaf, Signature, nest_arguments
from qcc.compiled import ARTIFACT, EXAMPLE, Compiled, load
from qcc.coverage import coverage_of, store_bytes
from qcc.errors import QccError
from qcc.frontend.export import Imported, import_program
from qcc.frontend.source import load_source
from qcc.golden import golden_of
from qcc.inspection import read_module
from qcc.ir.context import QccContext
from qcc.ir.on_disk import spool_beside
from qcc.ir.program import program_of
from qcc.ir.store import Plain, WeightStore
from qcc.kept import kept_beside
from qcc.keys import program_key, samples_digest
from qcc.memory import hold_to_memory, parse_bytes
from qcc.passes.pipeline import lowering, planned_recipe, planning, run_passes, solving, targeting
from qcc.progress import Say, share_of
from qcc.recipes.load import RecipeSource, load_recipe, recipe_name, recipe_yaml
from qcc.report.build import Subject, report_where_cheap
from qcc.report.files import write_report
from qcc.report.measure import Models
from qcc.settings import Settings, read_settings
from qcc.strictness import refuse_fallbacks
from qcc.version import __version__

__all__ = ["Compiled", "Options", "compile", "compile_source", "load", "plan_source", "reload_source"]

LARGE_BYTES = 64 << 20
"""Models whose weights take less are compiled in memory."""


def _silent(text: str) -> None:
    return None


@dataclass(frozen=True)
class Options:
    """What a compilation is asked for, beside the model; without `golden`, no example is run or kept.

    `memory_limit` in bytes stands for the memory that there is, where a compilation that would not fit is refused.
    """

    recipe: RecipeSource = "w8a8"
    target: str = "cpu"
    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    cc: str = ""
    dump_ir: Path | None = None
    threads: int = 0
    arch: tuple[str, ...] = ()
    calib: Path | None = None
    strict: bool = False
    golden: bool = True
    memory_limit: int | None = None


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
        return _build(program, name, options, Path(output), _silent, calibration)
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
        chosen = _backend_options(replace(options, threads=0), read_settings(options.settings, backend.capabilities))
        used = (str(keyed), str(chosen), backend.toolchain(chosen), samples_digest(calls))
        key = program_key(imported.module, imported.store, load_recipe(options.recipe), options.target, *used)

        def make(folder: Path) -> None:
            _build(program, "", options, folder / ARTIFACT, _silent, calls, imported)

        return Compiled(cache.get("program", key, make) / ARTIFACT, threads=options.threads, checked=True)
    scratch = tempfile.TemporaryDirectory(prefix="qcc-")
    folder = Path(scratch.name) / ARTIFACT
    _build(program, "", options, folder, _silent, calibration)
    return Compiled(folder, threads=options.threads, keep=scratch)


def compile_source(source: str, options: Options, output: Path, say: Say = _silent) -> tuple[Compiled, float]:
    """Compile what a command line names; returns the compiled program and the seconds it took."""
    start = time.perf_counter()
    say(f"loading {source}")
    compiled = _build(load_source(source), source, options, output, say)
    return compiled, time.perf_counter() - start


def plan_source(source: str, options: Options, say: Say = _silent) -> Coverage:
    """Say what a compilation would do to each layer, without solving weights or building anything."""
    recipe = load_recipe(options.recipe)
    backend = backend_of(options.target)
    check_architectures(backend.capabilities, options.arch)
    settings = read_settings(options.settings, backend.capabilities)
    target = backend.capabilities.computing(settings.arithmetic)
    say(f"loading {source}")
    imported = import_program(load_source(source), folder=_folder(source))
    before = store_bytes(imported.store)
    calibration = _calibration(imported, None, options.calib, source)
    planned = planning(recipe, integer_only=target.integer_only)
    run_passes(planned, QccContext(imported.store, calibration, say), imported.module)
    admit(imported.module, target)
    run_passes(_targeting(target, settings), QccContext(imported.store), imported.module)
    coverage = coverage_of(imported.module, None, {}, before)
    if options.strict:
        refuse_fallbacks(coverage, backend.fallbacks(imported.module))
    return coverage


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


def _build(
    program: torch.export.ExportedProgram,
    source: str,
    options: Options,
    output: Path,
    say: Say,
    calls: Iterable[Any] | None = None,
    imported: Imported | None = None,
) -> Compiled:
    """Compile; the weights of a large model that passes make go to a file, one by one."""
    found = imported or import_program(program, folder=_folder(source))
    if store_bytes(found.store) < LARGE_BYTES:
        return build_imported(program, found, source, options, output, say, calls)
    with spool_beside(output) as spool:
        found.store.spool = spool
        return build_imported(program, found, source, options, output, say, calls)


def build_imported(
    program: torch.export.ExportedProgram,
    imported: Imported,
    source: str,
    options: Options,
    output: Path,
    say: Say,
    calls: Iterable[Any] | None,
) -> Compiled:
    """Compile an imported program: passes, golden vectors, the target's files, reports."""
    recipe = load_recipe(options.recipe)
    backend = backend_of(options.target)
    check_architectures(backend.capabilities, options.arch)
    settings = read_settings(options.settings, backend.capabilities)
    chosen = _backend_options(options, settings)
    before = store_bytes(imported.store)
    example = _example(program, imported) if options.golden else {}
    calibration = _calibration(imported, calls, options.calib, source)
    module, store = imported.module, imported.store
    float_module, float_store = module.clone(), store.copy()
    trace = _Trace(options.dump_ir, say)
    trace.dump("import", module)
    target = backend.capabilities.computing(settings.arithmetic)
    planned = planning(recipe, integer_only=target.integer_only)
    run_passes(planned, QccContext(store, calibration, say), module, trace.after)
    final_recipe = planned_recipe(recipe, module)
    admit(module, target)
    hold_to_memory(module, store, calibration.samples if calibration else [example], options.memory_limit, say)
    # the float weights under the names and in the shapes that codes are chosen for
    unsolved = Plain(store)
    kept = kept_beside(output)
    run_passes(solving(), QccContext(store, calibration, say, kept, share_of(say)), module, trace.after)
    run_passes(lowering(integer_only=target.integer_only), QccContext(store), module, trace.after)
    run_passes(_targeting(target, settings), QccContext(store), module, trace.after)
    coverage = coverage_of(module, store, unsolved, before)
    if options.strict:
        refuse_fallbacks(coverage, backend.fallbacks(module))
    golden = None
    if options.golden:
        say("running the interpreter for golden vectors")
        golden = golden_of(module, store, float_module, float_store, example)
    with written_aside(output) as folder:
        (folder / PROGRAM).write_text(module_text(module), "utf-8")
        (folder / RECIPE).write_text(recipe_yaml(final_recipe), "utf-8")
        store.save(folder / WEIGHTS)
        if options.golden:
            (folder / EXAMPLE).parent.mkdir()
            save_file(example, str(folder / EXAMPLE))
        say(f"emitting and building for {options.target}")
        emitted = backend.emit(backend.legalize(module, store), store, golden, chosen, folder)
        if options.strict:
            refuse_fallbacks(coverage, emitted.fallbacks)
        for message in emitted.messages:
            say(message)
        if options.golden:
            say("measuring layers")
            subject = Subject(options.target, recipe_name(options.recipe), coverage, folder)
            models = Models(module, store, unsolved, float_module, float_store)
            write_report(folder, report_where_cheap(subject, models, example, calibration))
        write_manifest(
            folder,
            Manifest(
                qcc=__version__,
                target=options.target,
                recipe=final_recipe,
                settings=dict(options.settings),
                source=_absolute(source),
                signature=_signature(imported),
                coverage=coverage,
            ),
        )
    kept.discard()
    return Compiled(output, threads=options.threads)


def _backend_options(options: Options, settings: Settings) -> BackendOptions:
    return BackendOptions(
        name=settings.name,
        cc=options.cc or None,
        arch=options.arch,
        threads=options.threads or None,
        settings=settings.own,
    )


def _calibration(imported: Imported, calls: Iterable[Any] | None, file: Path | None, source: str) -> SampleRun | None:
    """Return what runs the samples that a compilation was given, if any."""
    if calls is not None:
        return SampleRun(samples_from_arguments(_signature(imported), calls))
    if file is None:
        return None
    return SampleRun(samples_from_file(file, program_of(imported.module), _folder(source)))


def models_of(folder: Path, manifest: Manifest) -> Models:
    """Return an artifact's program beside the float program and weights that it was made from.

    Where the recipe's transforms depend on calibration samples, their weights are not known again, and none are given.

    Raises:
        QccError: if the artifact does not say which model it was compiled from, or that cannot be loaded.
    """
    if not manifest.source:
        raise QccError(
            "the artifact does not say which model it was compiled from, so there is no float model to measure against",
            fix="compile it from a .pt2, a folder or package.module:callable",
        )
    imported = import_program(load_source(manifest.source), folder=_folder(manifest.source))
    module, store = imported.module, imported.store
    float_module, float_store = module.clone(), store.copy()
    try:
        run_passes(planning(manifest.recipe), QccContext(store), module)
        floats: Mapping[str, torch.Tensor] = Plain(store)
    except QccError:
        # a transform searched on the calibration cannot be repeated without it; outputs can still be compared
        floats = dict[str, torch.Tensor]()
    return Models(read_module(folder / PROGRAM), WeightStore.load(folder / WEIGHTS), floats, float_module, float_store)


def _targeting(target: Capabilities, settings: Settings) -> list[ModulePass]:
    """Return the passes that shape a module for a target; what the target is like reaches them as plain data.

    Raises:
        QccError: if plans are asked for where the target has no choice of them.
    """
    if settings.plans and not target.costs:
        raise QccError(f"--set plan: target {target.name} has one plan, and none to choose", fix="leave it away")
    return targeting(
        target.epilogues,
        target.prologues,
        target.accumulator_bits,
        tuple(map(str, target.costs)),
        settings.plans,
        settings.rows,
        target.byte_cost,
    )


def _folder(source: str) -> Path | None:
    """Return the folder of a model that a source names, None if it is of another kind."""
    return Path(source) if source and Path(source).is_dir() else None


def _absolute(source: str) -> str:
    return str(Path(source).resolve()) if source and Path(source).exists() else source


def module_text(module: ModuleOp) -> str:
    """Return the text of a module, ending in a line break."""
    return str(module) + "\n"


class _Trace:
    """Says which pass ran, and writes the module after it if a folder was given."""

    def __init__(self, folder: Path | None, say: Say) -> None:
        self.folder, self.say = folder, say
        self.done: list[str] = []
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def after(self, index: int, one: ModulePass, module: ModuleOp) -> None:
        """Note a pass that has run."""
        self.say(f"pass {one.name}")
        self.done.append(one.name)
        self.dump(one.name, module)

    def dump(self, name: str, module: ModuleOp) -> None:
        """Write the module to a numbered file whose head names the passes so far."""
        if self.folder is not None:
            head = f"// passes so far: {','.join(self.done) or 'none'}\n"
            (self.folder / f"{len(self.done):02}-{name}.mlir").write_text(head + module_text(module), "utf-8")


def _signature(imported: Imported) -> Signature:
    return Signature(
        inputs=tuple(Leaf(name=one.name, constant=one.constant) for one in imported.inputs),
        outputs=tuple(Leaf(name=one.name, constant=one.constant) for one in imported.outputs),
        in_spec=imported.in_spec,
        out_spec=imported.out_spec,
    )


def _example(program: torch.export.ExportedProgram, imported: Imported) -> dict[str, torch.Tensor]:
    """Return the inputs the model was exported with, by name; tensors that share memory are copied."""
    args, kwargs = program.example_inputs or ((), {})
    leaves = pytree.tree_leaves((args, kwargs))
    names = [one.name for one in imported.inputs]
    found = {n: leaf for n, leaf in zip(names, leaves, strict=False) if n is not None}
    needed = program_of(imported.module).input_names
    if missing := [name for name in needed if not isinstance(found.get(name), torch.Tensor)]:
        raise QccError(f"the exported program carries no example for input {', '.join(missing)}", fix="export it again")
    return {name: found[name].detach().cpu().contiguous().clone() for name in needed}

"""Build the artifact of one compilation: passes, golden vectors, a backend's project, the report, the manifest.

Knows no single pass and no single backend.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.utils import _pytree as pytree
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from qcc.admission import admit, check_architectures
from qcc.artifact import PROGRAM, RECIPE, WEIGHTS, Manifest, refuse_output, write_manifest, written_aside
from qcc.backends.base import Backend, BackendOptions, Capabilities
from qcc.backends.targets import backend_of
from qcc.calibrate.run import SampleRun
from qcc.calibrate.samples import samples_from_arguments, samples_from_file
from qcc.calling import Leaf, Signature
from qcc.choices import Recording
from qcc.compiled import EXAMPLE, Compiled
from qcc.coverage import Coverage, coverage_of, store_bytes
from qcc.errors import QccError
from qcc.frontend.export import Imported, import_program
from qcc.golden import golden_of
from qcc.ir.context import QccContext
from qcc.ir.on_disk import spool_beside
from qcc.ir.plans import ContractCost, latency_of
from qcc.ir.program import program_of
from qcc.ir.store import Plain, WeightStore
from qcc.kept import KeptWeights, kept_beside
from qcc.keys import weights_digest
from qcc.memory import hold_to_memory
from qcc.passes.pipeline import lowering, planned_recipe, planning, run_passes, solving, targeting
from qcc.progress import Say, share_of
from qcc.recipes.load import RecipeSource, load_recipe, recipe_name, recipe_yaml
from qcc.recipes.model import Recipe
from qcc.report.build import Subject, report_where_cheap
from qcc.report.files import write_report
from qcc.report.measure import Models
from qcc.settings import Settings, read_settings
from qcc.strictness import refuse_fallbacks
from qcc.version import __version__

LARGE_BYTES = 64 << 20
"""Models whose weights take less are compiled in memory."""


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


@dataclass(frozen=True)
class Means:
    """What carries a compilation out: recipe, backend, settings, and the target as these settings have it compute."""

    recipe: Recipe
    backend: Backend
    settings: Settings
    target: Capabilities

    def planning(self) -> list[ModulePass]:
        """Return the passes that give every layer its formats."""
        return planning(self.recipe, integer_only=self.target.integer_only)

    def costs(self) -> dict[str, ContractCost]:
        """Return what the target predicts for a contraction, by the name of a budget."""
        target, settings = self.target, self.settings
        found = {"latency": latency_of(target.costs, target.byte_cost, settings.rows)} if target.costs else {}
        return found | (dict(target.resources(settings.own)) if target.resources is not None else {})

    def targeting(self) -> list[ModulePass]:
        """Return the passes that shape a module for the target; what that is like reaches them as plain data.

        Raises:
            QccError: if plans are asked for where the target has no choice of them.
        """
        target, settings = self.target, self.settings
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


def means_of(options: Options) -> Means:
    """Look up what a compilation is asked for.

    Raises:
        QccError: a recipe, target, architecture or setting that is not known.
    """
    recipe, backend = load_recipe(options.recipe), backend_of(options.target)
    check_architectures(backend.capabilities, options.arch)
    settings = read_settings(options.settings, backend.capabilities)
    return Means(recipe, backend, settings, backend.capabilities.computing(settings.arithmetic))


@dataclass(frozen=True)
class Work:
    """A model that is being compiled, beside the float model it was and what both are run on."""

    imported: Imported
    float_module: ModuleOp
    float_store: WeightStore
    float_bytes: int
    example: dict[str, torch.Tensor]
    calibration: SampleRun | None

    @property
    def module(self) -> ModuleOp:
        """The program, rewritten by every pass."""
        return self.imported.module

    @property
    def store(self) -> WeightStore:
        """Its weights, rewritten with it."""
        return self.imported.store

    @property
    def runs(self) -> Sequence[Mapping[str, torch.Tensor]]:
        """What it is run on: the calibration, else the example."""
        return self.calibration.samples if self.calibration else [self.example]


@dataclass(frozen=True)
class _Quantized:
    """What the passes came to: the recipe with every choice made, those of transforms, float weights, the coverage."""

    recipe: Recipe
    choices: Recording
    unsolved: Mapping[str, torch.Tensor]
    coverage: Coverage


def build(
    program: torch.export.ExportedProgram,
    source: str,
    options: Options,
    output: Path,
    say: Say,
    calls: Iterable[Any] | None = None,
    imported: Imported | None = None,
) -> Compiled:
    """Compile a program into an artifact; `imported` is that program, where it was read before.

    Weights that passes make of a large model go to a file, one by one.

    Raises:
        QccError: whatever does not fit: the recipe, the target, the memory, or the C compiler.
    """
    means = means_of(options)
    # before hours of solving, not after them
    refuse_output(output)
    work = work_of(program, source, options, calls, imported)
    if work.float_bytes < LARGE_BYTES:
        return carry_out(work, means, source, options, output, say)
    with spool_beside(output) as spool:
        work.store.spool = spool
        return carry_out(work, means, source, options, output, say)


def work_of(
    program: torch.export.ExportedProgram,
    source: str,
    options: Options,
    calls: Iterable[Any] | None = None,
    imported: Imported | None = None,
) -> Work:
    """Read a program, its example and its calibration.

    Raises:
        QccError: if the program cannot be read, has no example, or the samples cannot be read.
    """
    imported = imported or import_program(program, folder=folder_of(source))
    return Work(
        imported,
        imported.module.clone(),
        imported.store.copy(),
        store_bytes(imported.store),
        _example(program, imported) if options.golden else {},
        sample_run(imported, calls, options.calib, source),
    )


def carry_out(work: Work, means: Means, source: str, options: Options, output: Path, say: Say) -> Compiled:
    """Compile a model that was read: passes, golden vectors, the target's files, reports."""
    kept = kept_beside(output)
    quantized = _quantize(work, means, options, say, kept)
    with written_aside(output) as folder:
        _write_program(folder, work, quantized)
        _emit(folder, work, means, quantized, options, say)
        if options.golden:
            say("measuring layers")
            subject = Subject(options.target, recipe_name(options.recipe), quantized.coverage, folder)
            models = Models(work.module, work.store, quantized.unsolved, work.float_module, work.float_store)
            write_report(folder, report_where_cheap(subject, models, work.example, work.calibration))
        write_manifest(
            folder,
            Manifest(
                qcc=__version__,
                target=options.target,
                recipe=quantized.recipe,
                settings=dict(options.settings),
                source=_absolute(source),
                signature=_signature(work.imported),
                coverage=quantized.coverage,
            ),
        )
    kept.discard()
    return Compiled(output, threads=options.threads)


def _quantize(work: Work, means: Means, options: Options, say: Say, kept: KeptWeights) -> _Quantized:
    """Run every pass, and refuse on the way what the target or the memory cannot take."""
    module, store = work.module, work.store
    trace = _Trace(options.dump_ir, say)
    trace.dump("import", module)
    choices = Recording()
    context = QccContext(store, work.calibration, say, choices=choices, costs=means.costs())
    run_passes(means.planning(), context, module, trace.after)
    recipe = planned_recipe(means.recipe, module)
    admit(module, means.target)
    hold_to_memory(module, store, work.runs, options.memory_limit, say)
    # the float weights under the names and in the shapes that codes are chosen for
    unsolved = Plain(store)
    run_passes(solving(), QccContext(store, work.calibration, say, kept, share_of(say)), module, trace.after)
    run_passes(lowering(integer_only=means.target.integer_only), QccContext(store), module, trace.after)
    run_passes(means.targeting(), QccContext(store), module, trace.after)
    coverage = coverage_of(module, store, unsolved, work.float_bytes)
    if options.strict:
        refuse_fallbacks(coverage, means.backend.fallbacks(module))
    return _Quantized(recipe, choices, unsolved, coverage)


def _write_program(folder: Path, work: Work, quantized: _Quantized) -> None:
    (folder / PROGRAM).write_text(_module_text(work.module), "utf-8")
    (folder / RECIPE).write_text(recipe_yaml(quantized.recipe), "utf-8")
    work.store.save(folder / WEIGHTS)
    if quantized.choices:
        quantized.choices.save(folder, weights_digest(work.float_store))
    if work.example:
        (folder / EXAMPLE).parent.mkdir()
        save_file(work.example, str(folder / EXAMPLE))


def _emit(folder: Path, work: Work, means: Means, quantized: _Quantized, options: Options, say: Say) -> None:
    """Let the backend write and build its project, with golden vectors if an example was kept."""
    module, store, golden = work.module, work.store, None
    if options.golden:
        say("running the interpreter for golden vectors")
        golden = golden_of(module, store, work.float_module, work.float_store, work.example)
    say(f"emitting and building for {options.target}")
    chosen = backend_options(options, means.settings)
    emitted = means.backend.emit(means.backend.legalize(module, store), store, golden, chosen, folder)
    if options.strict:
        refuse_fallbacks(quantized.coverage, emitted.fallbacks)
    for message in emitted.messages:
        say(message)


def backend_options(options: Options, settings: Settings) -> BackendOptions:
    """Return what a backend is told of the options."""
    return BackendOptions(
        name=settings.name,
        cc=options.cc or None,
        arch=options.arch,
        threads=options.threads or None,
        settings=settings.own,
    )


def sample_run(imported: Imported, calls: Iterable[Any] | None, file: Path | None, source: str) -> SampleRun | None:
    """Return what runs the samples that a compilation was given, if any."""
    if calls is not None:
        return SampleRun(samples_from_arguments(_signature(imported), calls))
    if file is None:
        return None
    return SampleRun(samples_from_file(file, program_of(imported.module), folder_of(source)))


def folder_of(source: str) -> Path | None:
    """Return the folder of a model that a source names, None if it is of another kind."""
    return Path(source) if source and Path(source).is_dir() else None


def _absolute(source: str) -> str:
    return str(Path(source).resolve()) if source and Path(source).exists() else source


def _module_text(module: ModuleOp) -> str:
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
            (self.folder / f"{len(self.done):02}-{name}.mlir").write_text(head + _module_text(module), "utf-8")


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

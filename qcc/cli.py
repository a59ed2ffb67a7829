"""The command line: `qcc compile | run | bench | report | bisect | export | inspect | recipes | cache`.

Results go to standard output, progress and messages to standard error. Exit codes: 0 done, 2 the user can mend it,
1 a defect of qcc.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from qcc.cli_export import export
from qcc.cli_report import bisect, report
from qcc.console import (
    ArtifactArgument,
    DebugOption,
    JsonOption,
    MemoryOption,
    ThreadsOption,
    errors,
    memory_of,
    out,
    print_json,
    print_table,
    progress,
)
from qcc.errors import QccError
from qcc.version import __version__

if TYPE_CHECKING:
    from qcc.artifact import Coverage
    from qcc.driver import Options, Plan

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
SourceArgument = Annotated[
    str, typer.Argument(help="A .pt2 file, a Hugging Face model folder, or package.module:callable.")
]


def _version(value: bool) -> None:
    if value:
        typer.echo(f"qcc {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Compile quantized neural networks to C, Triton kernels or HLS C++.

    \b
    qcc compile model.pt2 --recipe w4a8 -o model.qcc    quantize and compile
    qcc run model.qcc --input x=x.npy --output out      run it on files
    qcc report model.qcc                                see what it lost, layer by layer
    qcc inspect model.qcc                               see what is in it

    Exit codes: 0 done; 2 you can mend it, the message says how; 1 a defect of qcc.
    """


@app.command(name="compile")
def compile_(
    source: SourceArgument,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The artifact to write.")] = None,
    recipe: Annotated[
        str, typer.Option(help="A recipe's name (see `qcc recipes`) or the path of a YAML file.")
    ] = "w8a8",
    target: Annotated[str, typer.Option(help="What to emit code for: cpu, triton, hls.")] = "cpu",
    calib: Annotated[
        Path | None, typer.Option(help="Samples for static scales and solvers: .safetensors, .npz, or text by lines.")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="name=PREFIX; plan=PLAN or PATTERN=PLAN,...; rows=N; of hls: part, clock_ns, target_fps, folding.",
        ),
    ] = None,
    arch: Annotated[str, typer.Option(help="GPU architectures of target triton; default sm_80,sm_90,sm_100.")] = "",
    cc: Annotated[str, typer.Option("--cc", help="C compiler; default $CC, then cc, gcc, clang.")] = "",
    dump_ir: Annotated[Path | None, typer.Option(help="Write the module after every pass into this folder.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse every fallback: layers left in float, operations without a kernel.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done per layer; build nothing.")
    ] = False,
    memory_limit: MemoryOption = "",
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Quantize a model and compile it.

    \b
    qcc compile model.pt2 --recipe w4a8 -o model.qcc
    qcc compile path/to/hugging-face-folder --recipe mine.yaml --dry-run
    qcc compile package.module:callable -o model.qcc --json
    """
    with errors(debug):
        from qcc.driver import Options, compile_source, plan_source

        options = Options(
            recipe=recipe,
            target=target,
            settings=_settings(setting or []),
            cc=cc,
            dump_ir=dump_ir,
            arch=tuple(one.strip() for one in arch.split(",") if one.strip()),
            calib=calib,
            strict=strict,
            memory_limit=memory_of(memory_limit),
        )
        if dry_run:
            _report_planned(source, options, output, plan_source, json_)
            return
        if output is None:
            raise QccError("compile needs -o OUT, the artifact to write", fix="or --dry-run to see the plan only")
        _report_compiled(source, options, output, compile_source, json_)


def _report_planned(source: str, options: Options, output: Path | None, plan: Callable[..., Plan], json_: bool) -> None:
    from qcc.artifact import refuse_output

    if output is not None:
        refuse_output(output)
    with progress(json_) as say:
        found = plan(source, options, say)
    if json_:
        layers = [layer.model_dump(mode="json") for layer in found.coverage.layers]
        print_json({**_coverage_json(found.coverage), "peak_bytes": found.memory.total, "layers": layers})
        return
    _print_layers(found.coverage)
    _print_summary(found.coverage)
    out.print(f"memory: {found.memory}", highlight=False, markup=False)


def _report_compiled(source: str, options: Options, output: Path, run: Callable[..., Any], json_: bool) -> None:
    with progress(json_) as say:
        compiled, seconds = run(source, options, output, say)
    coverage = compiled.manifest.coverage
    if json_:
        print_json({**_coverage_json(coverage), "seconds": round(seconds, 3), "artifact": str(output)})
        return
    _print_summary(coverage)
    out.print(f"wrote {output} in {seconds:.1f} s")


def _coverage_json(coverage: Coverage) -> dict[str, Any]:
    return {
        "quantized": coverage.quantized,
        "total": coverage.total,
        "left_in_float": [
            {"name": one.name, "reason": one.left_in_float} for one in coverage.layers if one.left_in_float
        ],
        "bytes_before": coverage.bytes_before,
        "bytes_after": coverage.bytes_after,
        "bits_per_weight": round(coverage.bits_per_weight, 4),
    }


def _print_summary(coverage: Coverage) -> None:
    from qcc.compiled import coverage_summary

    out.print(coverage_summary(coverage), highlight=False, markup=False)


def _print_layers(coverage: Coverage) -> None:
    from qcc.compiled import layer_table

    print_table(layer_table(coverage))


@app.command()
def run(
    artifact: ArtifactArgument,
    input_: Annotated[
        list[str] | None, typer.Option("--input", metavar="NAME=FILE.npy", help="An input, once for each.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the outputs as .npy; default: print them.")] = None,
    threads: ThreadsOption = 0,
    debug: DebugOption = False,
) -> None:
    """Run an artifact on inputs from .npy files.

    \b
    qcc run model.qcc --input input_ids=ids.npy --input attention_mask=mask.npy --output out

    Names and shapes of the inputs: qcc inspect model.qcc
    """
    with errors(debug):
        from qcc.running import run_files

        for name, text in run_files(artifact, _pairs(input_ or [], "--input"), output, threads):
            out.print(f"{name}: {text}", highlight=False, markup=False)


@app.command()
def bench(
    artifact: ArtifactArgument,
    against: Annotated[str, typer.Option(help="Peers to time in the same run: eager,inductor.")] = "",
    batch: Annotated[int, typer.Option(min=1, help="Size of every batch dimension.")] = 1,
    seq: Annotated[int, typer.Option(min=1, help="Size of every other dynamic dimension.")] = 128,
    threads: ThreadsOption = 0,
    memory_limit: MemoryOption = "",
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Time an artifact, and what it was compiled from beside it.

    \b
    qcc bench model.qcc --against eager,inductor --batch 1 --seq 128
    """
    with errors(debug):
        from qcc.bench import measure

        names = tuple(filter(None, against.split(",")))
        with progress(json_) as say:
            row = measure(artifact, names, batch, seq, threads, say, memory_of(memory_limit))
        if json_:
            print_json(row)
            return
        table = Table("what", "median ms", "p10", "p90", "ratio to qcc", box=None)
        low, high = f"{row['latency_ms_p10']:.3f}", f"{row['latency_ms_p90']:.3f}"
        table.add_row("qcc", f"{row['latency_ms']:.3f}", low, high, "1.00")
        for name, peer in row["against"].items():
            table.add_row(name, f"{peer['latency_ms']:.3f}", "", "", f"{peer['ratio']:.2f}")
        print_table(table)


app.command()(report)
app.command()(bisect)
app.command()(export)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="An artifact, an .mlir text or a .pt2 file.")],
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Say what is in a file: inputs, outputs, operations, layers and their formats.

    \b
    qcc inspect model.qcc
    qcc inspect model.qcc/program.mlir
    qcc inspect model.pt2 --json
    """
    with errors(debug):
        from qcc.inspection import inspect_path

        found = inspect_path(path)
        if json_:
            print_json(found.data)
            return
        for line in found.lines:
            out.print(line, highlight=False, markup=False)
        if found.coverage is not None:
            _print_layers(found.coverage)


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe's YAML.")] = None,
    debug: DebugOption = False,
) -> None:
    """List the recipes, or print one to start your own from.

    \b
    qcc recipes
    qcc recipes w4a8 > mine.yaml
    """
    with errors(debug):
        from qcc.recipes.load import load_recipe, recipe_names, recipe_text

        if name is not None:
            typer.echo(recipe_text(name), nl=False)
            return
        names = recipe_names()
        for one in names:
            out.print(f"{one:{max(map(len, names))}} {load_recipe(one).description}", highlight=False)


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove everything in it.")] = False,
    folder: Annotated[
        Path | None, typer.Option("--dir", help="The cache; default $QCC_CACHE_DIR, else the user's.")
    ] = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show what the compile cache holds, or clear it.

    \b
    qcc cache
    qcc cache --clear
    """
    with errors(debug):
        from qcc.cache import Cache, cache_data, cache_lines

        found = Cache(folder)
        freed = found.clear() if clear else 0
        if json_:
            print_json({**cache_data(found), "freed": freed})
            return
        for line in cache_lines(found, freed if clear else None):
            out.print(line, highlight=False, markup=False)


def _pairs(texts: list[str], option: str) -> dict[str, str]:
    wrong = [text for text in texts if "=" not in text]
    if wrong:
        raise QccError(f"{option} takes NAME=VALUE, got {', '.join(wrong)}")
    return {text.split("=", 1)[0]: text.split("=", 1)[1] for text in texts}


def _settings(texts: list[str]) -> dict[str, str]:
    return _pairs(texts, "--set")


def _end(number: int, frame: object) -> None:
    sys.exit(128 + number)


def main() -> None:
    """Run the command line."""
    # asked to end, leave as on Ctrl-C: what is half-written goes away
    signal.signal(signal.SIGTERM, _end)
    app(prog_name="qcc")


if __name__ == "__main__":
    sys.exit(main())

"""The commands that study an artifact: `qcc report` and `qcc bisect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qcc.console import (
    ArtifactArgument,
    DataOption,
    DebugOption,
    JsonOption,
    MemoryOption,
    errors,
    memory_of,
    print_json,
    print_plain,
    print_table,
    progress,
)
from qcc.errors import QccError


def report(
    artifact: ArtifactArgument,
    data: DataOption = None,
    html: Annotated[Path | None, typer.Option(help="Write the report as one self-contained page.")] = None,
    times: Annotated[
        bool, typer.Option("--times", help="Time every layer: builds the program once more, with clocks.")
    ] = False,
    memory_limit: MemoryOption = "",
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show what quantization did to each layer, worst first.

    \b
    qcc report model.qcc
    qcc report model.qcc --data samples.safetensors --html report.html
    qcc report model.qcc --times
    """
    with errors(debug):
        from qcc.report.command import report_of
        from qcc.report.page import page_text
        from qcc.report.terminal import layer_rows, section_table, summary_lines

        if html is not None and not html.parent.is_dir():
            raise QccError(f"{html} cannot be written: there is no folder {html.parent}", fix="make it first")
        with progress(json_) as say:
            found = report_of(artifact, data, say, times=times, memory_limit=memory_of(memory_limit))
        if html is not None:
            html.write_text(page_text(found), "utf-8")
        if json_:
            print_json(found.json_object())
            return
        print_table(layer_rows(found))
        for section in found.sections:
            print_table(section_table(section))
        print_plain(f"quantized {found.quantized} of {found.total} layers", *summary_lines(found))
        if found.protect:
            print_plain("to protect the worst layers, paste into the recipe:", found.protect)


def bisect(
    artifact: ArtifactArgument,
    data: DataOption = None,
    memory_limit: MemoryOption = "",
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Find the layer where the error enters, and a way out.

    \b
    qcc bisect model.qcc --data samples.safetensors
    """
    with errors(debug):
        from qcc.report.command import bisect_artifact
        from qcc.report.terminal import candidate_table, finding_lines

        with progress(json_) as say:
            found = bisect_artifact(artifact, data, say, memory_of(memory_limit))
        if json_:
            print_json(found.json_object())
            return
        print_plain(*finding_lines(found))
        print_table(candidate_table(found))

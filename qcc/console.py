"""What all commands share: options by their types, both consoles, progress, errors."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn
from rich.table import Table

from qcc.errors import QccError

CLOSED = 141
"""Exit code where the reader of a pipe went away before everything was written: that of a program SIGPIPE ends."""


class _Out(Console):
    """A console whose reader may go away."""

    def on_broken_pipe(self) -> NoReturn:
        _leave_pipe()


def _leave_pipe() -> NoReturn:
    """Leave without a word where nobody reads any more; what is still to be flushed goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(CLOSED)


out = _Out(emoji=False, soft_wrap=True)
err = Console(stderr=True, emoji=False, soft_wrap=True)
LINE_SECONDS = 10.0
"""Time between two lines that say what is being done, where these are no line of a terminal."""
TABLE_WIDTH = 200
"""Columns of a table that is piped or redirected: wide enough that no layer is cut or wrapped."""

ArtifactArgument = Annotated[Path, typer.Argument(help="What `qcc compile -o` wrote.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
ThreadsOption = Annotated[int, typer.Option(min=0, help="Threads; 0 takes every core.")]
MemoryOption = Annotated[
    str, typer.Option(metavar="SIZE", help="Memory there is to use, as 6GB; default: what the system has free.")
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
DataOption = Annotated[
    Path | None,
    typer.Option(help="Samples to measure on: .safetensors or .npz of named inputs, or text by lines."),
]


def print_table(table: Table) -> None:
    """Print a table; wide where it is piped or redirected."""
    console = out if out.is_terminal else _Out(width=TABLE_WIDTH)
    console.print(table)


def print_plain(*lines: str) -> None:
    """Print lines as they are."""
    for line in lines:
        out.print(line, highlight=False, markup=False)


class _Bar:
    """One line on standard error that changes: what is being done, and how much of it."""

    def __init__(self, bar: Progress) -> None:
        self._bar, self._task = bar, bar.add_task("starting", total=None)

    def __call__(self, text: str, /) -> None:
        self._bar.update(self._task, description=escape(text))

    def share(self, done: float | None) -> None:
        total = None if done is None else 1.0
        self._bar.reset(self._task, total=total, completed=done or 0.0)  # type: ignore[arg-type]

    def note(self, text: str) -> None:
        err.print(text, highlight=False, markup=False)


class _Log:
    """Lines on standard error that stay: notes, and of long work what is being done, one line in a while."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._last = quiet, time.monotonic()

    def __call__(self, text: str, /) -> None:
        now = time.monotonic()
        if not self._quiet and now - self._last >= LINE_SECONDS:
            self._last = now
            self.note(text)

    def share(self, done: float | None) -> None:
        """Say nothing: what is said names how much is left."""

    def note(self, text: str) -> None:
        err.print(text, highlight=False, markup=False)


@contextmanager
def progress(quiet: bool) -> Generator[_Bar | _Log]:
    """Show on standard error what is being done: on a terminal in one line that goes away, elsewhere line by line.

    A log gets a line every `LINE_SECONDS` at most, so short work leaves none; `quiet` leaves notes alone.
    """
    if quiet or not err.is_terminal:
        yield _Log(quiet)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=20), TaskProgressColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        yield _Bar(bar)


def memory_of(text: str) -> int | None:
    """Read a size of memory; None where none is given."""
    from qcc.memory import parse_bytes  # torch stays out of the start of the command line

    return parse_bytes(text) if text else None


def print_json(data: object) -> None:
    """Print one JSON object on standard output."""
    typer.echo(json.dumps(data, indent=1))


@contextmanager
def errors(debug: bool) -> Generator[None]:
    """Print an error as the command line does and leave with its exit code; with `debug`, let it through."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt:
        err.print("interrupted; nothing was left half-written")
        raise typer.Exit(130) from None
    except QccError as error:
        if debug:
            raise
        err.print(f"error: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(error.exit_code) from None
    except BrokenPipeError:
        _leave_pipe()
    except OSError as error:
        if debug:
            raise
        # which file, and what the system says against it: nothing that qcc could mend
        where = f"{error.filename}: " if error.filename is not None else ""
        err.print(f"error: {where}{error.strerror or error}", style="red", markup=False, highlight=False)
        raise typer.Exit(2) from None
    except Exception as error:
        if debug:
            raise
        text = f"{type(error).__name__}: {error}"
        err.print(f"internal error: {text}", style="red", markup=False, highlight=False)
        err.print("this is a defect of qcc; run again with --debug and report the traceback", highlight=False)
        raise typer.Exit(1) from None

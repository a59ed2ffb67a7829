"""Make the environment that fills in a backend's templates of source text."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def source_templates(folder: Path, *, trim: bool = False) -> Environment:
    """Return the templates of a folder: an unknown name is an error, and nothing is escaped as HTML is.

    With `trim`, lines that hold only a tag leave no empty line behind.
    """
    return Environment(
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        trim_blocks=trim,
        lstrip_blocks=trim,
        keep_trailing_newline=True,
        autoescape=False,
    )

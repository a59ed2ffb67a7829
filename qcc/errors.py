"""Every error that qcc raises on purpose.

A message says where, what and the way out, for all offenders at once. The command line prints it
without a traceback and exits with `exit_code`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One offender: where it is, what is wrong with it, and what the user can do about it."""

    where: str
    what: str
    fix: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n    fix: {self.fix}" if self.fix else text


class QccError(Exception):
    """Base of all errors a user can mend.

    `problems` keeps every offender apart, so that a caller can list or count them.
    """

    exit_code = 2

    def __init__(self, message: str, problems: Iterable[Problem] = (), *, fix: str = "") -> None:
        self.message = message
        self.problems = tuple(problems)
        self.fix = fix
        super().__init__(self._text())

    def _text(self) -> str:
        lines = [self.message]
        for problem in self.problems:
            first, *rest = str(problem).splitlines()
            lines.append(f"  - {first}")
            lines.extend(f"  {line}" for line in rest)
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


class RecipeError(QccError):
    """A recipe is malformed, names an unknown key or format, or fits no layer of the model."""


class UnsupportedOp(QccError):
    """The model uses operations that the front end, a pass or the target cannot take."""


class IllegalFold(QccError):
    """A rewrite could not be proved to preserve the function of the model."""


class ShapeError(QccError):
    """A shape, dtype or range does not fit, at compile time or at run time."""


class CheckpointError(QccError):
    """A file is missing, truncated, damaged, of another kind, or of a newer version."""


class BuildError(QccError):
    """A compiler is missing or refused the generated code."""

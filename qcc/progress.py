"""What long work tells while it goes on: what it does, how far it is, and notes that stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

Say = Callable[[str], None]
"""Called with what is being done now."""


@runtime_checkable
class Progress(Protocol):
    """A `Say` that also shows shares of work and keeps notes."""

    def __call__(self, text: str, /) -> None:
        """Say what is being done now."""
        ...

    def share(self, done: float | None) -> None:
        """Show which share of the work at hand is done, 0 to 1; None where nobody knows."""
        ...

    def note(self, text: str) -> None:
        """Print a line that stays."""
        ...


def note(say: Say, text: str) -> None:
    """Print a line that stays, where there is somewhere to print it; else say it."""
    if isinstance(say, Progress):
        say.note(text)
    else:
        say(text)


def share_of(say: Say) -> Callable[[float | None], None]:
    """Return what shows shares of work; it does nothing where they cannot be shown."""
    return say.share if isinstance(say, Progress) else lambda done: None

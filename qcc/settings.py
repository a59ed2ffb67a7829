"""Settings of a target as a command line gives them: text by key, read into what the stages take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from qcc.backends.base import Arithmetic, Capabilities
from qcc.errors import Problem, QccError

KNOWN = {
    "name": "name of the emitted library and prefix of its functions",
    "plan": "a plan for all contractions, or PATTERN=PLAN,... by layer",
    "rows": "rows of input to weigh plans by where their number is symbolic",
}
"""Every key, and what it sets."""


ARITHMETIC = {"arithmetic": "float, or integer for a program without floats between its input and output quantizers"}
"""The key of targets that compute both, and what it sets."""


@dataclass(frozen=True)
class Settings:
    """What the user may set: a C identifier, plans asked for, the rows of input that plans are for, the arithmetic."""

    name: str = "model"
    plans: tuple[str, ...] = ()
    rows: int = 1
    arithmetic: Arithmetic = "float"
    own: Mapping[str, str] = field(default_factory=dict[str, str])


def read_settings(texts: Mapping[str, str], target: Capabilities) -> Settings:
    """Read settings; `own` of the result are those that the target alone takes.

    Raises:
        QccError: listing every key that is not known and every value that cannot be read.
    """
    known = {**KNOWN, **(ARITHMETIC if target.integer is not None else {}), **target.settings}
    problems = [
        Problem(f"--set {key}", f"target {target.name} has no such setting", f"it has: {', '.join(known)}")
        for key in texts
        if key not in known
    ]
    name, rows = texts.get("name", "model"), texts.get("rows", "1")
    if not name.isidentifier() or not name.isascii():
        problems.append(Problem("--set name", f"'{name}' is no C identifier"))
    if not rows.isdecimal() or int(rows) < 1:
        problems.append(Problem("--set rows", f"'{rows}' is no number of rows", "write e.g. rows=128"))
    arithmetic = texts.get("arithmetic", "float")
    if arithmetic not in ("float", "integer"):
        problems.append(Problem("--set arithmetic", f"'{arithmetic}' is no arithmetic", "use float or integer"))
        arithmetic = "float"
    if problems:
        raise QccError("some settings cannot be taken", problems)
    plans = tuple(one.strip() for one in texts.get("plan", "").split(",") if one.strip())
    own = {key: text for key, text in texts.items() if key in target.settings}
    if target.check_settings is not None:
        target.check_settings(own)
    return Settings(name, plans, int(rows), arithmetic, own)

"""What the user sets for an FPGA: part, clock, frames a second, foldings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from qcc.backends.hls.parts import PARTS, Part, part_of
from qcc.backends.hls.units import Fold
from qcc.backends.hls.units_port import Interface
from qcc.errors import Problem, QccError

DEFAULT_PART = "xck26"
DEFAULT_CLOCK = 4.0

KEYS = {
    "part": f"device: {', '.join(part.name for part in PARTS)}",
    "clock_ns": "clock period in nanoseconds",
    "target_fps": "frames a second to fold for; without it, the fastest that fills 60 % of the part",
    "interface": "stream for AXI4-Stream ports with TLAST (default), memory for ports that read and write buffers",
    "folding": "LAYER=PExSIMD,... to fold layers by hand",
}
"""Keys that target hls takes, and what they set."""


INTERFACES: Mapping[str, Interface] = {"stream": "stream", "memory": "memory"}
"""What the ports of a design can be."""


@dataclass(frozen=True)
class HlsSettings:
    """Part, clock period in ns, frames a second (None: as many as fit), foldings by layer, and what ports are."""

    part: Part = field(default_factory=lambda: part_of(DEFAULT_PART))
    clock_ns: float = DEFAULT_CLOCK
    target_fps: float | None = None
    foldings: Mapping[str, Fold] = field(default_factory=dict[str, Fold])
    interface: Interface = "stream"

    @property
    def interval(self) -> int | None:
        """Cycles that a frame may take."""
        return None if self.target_fps is None else int(1e9 / (self.clock_ns * self.target_fps))


def read_hls_settings(texts: Mapping[str, str]) -> HlsSettings:
    """Read settings.

    Raises:
        QccError: listing every value that cannot be read.
    """
    problems: list[Problem] = []
    try:
        part = part_of(texts.get("part", DEFAULT_PART))
    except QccError as error:
        problems.append(Problem("--set part", error.message, error.fix))
        part = part_of(DEFAULT_PART)
    clock = _positive(texts, "clock_ns", problems) or DEFAULT_CLOCK
    target = _positive(texts, "target_fps", problems)
    foldings: dict[str, Fold] = {}
    for text in filter(None, (one.strip() for one in texts.get("folding", "").split(","))):
        layer, _, fold = text.rpartition("=")
        pe, _, simd = fold.partition("x")
        if layer and pe.isdecimal() and simd.isdecimal() and int(pe) and int(simd):
            foldings[layer] = Fold(int(pe), int(simd))
        else:
            problems.append(Problem("--set folding", f"'{text}' is no folding", "write e.g. folding=fc1=4x8"))
    asked = texts.get("interface", "stream")
    if asked not in INTERFACES:
        problems.append(Problem("--set interface", f"'{asked}' is no interface", "write interface=stream or =memory"))
    if target is not None and 1e9 / (clock * target) < 1:
        what = f"{target:g} frames a second leave less than one cycle of {clock:g} ns for each"
        problems.append(Problem("--set target_fps", what, "ask for fewer, or use several designs side by side"))
    if problems:
        raise QccError("some settings of target hls cannot be taken", problems)
    return HlsSettings(part, clock, target, foldings, INTERFACES.get(asked, "stream"))


def _positive(texts: Mapping[str, str], key: str, problems: list[Problem]) -> float | None:
    if key not in texts:
        return None
    try:
        value = float(texts[key])
    except ValueError:
        value = -1.0
    if not 0 < value < 1e12:
        problems.append(Problem(f"--set {key}", f"'{texts[key]}' is no positive number", f"write e.g. {key}=4"))
        return None
    return value

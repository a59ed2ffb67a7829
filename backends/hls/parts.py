"""FPGAs that designs are held to: what each has, from the vendor's product tables.

Zynq-7000: DS190. Artix-7: DS180. Zynq UltraScale+: DS891. Kria K26: DS987. Virtex UltraScale+: DS890. Alveo: DS962
(U200, U250), DS963 (U280), DS978 (U55C). Look-up tables and flip-flops are those of the whole device; boards whose
shell takes a part have less.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from qcc.backends.hls.units import Cost
from qcc.errors import QccError


@dataclass(frozen=True)
class Part:
    """A device: name, full name with package and speed grade, and resources. Memory blocks count 18 kbit each."""

    name: str
    full_name: str
    lut: int
    ff: int
    dsp: int
    bram18: int
    uram: int

    @property
    def banks(self) -> tuple[str, int]:
        """The kind of memory banks that an Alveo card's platform names, and how many; "" for other boards."""
        return BANKS.get(self.name, ("", 0))

    def use(self, cost: Cost) -> dict[str, float]:
        """Return the share of every resource that a design takes, 1.0 being all of it."""
        return {
            "lut": cost.lut / self.lut,
            "ff": cost.ff / self.ff,
            "dsp": cost.dsp / self.dsp,
            "bram18": cost.bram18 / self.bram18,
        }

    def holds(self, cost: Cost) -> bool:
        """Say whether a design fits by the estimate."""
        return max(self.use(cost).values()) <= 1.0


BANKS = {"xcu200": ("DDR", 4), "xcu250": ("DDR", 4), "xcu280": ("HBM", 32), "xcu55c": ("HBM", 32)}
"""Memory banks of the Alveo cards (DS962, DS963, DS978)."""

PARTS = (
    Part("xc7z020", "xc7z020clg400-1", 53_200, 106_400, 220, 280, 0),
    Part("xc7a100t", "xc7a100tcsg324-1", 63_400, 126_800, 240, 270, 0),
    Part("xczu3eg", "xczu3eg-sbva484-1-e", 70_560, 141_120, 360, 432, 0),
    Part("xck26", "xck26-sfvc784-2LV-c", 117_120, 234_240, 1_248, 288, 64),
    Part("xczu7ev", "xczu7ev-ffvc1156-2-e", 230_400, 460_800, 1_728, 624, 96),
    Part("xczu9eg", "xczu9eg-ffvb1156-2-e", 274_080, 548_160, 2_520, 1_824, 0),
    Part("xcvu9p", "xcvu9p-flga2104-2-e", 1_182_240, 2_364_480, 6_840, 4_320, 960),
    Part("xcu200", "xcu200-fsgd2104-2-e", 1_182_240, 2_364_480, 6_840, 4_320, 960),
    Part("xcu280", "xcu280-fsvh2892-2L-e", 1_303_680, 2_607_360, 9_024, 4_032, 960),
    Part("xcu55c", "xcu55c-fsvh2892-2L-e", 1_303_680, 2_607_360, 9_024, 4_032, 960),
    Part("xcu250", "xcu250-figd2104-2L-e", 1_728_000, 3_456_000, 12_288, 5_376, 1_280),
)
"""Every part, small ones first."""


def part_of(name: str) -> Part:
    """Return a part by its name or its full name.

    Raises:
        QccError: for an unknown part, naming the nearest.
    """
    wanted = name.strip().lower()
    for part in PARTS:
        if wanted in (part.name, part.full_name.lower()):
            return part
    near = get_close_matches(wanted, [part.name for part in PARTS], 1)
    known = ", ".join(part.name for part in PARTS)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise QccError(f"there is no part '{name}' in the table", fix=f"{hint}parts: {known}")


def smallest_holding(cost: Cost) -> Part | None:
    """Return the smallest part that holds a design by the estimate."""
    return next((part for part in PARTS if part.holds(cost)), None)

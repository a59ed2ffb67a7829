"""Plan where temporaries live: values whose lifetimes do not overlap share a slot of one arena.

Greedy by size over shared objects (Pisarchyk & Lee, arXiv 2001.03288): large values choose first, and each
takes the first slot that is free during its whole life. Sizes are symbolic; a slot is as large as its largest
tenant at run time, whatever the shapes turn out to be, so the plan is sound for every shape and only its
tightness depends on the nominal sizes used for ordering.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qcc.backends.cpu.views import Buffer
from qcc.ir.dims import UNBOUNDED, Dim

NOMINAL = 128
"""Value assumed for a symbol when sizes are compared, within the symbol's range."""


@dataclass(frozen=True)
class Lifetime:
    """A temporary that is touched from statement `first` to statement `last`, both included; size in bytes."""

    buffer: Buffer
    first: int
    last: int
    size: Dim

    def overlaps(self, other: Lifetime) -> bool:
        """Whether both are alive at some statement."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class ArenaPlan:
    """`slots[i]` lists the different sizes in bytes of the tenants of slot i; `placement` gives a buffer's slot."""

    slots: tuple[tuple[Dim, ...], ...]
    placement: Mapping[Buffer, int]

    def bytes_for(self, symbols: Mapping[str, int]) -> int:
        """Return the size in bytes of the arena for given symbols."""
        return sum(_align(max(size.evaluate(symbols) for size in slot)) for slot in self.slots)


def _align(size: int) -> int:
    return (size + 63) // 64 * 64


def nominal_symbols(ranges: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """Return a typical value of each symbol, used only to compare sizes."""
    return {
        name: max(low, min(NOMINAL, high if high != UNBOUNDED else NOMINAL)) for name, (low, high) in ranges.items()
    }


def plan_arena(lifetimes: Sequence[Lifetime], symbols: Mapping[str, int]) -> ArenaPlan:
    """Give every temporary a slot that no other temporary uses during its life."""
    order = sorted(lifetimes, key=lambda one: (-one.size.evaluate(symbols), one.first, one.buffer.index))
    tenants: list[list[Lifetime]] = []
    placement: dict[Buffer, int] = {}
    for life in order:
        for slot, others in enumerate(tenants):
            if not any(life.overlaps(other) for other in others):
                others.append(life)
                placement[life.buffer] = slot
                break
        else:
            placement[life.buffer] = len(tenants)
            tenants.append([life])
    slots = tuple(tuple(dict.fromkeys(life.size for life in others)) for others in tenants)
    return ArenaPlan(slots, placement)

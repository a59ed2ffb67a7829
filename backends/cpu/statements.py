"""What lowering produces: a straight line of kernel calls whose arguments point into buffers.

Nothing here is text yet: pointers become C once the arena plan has given every temporary a place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from qcc.backends.cpu.views import Buffer, View
from qcc.ir.dims import Dim


@dataclass(frozen=True)
class Pointer:
    """The address of the first element of a view, as `const <ctype> *` or `<ctype> *`."""

    view: View
    ctype: str
    writable: bool = False


@dataclass(frozen=True)
class Raw:
    """A piece of C text that stands as it is; `dims` are the dimensions it mentions."""

    text: str
    dims: tuple[Dim, ...] = ()


@dataclass(frozen=True)
class Struct:
    """A nested initialiser `{.name = value, ...}`."""

    fields: Mapping[str, Value]


@dataclass(frozen=True)
class Array:
    """A nested initialiser `{value, value, ...}`."""

    items: Sequence[Value]


@dataclass(frozen=True)
class Address:
    """The address of a nested structure, `&(const type){...}`."""

    type: str
    fields: Mapping[str, Value]


Value = Address | Pointer | Raw | Struct | Array | Dim | int | float


@dataclass(frozen=True)
class Call:
    """One kernel call: `struct` is its argument's type name, `kernel` its entry in the table of kernels.

    `work` estimates the cost in elementary steps, so that small calls stay on one thread. `status` asks for a
    check of the call's status word afterwards; `serial` forbids splitting the call over threads. `layer` names the
    layer that the call computes a part of, if any.
    """

    kernel: str
    fields: Mapping[str, Value]
    work: Dim
    comment: str
    scratch: bool = False
    status: str = ""
    serial: bool = False
    layer: str = ""


@dataclass(frozen=True)
class Check:
    """A condition on dimensions that must hold at run time: `size >= 0`, else the text says what is wrong."""

    size: Dim
    text: str


@dataclass(frozen=True)
class ContractCase:
    """An integer contraction as golden vectors test it: its packed weight and how its input is quantized.

    `lookup` says that the weight is packed for the lookup linear.
    """

    name: str
    weight: Struct
    bits: int
    narrow: bool
    group_scales: bool
    static_scale: Pointer | None
    n: int
    k: int
    group: int
    lookup: bool = False


@dataclass
class Schedule:
    """The lowered program. `temps` gives each temporary's size in bytes, `aliases` those that live elsewhere."""

    calls: list[Call] = field(default_factory=list[Call])
    checks: list[Check] = field(default_factory=list[Check])
    contracts: list[ContractCase] = field(default_factory=list[ContractCase])
    temps: dict[Buffer, Dim] = field(default_factory=dict[Buffer, Dim])
    aliases: dict[Buffer, Buffer] = field(default_factory=dict[Buffer, Buffer])


def pointers(value: Value | Mapping[str, Value]) -> Iterator[Pointer]:
    """Iterate over all pointers inside a call's arguments."""
    match value:
        case Pointer():
            yield value
        case Struct(fields=fields) | Address(fields=fields):
            for one in fields.values():
                yield from pointers(one)
        case Array(items=items):
            for one in items:
                yield from pointers(one)
        case Mapping():
            for one in value.values():
                yield from pointers(one)
        case _:
            return

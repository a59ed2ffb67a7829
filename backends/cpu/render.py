"""Print scheduled calls as C."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from qcc.backends.cpu.arena import ArenaPlan
from qcc.backends.cpu.ctext import C_TYPES, c_array, c_comment, c_dim, c_float, c_string
from qcc.backends.cpu.statements import Address, Array, Call, Pointer, Raw, Schedule, Struct, Value, pointers
from qcc.backends.cpu.views import ZERO, Buffer
from qcc.ir.dims import Dim

WIDTH = 112
PART = 32
"""Calls in one C function: enough to read, few enough for the C compiler's register allocator."""

SCRATCHLESS_OWN = {"dequantize"}
"""Kernels of the runtime header rather than of the table."""


@dataclass(frozen=True)
class Places:
    """Where every buffer is at run time: numbers of weights, states, constants; slots of temporaries."""

    plan: ArenaPlan
    aliases: Mapping[Buffer, Buffer]
    weights: Mapping[Buffer, int]
    states: Mapping[str, int]
    constants: Mapping[tuple[str, str], int]

    def base(self, buffer: Buffer, scalar: str) -> str:
        """Return the C expression of a buffer's address."""
        buffer = self.aliases.get(buffer, buffer)
        match buffer.kind:
            case "input":
                return f"c->in[{buffer.index}]"
            case "output":
                return f"c->out[{buffer.index}]"
            case "weight":
                return f"(c->weights + WEIGHT_{self.weights[buffer]})"
            case "state":
                return f"c->state[{self.states[buffer.key]}]"
            case "constant":
                return f"constant_{self.constants[scalar, buffer.key]}"
            case "temp":
                return f"c->slot[{self.plan.placement[buffer]}]"


def all_pointers(schedule: Schedule) -> Iterator[Pointer]:
    """Iterate over every pointer of a schedule, in order."""
    for call in schedule.calls:
        yield from pointers(call.fields)
    for case in schedule.contracts:
        yield from pointers(case.weight)
        if case.static_scale is not None:
            yield case.static_scale


def c_value(value: Value, places: Places) -> str:
    """Write one value of an initialiser."""
    match value:
        case Pointer(view=view, ctype=ctype, writable=writable):
            const = "" if writable else "const "
            offset = "" if view.offset == ZERO else f" + {_factor(view.offset)}"
            return f"({const}{ctype} *){places.base(view.buffer, view.scalar)}{offset}"
        case Raw(text=text):
            return text
        case Struct(fields=fields):
            return c_array(f".{name} = {c_value(one, places)}" for name, one in fields.items())
        case Address(type=name, fields=fields):
            return f"&(const {name}){c_value(Struct(fields), places)}"
        case Array(items=items):
            return c_array(c_value(one, places) for one in items)
        case Dim():
            return c_dim(value)
        case float():
            return c_float(value)
        case int():
            return str(value)


def _factor(dim: Dim) -> str:
    text = c_dim(dim)
    return text if text.replace("_", "a").isalnum() else f"({text})"


def c_call(call: Call, places: Places, index: int) -> list[str]:
    """Write the `index`-th call as a block: a comment with its origin, the arguments one per line, the call."""
    lines = [f"    /* {line} */" for line in _wrapped(c_comment(call.comment))]
    lines += ["    {", f"        const qcc_{call.kernel} args = {{"]
    for name, value in call.fields.items():
        lines.append(f"            .{name} = {c_value(value, places)},")
    if call.status:
        lines.append("            .status = &c->status,")
    lines.append("        };")
    work = "0 /* in order */" if call.serial else c_dim(call.work)
    lines.append(f"        TIMED({index}, run_{call.kernel}(c, &args, {work}));")
    lines.append("    }")
    if call.status:
        where = c_string(call.status + " (" + call.comment + ")")
        lines.append(f'    if (c->status) return fail(c->session, STATUS_INDEX, "%s", {where});')
    return lines


def _wrapped(text: str) -> list[str]:
    lines, line = list[str](), ""
    for word in text.split(" "):
        if line and len(line) + len(word) + 1 > WIDTH - 10:
            lines.append(line)
            line = ""
        line = f"{line} {word}" if line else word
    return [*lines, line]


@dataclass(frozen=True)
class Part:
    """One function of the generated program: the shape symbols it reads and its lines."""

    index: int
    symbols: tuple[str, ...]
    lines: tuple[str, ...]


def c_parts(schedule: Schedule, places: Places) -> list[Part]:
    """Write all calls, in functions of some dozens of calls each."""
    parts: list[Part] = []
    for start in range(0, len(schedule.calls), PART):
        calls = schedule.calls[start : start + PART]
        lines = [line for index, call in enumerate(calls, start) for line in c_call(call, places, index)]
        parts.append(Part(len(parts), used_symbols(calls), tuple(lines)))
    return parts


def used_symbols(calls: Sequence[Call]) -> tuple[str, ...]:
    """Return the shape symbols that the text of calls mentions."""
    names: set[str] = set()
    for call in calls:
        for value in call.fields.values():
            names |= _symbols(value)
        if not call.serial:
            names |= call.work.symbols
    return tuple(sorted(names))


def _symbols(value: Value) -> frozenset[str]:
    match value:
        case Dim():
            return value.symbols
        case Pointer(view=view):
            return view.offset.symbols
        case Struct(fields=fields) | Address(fields=fields):
            return frozenset().union(*map(_symbols, fields.values()))
        case Array(items=items):
            return frozenset().union(*map(_symbols, items))
        case Raw(dims=dims):
            return frozenset().union(*(dim.symbols for dim in dims))
        case _:
            return frozenset()


def c_constants(constants: Mapping[tuple[str, str], int]) -> list[str]:
    """Write the numbers that constant tensors repeat."""
    return [
        f"static const {C_TYPES[scalar]} constant_{index}[1] = {{{text}}};"
        for (scalar, text), index in constants.items()
    ]

"""What the plans of a target take and cost, as data: lines that a backend states and a pass reads.

A line names a plan, the formats it takes, and its cost in instructions and bytes:

    group_after weights=1-8 activations=2-8 decode=0.03 mac=0.03 scale=0.6

For `rows` rows of input, K columns, N rows of weights of b bits and groups of G columns,

    instructions = N K (decode + decode_bit b + scale / G) + rows N K (mac + mac_bit b) + rows K table
    bytes        = the stored weight + rows K table_bytes
    cost         = instructions + byte_cost * bytes

`decode` is paid once a weight, `mac` once a multiply, `scale` once a group, `table` once an element of the input. An
instruction counts as one whatever its width, a byte as `byte_cost` of the target whatever the plan, and nothing is
taken to overlap: figures rank plans, they time nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields

from qcc.errors import Problem, QccError
from qcc.ir.dims import product
from qcc.ir.quant import Plan
from qcc.ir.types import TensorType
from qcc.numerics.qtype_bits import storage_bits
from qcc.numerics.qtype_parts import IntDecode, expand_block


@dataclass(frozen=True)
class Widths:
    """Which tensors a plan takes: integer codes of `low` to `high` bits, with `codes` any codes of these widths, plain
    floats where `high` is 0, and with `rounded` codes that are no integers besides."""

    low: int
    high: int
    codes: bool = False
    rounded: bool = False

    def takes(self, kind: TensorType) -> bool:
        """Say whether a tensor is one of these."""
        if kind.qtype is None:
            return self.high == 0
        if self.rounded:
            return not isinstance(kind.qtype.decode, IntDecode)
        integers = self.codes or isinstance(kind.qtype.decode, IntDecode)
        return integers and self.low <= kind.qtype.decode.bits <= self.high

    @staticmethod
    def parse(text: str) -> Widths:
        """Read `1-8`, `4`, `codes1-8`, `float` or `rounded`; raises ValueError."""
        if text in ("float", "rounded"):
            return FLOAT if text == "float" else ROUNDED
        low, _, high = text.removeprefix("codes").partition("-")
        return Widths(int(low), int(high or low), text.startswith("codes"))

    def __str__(self) -> str:
        if self.high == 0:
            return "rounded" if self.rounded else "float"
        return f"{'codes' if self.codes else ''}{self.low}-{self.high}"


FLOAT = Widths(0, 0)
"""Plain floats."""
ROUNDED = Widths(0, 0, rounded=True)
"""Plain floats, and codes that are no integers."""


@dataclass(frozen=True)
class PlanCost:
    """One plan of a target: the formats it takes, the multiple its groups must be of, and what it costs."""

    plan: str
    weights: Widths
    activations: Widths
    group: int = 1
    decode: float = 0.0
    decode_bit: float = 0.0
    mac: float = 0.0
    mac_bit: float = 0.0
    scale: float = 0.0
    table: float = 0.0
    table_bytes: float = 0.0

    def refusal(self, inputs: TensorType, weights: TensorType) -> str:
        """Say why the plan cannot take a contraction; empty if it can."""
        for role, widths, kind in (("weights", self.weights, weights), ("activations", self.activations, inputs)):
            if not widths.takes(kind):
                return f"{_format_name(kind)} {role}"
        group, columns = group_columns(weights), weights.shape[-1].constant
        if group % self.group and group != columns:
            return f"groups of {group} columns, no multiple of {self.group}"
        return ""

    def instructions(self, weights: TensorType, rows: int) -> float:
        """Return the instructions for each weight, at a number of rows of input."""
        n, bits = weights.shape[0].constant or 1, _bits(weights)
        once = self.decode + self.decode_bit * bits + self.scale / group_columns(weights)
        return once + rows * (self.mac + self.mac_bit * bits + self.table / n)

    def bytes(self, weights: TensorType, rows: int) -> float:
        """Return the bytes that are read and written for a whole contraction."""
        assert weights.qtype is not None
        stored = storage_bits(weights.qtype, weights.static_shape or ()) / 8
        return stored + rows * (weights.shape[-1].constant or 0) * self.table_bytes

    def cost(self, weights: TensorType, rows: int, byte_cost: float) -> float:
        """Return the cost of a whole contraction, in instructions, of which a byte costs `byte_cost`."""
        count = (weights.shape[0].constant or 0) * (weights.shape[-1].constant or 0)
        return count * self.instructions(weights, rows) + byte_cost * self.bytes(weights, rows)

    def __str__(self) -> str:
        words = [self.plan, f"weights={self.weights}", f"activations={self.activations}"]
        given = [one for one in fields(self)[3:] if getattr(self, one.name) != one.default]
        return " ".join([*words, *(f"{one.name}={getattr(self, one.name)!r}" for one in given)])


ContractCost = Callable[[str, TensorType, TensorType], "float | str"]
"""(name of a layer, its input, its weight) -> what the target predicts that it takes; a text says why it cannot be."""


def latency_of(costs: Sequence[PlanCost], byte_cost: float, rows: int) -> ContractCost:
    """Return what the cheapest plan of a contraction costs, in instructions, at `rows` rows where that is symbolic."""

    def latency(layer: str, inputs: TensorType, weights: TensorType) -> float | str:
        refusals = [(one, one.refusal(inputs, weights)) for one in costs]
        count = product(inputs.shape[:-1]).constant or rows
        possible = [one.cost(weights, count, byte_cost) for one, why in refusals if not why]
        return min(possible) if possible else "; ".join(f"{one.plan}: {why}" for one, why in refusals)

    return latency


def group_columns(weights: TensorType) -> int:
    """Return how many columns of a quantized weight share a scale of the leaf level."""
    columns = weights.shape[-1].constant or 1
    if weights.qtype is None or not weights.qtype.levels:
        return columns
    block = expand_block(weights.qtype.levels[0].block, 2)[1]
    return columns if block == -1 else min(block, columns)


def _bits(kind: TensorType) -> int:
    return kind.qtype.decode.bits if kind.qtype is not None else 0


def _format_name(kind: TensorType) -> str:
    if kind.qtype is None:
        return "float"
    decode = kind.qtype.decode
    return f"{decode.bits}-bit" if isinstance(decode, IntDecode) else str(decode).partition("(")[0]


def parse_costs(texts: Iterable[str]) -> tuple[PlanCost, ...]:
    """Read the lines of a target, in order.

    Raises:
        QccError: listing every line that names an unknown plan or key, or has a value that is no number.
    """
    costs: list[PlanCost] = []
    problems: list[Problem] = []
    for text in texts:
        try:
            costs.append(_parse_cost(text))
        except (ValueError, TypeError) as error:
            problems.append(
                Problem(f"plan '{text}'", str(error), "write e.g. 'group_after weights=1-8 activations=2-8'")
            )
    if problems:
        raise QccError("the costs of plans cannot be read", problems)
    return tuple(costs)


def _parse_cost(text: str) -> PlanCost:
    plan, *words = text.split() or [""]
    if plan not in {one.value for one in Plan}:
        raise ValueError(f"'{plan}' is none of the plans {', '.join(one.value for one in Plan)}")
    pairs = dict(word.split("=", 1) for word in words)
    weights, activations = (Widths.parse(pairs.pop(role, "")) for role in ("weights", "activations"))
    group = int(pairs.pop("group", "1"))
    if unknown := set(pairs) - {one.name for one in fields(PlanCost)[4:]}:
        raise ValueError(f"has no cost called {', '.join(sorted(unknown))}")
    return PlanCost(plan, weights, activations, group, **{name: float(value) for name, value in pairs.items()})

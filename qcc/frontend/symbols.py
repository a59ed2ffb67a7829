"""Symbolic sizes of the export: torch's expressions as dimensions, and the ranges of their symbols.

torch.export reports a lower bound of 2 for every size that it did not specialise, and its runtime takes smaller sizes
all the same. A bound of at most 2 is therefore taken as 1, unless an operation of the graph is only right from 2 on
(`x[:, -2:]` was traced as always having two columns).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from qcc.errors import ShapeError
from qcc.frontend.refusal import Refusal
from qcc.ir.dims import UNBOUNDED, Call, Dim, Shape, parse_dim
from qcc.ir.types import SymbolAttr

Range = tuple[int, int]


class Symbols:
    """The shape symbols of one exported program."""

    def __init__(self, exported: Mapping[str, Range]) -> None:
        self._exported = dict(exported)
        self._ranges = {name: (1 if low <= 2 else low, high) for name, (low, high) in exported.items()}

    @staticmethod
    def of(program: torch.export.ExportedProgram) -> Symbols:
        """Read the ranges of the symbols that an exported program's inputs mention; others depend on data."""
        ranges: dict[str, Range] = {}
        bound = _input_symbols(program)
        for symbol, bounds in program.range_constraints.items():
            if str(symbol) not in bound:
                continue
            high = int(bounds.upper) if bounds.upper.is_finite and bounds.upper.is_Integer else UNBOUNDED
            low = int(bounds.lower) if bounds.lower.is_Integer else 0
            ranges[str(symbol)] = (low, min(high, UNBOUNDED))
        return Symbols(ranges)

    def dim(self, size: object) -> Dim:
        """Convert a size of the export (an int or a SymInt).

        Raises:
            Refusal: if its expression is not one of integer arithmetic, or depends on data.
        """
        if isinstance(size, int):
            return Dim.of(size)
        text = str(size.node.expr) if isinstance(size, torch.SymInt) else str(size)
        try:
            dim = parse_dim(text)
        except ShapeError as error:
            raise Refusal(f"the size {text} is no integer expression that qcc can compute") from error
        unknown = sorted(dim.symbols - self._exported.keys())
        if unknown:
            raise Refusal(
                f"the size {text} depends on the values of tensors ({', '.join(unknown)})",
                "make the shape depend on the shapes of the inputs only",
            )
        return dim

    def shape(self, value: torch.Tensor) -> Shape:
        """Convert the shape of a tensor of the export."""
        return tuple(self.dim(size) for size in value.shape)

    def never_negative(self, dim: Dim) -> bool:
        """Whether torch took `dim >= 0` for granted; the symbol's range is then kept to where it holds."""
        lowest = _bounds(dim, self._exported)[0]
        if lowest is None or lowest < 0:
            return False
        self.require(dim)
        return True

    def require(self, dim: Dim) -> None:
        """Keep the range of a symbol to where `dim = a * symbol + b` is not negative, within the exported range."""
        lowest = _bounds(dim, self._ranges)[0]
        if (lowest is not None and lowest >= 0) or len(dim.symbols) != 1:
            return
        name = next(iter(dim.symbols))
        offset = dim.substitute({name: Dim.of(0)}).constant
        factor = None if offset is None else (dim - offset).exact_div(Dim.symbol(name))
        slope = None if factor is None else factor.constant
        if offset is None or slope is None or slope <= 0:
            return
        low, high = self._ranges[name]
        self._ranges[name] = (max(low, min(-(offset // slope), self._exported[name][0])), high)

    def attributes(self, used: frozenset[str]) -> list[SymbolAttr]:
        """Make the attributes of the symbols that the inputs mention, in torch's order."""
        return [SymbolAttr.make(name, low, high) for name, (low, high) in self._ranges.items() if name in used]


def _input_symbols(program: torch.export.ExportedProgram) -> frozenset[str]:
    names: set[str] = set()
    for node in program.graph.nodes:
        value = node.meta.get("val") if node.op == "placeholder" else None
        if isinstance(value, torch.Tensor):
            sizes = [size for size in value.shape if isinstance(size, torch.SymInt)]
            names.update(str(symbol) for size in sizes for symbol in size.node.expr.free_symbols)
    return frozenset(names)


def _bounds(dim: Dim, ranges: Mapping[str, Range]) -> tuple[int | None, int | None]:
    """Bound an expression over non-negative symbols; None where there is no bound."""
    low: int | None = 0
    high: int | None = 0
    for monomial, coefficient in dim.terms:
        least, most = 1, 1
        for atom in monomial:
            a, b = _call_bounds(atom, ranges) if isinstance(atom, Call) else ranges.get(atom, (0, UNBOUNDED))
            if a is None or a < 0:
                return None, None
            least, most = least * a, most * (UNBOUNDED if b is None else b)
        top = None if most >= UNBOUNDED else most
        below, above = (least, top) if coefficient > 0 else (top, least)
        low = None if low is None or below is None else low + coefficient * below
        high = None if high is None or above is None else high + coefficient * above
    return low, high


def _call_bounds(call: Call, ranges: Mapping[str, Range]) -> tuple[int | None, int | None]:
    (a, b), (c, d) = _bounds(call.left, ranges), _bounds(call.right, ranges)
    match call.function:
        case "floordiv" if c is not None and c > 0:
            return (None if a is None or d is None else a // d), (None if b is None else b // c)
        case "mod" if c is not None and c > 0:
            return 0, (None if d is None else d - 1)
        case "max":
            known = [one for one in (a, c) if one is not None]
            return max(known, default=None), (None if b is None or d is None else max(b, d))
        case "min":
            known = [one for one in (b, d) if one is not None]
            return (None if a is None or c is None else min(a, c)), min(known, default=None)
        case _:
            return None, None

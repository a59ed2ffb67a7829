"""Shape symbols take their values from the actual shapes of the inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qcc.errors import Problem, ShapeError
from qcc.ir.base import show
from qcc.ir.dims import UNBOUNDED, Dim
from qcc.ir.program import ProgramOp
from qcc.ir.types import type_of


def bind_symbols(program: ProgramOp, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Read the symbols' values off the inputs' actual shapes (elements per axis).

    Raises:
        ShapeError: listing every input that is missing, or whose rank, size or range does not fit.
    """
    problems: list[Problem] = []
    values: dict[str, int] = {}
    kinds = {n: type_of(a) for n, a in zip(program.input_names, program.body.block.args, strict=True)}
    for name, kind in kinds.items():
        actual = shapes.get(name)
        if actual is None:
            problems.append(Problem(f"input '{name}'", "is missing", f"pass a tensor of shape {show(kind.shape)}"))
        elif len(actual) != kind.rank:
            found = list(actual)
            problems.append(Problem(f"input '{name}'", f"has shape {found}, the program takes {show(kind.shape)}"))
        else:
            for dim, size in zip(kind.shape, actual, strict=True):
                _solve(dim, size, values)
    if not problems:
        for name, kind in kinds.items():
            problems.extend(_check_sizes(name, kind.shape, shapes[name], values))
        problems.extend(_check_ranges(program, values))
    if problems:
        raise ShapeError("the inputs do not fit the compiled program", problems)
    return values


def _solve(dim: Dim, size: int, values: dict[str, int]) -> None:
    """Solve `a * symbol + b = size` where that is the dimension's form; other forms are only checked."""
    names = dim.symbols
    if len(names) != 1 or (name := next(iter(names))) in values:
        return
    offset = dim.substitute({name: Dim.of(0)}).constant
    factor = None if offset is None else (dim - offset).exact_div(Dim.symbol(name))
    if offset is None or factor is None or not factor.constant:
        return
    values[name] = (size - offset) // factor.constant


def _check_sizes(name: str, shape: Sequence[Dim], actual: Sequence[int], values: Mapping[str, int]) -> list[Problem]:
    problems: list[Problem] = []
    for axis, (dim, size) in enumerate(zip(shape, actual, strict=True)):
        wanted = dim.evaluate(values) if dim.symbols <= values.keys() else None
        if wanted != size:
            expected = str(dim) if wanted is None or dim.constant is not None else f"{dim} = {wanted}"
            problems.append(Problem(f"input '{name}', axis {axis}", f"has size {size}, expected {expected}"))
    return problems


def _check_ranges(program: ProgramOp, values: Mapping[str, int]) -> list[Problem]:
    problems: list[Problem] = []
    for symbol, (low, high) in program.symbol_ranges.items():
        value = values.get(symbol)
        if value is not None and not low <= value <= high:
            limit = f"at least {low}" if high == UNBOUNDED else f"between {low} and {high}"
            problems.append(
                Problem(
                    f"dimension {symbol}",
                    f"is {value}, the model was exported for {limit}",
                    "change the input, or export again with a wider range",
                )
            )
    return problems

"""Gather what the templates print: names, shapes, checks, slots, calls."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from qcc.backends.cpu.arena import ArenaPlan
from qcc.backends.cpu.ctext import C_DTYPES, c_comment, c_dim, c_name, c_string, c_symbol
from qcc.backends.cpu.emitter import Lowered
from qcc.backends.cpu.render import c_constants, c_parts, c_value
from qcc.backends.cpu.statements import ContractCase
from qcc.backends.cpu.weights import WeightsFile
from qcc.errors import Problem, UnsupportedOp
from qcc.ir.base import show
from qcc.ir.dims import UNBOUNDED, Call, Dim, product
from qcc.ir.program import ProgramOp
from qcc.ir.types import TensorType, type_of
from qcc.numerics.elements import ELEMENT_BYTES

OWN_KERNELS = frozenset({"dequantize"})
"""Kernels of qcc_runtime.h; all others are in the table of qcc_kernels.h."""


def names_of(name: str) -> dict[str, str]:
    """Return the prefixes of a program's C names."""
    prefix = c_name(name)
    return {"p": prefix, "P": prefix.upper(), "title": c_comment(name), "pad": " " * len(prefix)}


def model_context(lowered: Lowered, name: str, written: WeightsFile) -> dict[str, Any]:
    """Return everything that the templates of model.c and model.h print."""
    program, schedule, places = lowered.program, lowered.schedule, lowered.places
    kernels = {call.kernel: call.scratch for call in schedule.calls}
    return {
        **names_of(name),
        **port_context(program),
        **shape_context(program),
        **slot_context(places.plan, program),
        "weights": written,
        "sections": [
            {"index": index, "offset": written.offsets[buffer], "name": c_comment(buffer.key)}
            for buffer, index in places.weights.items()
        ],
        "states": [_state(lowered, key, index) for index, key in enumerate(lowered.states)],
        "constants": c_constants(places.constants),
        "runners": [
            {"name": kernel, "scratch": scratch, "own": kernel in OWN_KERNELS}
            for kernel, scratch in sorted(kernels.items())
        ],
        "timed": [{"kernel": c_string(one.kernel), "layer": c_string(one.layer)} for one in schedule.calls],
        "checks": [{"size": c_dim(one.size), "text": c_string(one.text)} for one in schedule.checks],
        "check_symbols": _symbols(one.size for one in schedule.checks),
        "parts": c_parts(schedule, places),
        "contracts": [_contract(one, lowered) for one in schedule.contracts],
    }


def _state(lowered: Lowered, key: str, index: int) -> dict[str, Any]:
    buffer = lowered.states[key]
    return {
        "index": index,
        "bytes": f"INT64_C({len(lowered.constants.bytes_of(buffer))})",
        "weight": f"WEIGHT_{lowered.places.weights[buffer]}",
        "name": c_comment(key),
    }


def _contract(case: ContractCase, lowered: Lowered) -> dict[str, Any]:
    groups = -(-case.k // case.group)
    return {
        "name": c_string(case.name),
        "n": case.n,
        "k": case.k,
        "group": case.group,
        "groups": groups,
        "scales": groups if case.group_scales else 1,
        "qmax": 2 ** (case.bits - 1) - 1,
        "narrow": int(case.narrow),
        "group_scales": int(case.group_scales),
        "lookup": int(case.lookup),
        "static_scale": "" if case.static_scale is None else c_value(case.static_scale, lowered.places),
        "weight": c_value(case.weight, lowered.places),
    }


def _symbols(dims: Iterable[Dim]) -> list[str]:
    names: set[str] = set()
    for dim in dims:
        names |= dim.symbols
    return [c_symbol(one) for one in sorted(names)]


def port_context(program: ProgramOp) -> dict[str, Any]:
    """Return names, types and shapes of inputs and outputs."""
    inputs = [type_of(one) for one in program.body.block.args]
    outputs = [type_of(one) for one in program.terminator.values]
    return {
        "inputs": [_port(i, n, k) for i, (n, k) in enumerate(zip(program.input_names, inputs, strict=True))],
        "outputs": [_port(i, n, k) for i, (n, k) in enumerate(zip(program.output_names, outputs, strict=True))],
        "max_rank": max([kind.rank for kind in (*inputs, *outputs)] + [1]),
        "output_symbols": _symbols(dim for kind in outputs for dim in kind.shape),
        "output_sizes": bool(outputs),
    }


def _port(index: int, name: str, kind: TensorType) -> dict[str, Any]:
    return {
        "index": index,
        "name": c_string(name),
        "label": c_comment(name),
        "type": f"{show(kind.shape)} {kind.scalar}",
        "dtype": C_DTYPES[kind.scalar],
        "rank": kind.rank,
        "shape": [c_dim(dim) for dim in kind.shape],
    }


def shape_context(program: ProgramOp) -> dict[str, Any]:
    """Return how symbols are read off the inputs' shapes, and what is checked about those.

    Raises:
        UnsupportedOp: if a symbol appears in no input dimension of the form `a * symbol + b`.
    """
    bindings: dict[str, str] = {}
    origins: dict[str, dict[str, int]] = {}
    checks: list[dict[str, Any]] = []
    dims: list[Dim] = []
    for index, argument in enumerate(program.body.block.args):
        for axis, dim in enumerate(type_of(argument).shape):
            solved = _solve(dim, f"inputs[{index}].shape[{axis}]", bindings)
            bindings |= solved
            origins |= {one: {"input": index, "axis": axis} for one in solved}
            if not (solved and str(dim) in solved):
                checks.append({"input": index, "axis": axis, "text": c_dim(dim), "name": c_string(str(dim))})
                dims.append(dim)
    if unbound := sorted(set(program.symbol_ranges) - set(bindings)):
        problems = [Problem(one, "appears in no input dimension by itself") for one in unbound]
        raise UnsupportedOp("the values of shape symbols cannot be read off the inputs", problems)
    ranges = [
        {"name": c_string(name), "symbol": c_symbol(name), "low": low, "high": _bound(high), **origins[name]}
        for name, (low, high) in program.symbol_ranges.items()
    ]
    return {
        "symbols": [c_symbol(one) for one in bindings],
        "bindings": [{"symbol": c_symbol(one), "text": text} for one, text in bindings.items()],
        "ranges": ranges,
        "size_checks": checks,
        "bind_symbols": _symbols(dims),
    }


def _bound(high: int) -> str:
    return "INT64_MAX" if high == UNBOUNDED else f"INT64_C({high})"


def _solve(dim: Dim, size: str, known: dict[str, str]) -> dict[str, str]:
    """Solve `factor * symbol + offset = size` for a symbol that has no value yet."""
    if len(dim.symbols) != 1 or (name := next(iter(dim.symbols))) in known:
        return {}
    offset = dim.substitute({name: Dim.of(0)}).constant
    factor = None if offset is None else (dim - offset).exact_div(Dim.symbol(name))
    if offset is None or factor is None or not factor.constant:
        return {}
    text = size if not offset else f"({size} - {offset})"
    return {name: text if factor.constant == 1 else f"{text} / {factor.constant}"}


def slot_context(plan: ArenaPlan, program: ProgramOp) -> dict[str, Any]:
    """Return the sizes of the slots, and the bound that keeps them from overflowing."""
    sizes = [size for slot in plan.slots for size in slot]
    kinds = [type_of(one) for one in program.terminator.values]
    outputs = [product(kind.shape) * ELEMENT_BYTES[kind.scalar] for kind in kinds]
    return {
        "slots": [_largest(slot) for slot in plan.slots],
        "slot_symbols": _symbols(sizes),
        "bounds": [c_bound(size) for size in (*sizes, *outputs)],
        "bound_symbols": _symbols([*sizes, *outputs]),
    }


def _largest(sizes: tuple[Dim, ...]) -> str:
    text = c_dim(sizes[0])
    for size in sizes[1:]:
        text = f"qcc_max({text}, {c_dim(size)})"
    return text


def c_bound(dim: Dim) -> str:
    """Write an upper bound in doubles of a dimension's magnitude: every term counted as positive."""
    terms = [
        " * ".join([f"{abs(coefficient)}.0", *(_atom_bound(atom) for atom in monomial)])
        for monomial, coefficient in dim.terms
    ]
    return " + ".join(terms) or "0.0"


def _atom_bound(atom: str | Call) -> str:
    if isinstance(atom, str):
        return c_symbol(atom)
    left, right = c_bound(atom.left), c_bound(atom.right)
    match atom.function:
        case "floordiv":
            return f"({left})" if atom.right.constant is None else f"qcc_bound_div({left}, {right})"
        case "mod":
            return f"({right})"
        case _:
            return f"({left} + {right})"

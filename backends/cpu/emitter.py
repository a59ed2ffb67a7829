"""Lower a program and render the generated files from their templates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from qcc.backends.cpu import (
    emit_cache,
    emit_elementwise,
    emit_gather,
    emit_integer,
    emit_kernel,
    emit_nn,
    emit_program,
    emit_quant,
    emit_shape,
    emit_terms,
    emit_transformer,
)
from qcc.backends.cpu.arena import ArenaPlan, Lifetime, nominal_symbols, plan_arena
from qcc.backends.cpu.lowering import Lowering
from qcc.backends.cpu.render import Places, all_pointers
from qcc.backends.cpu.statements import Schedule, pointers
from qcc.backends.cpu.views import Buffer
from qcc.backends.cpu.weights import Constants
from qcc.backends.templates import source_templates
from qcc.ir.program import ProgramOp, StateOp
from qcc.ir.store import WeightStore
from qcc.ir.types import type_of

LOWERINGS = {
    **emit_program.LOWERINGS,
    **emit_elementwise.LOWERINGS,
    **emit_shape.LOWERINGS,
    **emit_gather.LOWERINGS,
    **emit_nn.LOWERINGS,
    **emit_transformer.LOWERINGS,
    **emit_cache.LOWERINGS,
    **emit_quant.LOWERINGS,
    **emit_terms.LOWERINGS,
    **emit_integer.LOWERINGS,
    **emit_kernel.LOWERINGS,
}
"""The function that lowers each operation."""


@dataclass(frozen=True)
class Lowered:
    """A lowered program: its schedule, where everything lives, and its constants."""

    program: ProgramOp
    schedule: Schedule
    places: Places
    weights: tuple[Buffer, ...]
    states: Mapping[str, Buffer]
    constants: Constants


def lower(program: ProgramOp, store: WeightStore) -> Lowered:
    """Lower a legalized program and plan its memory.

    Raises:
        UnsupportedOp: listing every operation that the kernels cannot compute.
    """
    constants = Constants(store)
    low = Lowering(program, constants)
    schedule = low.run(LOWERINGS)
    emit_program.finish_state(low)
    states = _states(program, constants)
    plan = plan_arena(lifetimes(schedule), nominal_symbols(program.symbol_ranges))
    used = [one.view for one in all_pointers(schedule)]
    weights = dict.fromkeys([*(view.buffer for view in used if view.buffer.kind == "weight"), *states.values()])
    numbers = dict.fromkeys((view.scalar, view.buffer.key) for view in used if view.buffer.kind == "constant")
    places = Places(
        plan,
        schedule.aliases,
        {buffer: index for index, buffer in enumerate(weights)},
        {key: index for index, key in enumerate(states)},
        {number: index for index, number in enumerate(numbers)},
    )
    return Lowered(program, schedule, places, tuple(weights), states, constants)


def _states(program: ProgramOp, constants: Constants) -> dict[str, Buffer]:
    """Return the first value of every mutable buffer."""
    states: dict[str, Buffer] = {}
    for op in program.body.block.ops:
        if isinstance(op, StateOp):
            kind = type_of(op.result)
            assert kind.static_shape is not None, "refused when lowered"
            states[op.key.data] = constants.weight(op.key.data, kind.scalar, kind.static_shape).buffer
    return states


def lifetimes(schedule: Schedule) -> list[Lifetime]:
    """Return the first and last call that touches each temporary of the arena."""
    first: dict[Buffer, int] = {}
    last: dict[Buffer, int] = {}
    for index, call in enumerate(schedule.calls):
        for pointer in pointers(call.fields):
            buffer = pointer.view.buffer
            if buffer.kind == "temp" and buffer not in schedule.aliases:
                first.setdefault(buffer, index)
                last[buffer] = index
    return [Lifetime(buffer, first[buffer], last[buffer], schedule.temps[buffer]) for buffer in first]


def arena_of(lowered: Lowered) -> ArenaPlan:
    """Return the arena plan of a lowered program."""
    return lowered.places.plan


def template_folder() -> Path:
    """Return the folder of templates and kernel sources."""
    return Path(str(resources.files("qcc.backends.cpu"))) / "templates"


def render(template: str, context: Mapping[str, Any]) -> str:
    """Fill in a template; an unknown name is an error."""
    return source_templates(template_folder()).get_template(template).render(context)

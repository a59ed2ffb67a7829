"""One graph of `torch.compile`: divided, its weights frozen, its groups compiled and called."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.fx import GraphModule

from qcc.compiled import Compiled
from qcc.errors import Problem, RecipeError, ShapeError, UnsupportedOp
from qcc.ir.base import KEPT_BY_RECIPE
from qcc.jit.calibration import Calls, Samples
from qcc.jit.groups import Run, TargetGroup, inductor_group, moves_only
from qcc.jit.layout import note_layouts
from qcc.jit.partition import TARGET_PREFIX, Division, divide
from qcc.jit.program import Frozen, GroupProgram, group_program
from qcc.jit.summary import GraphSummary
from qcc.jit.weights import Held, Input, changed

log = logging.getLogger("qcc.dynamo")

VARIANTS = 8
"""Programs that one graph keeps for models that share it (say layers of one class, each compiled by itself)."""

CompileGroup = Callable[[GroupProgram, tuple[str, ...], Calls | None], Compiled]
"""Compiles a group, given the names of its layers and calibration samples of its inputs."""


@dataclass(frozen=True)
class _Variant:
    held: tuple[Held, ...]
    module: GraphModule


class CompiledGraph:
    """A captured graph whose weights are constants; called with all its inputs in a list, which is emptied.

    Weights are checked at every call. Where a parameter has changed, the groups are compiled again with its new value.
    A buffer that has changed is an input from then on.
    """

    def __init__(
        self,
        graph: GraphModule,
        stored: Sequence[Input],
        compile_group: CompileGroup,
        tell: Callable[[GraphSummary], None],
        *,
        samples: Samples | None = None,
        strict: bool = False,
    ) -> None:
        self._graph = graph
        self._stored = list(stored)
        self._compile_group = compile_group
        self._tell = tell
        self._samples = samples
        self._strict = strict
        self._variants: list[_Variant] = []
        self._lock = threading.Lock()
        self._boxed_call = True

    def __call__(self, arguments: list[Any]) -> Sequence[Any]:
        """Run the graph."""
        variant = self._variant(arguments)
        given = tuple(arguments)
        arguments.clear()
        return variant.module(*given)

    def prepare(self, arguments: Sequence[Any]) -> None:
        """Compile for the weights among the arguments.

        Raises:
            QccError: if a recipe does not fit, or under `strict` if anything is left to others.
        """
        self._variant(arguments)

    def _variant(self, arguments: Sequence[Any]) -> _Variant:
        for variant in self._variants:
            if not changed(variant.held, arguments):
                return variant
        with self._lock:
            for variant in self._variants:
                if not changed(variant.held, arguments):
                    return variant
            self._drop_outdated(arguments)
            # whatever the caller runs under must not change how weights are solved
            with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
                made = self._build(arguments)
            self._variants = [made, *self._variants][:VARIANTS]
            return made

    def _drop_outdated(self, arguments: Sequence[Any]) -> None:
        """Forget variants of the same weights with other values; buffers that change are inputs from now on."""
        kept: list[_Variant] = []
        for variant in self._variants:
            written = [one for one in changed(variant.held, arguments) if one.is_of(arguments[one.source.position])]
            if not written:
                kept.append(variant)
                continue
            names = ", ".join(sorted(one.source.name for one in written)[:4])
            log.warning("%d weights were written to (%s, ...): compiling again", len(written), names)
            moving = {one.source.position for one in written if not one.source.parameter}
            self._stored = [one for one in self._stored if one.position not in moving]
        self._variants = kept

    def _build(self, arguments: Sequence[Any]) -> _Variant:
        frozen = {one.position: one for one in self._stored}
        tensors = {position: cast(torch.Tensor, arguments[position]) for position in frozen}
        held = tuple(Held(one, tensors[one.position]) for one in self._stored)
        graph = copy.deepcopy(self._graph)
        names = [node.name for node in graph.graph.nodes if node.op == "placeholder"]
        constants = {
            names[position]: Frozen(one.name, tensors[position].detach(), one.parameter)
            for position, one in frozen.items()
        }
        division = divide(graph, frozenset(constants))
        summary = self._compile_groups(division, constants, arguments)
        division.module.recompile()
        self._tell(summary)
        return _Variant(held, division.module)

    def _compile_groups(
        self, division: Division, constants: Mapping[str, Frozen], arguments: Sequence[Any]
    ) -> GraphSummary:
        """Put callables in the place of groups.

        Raises:
            RecipeError: listing every layer of the graph that the recipe does not fit.
            UnsupportedOp: under `strict`, listing everything that the target does not take or leaves in float.
        """
        module = division.module
        note_layouts(module, TARGET_PREFIX)
        left = list(division.refused)
        done = self._compile_for_target(division, constants, arguments, left)
        if self._strict:
            _refuse(left, done.values())
        others = {name: one for name, one in division.groups("").items() if name not in done and not moves_only(one)}
        for name, run in done.items():
            _replace(module, name, run)
        for name, group in others.items():
            _replace(module, name, inductor_group(group))
        return GraphSummary(
            tuple(one.compiled for one in done.values()),
            tuple(left),
            division.operations,
            sum(division.sizes[name] for name in others),
            sum(len(weights) for name, weights in division.layers.items() if name not in done),
        )

    def _compile_for_target(
        self, division: Division, constants: Mapping[str, Frozen], arguments: Sequence[Any], left: list[Problem]
    ) -> dict[str, TargetGroup]:
        """Compile the groups that the target takes; note in `left` why it does not take others."""
        groups, programs, misfits = division.groups(TARGET_PREFIX), dict[str, GroupProgram](), list[Problem]()
        for name, group in groups.items():
            try:
                programs[name] = group_program(group, _constants_of(division.module, name, constants))
            except UnsupportedOp as error:
                left.extend(error.problems)
        calls: dict[str, Calls] = {}
        if self._samples is not None:
            taken = {name: one.taken for name, one in programs.items()}
            calls = self._samples.of_groups(division.module, arguments, taken)
        done: dict[str, TargetGroup] = {}
        for name, program in programs.items():
            layers = tuple(constants[one].name.removesuffix(".weight") for one in division.layers[name])
            try:
                compiled = self._compile_group(program, layers, calls.get(name))
            except (UnsupportedOp, ShapeError) as error:
                left.extend(error.problems or [Problem(name, error.message, error.fix)])
            except RecipeError as error:
                misfits.extend(error.problems or [Problem(name, error.message, error.fix)])
            else:
                done[name] = TargetGroup(groups[name], program, compiled)
        if misfits:
            raise RecipeError("the recipe does not fit the model", misfits)
        return done


def _constants_of(module: GraphModule, name: str, constants: Mapping[str, Frozen]) -> dict[int, Frozen]:
    """Return the constants among the inputs of a group by position."""
    (call,) = (node for node in module.graph.nodes if node.op == "call_module" and node.target == name)
    return {
        index: constants[one.name]
        for index, one in enumerate(call.args)
        if isinstance(one, torch.fx.Node) and one.name in constants
    }


def _refuse(left: Sequence[Problem], groups: Iterable[TargetGroup]) -> None:
    problems = list(left)
    for layer in (layer for one in groups for layer in one.compiled.coverage.layers):
        if layer.left_in_float not in ("", KEPT_BY_RECIPE):
            problems.append(Problem(layer.name, f"is left in float: {layer.left_in_float}"))
    if problems:
        fix = "rewrite them, or leave strict away to take them as they are"
        raise UnsupportedOp("strict: the model has operations that the target does not take", problems, fix=fix)


def _replace(module: GraphModule, name: str, run: Run) -> None:
    """Let a call of the graph run something else than the module of its name."""
    delattr(module, name)
    object.__setattr__(module, name, run)

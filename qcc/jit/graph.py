"""One graph of `torch.compile`: divided, its weights frozen, its groups compiled and called."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.fx import GraphModule

from qcc.compiled import Compiled
from qcc.errors import Problem, RecipeError, ShapeError, UnsupportedOp
from qcc.jit.groups import Run, TargetGroup, inductor_group, moves_only
from qcc.jit.layout import note_layouts
from qcc.jit.partition import TARGET_PREFIX, Division, divide
from qcc.jit.program import Frozen, GroupProgram, group_program
from qcc.jit.summary import GraphSummary
from qcc.jit.weights import Held, Input, changed

log = logging.getLogger("qcc.dynamo")

VARIANTS = 8
"""Programs that one graph keeps for models that share it (say layers of one class, each compiled by itself)."""

CompileGroup = Callable[[GroupProgram, tuple[str, ...]], Compiled]
"""Compiles a group, given the names of its layers."""


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
        strict: bool = False,
    ) -> None:
        self._graph = graph
        self._stored = list(stored)
        self._compile_group = compile_group
        self._tell = tell
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
        summary = self._compile_groups(division, constants)
        division.module.recompile()
        self._tell(summary)
        return _Variant(held, division.module)

    def _compile_groups(self, division: Division, constants: dict[str, Frozen]) -> GraphSummary:
        """Put callables in the place of groups.

        Raises:
            RecipeError: listing every layer of the graph that the recipe does not fit.
            UnsupportedOp: under `strict`, listing everything that the target does not take.
        """
        module = division.module
        note_layouts(module, TARGET_PREFIX)
        done: dict[str, TargetGroup] = {}
        left: list[Problem] = list(division.refused)
        misfits: list[Problem] = []
        for name, group in division.groups(TARGET_PREFIX).items():
            try:
                done[name] = self._target_group(module, name, group, division.layers[name], constants)
            except (UnsupportedOp, ShapeError) as error:
                left.extend(error.problems or [Problem(name, error.message, error.fix)])
            except RecipeError as error:
                misfits.extend(error.problems or [Problem(name, error.message, error.fix)])
        if misfits:
            raise RecipeError("the recipe does not fit the model", misfits)
        if self._strict and left:
            fix = "rewrite them, or leave strict away to have Inductor run them"
            raise UnsupportedOp("strict: the model has operations that the target does not take", left, fix=fix)
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

    def _target_group(
        self,
        module: GraphModule,
        name: str,
        group: GraphModule,
        weights: tuple[str, ...],
        constants: dict[str, Frozen],
    ) -> TargetGroup:
        (call,) = (node for node in module.graph.nodes if node.op == "call_module" and node.target == name)
        inputs = {
            index: constants[one.name]
            for index, one in enumerate(call.args)
            if isinstance(one, torch.fx.Node) and one.name in constants
        }
        program = group_program(group, inputs)
        layers = tuple(constants[one].name.removesuffix(".weight") for one in weights)
        return TargetGroup(group, program, self._compile_group(program, layers))


def _replace(module: GraphModule, name: str, run: Run) -> None:
    """Let a call of the graph run something else than the module of its name."""
    delattr(module, name)
    object.__setattr__(module, name, run)

"""The backend of `torch.compile(model, backend="qcc", options={...})`.

Found through the entry point group `torch_dynamo_backends`: nobody has to import qcc. `qcc.jit.options` has the
options, [docs/torch-compile.md](../docs/torch-compile.md) what a user sees.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.symbolic_convert import InstructionTranslator
from torch._guards import TracingContext
from torch.fx import GraphModule, Node

from qcc.cache import Cache
from qcc.compiled import Compiled
from qcc.driver import Options, compile_program
from qcc.errors import Problem, QccError, RecipeError
from qcc.frontend.aten_table import DROPPED, IN_PLACE, TABLE
from qcc.frontend.place import place_of
from qcc.jit.calibration import Calls, samples_of
from qcc.jit.gradients import FIX, refusing_gradients
from qcc.jit.graph import CompiledGraph
from qcc.jit.options import JitOptions, read_options
from qcc.jit.program import GroupProgram
from qcc.jit.shapes import let_sizes_vary
from qcc.jit.summary import GraphSummary
from qcc.jit.weights import stored_inputs

log = logging.getLogger("qcc.dynamo")


def backend(
    graph: GraphModule,
    examples: Sequence[Any],
    *,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """Compile a graph that Dynamo captured: layers with weights for a target, the rest with Inductor.

    Args:
        graph: torch operations; parameters, buffers and sizes are among its inputs.
        examples: the tensors and sizes of the call that made Dynamo capture it.
        mode: refused; the options say what is wanted.
        options: see `qcc.jit.options.KNOWN`.

    Raises:
        QccError: for options that cannot be taken, a model in training mode, a gradient asked for an input, a recipe
            that does not fit, or under `strict` anything that the target does not take.
    """
    wanted = read_options(options, mode)
    modules = _modules_in_scope()
    _refuse_training(graph, modules)
    let_sizes_vary(graph)
    stored = stored_inputs(graph, examples)
    _refuse_gradients(examples)
    target = target_of(examples, wanted.target)
    names = _layer_names(modules, [one.name for one in stored])
    compiler = _Compiler(wanted, target, architectures_of(examples), names)
    samples = (
        None if wanted.calibration is None else samples_of(graph, examples, wanted.calibration, _parameters_in_scope())
    )
    made: list[CompiledGraph] = []

    def take(functional: GraphModule, _: Sequence[Any]) -> CompiledGraph:
        # operators that alias and mutate one memory are merged into one input, which hides what is a weight
        same = sum(node.op == "placeholder" for node in functional.graph.nodes) == len(examples)
        written = _written()
        constant = [one for one in stored if same and one.position not in written]
        made.append(
            CompiledGraph(functional, constant, compiler.compile, compiler.tell, samples=samples, strict=wanted.strict)
        )
        return made[-1]

    with torch.no_grad():
        run = aot_autograd(fw_compiler=take, decompositions=_decompositions())(graph, examples)
    for one in made:
        one.prepare(examples)
    if torch.is_grad_enabled() and any(isinstance(one, torch.Tensor) and one.requires_grad for one in examples):
        return torch.compiler.disable(refusing_gradients(run))
    return run


def target_of(examples: Iterable[Any], wish: str = "") -> str:
    """Return the target for the device of some tensors: `cpu`, or `triton` for CUDA.

    Raises:
        QccError: if they lie on several devices, on one that no target serves, or on another than the wished target's.
    """
    tensors = [one for one in examples if isinstance(one, torch.Tensor)]
    # numbers come as tensors of rank 0 on the CPU, wherever the model is
    devices = sorted({one.device.type for one in tensors if one.ndim} or {one.device.type for one in tensors})
    if len(devices) > 1:
        raise QccError(f"the tensors of one graph lie on {' and '.join(devices)}", fix="move model and inputs to one")
    device = devices[0] if devices else "cpu"
    if device not in _TARGETS:
        raise QccError(f"no target of qcc computes on {device}", fix=f"move the model to {' or '.join(_TARGETS)}")
    if wish and wish != _TARGETS[device]:
        fix = "leave target away, or move model and inputs"
        raise QccError(f"target {wish} cannot take tensors on {device}", fix=fix)
    return _TARGETS[device]


def architectures_of(examples: Iterable[Any]) -> tuple[str, ...]:
    """Return the architectures of the GPUs that some tensors lie on, as `sm_90`; none for tensors on the CPU."""
    devices = {one.device for one in examples if isinstance(one, torch.Tensor) and one.device.type == "cuda"}
    capabilities = {torch.cuda.get_device_capability(one) for one in devices}
    return tuple(f"sm_{major}{minor}" for major, minor in sorted(capabilities))


_TARGETS = {"cpu": "cpu", "cuda": "triton"}


@dataclass
class _Compiler:
    """Compiles the groups of one graph with one set of options, and says what became of it."""

    options: JitOptions
    target: str
    arch: tuple[str, ...]
    names: frozenset[str]

    def compile(self, group: GroupProgram, layers: tuple[str, ...], calls: Calls | None) -> Compiled:
        """Compile a group by the recipe; its overrides are those that match one of its layers."""
        recipe = self.options.recipe
        unknown = [one for one in recipe.overrides if not any(map(one.matches, {*self.names, *layers}))]
        if unknown:
            problems = [Problem(f"overrides: {one.match}", "matches no layer") for one in unknown]
            raise RecipeError("the recipe does not fit the model", problems, fix=f"layers: {', '.join(layers[:4])}")
        chosen = tuple(one for one in recipe.overrides if any(map(one.matches, layers)))
        options = Options(
            recipe=recipe.model_copy(update={"overrides": chosen}),
            target=self.target,
            arch=self.arch,
            threads=torch.get_num_threads(),
            golden=False,
        )
        return compile_program(group.program, options, calls, Cache(self.options.cache_dir))

    def tell(self, summary: GraphSummary) -> None:
        """Say what became of the graph, once."""
        for problem in summary.refused:
            log.info("left to Inductor: %s", problem)
        _say(summary.line())


def _say(line: str) -> None:
    log.info(line)
    if line not in _said:
        _said.add(line)
        print(f"qcc: {line}", file=sys.stderr)


_said: set[str] = set()


def _written() -> set[int]:
    """Return the positions of the inputs that the graph overwrites: state, not constants."""
    context = TracingContext.try_get()
    metadata = None if context is None else context.fw_metadata
    return set() if metadata is None else set(metadata.mutated_inp_runtime_indices)


def _decompositions() -> dict[Any, Callable[..., Any]]:
    """Return torch's decompositions of the operators that the front end lacks."""
    known = torch.export.default_decompositions()
    return {one: rule for one, rule in known.items() if not any(one in table for table in (TABLE, IN_PLACE, DROPPED))}


def _modules_in_scope() -> list[torch.nn.Module]:
    """Return the modules among the local variables of the function that Dynamo is capturing."""
    try:
        found = InstructionTranslator.current_tx().f_locals.values()
    except AttributeError:
        return []
    return [one for one in found if isinstance(one, torch.nn.Module)]


def _parameters_in_scope() -> list[str]:
    """Return the names of the parameters of the function that Dynamo is capturing, in order, without the module."""
    try:
        code = InstructionTranslator.current_tx().f_code
    except AttributeError:
        return []
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return [one for index, one in enumerate(names) if index or one != "self"]


def _layer_names(modules: Iterable[torch.nn.Module], stored: Iterable[str]) -> frozenset[str]:
    """Return the names that overrides may match: of all layers of the model, whatever graph they are in."""
    names = [name for one in modules for name, _ in one.named_parameters()]
    return frozenset(name.removesuffix(".weight") for name in (*names, *stored) if name.endswith(".weight"))


_DROPS = ("dropout", "batch_norm", "instance_norm", "rrelu")


def _refuse_training(graph: GraphModule, modules: Iterable[torch.nn.Module]) -> None:
    training = [type(one).__name__ for one in modules if one.training]
    calls = [node for node in graph.graph.nodes if node.op == "call_function"]
    problems = [
        Problem(place_of(node) or node.name, f"{node.target.__name__} in training mode")
        for node in calls
        if getattr(node.target, "__name__", "") in _DROPS and _trains(node)
    ]
    if training or problems:
        what = f"{', '.join(sorted(set(training)))} is in training mode" if training else "the model trains"
        raise QccError(f"{what}; backend qcc compiles for inference", problems, fix="call model.eval() first")


def _trains(node: Node) -> bool:
    place = {"dropout": 2, "batch_norm": 5, "instance_norm": 5}
    name = node.target.__name__ if callable(node.target) else ""
    position = place.get(name, len(node.args))
    value = node.args[position] if position < len(node.args) else node.kwargs.get("training", False)
    return value is True


def _refuse_gradients(examples: Iterable[Any]) -> None:
    if not torch.is_grad_enabled():
        return
    asked = [one for one in examples if isinstance(one, torch.Tensor) and one.requires_grad]
    if any(not isinstance(one, torch.nn.Parameter) for one in asked):
        raise QccError("a gradient of an input is asked for, and backend qcc compiles for inference", fix=FIX)

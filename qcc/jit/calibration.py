"""Calibration samples of a model, as what its captured graph and the groups of that graph were given."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.fx import GraphModule, Interpreter

from qcc.errors import Problem, QccError
from qcc.jit.weights import source_of

Calls = list[tuple[torch.Tensor, ...]]
# an argument by name; where Dynamo wraps the call, by position or as a keyword
_ARGUMENT = re.compile(r"L\['args'\]\[(\d+)\]|L\['kwargs'\]\['(\w+)'\]|L\['(\w+)'\]")


@dataclass(frozen=True)
class Samples:
    """Calls of a model, and the inputs of a graph that are its arguments: name by position."""

    calls: Iterable[Any]
    names: Mapping[int, str]
    parameters: tuple[str, ...]

    def of_groups(
        self, module: GraphModule, arguments: Sequence[Any], taken: Mapping[str, tuple[int, ...]]
    ) -> dict[str, Calls]:
        """Run the samples through a divided graph; returns what its groups were given.

        Args:
            module: the graph; its groups are still modules of torch's operators.
            arguments: inputs for what is no argument of the model: weights and state. They are not written to.
            taken: by group, the positions of the inputs that are wanted.

        Raises:
            QccError: listing the samples that are not calls of the model, or if none fits the sizes of the graph.
        """
        capture = _Capture(module, taken)
        wanted = [node.meta["val"] for node in module.graph.nodes if node.op == "placeholder"]
        misfits: set[str] = set()
        for named in self._named():
            for piece in _pieces(named, {name: wanted[position] for position, name in self.names.items()}, misfits):
                inputs = [piece.get(self.names.get(index, ""), one) for index, one in enumerate(arguments)]
                sizes = _sizes(inputs, wanted)
                capture.run(*(_value(one, kind, sizes) for one, kind in zip(inputs, wanted, strict=True)))
        if not all(capture.calls.values()):
            problems = [Problem("", one) for one in sorted(misfits)]
            fix = "compile with dynamic=True, or give samples of the sizes that the model is called with"
            raise QccError("no calibration sample fits the graph", problems, fix=fix)
        return capture.calls

    def _named(self) -> Iterator[dict[str, torch.Tensor]]:
        known = set(self.names.values())
        problems: list[Problem] = []
        for number, call in enumerate(self.calls, 1):
            named = _bound(call, self.parameters)
            if missing := sorted(known - named.keys()):
                what = f"gives no tensor for {', '.join(missing)}"
                problems.append(Problem(f"sample {number}", what, "give a tuple of arguments, or a dict by name"))
            elif not problems:
                yield named
        if problems:
            raise QccError("some calibration samples are no calls of the model", problems)


def samples_of(graph: GraphModule, examples: Sequence[Any], calls: Iterable[Any], parameters: Sequence[str]) -> Samples:
    """Find the arguments of the model among the inputs of a graph that Dynamo captured.

    `parameters` are the names of the model's parameters in order, for samples that are tuples.

    Raises:
        QccError: if the samples can be read only once, or the graph has no argument of the model.
    """
    if isinstance(calls, Iterator):
        raise QccError("the calibration can be read only once, and every graph reads it", fix="give a list")
    sources = [source_of(node) for node in graph.graph.nodes if node.op == "placeholder"]
    names = {
        position: str(found[found.lastindex or 0])
        for position, (source, example) in enumerate(zip(sources, examples, strict=True))
        if isinstance(example, torch.Tensor) and (found := _ARGUMENT.fullmatch(source))
    }
    if not names:
        raise QccError("the graph takes no argument of the model, so calibration samples do not reach it")
    return Samples(calls, names, tuple(parameters))


def _bound(call: Any, parameters: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return the tensors of a call by the names of the parameters, those of a tuple also by position."""
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(call, Mapping):
        pairs = cast(Mapping[Any, Any], call).items()
    elif isinstance(call, list | tuple):
        values = cast(Sequence[Any], call)
        pairs = [*enumerate(values), *zip(parameters, values, strict=False)]
    return {str(name): value for name, value in pairs if isinstance(value, torch.Tensor)}


def _pieces(
    named: Mapping[str, torch.Tensor], kinds: Mapping[str, torch.Tensor], misfits: set[str]
) -> Iterator[dict[str, torch.Tensor]]:
    """Cut a sample along the first axis into the batches that a graph was captured for; skip what cannot be cut."""
    batch, count = 0, 0
    for name, kind in kinds.items():
        found = named[name]
        sizes: list[Any] = list(kind.shape)
        fixed = [axis for axis, size in enumerate(sizes) if isinstance(size, int)]
        if found.ndim != kind.ndim or any(found.shape[axis] != kind.shape[axis] for axis in fixed if axis):
            misfits.add(f"'{name}' has the shape {list(found.shape)}, the graph was captured for {list(kind.shape)}")
            return
        if 0 in fixed and found.shape[0] != kind.shape[0]:
            batch, count = int(kind.shape[0]), int(found.shape[0])
    if not batch:
        yield dict(named)
        return
    if count < batch or any(named[name].shape[0] != count for name in kinds):
        misfits.add(f"a batch of {count} cannot be cut into batches of {batch}")
        return
    for start in range(0, count - batch + 1, batch):
        yield {name: named[name][start : start + batch] for name in kinds}


def _sizes(inputs: Sequence[Any], kinds: Sequence[Any]) -> dict[Any, int]:
    """Read the values of symbols off the shapes of the inputs."""
    found: dict[Any, int] = {}
    for value, kind in zip(inputs, kinds, strict=True):
        if isinstance(kind, torch.Tensor):
            for size, symbol in zip(value.shape, kind.shape, strict=True):
                if isinstance(symbol, torch.SymInt) and symbol.node.expr.is_symbol:
                    found[symbol.node.expr] = int(size)
    return found


def _value(given: Any, kind: Any, sizes: Mapping[Any, int]) -> Any:
    if isinstance(kind, torch.SymInt):
        return int(kind.node.expr.subs(sizes))
    return given


class _Capture(Interpreter):
    """Runs a divided graph and keeps what its groups are given."""

    def __init__(self, module: GraphModule, taken: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__(module)
        self._taken = taken
        self.calls: dict[str, Calls] = {name: [] for name in taken}

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a group."""
        if target in self.calls:
            self.calls[target].append(tuple(args[index].detach().cpu().clone() for index in self._taken[target]))
        return super().call_module(target, args, kwargs)

"""The weights of a model that `torch.compile` gives as inputs: taken as constants, and checked at every call."""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule


@dataclass(frozen=True)
class Input:
    """An input of a graph that is a stored tensor of the model: position, name, and whether it is a parameter."""

    position: int
    name: str
    parameter: bool


class Held:
    """A stored tensor as it was when a program was compiled from it."""

    def __init__(self, source: Input, tensor: torch.Tensor) -> None:
        self.source = source
        self._tensor = weakref.ref(tensor)
        self._state = _state(tensor)

    def is_of(self, tensor: object) -> bool:
        """Whether this is the tensor, whatever its values."""
        return self._tensor() is tensor

    def is_current(self, tensor: Any) -> bool:
        """Whether this is the tensor and its values are the same; writes through `.data` are not seen."""
        return self._tensor() is tensor and self._state == _state(tensor)


def _state(tensor: torch.Tensor) -> tuple[int, int]:
    # a tensor made in inference mode counts no versions
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


def changed(held: Iterable[Held], arguments: Sequence[Any]) -> list[Held]:
    """List what is not what it was."""
    return [one for one in held if not one.is_current(arguments[one.source.position])]


def stored_inputs(graph: GraphModule, examples: Sequence[Any]) -> list[Input]:
    """List the parameters and buffers of modules among the inputs of a graph that Dynamo captured."""
    found: list[Input] = []
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    for position, (node, example) in enumerate(zip(placeholders, examples, strict=True)):
        source = source_of(node)
        parameter = isinstance(example, torch.nn.Parameter)
        if isinstance(example, torch.Tensor) and (parameter or "._buffers[" in source):
            found.append(Input(position, _module_path(source) or node.name, parameter))
    names = [one.name for one in found]
    return [
        one if names.count(one.name) == 1 else Input(one.position, f"{one.name}.{one.position}", one.parameter)
        for one in found
    ]


def source_of(node: torch.fx.Node) -> str:
    """Return where Dynamo found an input, such as `L['self']._modules['fc']._parameters['weight']`."""
    source = getattr(node.meta.get("grapharg"), "source", None) or getattr(node, "_dynamo_source", None)
    name = getattr(source, "name", "")
    return str(name() if callable(name) else name)


def _module_path(source: str) -> str:
    """Return `layers.0.fc.weight` for `L['self']._modules['layers']._modules['0']...`; empty for another kind."""
    return ".".join(re.findall(r"\._(?:modules|parameters|buffers)\['([^']+)'\]", source))

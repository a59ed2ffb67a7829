"""The signature of an exported program: inputs, outputs and stored tensors as plain data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.export.graph_signature import (
    ConstantArgument,
    InputKind,
    InputSpec,
    OutputKind,
    TensorArgument,
)
from torch.utils import _pytree as pytree

Constant = int | float | bool | str | None


@dataclass(frozen=True)
class Leaf:
    """One leaf of the calling convention: a named tensor, or (with no name) the constant that it must be.

    `integer` marks an output that the model gives as a Python int and the program as an `i64` tensor of rank 0.
    """

    name: str | None
    constant: Constant = None
    integer: bool = False


@dataclass(frozen=True)
class Stored:
    """A tensor that comes with the program: a parameter, a buffer or a constant."""

    placeholder: str
    name: str
    tensor: object
    parameter: bool


def input_leaves(program: torch.export.ExportedProgram) -> tuple[Leaf, ...]:
    """List the flattened inputs: tensors by name, everything else as the constant it was exported with."""
    leaves: list[Leaf] = []
    for spec in program.graph_signature.input_specs:
        if spec.kind != InputKind.USER_INPUT:
            continue
        leaves.append(Leaf(None, spec.arg.value) if isinstance(spec.arg, ConstantArgument) else Leaf(spec.arg.name))
    return tuple(leaves)


def stored_tensors(program: torch.export.ExportedProgram) -> Iterator[Stored]:
    """List parameters, buffers and constant tensors in the order of the graph's placeholders."""
    for spec in program.graph_signature.input_specs:
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            name = str(spec.target)
            yield Stored(spec.arg.name, name, _find(program, spec, name), spec.kind == InputKind.PARAMETER)


def _find(program: torch.export.ExportedProgram, spec: InputSpec, name: str) -> object:
    persistent = spec.kind == InputKind.PARAMETER or (spec.kind == InputKind.BUFFER and spec.persistent is not False)
    first, second = (program.state_dict, program.constants) if persistent else (program.constants, program.state_dict)
    return first[name] if name in first else second.get(name)


def foreign_inputs(program: torch.export.ExportedProgram) -> list[tuple[str, str]]:
    """List inputs that are neither tensors nor constants, with the kind of each."""
    specs = program.graph_signature.input_specs
    known = (TensorArgument, ConstantArgument)
    return [(spec.arg.name, type(spec.arg).__name__) for spec in specs if not isinstance(spec.arg, known)]


def mutations(program: torch.export.ExportedProgram) -> tuple[dict[str, str], list[str]]:
    """Return stored tensor -> output node that it becomes, and the names of overwritten user inputs."""
    states: dict[str, str] = {}
    inputs: list[str] = []
    for spec in program.graph_signature.output_specs:
        if spec.kind in (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION):
            states[str(spec.target)] = spec.arg.name
        elif spec.kind == OutputKind.USER_INPUT_MUTATION:
            inputs.append(str(spec.target))
    return states, inputs


def user_outputs(program: torch.export.ExportedProgram) -> list[int]:
    """Return the positions of the user's outputs among the graph's outputs."""
    specs = program.graph_signature.output_specs
    return [index for index, spec in enumerate(specs) if spec.kind == OutputKind.USER_OUTPUT]


def output_names(program: torch.export.ExportedProgram, count: int) -> list[str]:
    """Name the flattened outputs by their place in the structure: `logits`, `hidden_states_2`, `output`, `output_1`."""
    names = [_join(path) for path in _paths(program.call_spec.out_spec, count)]
    plain = [name if name and not name[0].isdigit() else f"output{'_' if name else ''}{name}" for name in names]
    unique: list[str] = []
    for name in plain:
        wish, serial = name, 1
        while wish in unique:
            wish, serial = f"{name}_{serial}", serial + 1
        unique.append(wish)
    return unique


def _paths(spec: pytree.TreeSpec | None, count: int) -> list[tuple[object, ...]]:
    if spec is None or spec.num_leaves != count:
        return [(index,) for index in range(count)]
    return list(_walk(spec, ()))


def _walk(spec: pytree.TreeSpec, path: tuple[object, ...]) -> Iterator[tuple[object, ...]]:
    if spec.is_leaf():
        yield path
        return
    children = spec.children()
    for key, child in zip(_keys(spec, len(children)), children, strict=True):
        yield from _walk(child, (*path, key))


def _keys(spec: pytree.TreeSpec, count: int) -> Sequence[object]:
    """Return the keys of a dictionary or of a dataclass whose context lists its fields, else positions."""
    context = spec.context
    if isinstance(context, list | tuple) and len(context) == count and all(isinstance(one, str) for one in context):
        return list(context)
    if isinstance(context, list | tuple) and context and isinstance(context[0], list | tuple):
        inner = list(context[0])
        if len(inner) == count and all(isinstance(one, str) for one in inner):
            return inner
    return range(count)


def _join(path: tuple[object, ...]) -> str:
    text = "_".join(str(one) for one in path)
    return "".join(one if one.isalnum() or one == "_" else "_" for one in text)


def structure(spec: pytree.TreeSpec | None) -> str:
    """Return a structure as JSON text (`treespec_loads` reads it), empty where its class has no text form."""
    if spec is None:
        return ""
    try:
        return pytree.treespec_dumps(spec)
    except NotImplementedError:
        return ""

"""The compiled module is called as the original one: nested arguments in, nested results out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch.utils import _pytree as pytree

from qcc.errors import Problem, ShapeError


class Leaf(BaseModel):
    """One leaf of the calling convention: a named tensor, or (without a name) the constant it must be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None
    constant: int | float | bool | str | None = None


class Signature(BaseModel):
    """How the original module was called: its leaves, and the trees around them as text of `torch.utils._pytree`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    inputs: tuple[Leaf, ...]
    outputs: tuple[Leaf, ...]
    in_spec: str
    out_spec: str


def flatten_arguments(signature: Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Flatten positional and keyword arguments to the program's inputs by name.

    Raises:
        ShapeError: if the arguments nest or are named differently than at export, a tensor is missing, or a constant
            differs from the one the model was exported with.
    """
    spec = pytree.treespec_loads(signature.in_spec)
    leaves, found = pytree.tree_flatten((tuple(args), _reordered(spec, kwargs)))
    if pytree.treespec_dumps(found) != pytree.treespec_dumps(spec) or found.num_leaves != len(signature.inputs):
        raise ShapeError(
            "the arguments do not match the exported call",
            [Problem("called with", _text(found)), Problem("exported with", _text(spec))],
            fix="pass the same positional and keyword arguments that the model was exported with",
        )
    inputs: dict[str, torch.Tensor] = {}
    wrong: list[Problem] = []
    for index, (expected, leaf) in enumerate(zip(signature.inputs, leaves, strict=True)):
        if expected.name is None:
            if leaf != expected.constant:
                what = f"is {leaf!r}, the model was exported with {expected.constant!r}"
                wrong.append(Problem(f"argument {index}", what, "export again with the other value"))
        elif isinstance(leaf, torch.Tensor):
            inputs[expected.name] = leaf
        else:
            wrong.append(Problem(f"input '{expected.name}'", f"must be a torch tensor, got {type(leaf).__name__}"))
    if wrong:
        raise ShapeError("the arguments do not match the exported call", wrong)
    return inputs


def nest_arguments(signature: Signature, inputs: Mapping[str, torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and keyword arguments that make the original module compute on named inputs."""
    leaves = [one.constant if one.name is None else inputs[one.name] for one in signature.inputs]
    args, kwargs = pytree.tree_unflatten(leaves, pytree.treespec_loads(signature.in_spec))
    return tuple(args), dict(kwargs)


def _reordered(spec: pytree.TreeSpec, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Put keyword arguments in the order of the export, which is the order of the tree's leaves."""
    order = list(spec.child(1).context or []) if spec.num_children == 2 else []
    return {name: kwargs[name] for name in [*order, *kwargs] if name in kwargs}


def _text(spec: pytree.TreeSpec) -> str:
    positional = spec.child(0).num_leaves
    keywords = ", ".join(map(str, spec.child(1).context or []))
    return f"{positional} positional tensors, keywords: {keywords or 'none'}"


def unflatten_results(signature: Signature, outputs: Mapping[str, torch.Tensor]) -> Any:
    """Nest named outputs as the module's own result was.

    A result type that is not known in this process (say a class of a library that is not imported) gives the flat
    tuple, or its one value.
    """
    values = [one.constant if one.name is None else outputs[one.name] for one in signature.outputs]
    try:
        spec = pytree.treespec_loads(signature.out_spec)
    except (KeyError, NotImplementedError, ValueError, RuntimeError):
        return values[0] if len(values) == 1 else tuple(values)
    return pytree.tree_unflatten(values, spec)

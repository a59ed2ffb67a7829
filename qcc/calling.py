"""The compiled module is called as the original one: nested arguments in, nested results out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from qcc.errors import Problem, ShapeError


def flatten_arguments(
    in_spec: str, names: Sequence[str | None], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Flatten positional and keyword arguments to the program's inputs by name.

    `in_spec` is the exported call's tree as text; `names` has one entry per leaf, None for leaves that are no tensor
    inputs (None, numbers and strings fixed at export).

    Raises:
        ShapeError: if the arguments nest or are named differently than at export, or a tensor is missing.
    """
    spec = pytree.treespec_loads(in_spec)
    ordered = _reordered(spec, kwargs)
    leaves, found = pytree.tree_flatten((tuple(args), ordered))
    if found.num_leaves != len(names) or _shape_of(found) != _shape_of(spec):
        raise ShapeError(
            "the arguments do not match the exported call",
            [Problem("called with", _signature(found)), Problem("exported with", _signature(spec))],
            fix="pass the same positional and keyword arguments that the model was exported with",
        )
    pairs = [(name, leaf) for name, leaf in zip(names, leaves, strict=True) if name is not None]
    wrong = [
        Problem(f"input '{name}'", f"must be a torch tensor, got {type(leaf).__name__}")
        for name, leaf in pairs
        if not isinstance(leaf, torch.Tensor)
    ]
    if wrong:
        raise ShapeError("the arguments do not match the exported call", wrong)
    return dict(pairs)


def _reordered(spec: pytree.TreeSpec, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Put keyword arguments in the order of the export, which is the order of the tree's leaves."""
    order = list(spec.child(1).context or []) if spec.num_children == 2 else []
    return {name: kwargs[name] for name in [*order, *kwargs] if name in kwargs}


def _shape_of(spec: pytree.TreeSpec) -> str:
    return pytree.treespec_dumps(spec)


def _signature(spec: pytree.TreeSpec) -> str:
    positional = spec.child(0).num_leaves
    keywords = ", ".join(map(str, spec.child(1).context or []))
    return f"{positional} positional tensors, keywords: {keywords or 'none'}"


def unflatten_results(out_spec: str, values: Sequence[Any]) -> Any:
    """Nest flat results as the module's own result was.

    A result type that is not known in this process (say a class of a library that is not imported) gives the flat
    tuple, or its one value.
    """
    try:
        spec = pytree.treespec_loads(out_spec)
    except (KeyError, NotImplementedError, ValueError, RuntimeError):
        return values[0] if len(values) == 1 else tuple(values)
    return pytree.tree_unflatten(list(values), spec)
